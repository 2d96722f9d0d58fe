//! Providers of secrets: Key Vault and an in-memory fake.
