//! Declared objects kept current as one tree of files and one view for the local API.
//!
//! [`Engine`] turns the broker's snapshots into a projection, writes down what a restart must find ([`Kept`]), commits
//! the files to [`Outputs`], publishes the [`View`] and records what it delivered, in that order. The sidecar has one engine, the node plugin one for each volume: values
//! are shared with the broker's cache, so that a further volume of objects already held costs little.

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

mod engine;
mod kept;
mod outputs;
mod view;

pub use engine::{Change, Declared, Engine, Parts, Pass, Projecting};
pub use kept::{Found, Kept};
pub use outputs::{OnTmpfs, Outputs, Room};
pub use view::View;

/// Bytes of the largest value that a vault gives, with what is known of it beside: charged before a value is read.
pub const LARGEST_VALUE: usize = 26 << 10;
