use std::path::PathBuf;

use keyward_core::{Code, Error, IdentityKey, Result, SecretBytes, address};
use url::Url;

mod config;
mod env;
mod shared;

pub use env::FederatedDefaults;
pub use shared::SharedSettings;

/// Where IMDS is on every Azure machine.
pub(crate) const IMDS: &str = "http://169.254.169.254";

/// Who we are and what proves it. There is no `Debug`: App Service's header is a secret.
#[derive(Clone)]
pub enum IdentitySettings {
    /// AKS workload identity: the pod's service-account token is exchanged at Entra.
    WorkloadIdentity {
        /// Client id of the application or user-assigned identity.
        client_id: String,
        /// Tenant, as a GUID or domain.
        tenant_id: String,
        /// The projected service-account token.
        token_file: PathBuf,
        /// Origin of the token endpoint, with or without a trailing slash.
        authority_host: String,
    },
    /// AKS identity binding: the same token, with audience `api://AKSIdentityBinding`, is exchanged at the cluster's
    /// own proxy.
    IdentityBinding {
        /// Client id of the user-assigned identity.
        client_id: String,
        /// Tenant, as a GUID or domain.
        tenant_id: String,
        /// The projected service-account token.
        token_file: PathBuf,
        /// The proxy (`AZURE_KUBERNETES_TOKEN_PROXY`).
        proxy_url: String,
        /// What the proxy is trusted by; `None` for the public and configured roots.
        ca: Option<CaSource>,
        /// The name that the proxy is asked for and must prove, if not the URL's host.
        sni_name: Option<String>,
        /// Origin of the token endpoint that the proxy stands for; names the identity, is not connected to.
        authority_host: String,
    },
    /// A managed identity of the machine or of App Service.
    ManagedIdentity {
        /// Which one.
        selector: Selector,
        /// Whom to ask.
        endpoint: ManagedEndpoint,
    },
    /// An application with a client secret in a file.
    ServicePrincipalSecret {
        /// Client id.
        client_id: String,
        /// Tenant, as a GUID or domain.
        tenant_id: String,
        /// The file; white space around the secret is dropped.
        secret_file: PathBuf,
        /// Origin of the token endpoint.
        authority_host: String,
    },
    /// An application with a certificate in a file.
    ServicePrincipalCertificate {
        /// Client id.
        client_id: String,
        /// Tenant, as a GUID or domain.
        tenant_id: String,
        /// PEM with an RSA key and its certificate, or PFX.
        certificate_file: PathBuf,
        /// The PFX's password; without it the empty password.
        password_file: Option<PathBuf>,
        /// Origin of the token endpoint.
        authority_host: String,
        /// Whether the chain is sent (`x5c`), for subject name and issuer authentication.
        send_chain: bool,
    },
}

/// Where the CA of the token proxy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaSource {
    /// A PEM file, read anew for every exchange.
    File(PathBuf),
    /// PEM text.
    Data(String),
}

/// Which managed identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The system-assigned one, or the only user-assigned one.
    System,
    /// By client id.
    ClientId(String),
    /// By object (principal) id.
    ObjectId(String),
    /// By ARM resource id.
    ResourceId(String),
}

/// Who gives tokens for managed identities.
#[derive(Clone)]
pub enum ManagedEndpoint {
    /// The instance metadata service of a virtual machine.
    Imds {
        /// Its origin.
        base_url: String,
    },
    /// App Service, Functions, Container Apps.
    AppService {
        /// `IDENTITY_ENDPOINT`
        endpoint: String,
        /// `IDENTITY_HEADER`
        header: SecretBytes,
    },
}

impl ManagedEndpoint {
    /// The metadata service at its well-known address.
    #[must_use]
    pub fn imds() -> Self {
        Self::Imds { base_url: IMDS.to_owned() }
    }

    pub(crate) fn url(&self) -> &str {
        match self {
            Self::Imds { base_url } => base_url,
            Self::AppService { endpoint, .. } => endpoint,
        }
    }
}

impl IdentitySettings {
    /// Checks what can be checked without reading or asking anything.
    ///
    /// # Errors
    /// `KW_CONFIG_INVALID` with the setting that is wrong.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::WorkloadIdentity { client_id, tenant_id, authority_host, .. }
            | Self::ServicePrincipalSecret { client_id, tenant_id, authority_host, .. }
            | Self::ServicePrincipalCertificate { client_id, tenant_id, authority_host, .. } => {
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
            Self::WorkloadIdentity { client_id, tenant_id, authority_host, .. } => {
                key("workload-identity", authority_host, tenant_id, client_id)
            }
            Self::IdentityBinding { client_id, tenant_id, authority_host, .. } => {
                key("identity-binding", authority_host, tenant_id, client_id)
            }
            Self::ServicePrincipalSecret { client_id, tenant_id, authority_host, .. }
            | Self::ServicePrincipalCertificate { client_id, tenant_id, authority_host, .. } => {
                key("service-principal", authority_host, tenant_id, client_id)
            }
            Self::ManagedIdentity { selector, endpoint } => managed_key(selector, endpoint),
        }
    }

    /// The files whose change means a new proof: for a watcher that calls [`crate::TokenCache::reload`].
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::WorkloadIdentity { token_file, .. } => vec![token_file.clone()],
            Self::IdentityBinding { token_file, ca, .. } => {
                let ca = ca.iter().filter_map(|ca| match ca {
                    CaSource::File(path) => Some(path.clone()),
                    CaSource::Data(_) => None,
                });
                std::iter::once(token_file.clone()).chain(ca).collect()
            }
            Self::ServicePrincipalSecret { secret_file, .. } => vec![secret_file.clone()],
            Self::ServicePrincipalCertificate { certificate_file, password_file, .. } => {
                std::iter::once(certificate_file.clone()).chain(password_file.clone()).collect()
            }
            Self::ManagedIdentity { .. } => Vec::new(),
        }
    }
}

pub(crate) fn invalid(message: String) -> Error {
    Error::new(Code::ConfigInvalid, message)
}

fn key(method: &'static str, authority: &str, tenant: &str, client: &str) -> IdentityKey {
    IdentityKey {
        method,
        authority: authority.trim_end_matches('/').to_owned(),
        tenant: tenant.to_owned(),
        client: client.to_owned(),
    }
}

fn managed_key(selector: &Selector, endpoint: &ManagedEndpoint) -> IdentityKey {
    let client = match selector {
        Selector::System => "system",
        Selector::ClientId(id) | Selector::ObjectId(id) | Selector::ResourceId(id) => id,
    };
    key("managed-identity", endpoint.url(), "", client)
}

fn check_application(client_id: &str, tenant_id: &str, authority_host: &str) -> Result<()> {
    check_names(client_id, tenant_id)?;
    check_origin(authority_host, "the authority host (AZURE_AUTHORITY_HOST)")
}

fn check_proxy(proxy_url: &str) -> Result<()> {
    check_https(proxy_url, "the token proxy (AZURE_KUBERNETES_TOKEN_PROXY)").map(drop)
}

fn check_managed(selector: &Selector, endpoint: &ManagedEndpoint) -> Result<()> {
    if let Selector::ClientId(id) | Selector::ObjectId(id) | Selector::ResourceId(id) = selector
        && (id.is_empty() || id.len() > 2048 || id.chars().any(|c| c.is_control() || c.is_whitespace()))
    {
        return Err(invalid("the managed identity's id is not an id".to_owned()));
    }
    check_metadata(endpoint.url())
}

fn check_names(client_id: &str, tenant_id: &str) -> Result<()> {
    let name = |text: &str, more: &[u8]| {
        !text.is_empty()
            && text.len() <= 128
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    if !name(client_id, b"-") {
        return Err(invalid("the client id (AZURE_CLIENT_ID) is a GUID".to_owned()));
    }
    if !name(tenant_id, b"-.") || tenant_id.starts_with('.') {
        return Err(invalid("the tenant id (AZURE_TENANT_ID) is a GUID or a domain".to_owned()));
    }
    Ok(())
}

fn check_origin(text: &str, what: &str) -> Result<()> {
    let url = check_https(text, what)?;
    if url.path().trim_end_matches('/').is_empty() {
        Ok(())
    } else {
        Err(invalid(format!("{what} has no path")))
    }
}

/// An https URL without user, password, query and fragment.
fn check_https(text: &str, what: &str) -> Result<Url> {
    let url = address::parse(text).map_err(|why| invalid(format!("{what} {why}")))?;
    if url.scheme() != "https" {
        return Err(invalid(format!("{what} must be https")));
    }
    if url.query().is_none() && url.fragment().is_none() && url.host().is_some() {
        Ok(url)
    } else {
        Err(invalid(format!("{what} has no query or fragment")))
    }
}

fn check_metadata(text: &str) -> Result<()> {
    let url = address::parse(text).map_err(|why| invalid(format!("the metadata service's address {why}")))?;
    if matches!(url.scheme(), "http" | "https") && url.host().is_some() {
        Ok(())
    } else {
        Err(invalid("the metadata service's address is an http URL".to_owned()))
    }
}

/// Characters that Azure's SDKs accept in a scope.
pub(crate) fn check_resource(resource: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:/".contains(&byte);
    if !resource.is_empty()
        && resource.len() <= 256
        && resource.bytes().all(allowed)
        && !resource.ends_with("/.default")
    {
        return Ok(());
    }
    Err(invalid("the resource of a token is an App ID URI such as https://vault.azure.net".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(client_id: &str, tenant_id: &str, authority_host: &str) -> IdentitySettings {
        IdentitySettings::WorkloadIdentity {
            client_id: client_id.to_owned(),
            tenant_id: tenant_id.to_owned(),
            token_file: "/t".into(),
            authority_host: authority_host.to_owned(),
        }
    }

    #[test]
    fn limit_8_the_authority_is_a_setting_https_only_with_or_without_a_slash() {
        let origin = "https://login.example";
        assert!(workload("c", "t", origin).check().is_ok());
        assert!(workload("c", "t", &format!("{origin}/")).check().is_ok());
        assert_eq!(workload("c", "t", &format!("{origin}/")).identity_key().authority, origin);
        for bad in [
            "http://login.example",
            "login.example",
            "https://u:p@login.example",
            "https://login.example/x",
            "https://login.example/?a=b",
            "",
        ] {
            let error = workload("c", "t", bad).check().unwrap_err();
            assert!(
                error.code() == Code::ConfigInvalid && error.message().contains("AZURE_AUTHORITY_HOST"),
                "{bad}: {error}"
            );
        }
    }

    #[test]
    fn a_tenant_or_client_that_could_change_the_url_is_refused() {
        for bad in ["", "..", "a/b", "a?b", "a b", "ä", "a%2fb"] {
            assert!(workload("c", bad, "https://l.example").check().is_err(), "{bad}");
            assert!(workload(bad, "t", "https://l.example").check().is_err(), "{bad}");
        }
        assert!(workload("c", "contoso.onmicrosoft.com", "https://l.example").check().is_ok());
    }

    #[test]
    fn a_resource_is_an_app_id_uri_without_default() {
        assert!(check_resource("https://vault.azure.net").is_ok());
        for bad in ["", "https://vault.azure.net/.default", "a b", "a&resource=b"] {
            assert!(check_resource(bad).is_err(), "{bad}");
        }
    }
}
