//! Nouns and traits of Keyward, all pure: no runtime, no network, no Kubernetes.
//!
//! Every other crate speaks in these words. Data moves from a [`Provider`] to the broker as [`Fetched`] content, to
//! readers as a [`Snapshot`], and to applications as a [`Served`] value; errors are one closed [`Error`].

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

pub mod address;
pub mod audit;
pub mod backoff;
mod clock;
pub mod cloud;
pub mod config;
pub mod document;
mod error;
mod http_post;
mod identity;
pub mod ledger;
mod object;
pub mod observe;
mod priority;
mod provider;
mod secret;
mod served;
mod snapshot;
pub mod spec;
pub mod trace;

pub use clock::{Clock, SystemClock, UnixTime};
pub use error::{Code, Error, ErrorKind, Hop, Result};
pub use http_post::HttpPost;
pub use identity::{AccessToken, IdentityKey, TokenSource};
pub use object::{Collection, ObjectRef, VaultHost, Version, is_object_name, is_version};
pub use priority::{Priority, Scoped, Urgency};
pub use provider::{
    BundleType, CertificateContent, Content, FetchRequest, Fetched, ObjectMetadata, Parts, Provider,
    VersionInfo,
};
pub use secret::SecretBytes;
pub use served::{SecretView, Served, ServedChange};
pub use snapshot::{ObjectKey, Snapshot, State};
