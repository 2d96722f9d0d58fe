//! What Keyward tells about itself: the audit log, metrics, logs, traces and health; and what it is told: signals.
//!
//! All of it hangs from the outside: [`audit::AuditLog`] and [`Metrics`] implement the sinks of `keyward_core`, and
//! [`Observed`] wraps a provider or a token source. Nothing here ever sees more of a secret than its name and version.

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

pub mod admin;
pub mod audit;
mod decorate;
pub mod health;
pub mod logs;
pub mod metrics;
pub mod setup;
pub mod signals;
pub mod stall;
pub mod traces;

pub use decorate::{Observed, ObservedTokens};
pub use metrics::Metrics;
