//! The real binary between a kubelet, a Kubernetes API, and an emulated Key Vault.

#[path = "driver/lifecycle.rs"]
mod lifecycle;

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_keyward-csi-driver");
