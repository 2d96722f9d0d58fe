//! What the node plugin and the injector ask of the Kubernetes API, and what they tell it.
//!
//! Everything here is off the path of a mount: classes and the CSIDriver object come from a watch that outlives an
//! absent API server, status and events go out through a bounded queue. No Pod is ever read, and no Secret but the one
//! that holds the injector's own certificate.
//!
//! # Rights of the node plugin
//!
//! | API group | Resource | Verbs | For |
//! | --- | --- | --- | --- |
//! | `secrets-store.csi.x-k8s.io` | `secretproviderclasses` | get, list, watch | [`Classes`] |
//! | `secrets-store.csi.x-k8s.io` | `secretproviderclasspodstatuses` | create, patch | [`Reporter`] |
//! | `secrets-store.csi.x-k8s.io` | `secretproviderclasspodstatuses/status` | patch | [`Reporter`], only where the definition has that subresource |
//! | `storage.k8s.io` | `csidrivers`, by the driver's name | list, watch | [`DriverObject`] |
//! | core | `serviceaccounts` | get | [`Cluster::service_account`] |
//! | `events.k8s.io` | `events` | create, patch | [`Reporter`] |
//! | core | `nodes`, its own | get, patch | [`Cluster::taints`], only with a start-up taint |
//! | `storage.k8s.io` | `csinodes`, its own | get | [`Cluster::is_registered`], likewise |
//!
//! # Rights of the injector
//!
//! | API group | Resource | Verbs | For |
//! | --- | --- | --- | --- |
//! | core | `serviceaccounts` | get | [`Cluster::service_account`] |
//! | core | `configmaps` | get | [`Cluster::config_map`] |
//! | core | `secrets`, by name, in its own namespace | get, patch | [`OwnObjects`] |
//! | `coordination.k8s.io` | `leases`, by name, likewise | get, patch | [`OwnObjects`] |
//! | `admissionregistration.k8s.io` | `mutatingwebhookconfigurations`, by name | get, patch | [`OwnObjects`] |

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

mod api;
mod classes;
mod cluster;
mod connection;
mod driver_object;
mod lookups;
mod mirror;
mod names;
mod node;
mod own;
mod quiet;
mod reporter;
mod service_account;

pub use classes::{Class, ClassLimits, Classes, Lookup};
pub use cluster::{Cluster, ClusterSettings};
pub use driver_object::{DriverFacts, DriverObject, DriverState};
pub use lookups::Version;
pub use node::Taints;
pub use own::{Change, OwnObjects, OwnSecret, Told};
pub use reporter::{ObjectVersion, Outcome, PodRef, Report, Reporter, ReporterStats};
pub use service_account::ServiceAccountFacts;
