//! What Keyward tells about itself: the audit log, metrics, logs, traces and health; and what it is told: signals.
//!
//! All of it hangs from the outside: [`audit::AuditLog`] and [`Metrics`] implement the sinks of `keyward_core`, and
//! [`Observed`] wraps a provider or a token source. Nothing here ever sees more of a secret than its name and version.

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
