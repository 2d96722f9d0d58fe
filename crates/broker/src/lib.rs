//! Access, bounded cache, single flight, rotation, freshness and subscriptions.
//!
//! The decisions are pure functions, each in a file of its own and tested against a small model: what readers are
//! given ([`freshness`]), when to ask again ([`schedule`]), whether a listing is cheaper than reads ([`probe`]), and
//! whether a refusal is part of a storm ([`storm`]). Around them lies a thin asynchronous shell, [`Broker`].
//!
//! Everything is known by a whole [`ObjectKey`](keyward_core::ObjectKey), whose it is and what it is. A value is given
//! only to readers of the very identity that read it, so the composition root makes one identity per proof: the sidecar
//! has exactly one, and whoever serves several pods lets a pod read only after that pod's own proof. A restored or
//! stale value is therefore never given to a newcomer; the broker itself proves nothing.

// No input from outside may end the process. Arithmetic is left out: it is over counts and times of this process, over
// bounds of the settings, and over times of the vault that its parser bounds.
#![cfg_attr(
    not(test),
    deny(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

mod broker;
mod cache;
mod check;
mod entry;
mod flight;
pub mod freshness;
pub mod probe;
mod record;
pub mod schedule;
mod settings;
mod shared;
pub mod storm;
mod supervisor;
mod vault;
mod watch;

pub use broker::Broker;
pub use settings::{BrokerSettings, Saved, WatchItem};
pub use watch::Watch;
