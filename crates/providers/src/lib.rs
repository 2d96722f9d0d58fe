//! Providers of secrets: Key Vault and an in-memory fake, and the one suite of tests that both pass.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod key_vault;
pub mod memory;

pub use key_vault::{KeyVault, KeyVaultSettings};
pub use memory::MemoryProvider;
