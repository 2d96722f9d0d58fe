//! The locked arena for secret bytes, one of two leaves with unsafe code.
//!
//! One anonymous mapping holds every cached value and token of the process: locked (never swapped), left out of core
//! files (`MADV_DONTDUMP`) and wiped in children (`MADV_WIPEONFORK`). Pages are locked when first touched
//! (`MLOCK_ONFAULT`), so an idle process pays for what it holds and not for the reservation. What does not fit within
//! `RLIMIT_MEMLOCK` goes to the heap, still zeroized, and is counted in [`stats`].

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

mod arena;
mod bytes;
mod free_list;
mod harden;
mod trim;

pub use arena::{ArenaStats, stats};
pub use bytes::LockedBytes;
pub use harden::harden;
pub use trim::hand_back_code;
#[cfg(feature = "mimalloc")]
pub use trim::hand_back_heap;
