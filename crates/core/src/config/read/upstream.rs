//! Sections about the way to the vault: cloud, identity, vaults, TLS.

use serde_json::Value;

use super::path::check_path;
use crate::cloud::Cloud;
use crate::config::{Identity, Method, Tls, TlsVersion, Vault};
use crate::document::{Fields, Mistakes};
use crate::{VaultHost, address};

pub(in crate::config) fn cloud(fields: &mut Fields<'_>) -> Option<Cloud> {
    match fields.value("cloud") {
        None => Some(Cloud::public()),
        Some(Value::Object(_)) => custom_cloud(fields.section("cloud")?),
        Some(_) => fields.parsed("cloud", |name| {
            Cloud::built_in(name).ok_or_else(|| {
                format!("must be one of {}, or a mapping for another cloud", Cloud::BUILT_IN.join(", "))
            })
        }),
    }
}

/// A cloud that an administrator defines.
pub(in crate::config) fn custom_cloud(mut section: Fields<'_>) -> Option<Cloud> {
    let name = section.text("name").unwrap_or("custom").to_owned();
    let authority_host = section.required_text("authorityHost").map(str::to_owned);
    let suffix = section.required_text("vaultDnsSuffix").map(str::to_owned);
    let audience = section.text("audience").map(str::to_owned);
    if let Some(host) = &authority_host
        && let Err(message) = check_origin(host)
    {
        section.mistake("authorityHost", message);
    }
    if let Some(suffix) = &suffix
        && VaultHost::parse(suffix).is_err()
    {
        section.mistake("vaultDnsSuffix", "must be a DNS suffix such as vault.azure.net");
    }
    if let Some(audience) = &audience
        && let Err(message) = check_origin(audience)
    {
        section.mistake("audience", message);
    }
    section.finish();
    let vault_dns_suffix = suffix?.to_ascii_lowercase();
    let audience = audience.unwrap_or_else(|| format!("https://{vault_dns_suffix}"));
    let trim = |text: String| text.trim_end_matches('/').to_owned();
    Some(Cloud { name, authority_host: trim(authority_host?), vault_dns_suffix, audience: trim(audience) })
}

pub(in crate::config) fn identity(mut fields: Fields<'_>) -> Identity {
    let methods = [
        ("workload-identity", Some(Method::WorkloadIdentity)),
        ("managed-identity", Some(Method::ManagedIdentity)),
        ("service-principal", Some(Method::ServicePrincipal)),
        ("web-identity", None),
    ];
    let method = fields.choice("method", &methods);
    if method == Some(None) {
        fields.mistake("method", "web-identity is for AWS, which is not available yet");
    }
    let identity = Identity {
        method: method.flatten(),
        client_id: fields.parsed("clientId", id),
        object_id: fields.parsed("objectId", id),
        resource_id: fields.parsed("resourceId", azure_resource_id),
        tenant_id: fields.parsed("tenantId", id),
        token_file: fields.parsed("tokenFile", check_path),
        authority_host: fields.parsed("authorityHost", |text| {
            check_origin(text).map(|()| text.trim_end_matches('/').to_owned())
        }),
        secret_file: fields.parsed("secretFile", check_path),
        certificate_file: fields.parsed("certificateFile", check_path),
        certificate_password_file: fields.parsed("certificatePasswordFile", check_path),
        send_chain: fields.flag("sendChain").unwrap_or_default(),
        metadata_endpoint: fields.parsed("metadataEndpoint", metadata_endpoint),
    };
    let selectors = [&identity.client_id, &identity.object_id, &identity.resource_id];
    if identity.method == Some(Method::ManagedIdentity)
        && selectors.iter().filter(|selector| selector.is_some()).count() > 1
    {
        fields.mistake("method", "managed-identity takes at most one of clientId, objectId, resourceId");
    }
    if identity.method == Some(Method::ServicePrincipal)
        && identity.secret_file.is_some() == identity.certificate_file.is_some()
    {
        fields.mistake("method", "service-principal needs exactly one of secretFile, certificateFile");
    }
    if matches!(identity.method, Some(Method::WorkloadIdentity | Method::ServicePrincipal))
        && (identity.object_id.is_some() || identity.resource_id.is_some())
    {
        fields.mistake("method", "objectId and resourceId are for managed-identity");
    }
    fields.finish();
    identity
}

pub(in crate::config) fn vaults(fields: &mut Fields<'_>, mistakes: &Mistakes) -> Vec<Vault> {
    let mut vaults: Vec<Vault> = Vec::new();
    for (index, item) in fields.list("vaults").iter().enumerate() {
        let Some(mut section) = Fields::new(item, format!("vaults[{index}]"), mistakes) else { continue };
        if section.value("host").is_none() {
            section.mistake("host", "is missing");
        }
        let host =
            section.parsed("host", |text| VaultHost::parse(text).map_err(|error| error.message().to_owned()));
        let verify_challenge_resource = section.flag("verifyChallengeResource").unwrap_or(true);
        let address = section.parsed("address", |text| {
            text.parse().map_err(|_| "must be an IP address and a port, such as 10.0.0.4:443".to_owned())
        });
        if let Some(host) = &host
            && vaults.iter().any(|vault| vault.host == *host)
        {
            section.mistake("host", "is listed twice");
        }
        section.finish();
        vaults.extend(host.map(|host| Vault { host, verify_challenge_resource, address }));
    }
    vaults
}

const VERSIONS: &[(&str, TlsVersion)] = &[("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];

pub(in crate::config) fn tls(mut fields: Fields<'_>, mistakes: &Mistakes) -> Tls {
    let extra_roots_file = fields.parsed("extraRootsFile", check_path);
    let extra_roots = fields.parsed("extraRoots", pem_certificates);
    if extra_roots_file.is_some() && extra_roots.is_some() {
        fields.mistake("extraRoots", "and extraRootsFile exclude each other");
    }
    let minimum_version = fields.choice("minimumVersion", VERSIONS).unwrap_or_default();
    let mut hosts = Vec::new();
    for (index, item) in fields.list("hosts").iter().enumerate() {
        let Some(mut section) = Fields::new(item, format!("tls.hosts[{index}]"), mistakes) else { continue };
        if section.value("host").is_none() {
            section.mistake("host", "is missing");
        }
        let host = section.parsed("host", tls_host);
        if section.value("minimumVersion").is_none() {
            section.mistake("minimumVersion", "is missing");
        }
        let version = section.choice("minimumVersion", VERSIONS);
        section.finish();
        hosts.extend(host.zip(version));
    }
    fields.finish();
    Tls { extra_roots_file, extra_roots, minimum_version, hosts }
}

/// A host by its name or address, as the handshake with it is named in warnings.
fn tls_host(text: &str) -> std::result::Result<String, String> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':');
    if (1..=253).contains(&text.len()) && text.bytes().all(fine) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("must be a host's name or address without a port, such as proxy.example".to_owned())
    }
}

pub(in crate::config) fn pem_certificates(text: &str) -> std::result::Result<String, String> {
    if text.contains("-----BEGIN CERTIFICATE-----") {
        Ok(text.to_owned())
    } else {
        Err("must be PEM certificates".to_owned())
    }
}

pub(in crate::config) fn azure_resource_id(text: &str) -> std::result::Result<String, String> {
    if text.starts_with("/subscriptions/") && text.len() <= 1024 && !text.chars().any(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err("must be an Azure resource id that begins with /subscriptions/".to_owned())
    }
}

pub(in crate::config) fn metadata_endpoint(text: &str) -> std::result::Result<String, String> {
    let url = address::parse(text)?;
    if url.scheme() == "http" && url.host().is_some() {
        Ok(text.trim_end_matches('/').to_owned())
    } else {
        Err("must be an http URL".to_owned())
    }
}

/// Ids go into URLs and form bodies: GUIDs and domains need no more than this.
pub(in crate::config) fn id(text: &str) -> std::result::Result<String, String> {
    if (1..=253).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
    {
        Ok(text.to_owned())
    } else {
        Err("must be a GUID, or for a tenant a domain".to_owned())
    }
}

fn check_origin(text: &str) -> std::result::Result<(), String> {
    let url = address::parse(text)?;
    if url.scheme() == "https"
        && url.host().is_some()
        && matches!(url.path(), "" | "/")
        && url.query().is_none()
        && url.fragment().is_none()
    {
        Ok(())
    } else {
        Err("must be an https URL without a path, such as https://login.microsoftonline.com".to_owned())
    }
}
