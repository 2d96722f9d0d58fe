//! The outbound HTTP client: TLS floor, limits, pinning, throttle gates.
//!
//! Everything that Keyward sends to another machine leaves through one [`Egress`]. It speaks HTTP/1.1 and HTTP/2 over
//! rustls, verifies every server, follows no redirect, gives each request one deadline and each answer one size limit,
//! and turns every failure into a [`keyward_core::Error`] that names the hop. [`VaultTransport`] plugs it into the Azure
//! SDK: there a request cannot leave the vault that it was meant for, and all callers of a vault share one gate.

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

mod body;
mod client;
mod dial;
mod egress;
mod failure;
mod gate;
mod handshake;
mod lookup;
mod post;
mod proxy;
mod request;
mod resolve;
mod retry_after;
mod roots;
mod settings;
mod vault;
mod watched;

pub use egress::Egress;
pub use handshake::Handshake;
pub use proxy::ProxySettings;
pub use request::{PlainHttp, Request, RequestBody, Response, Target, Trust};
pub use retry_after::{RETRY_AFTER_LIMIT, parse_retry_after};
pub use roots::parse_roots;
pub use settings::{Duplex, EgressSettings, Network, TlsFloor, VaultRate};
pub use vault::{VaultTransport, recover};
pub use watched::{Files, tell_of_polling};
