//! The real binary between a kubelet, a Kubernetes API, and an emulated Key Vault.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

#[path = "driver/any_text.rs"]
mod any_text;
#[path = "driver/api.rs"]
mod api;
#[path = "driver/application.rs"]
mod application;
#[path = "driver/class.rs"]
mod class;
#[path = "driver/confinement.rs"]
mod confinement;
#[path = "driver/exhausted.rs"]
mod exhausted;
#[path = "driver/forgery.rs"]
mod forgery;
#[path = "driver/hands.rs"]
mod hands;
#[path = "driver/hostile_request.rs"]
mod hostile_request;
#[path = "driver/hostile_tree.rs"]
mod hostile_tree;
#[path = "driver/identities.rs"]
mod identities;
#[path = "driver/isolation.rs"]
mod isolation;
#[path = "driver/kubelet.rs"]
mod kubelet;
#[path = "driver/leaks.rs"]
mod leaks;
#[path = "driver/lifecycle.rs"]
mod lifecycle;
#[path = "driver/limits.rs"]
mod limits;
#[path = "driver/outage.rs"]
mod outage;
#[path = "driver/restart.rs"]
mod restart;

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_keyward-csi-driver");
