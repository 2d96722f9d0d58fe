//! One module for each command: its options, and what it does.

pub(crate) mod audit;
#[cfg(feature = "demo")]
#[expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a demonstration reads nothing from outside"
)]
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod get;
pub(crate) mod lint;
pub(crate) mod list;
pub(crate) mod watch;
