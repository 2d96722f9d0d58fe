//! From snapshots to files: projection, content pipeline, atomic directory, tmpfs, notification.

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

pub mod atomic;
mod beneath;
pub mod content;
pub mod conversions;
mod meter;
pub mod notify;
pub mod projection;
pub mod saved;
pub mod template;
pub mod tmpfs;
pub mod tree;

pub use meter::Meter;
