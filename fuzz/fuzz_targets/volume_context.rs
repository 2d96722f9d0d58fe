#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keyward_tests::fuzz::volume_context(data));
