//! The real binary between a kubelet, a Kubernetes API, and an emulated Key Vault.

#[path = "driver/lifecycle.rs"]
mod lifecycle;
#[path = "driver/api.rs"]
mod api;
#[path = "driver/application.rs"]
mod application;
#[path = "driver/class.rs"]
mod class;
#[path = "driver/hands.rs"]
mod hands;
#[path = "driver/hostile_tree.rs"]
mod hostile_tree;
#[path = "driver/identities.rs"]
mod identities;
#[path = "driver/kubelet.rs"]
mod kubelet;
#[path = "driver/outage.rs"]
mod outage;
#[path = "driver/restart.rs"]
mod restart;

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_keyward-csi-driver");
