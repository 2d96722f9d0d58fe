//! Providers of secrets: Key Vault and an in-memory fake, and the one suite of tests that both pass.

// No input from outside may end the process.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

#[cfg(any(test, feature = "conformance"))]
#[cfg_attr(
    not(test),
    allow(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "a suite of tests"
    )
)]
pub mod conformance;
pub mod key_vault;
#[cfg_attr(
    not(test),
    expect(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::panic,
        reason = "a fake for tests, which panics where a test asks for what it never set"
    )
)]
pub mod memory;

pub use key_vault::{KeyVault, KeyVaultSettings};
pub use memory::MemoryProvider;
