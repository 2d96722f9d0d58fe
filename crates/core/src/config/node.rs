//! The node plugin's configuration: what the administrator of a cluster says once for all pods.

mod limits;
mod read;
mod settings;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use limits::Limits;
pub use read::{parse, parse_with};
pub use settings::{SETTINGS, reference};

use super::{Audit, Log, Rotation, Tls, Traces, Vault};
use crate::VaultHost;
use crate::cloud::Cloud;

/// The whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeConfig {
    /// Clouds beside the built-in ones.
    pub clouds: Vec<Cloud>,
    /// The cloud of a volume that names none.
    pub default_cloud: Cloud,
    /// Vaults beyond the clouds' suffixes, or with settings of their own.
    pub vaults: Vec<Vault>,
    /// TLS for everything that leaves the process.
    pub tls: Tls,
    /// When to look for new versions.
    pub rotation: Rotation,
    /// Who may use an identity of the node.
    pub node_identity: Vec<NodeIdentity>,
    /// Where `useAzureTokenProxy` posts; `None` refuses it.
    pub identity_binding: Option<IdentityBinding>,
    /// Origin of the instance metadata service; `None` is Azure's own.
    pub metadata_endpoint: Option<String>,
    /// Health and metrics; `None` listens nowhere.
    pub admin: Option<SocketAddr>,
    /// The audit log.
    pub audit: Audit,
    /// Logs.
    pub log: Log,
    /// Trace export; `None` exports none.
    pub traces: Option<Traces>,
    /// The local API in volumes.
    pub grpc: NodeGrpc,
    /// Whether a tmpfs without `noswap` is accepted while swap is on.
    pub allow_swap: bool,
    /// Registration with kubelet.
    pub registration: Registration,
    /// Key of the taint that is taken from the node once volumes can be mounted; `None` touches none.
    pub startup_taint: Option<String>,
    /// What volumes may use.
    pub limits: Limits,
    /// Where the facts of the CSIDriver object come from.
    pub csi_driver: CsiDriverFacts,
}

impl NodeConfig {
    /// A cloud by its name, defined here or built in; in any case of letters.
    #[must_use]
    pub fn cloud(&self, name: &str) -> Option<Cloud> {
        self.clouds
            .iter()
            .find(|cloud| cloud.name.eq_ignore_ascii_case(name))
            .cloned()
            .or_else(|| built_in(name))
    }

    /// The entry that lets pods of a service account use an identity of the node.
    #[must_use]
    pub fn node_identity(
        &self,
        namespace: &str,
        service_account: &str,
        selector: &Selector,
    ) -> Option<&NodeIdentity> {
        self.node_identity.iter().find(|entry| {
            entry.namespace == namespace
                && entry.service_account == service_account
                && entry.selector.is_same(selector)
        })
    }
}

/// A built-in cloud, its name in any case of letters.
fn built_in(name: &str) -> Option<Cloud> {
    Cloud::BUILT_IN.into_iter().find(|known| known.eq_ignore_ascii_case(name)).and_then(Cloud::built_in)
}

/// One permission to use an identity of the node (promise 7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's service account.
    pub service_account: String,
    /// Which identity.
    pub selector: Selector,
    /// The vaults that may be asked with it.
    pub vaults: Vec<VaultHost>,
}

/// Which of the node's identities.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Selector {
    /// The system-assigned one.
    System,
    /// A user-assigned one by its client id.
    ClientId(String),
    /// A user-assigned one by its object id.
    ObjectId(String),
    /// A user-assigned one by its Azure resource id.
    ResourceId(String),
}

impl Selector {
    /// Ids are compared without regard to case, as Azure does.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::System, Self::System) => true,
            (Self::ClientId(a), Self::ClientId(b))
            | (Self::ObjectId(a), Self::ObjectId(b))
            | (Self::ResourceId(a), Self::ResourceId(b)) => a.eq_ignore_ascii_case(b),
            _ => false,
        }
    }
}

/// The cluster's token proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityBinding {
    /// Its https URL.
    pub proxy: String,
    /// The trust anchors for it; `None` takes those of everything else.
    pub ca: Option<TrustAnchor>,
    /// The name in the handshake, where it is not the URL's host.
    pub sni: Option<String>,
}

/// PEM, in a file or inline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustAnchor {
    /// A file.
    File(PathBuf),
    /// The text itself.
    Data(String),
}

/// The local API in volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeGrpc {
    /// Whether volumes may ask for it.
    pub enabled: bool,
    /// Whether the peer's cgroup must carry the pod's UID; takes hostPID.
    pub host_pid: bool,
    /// Who may connect; empty means anyone who can open the socket.
    pub allow_uids: Vec<u32>,
    /// Calls a second for each caller.
    pub rate_per_caller: u32,
}

/// Registration with kubelet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Whether to register.
    pub enabled: bool,
    /// The CSI socket as kubelet on the host sees it; `None` follows the command line.
    pub endpoint: Option<PathBuf>,
}

/// Where the facts of the CSIDriver object come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CsiDriverFacts {
    /// The object is read and checked.
    Check,
    /// The administrator states them, for a driver without access to the API.
    Stated {
        /// Whether kubelet puts the pod's names into the volume context.
        pod_info_on_mount: bool,
        /// Whether kubelet puts tokens into `secrets` instead of the volume context.
        tokens_in_secrets: bool,
    },
}

#[cfg(test)]
mod tests;
