//! The `keyward.secrets.v1` service over a [`SecretView`](keyward_core::SecretView) on a Unix socket, with
//! `grpc.health.v1` and server reflection beside it.
//!
//! The kernel says who calls (`SO_PEERCRED`); what a connection, a caller and the process may use is bounded
//! ([`ApiSettings`]); errors carry canonical codes with `google.rpc.ErrorInfo` and public text only. The service
//! answers on hyper's HTTP/2 layer rather than through generated tonic code: a lookup is one read of a snapshot, and
//! the buffer that its answer is encoded in is wiped when it has been sent.

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

mod answer;
mod caller;
mod client;
mod connection;
mod convert;
mod crowd;
mod io;
mod method;
mod pace;
mod peer;
pub mod pod_cgroup;
mod pool;
mod rate;
mod reply;
mod secrets;
mod server;
mod settings;
mod socket;
mod standard;
mod status;
mod turn;
mod values;
mod watch;
mod wire;

pub use client::{connect, probe, probe_within};
pub use crowd::Crowd;
pub use pace::Pace;
pub use peer::{Peer, PeerCheck};
pub use pod_cgroup::PodCgroup;
pub use server::{Parts, Server};
pub use settings::{ApiSettings, Pod};
pub use status::{DOMAIN, canonical_code, status};
