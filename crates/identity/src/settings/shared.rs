use keyward_core::{IdentityKey, Result};

use super::{
    CaSource, ManagedEndpoint, Selector, check_application, check_managed, check_proxy, key, managed_key,
};

/// Who we are when others bring what proves it. There is no `Debug`: App Service's header is a secret.
#[derive(Clone)]
pub enum SharedSettings {
    /// Workload identity: the pods' service-account tokens are exchanged at Entra.
    WorkloadIdentity {
        /// Client id of the application or user-assigned identity.
        client_id: String,
        /// Tenant, as a GUID or domain.
        tenant_id: String,
        /// Origin of the token endpoint, with or without a trailing slash.
        authority_host: String,
    },
    /// Identity binding: the pods' tokens, with audience `api://AKSIdentityBinding`, are exchanged at the cluster's
    /// own proxy.
    IdentityBinding {
        /// Client id of the user-assigned identity.
        client_id: String,
        /// Tenant, as a GUID or domain.
        tenant_id: String,
        /// Origin of the token endpoint that the proxy stands for; names the identity, is not connected to.
        authority_host: String,
        /// The proxy.
        proxy_url: String,
        /// What the proxy is trusted by; `None` for the public and configured roots.
        ca: Option<CaSource>,
        /// The name that the proxy is asked for and must prove, if not the URL's host.
        sni_name: Option<String>,
    },
    /// An application with a client secret, which each volume brings.
    ServicePrincipal {
        /// Client id.
        client_id: String,
        /// Tenant, as a GUID or domain.
        tenant_id: String,
        /// Origin of the token endpoint.
        authority_host: String,
    },
    /// A managed identity of the node: there is nothing to bring, and whoever may use it was listed.
    ManagedIdentity {
        /// Which one.
        selector: Selector,
        /// Whom to ask.
        endpoint: ManagedEndpoint,
    },
}

impl SharedSettings {
    /// Checks what can be checked without reading or asking anything.
    ///
    /// # Errors
    /// `KW_CONFIG_INVALID` with the setting that is wrong.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::WorkloadIdentity { client_id, tenant_id, authority_host }
            | Self::ServicePrincipal { client_id, tenant_id, authority_host } => {
                check_application(client_id, tenant_id, authority_host)
            }
            Self::IdentityBinding { client_id, tenant_id, authority_host, proxy_url, .. } => {
                check_application(client_id, tenant_id, authority_host)?;
                check_proxy(proxy_url)
            }
            Self::ManagedIdentity { selector, endpoint } => check_managed(selector, endpoint),
        }
    }

    /// Whose tokens these settings give.
    #[must_use]
    pub fn identity_key(&self) -> IdentityKey {
        match self {
            Self::WorkloadIdentity { client_id, tenant_id, authority_host } => {
                key("workload-identity", authority_host, tenant_id, client_id)
            }
            Self::IdentityBinding { client_id, tenant_id, authority_host, .. } => {
                key("identity-binding", authority_host, tenant_id, client_id)
            }
            Self::ServicePrincipal { client_id, tenant_id, authority_host } => {
                key("service-principal", authority_host, tenant_id, client_id)
            }
            Self::ManagedIdentity { selector, endpoint } => managed_key(selector, endpoint),
        }
    }
}
