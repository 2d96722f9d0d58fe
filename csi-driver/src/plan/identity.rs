use keyward_compat::{ClassIdentity, ClassSpec};
use keyward_core::cloud::Cloud;
use keyward_core::config::node::{NodeConfig, Selector as Listed, TrustAnchor};
use keyward_core::{Code, Error, Result, VaultHost};
use keyward_identity::{CaSource, ManagedEndpoint, Selector, SharedSettings};

use super::Basis;
use crate::request::Pod;

/// How the identity is proved.
pub(crate) enum Way {
    /// By the pod's own token, for one of these audiences, best first.
    Token { settings: SharedSettings, audiences: Vec<&'static str> },
    /// By the client secret of `nodePublishSecretRef`.
    Secret { settings: SharedSettings },
    /// By nothing: an identity of the node that the administrator listed for this service account and these vaults.
    Managed { settings: SharedSettings, vaults: Vec<VaultHost> },
}

/// What identity binding's tokens are for.
const BINDING: &str = "api://AKSIdentityBinding";

impl Way {
    pub(crate) fn settings(&self) -> &SharedSettings {
        match self {
            Self::Token { settings, .. } | Self::Secret { settings } | Self::Managed { settings, .. } => {
                settings
            }
        }
    }
}

/// The audience of a token that Entra exchanges, by cloud; the public one works in clouds that an administrator
/// defined, and stands in where a cluster requests no other.
pub(crate) fn audiences(cloud: &Cloud) -> Vec<&'static str> {
    const PUBLIC: &str = "api://AzureADTokenExchange";
    match cloud.name.as_str() {
        "AzureUSGovernmentCloud" => vec!["api://AzureADTokenExchangeUSGov", PUBLIC],
        "AzureChinaCloud" => vec!["api://AzureADTokenExchangeChina", PUBLIC],
        _ => vec![PUBLIC],
    }
}

/// The identity of a volume that names its objects itself.
pub(super) fn of_attributes(basis: &Basis, pod: &Pod, cloud: &Cloud) -> Result<Way> {
    let account = basis.account.as_ref();
    let tenant =
        basis.asked.tenant_id.clone().or_else(|| account.and_then(|account| account.tenant_id.clone()));
    let tenant = tenant.ok_or_else(|| missing(pod, "tenantID", "tenant-id"))?;
    application(basis, pod, cloud, tenant, basis.asked.client_id.clone())
}

/// The identity of a class.
pub(super) fn of_class(class: &ClassSpec, basis: &Basis, pod: &Pod, config: &NodeConfig) -> Result<Way> {
    match &class.identity {
        ClassIdentity::Default { client_id } => {
            application(basis, pod, &class.cloud, class.tenant.clone(), client_id.clone())
        }
        ClassIdentity::TokenProxy { client_id } => {
            let binding = config.identity_binding.as_ref().ok_or_else(|| {
                Error::new(
                    Code::IdentityMissing,
                    "useAzureTokenProxy needs the cluster's token proxy; an administrator sets `identityBinding.proxy` of the node plugin",
                )
            })?;
            let settings = SharedSettings::IdentityBinding {
                client_id: client(basis, pod, client_id.clone())?,
                tenant_id: class.tenant.clone(),
                authority_host: class.cloud.authority_host.clone(),
                proxy_url: binding.proxy.clone(),
                ca: binding.ca.as_ref().map(|ca| match ca {
                    TrustAnchor::File(path) => CaSource::File(path.clone()),
                    TrustAnchor::Data(pem) => CaSource::Data(pem.clone()),
                }),
                sni_name: binding.sni.clone(),
            };
            Ok(Way::Token { settings, audiences: vec![BINDING] })
        }
        ClassIdentity::VmManaged { client_id } => managed(client_id.as_deref(), pod, config),
    }
}

/// A service principal where the volume brings one and no client id is named, otherwise workload identity: the order
/// of the Azure provider.
fn application(
    basis: &Basis,
    pod: &Pod,
    cloud: &Cloud,
    tenant_id: String,
    client_id: Option<String>,
) -> Result<Way> {
    let authority_host = cloud.authority_host.clone();
    match (&basis.principal, client_id) {
        (Some(principal), None) => {
            let settings =
                SharedSettings::ServicePrincipal { client_id: principal.clone(), tenant_id, authority_host };
            Ok(Way::Secret { settings })
        }
        (_, named) => {
            let client_id = client(basis, pod, named)?;
            let settings = SharedSettings::WorkloadIdentity { client_id, tenant_id, authority_host };
            Ok(Way::Token { settings, audiences: audiences(cloud) })
        }
    }
}

fn client(basis: &Basis, pod: &Pod, named: Option<String>) -> Result<String> {
    named
        .or_else(|| basis.account.as_ref().and_then(|account| account.client_id.clone()))
        .ok_or_else(|| missing(pod, "clientID", "client-id"))
}

fn managed(client_id: Option<&str>, pod: &Pod, config: &NodeConfig) -> Result<Way> {
    let wanted = client_id.map_or(Listed::System, |id| Listed::ClientId(id.to_owned()));
    let entry = config.node_identity(&pod.namespace, &pod.service_account, &wanted).ok_or_else(|| {
        let which = client_id.unwrap_or("the system-assigned identity");
        Error::new(
            Code::NodeIdentityRefused,
            format!(
                "the service account {}/{} may not use the node's identity {which}; an administrator may list it under \
                 `nodeIdentity` of the node plugin, or use workload identity (clientID) instead",
                pod.namespace, pod.service_account
            ),
        )
    })?;
    let selector = match &entry.selector {
        Listed::System => Selector::System,
        Listed::ClientId(id) => Selector::ClientId(id.clone()),
        Listed::ObjectId(id) => Selector::ObjectId(id.clone()),
        Listed::ResourceId(id) => Selector::ResourceId(id.clone()),
    };
    let endpoint = match &config.metadata_endpoint {
        Some(base_url) => ManagedEndpoint::Imds { base_url: base_url.clone() },
        None => ManagedEndpoint::imds(),
    };
    let settings = SharedSettings::ManagedIdentity { selector, endpoint };
    Ok(Way::Managed { settings, vaults: entry.vaults.clone() })
}

fn missing(pod: &Pod, attribute: &str, annotation: &str) -> Error {
    Error::new(
        Code::IdentityMissing,
        format!(
            "{attribute} is neither in the volume nor an annotation azure.workload.identity/{annotation} of the service \
             account {}/{}; add one of them",
            pod.namespace, pod.service_account
        ),
    )
}
