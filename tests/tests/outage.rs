//! Outages, through everything that a pod's secrets pass: the real token exchange, HTTP client, Key Vault provider,
//! broker, projection and files, over TLS to the emulator. Time is tokio's and paused, the network is in memory, so
//! that days pass in seconds.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

#[path = "outage/incidents.rs"]
mod incidents;
#[path = "outage/matrix.rs"]
mod matrix;
#[path = "outage/pod.rs"]
mod pod;
#[path = "outage/refusals.rs"]
mod refusals;
#[path = "outage/rows.rs"]
mod rows;
#[path = "outage/world.rs"]
mod world;
