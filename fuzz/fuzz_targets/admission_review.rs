#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keyward_tests::fuzz::admission_review(data));
