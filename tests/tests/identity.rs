//! Every way to prove an identity, against Entra, the token proxy, IMDS and App Service as the emulator plays them.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

#[path = "identity/setup.rs"]
mod setup;

#[path = "identity/entra.rs"]
mod entra;

#[path = "identity/managed.rs"]
mod managed;

#[path = "identity/silence.rs"]
mod silence;

#[path = "identity/shared.rs"]
mod shared;
