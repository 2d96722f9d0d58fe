//! The sidecar's configuration: parsed once into valid types, every mistake reported together.

pub mod injector;
pub mod node;
mod read;
mod settings;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use read::{parse, parse_with};
pub use settings::{SETTINGS, Setting, reference};

use crate::VaultHost;
use crate::cloud::Cloud;
use crate::spec::ObjectSpec;

/// The whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Which cloud.
    pub cloud: Cloud,
    /// Who we are.
    pub identity: Identity,
    /// Vaults with settings of their own.
    pub vaults: Vec<Vault>,
    /// TLS for everything that leaves the process.
    pub tls: Tls,
    /// What to fetch.
    pub objects: Vec<ObjectSpec>,
    /// Where files go; `None` writes no files.
    pub files: Option<Files>,
    /// Where the last snapshot is kept across restarts; `None` keeps none.
    pub state: Option<PathBuf>,
    /// The local API; `None` serves none.
    pub grpc: Option<Grpc>,
    /// When to look for new versions.
    pub rotation: Rotation,
    /// Health and metrics; `None` listens nowhere.
    pub admin: Option<SocketAddr>,
    /// The audit log.
    pub audit: Audit,
    /// Logs.
    pub log: Log,
    /// Trace export; `None` exports none.
    pub traces: Option<Traces>,
}

/// Who the workload is. Absent parts come from the variables that the workload-identity webhook sets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// How; `None` figures it out from the environment.
    pub method: Option<Method>,
    /// Client (application) id.
    pub client_id: Option<String>,
    /// Object id, managed identity only.
    pub object_id: Option<String>,
    /// Azure resource id, managed identity only.
    pub resource_id: Option<String>,
    /// Tenant id or domain.
    pub tenant_id: Option<String>,
    /// The federated token.
    pub token_file: Option<PathBuf>,
    /// Origin of the token endpoint.
    pub authority_host: Option<String>,
    /// A service principal's secret.
    pub secret_file: Option<PathBuf>,
    /// A service principal's certificate and key, PEM or PFX.
    pub certificate_file: Option<PathBuf>,
    /// The PFX's password.
    pub certificate_password_file: Option<PathBuf>,
    /// Whether the certificate chain is sent (subject name and issuer authentication).
    pub send_chain: bool,
    /// Origin of the instance metadata service.
    pub metadata_endpoint: Option<String>,
}

/// How the workload proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A federated service account token, posted to Entra or, with `AZURE_KUBERNETES_TOKEN_PROXY`, to the cluster's proxy.
    WorkloadIdentity,
    /// IMDS or the App Service endpoint.
    ManagedIdentity,
    /// A secret or certificate in a file.
    ServicePrincipal,
}

/// One vault's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vault {
    /// Its host.
    pub host: VaultHost,
    /// Whether the resource in its challenge must belong to its host.
    pub verify_challenge_resource: bool,
    /// Connect here instead of resolving the host.
    pub address: Option<SocketAddr>,
}

/// The oldest TLS version that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVersion {
    /// 1.2
    V1_2,
    /// 1.3
    #[default]
    V1_3,
}

/// TLS settings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// Further trust anchors, PEM.
    pub extra_roots_file: Option<PathBuf>,
    /// The same, inline; excludes the file.
    pub extra_roots: Option<String>,
    /// The floor for every host.
    pub minimum_version: TlsVersion,
    /// Floors for single hosts.
    pub hosts: Vec<(String, TlsVersion)>,
}

/// Where files go and how they look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The directory.
    pub path: PathBuf,
    /// Whether to mount tmpfs there.
    pub tmpfs: Tmpfs,
    /// Size of a tmpfs that we mount, bytes; `None` follows the payload.
    pub size: Option<u64>,
    /// Permission bits of files that state none.
    pub mode: u32,
    /// Owner of files that state none.
    pub uid: Option<u32>,
    /// Group of files that state none.
    pub gid: Option<u32>,
    /// Whether a tmpfs without `noswap` is accepted while swap is on.
    pub allow_swap: bool,
}

/// Whether to mount tmpfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tmpfs {
    /// Mount when permitted, else require that the path already is tmpfs.
    #[default]
    Auto,
    /// Always mount.
    Mount,
    /// Never mount.
    Require,
}

/// The local API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grpc {
    /// Path of the Unix socket.
    pub socket: PathBuf,
    /// Who may connect; empty means anyone who can open the socket.
    pub allow_uids: Vec<u32>,
    /// Permission bits of the socket.
    pub mode: u32,
    /// Group of the socket.
    pub gid: Option<u32>,
    /// Calls a second for each caller.
    pub rate_per_caller: u32,
}

/// When to look for new versions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotation {
    /// Time between checks.
    pub interval: Duration,
    /// Spread of the interval, 0 to 1.
    pub jitter: f64,
    /// How long a value that cannot be confirmed is served.
    pub max_stale: Duration,
}

/// The audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Where it goes; `None` is standard output.
    pub file: Option<PathBuf>,
    /// Whether every batch is synced to the device.
    pub fsync: bool,
    /// Whether acts that cannot be recorded are refused.
    pub deny_on_failure: bool,
    /// A kept signing key; without it each start makes its own.
    pub key_file: Option<PathBuf>,
}

/// Logs on standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// JSON lines instead of text.
    pub json: bool,
    /// `error`, `warn`, `info`, `debug`, `trace`
    pub level: &'static str,
}

/// Trace export by OTLP over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    /// Collector URL, such as `http://127.0.0.1:4318/v1/traces`.
    pub endpoint: String,
    /// Share of root spans that are kept, 0 to 1, in thousandths.
    pub sample_per_mille: u32,
}
