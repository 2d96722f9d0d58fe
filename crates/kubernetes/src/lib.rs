//! What the node plugin and the injector ask of the Kubernetes API, and what they tell it.
//!
//! Everything here is off the path of a mount: classes and the CSIDriver object come from a watch that outlives an
//! absent API server, status and events go out through a bounded queue. No Secret and no Pod is ever read.
//!
//! # Rights
//!
//! | API group | Resource | Verbs | For |
//! | --- | --- | --- | --- |
//! | `secrets-store.csi.x-k8s.io` | `secretproviderclasses` | get, list, watch | [`Classes`] |
//! | `secrets-store.csi.x-k8s.io` | `secretproviderclasspodstatuses` | create, patch | [`Reporter`] |
//! | `secrets-store.csi.x-k8s.io` | `secretproviderclasspodstatuses/status` | patch | [`Reporter`], only where the definition has that subresource |
//! | `storage.k8s.io` | `csidrivers`, by the driver's name | list, watch | [`DriverObject`] |
//! | core | `serviceaccounts` | get | [`Cluster::service_account`] |
//! | `events.k8s.io` | `events` | create, patch | [`Reporter`] |

mod api;
mod classes;
mod cluster;
mod connection;
mod driver_object;
mod mirror;
mod names;
mod quiet;
mod reporter;
mod service_account;

pub use classes::{Class, ClassLimits, Classes, Lookup};
pub use cluster::{Cluster, ClusterSettings};
pub use driver_object::{DriverFacts, DriverObject, DriverState};
pub use reporter::{ObjectVersion, Outcome, PodRef, Report, Reporter, ReporterStats};
pub use service_account::ServiceAccountFacts;
