//! One program for all targets, so that it is linked once: `KEYWARD_FUZZ_TARGET` names the one to feed. See `fuzz/run`.

#![no_main]

use std::sync::LazyLock;

use keyward_tests::fuzz::TARGETS;
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = std::env::var("KEYWARD_FUZZ_TARGET").unwrap_or_default();
    // Shows that a crash is found and kept; `fuzz/run --self-test` counts on it.
    if wanted == "planted" {
        return planted;
    }
    let found = TARGETS.iter().find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| panic!("KEYWARD_FUZZ_TARGET={wanted:?} is no target")).1
});

fuzz_target!(|data: &[u8]| TARGET(data));

/// Panics behind three comparisons, which nobody guesses: coverage has to lead there.
fn planted(data: &[u8]) {
    if data.first() == Some(&b'k') && data.get(1) == Some(&b'w') && keyward_tests::fuzz::planted(data) {
        panic!("the planted crash");
    }
}
