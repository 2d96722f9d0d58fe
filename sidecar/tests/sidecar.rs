//! The sidecar as pods run it: a process of its own, against Key Vault and Entra as the emulator plays them, over TLS.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

#[path = "sidecar/rig.rs"]
mod rig;

#[path = "sidecar/process.rs"]
mod process;

#[path = "sidecar/client.rs"]
mod client;

#[path = "sidecar/files.rs"]
mod files;

#[path = "sidecar/api.rs"]
mod api;

#[path = "sidecar/lifecycle.rs"]
mod lifecycle;

#[path = "sidecar/restart.rs"]
mod restart;

#[path = "sidecar/reload.rs"]
mod reload;

#[path = "sidecar/hardening.rs"]
mod hardening;

#[path = "sidecar/notify.rs"]
mod notify;

#[path = "sidecar/identities.rs"]
mod identities;

#[path = "sidecar/canary.rs"]
mod canary;

#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
#[path = "../../csi-driver/tests/kill/calls.rs"]
mod calls;

#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
#[path = "../../csi-driver/tests/kill/tracer.rs"]
#[allow(dead_code, reason = "the driver's tests use the rest")]
mod tracer;

#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
#[path = "sidecar/kill.rs"]
mod kill;
