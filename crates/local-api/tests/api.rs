//! The server in this process, on a socket of its own, over a view that the tests hold by hand.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

#[path = "api/any_input.rs"]
mod any_input;
#[path = "api/limits.rs"]
mod limits;
#[path = "api/methods.rs"]
mod methods;
#[path = "api/rig.rs"]
mod rig;
#[path = "api/unread.rs"]
mod unread;
#[path = "api/watching.rs"]
mod watching;
