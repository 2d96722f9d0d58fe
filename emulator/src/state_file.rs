//! The state that the binary starts with, as JSON; the admin API takes the same entries one by one.

use std::collections::BTreeMap;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde_json::Value;

use crate::access::Permission;
use crate::emulator::Emulator;
use crate::engine::Core;
use crate::identities::{Identity, Registration};
use crate::operation::Collection;
use crate::vault::{SecretOptions, VaultHandle};

/// Everything that a state file may hold.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StateFile {
    /// The tenant of everything.
    pub tenant_id: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// The `iss` of the built-in issuer.
    pub issuer_url: Option<String>,
    /// Vaults with their secrets.
    #[serde(default)]
    vaults: Vec<VaultEntry>,
    /// Applications and managed identities.
    #[serde(default)]
    identities: Vec<IdentityEntry>,
    /// Who may do what where.
    #[serde(default)]
    assignments: Vec<AssignmentEntry>,
    /// Keys of other issuers.
    #[serde(default)]
    issuers: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VaultEntry {
    /// `shop`, or a full host name.
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    secrets: Vec<SecretEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SecretEntry {
    #[serde(default)]
    pub(crate) name: String,
    value: String,
    content_type: Option<String>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    #[serde(default)]
    disabled: bool,
    not_before: Option<i64>,
    expires: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct IdentityEntry {
    #[serde(default)]
    kind: EntryKind,
    resource_id: Option<String>,
    client_id: Option<String>,
    object_id: Option<String>,
    tenant_id: Option<String>,
    #[serde(default)]
    client_secrets: Vec<String>,
    #[serde(default)]
    certificates_pem: Vec<String>,
    #[serde(default)]
    federated: Vec<FederatedEntry>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
enum EntryKind {
    #[default]
    Application,
    SystemAssigned,
    UserAssigned,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FederatedEntry {
    /// Default: the built-in issuer.
    issuer: Option<String>,
    subject: String,
    audience: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AssignmentEntry {
    client_id: String,
    vault: String,
    /// `secrets/NAME` and so on; default: the whole vault.
    object: Option<String>,
    /// `secrets.get`, …; `read` for get and list of everything, `all` for everything.
    permissions: Vec<String>,
}

impl StateFile {
    /// Reads a state file.
    ///
    /// # Errors
    /// JSON of another form; the text names line and column, never a value.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(json).map_err(|e| {
            let kind = match e.classify() {
                serde_json::error::Category::Data => {
                    "a member that does not belong here or has the wrong type"
                }
                _ => "no JSON",
            };
            format!("state file, line {} column {}: {kind}", e.line(), e.column())
        })
    }

    /// Brings the state into an emulator.
    ///
    /// # Errors
    /// A name or value that Key Vault does not allow, an unknown permission, a certificate that is none.
    pub fn apply(&self, emulator: &Emulator) -> Result<(), String> {
        let core = emulator.core();
        for (issuer, jwks) in &self.issuers {
            core.issuer.trust(issuer, jwks.clone()).map_err(|e| format!("keys of {issuer}: {e}"))?;
        }
        for vault in &self.vaults {
            let handle = emulator.vault(&vault.name);
            for alias in &vault.aliases {
                emulator.alias(alias, handle.name());
            }
            for secret in &vault.secrets {
                set_secret(&handle, secret)?;
            }
        }
        for identity in &self.identities {
            register(core, identity)?;
        }
        self.assignments.iter().try_for_each(|entry| assign(core, entry))
    }
}

pub(crate) fn set_secret(vault: &VaultHandle, entry: &SecretEntry) -> Result<String, String> {
    let options = SecretOptions {
        content_type: entry.content_type.clone(),
        tags: entry.tags.clone(),
        disabled: entry.disabled,
        not_before: entry.not_before,
        expires: entry.expires,
    };
    vault
        .try_set_secret(&entry.name, entry.value.as_bytes(), options)
        .map_err(|error| format!("secret {:?}: {}", entry.name, error.message))
}

pub(crate) fn register(core: &Core, entry: &IdentityEntry) -> Result<Identity, String> {
    let mut registration = match (&entry.kind, &entry.resource_id) {
        (EntryKind::Application, None) => Registration::application(),
        (EntryKind::SystemAssigned, None) => Registration::system_assigned(),
        (EntryKind::UserAssigned, Some(resource_id)) => Registration::user_assigned(resource_id),
        (EntryKind::UserAssigned, None) => {
            return Err("a user-assigned identity needs a resourceId".to_owned());
        }
        (_, Some(_)) => return Err("only a user-assigned identity has a resourceId".to_owned()),
    };
    registration.client_id.clone_from(&entry.client_id);
    registration.object_id.clone_from(&entry.object_id);
    registration.tenant_id.clone_from(&entry.tenant_id);
    for secret in &entry.client_secrets {
        registration = registration.client_secret(secret);
    }
    for pem in &entry.certificates_pem {
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| "certificatesPem holds no certificate")?;
        registration = registration.certificate(&der);
    }
    for federated in &entry.federated {
        let issuer = federated.issuer.as_deref().unwrap_or(core.issuer.url());
        registration = registration.federated(issuer, &federated.subject, &federated.audience);
    }
    Ok(core.identities.register(registration))
}

pub(crate) fn assign(core: &Core, entry: &AssignmentEntry) -> Result<(), String> {
    let identity = core
        .identities
        .find(&entry.client_id)
        .ok_or_else(|| format!("nobody has client id {}", entry.client_id))?;
    let vault =
        core.vaults.read().get(&entry.vault).cloned().ok_or_else(|| format!("no vault {}", entry.vault))?;
    let mut permissions = Vec::new();
    for text in &entry.permissions {
        match text.as_str() {
            "all" => permissions.extend(Permission::ALL),
            "read" => permissions.extend(Permission::READ_ALL),
            text => {
                permissions.push(Permission::parse(text).ok_or_else(|| format!("no permission {text:?}"))?);
            }
        }
    }
    let object = match &entry.object {
        None => None,
        Some(object) => {
            let (collection, name) = object.split_once('/').ok_or("object is COLLECTION/NAME")?;
            let (collection, _) = Collection::from_segment(collection).ok_or("object is COLLECTION/NAME")?;
            Some((collection, name))
        }
    };
    vault.assign(&identity.object_id, object, permissions);
    Ok(())
}
