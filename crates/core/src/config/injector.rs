//! The injector's configuration: what the administrator of a cluster says once for all annotated pods.

mod read;
mod settings;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

pub use read::{parse, parse_with};
pub use settings::{SETTINGS, reference};

use super::{Log, Rotation, Tls, Vault};
use crate::cloud::Cloud;

/// The whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct InjectorConfig {
    /// Where the webhook listens (TLS).
    pub listen: SocketAddr,
    /// Health and metrics; `None` listens nowhere.
    pub admin: Option<SocketAddr>,
    /// Where the serving certificate comes from.
    pub certificates: Certificates,
    /// Logs.
    pub log: Log,
    /// What pods are given.
    pub injection: Injection,
}

/// What pods are given, and what they may ask for. All that the patch depends on beside the pod and its surroundings.
#[derive(Debug, Clone, PartialEq)]
pub struct Injection {
    /// How a pod that does not say gets its secrets.
    pub via: Via,
    /// The image that holds `/keyward-sidecar`.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`; `None` leaves it to Kubernetes.
    pub image_pull_policy: Option<String>,
    /// Whether the sidecar is an init container with `restartPolicy: Always`.
    pub native_sidecars: NativeSidecars,
    /// Where our container stands among init containers that are there already.
    pub position: Position,
    /// Requests, by resource name, in Kubernetes quantities.
    pub requests: BTreeMap<String, String>,
    /// Limits, by resource name, in Kubernetes quantities.
    pub limits: BTreeMap<String, String>,
    /// Size limit of the memory-backed volume, in bytes.
    pub volume_size: u64,
    /// Where application containers see their files when the pod does not say.
    pub mount_path: PathBuf,
    /// The CSI driver's name, for `via: csi`.
    pub driver_name: String,
    /// The cloud of every pod.
    pub cloud: Cloud,
    /// Audience of the federated token; `None` follows from the cloud.
    pub token_audience: Option<String>,
    /// Vaults beyond the cloud's suffix, or with settings of their own; handed to every sidecar.
    pub vaults: Vec<Vault>,
    /// TLS of every sidecar. `extra_roots_file` is read by the injector, which hands its content on.
    pub tls: Tls,
    /// When sidecars look for new versions.
    pub rotation: Rotation,
    /// Who may use a managed identity from a sidecar.
    pub managed_identity: Vec<ManagedIdentity>,
    /// Namespaces whose pods are left alone, whatever they ask for; the injector's own is always among them.
    pub excluded_namespaces: Vec<String>,
}

impl Injection {
    /// Whether pods of `namespace` are left alone.
    #[must_use]
    pub fn excludes(&self, namespace: &str) -> bool {
        self.excluded_namespaces.iter().any(|excluded| excluded == namespace)
    }
}

/// How a pod gets its secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// A container beside the application, which keeps files current and answers lookups.
    Sidecar,
    /// An init container, which writes the files once.
    Init,
    /// A CSI volume of the node plugin.
    Csi,
}

/// Whether the API server knows init containers that go on running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NativeSidecars {
    /// Ask the API server for its version.
    Auto,
    /// They are there.
    Always,
    /// They are not.
    Never,
}

/// Where our init container stands among those of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// After the service mesh's native sidecars, else first.
    Auto,
    /// Before all others.
    First,
    /// After all others.
    Last,
}

/// One that may use a managed identity from a sidecar. Names are exact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedIdentity {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's service account.
    pub service_account: String,
    /// Client id of the identity; `None` is the node's system-assigned one.
    pub client_id: Option<String>,
}

/// Where the webhook's serving certificate comes from, and where what the API server is told is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificates {
    /// The certificate.
    pub source: CertificateSource,
    /// The injector's own namespace.
    pub namespace: String,
    /// The Secret with the webhook's path and, where the certificate is the injector's own, with that.
    pub secret: String,
    /// The MutatingWebhookConfiguration whose path, and whose `caBundle` where the certificate is the injector's own, is
    /// kept current.
    pub webhook: String,
    /// The Lease that decides which replica renews.
    pub lease: String,
}

/// Where the webhook's serving certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateSource {
    /// A CA and a certificate that the injector issues, kept in the Secret, and told to the API server by `caBundle`.
    OwnCa {
        /// The Service, whose name the certificate carries.
        service: String,
    },
    /// Files that someone else renews, such as cert-manager: `tls.crt` and `tls.key` below this directory.
    Files {
        /// The directory.
        directory: PathBuf,
    },
}

/// Whether `text` is a quantity of Kubernetes: a plain decimal number and one of its suffixes.
#[must_use]
pub fn is_quantity(text: &str) -> bool {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = text.strip_prefix(digits).unwrap_or_default();
    let number = !digits.ends_with('.')
        && digits.bytes().filter(|byte| *byte == b'.').count() <= 1
        && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        && digits.bytes().any(|byte| byte.is_ascii_digit())
        && text.len() <= 32;
    number && matches!(suffix, "" | "m" | "k" | "M" | "G" | "T" | "Ki" | "Mi" | "Gi" | "Ti")
}
