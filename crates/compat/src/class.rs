use std::collections::BTreeMap;
use std::fmt;

use keyward_core::cloud::Cloud;
use keyward_core::document::Mistakes;
use keyward_core::{Code, Error, Result, VaultHost};

use crate::identity::{self, ClassIdentity};
use crate::object::ClassObject;
use crate::objects;
use crate::parameters::Parameters;
use crate::{PROVIDER, object};

/// What a SecretProviderClass says, as far as a volume needs it.
#[derive(Debug, Clone, Copy)]
pub struct ClassInput<'a> {
    /// `spec.provider`.
    pub provider: &'a str,
    /// `spec.parameters`.
    pub parameters: &'a BTreeMap<String, String>,
}

/// A class understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassSpec {
    /// Who asks.
    pub identity: ClassIdentity,
    /// Where tokens come from and vaults live.
    pub cloud: Cloud,
    /// The one vault of the class.
    pub vault: VaultHost,
    /// The tenant, an id or a domain.
    pub tenant: String,
    /// What to deliver, in the order of the class; at least one.
    pub objects: Vec<ClassObject>,
    /// Where Keyward differs from the Azure provider for this very class.
    pub notes: Vec<Note>,
}

/// One thing that is different from the Azure provider, though the class is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The parameter or object: `cloudEnvFileName`, `objects[2].objectVersion`.
    pub place: String,
    /// What differs.
    pub message: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// Notes found so far.
#[derive(Default)]
pub(crate) struct Notes(Vec<Note>);

impl Notes {
    pub(crate) fn add(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.0.push(Note { place: place.into(), message: message.into() });
    }
}

/// Reads a class. `clouds` gives a cloud by its name, the administrator's own ones included; it is asked with Azure's
/// own spelling where a name differs only in case, and with the empty text for a class without `cloudName`, where
/// `None` means the public cloud.
///
/// # Errors
/// `KW_CLASS_INVALID` with every mistake and its place; nothing is fetched before a class is entirely good.
/// `KW_NOTIFY_NOT_HERE` when `notify` is all that is wrong.
pub fn parse_class(class: &ClassInput<'_>, clouds: &dyn Fn(&str) -> Option<Cloud>) -> Result<ClassSpec> {
    if class.provider != PROVIDER {
        return Err(Error::new(
            Code::ClassInvalid,
            "provider: only classes with `provider: azure` are served; keep the other provider's own driver for this one",
        ));
    }
    let mistakes = Mistakes::default();
    let mut notes = Notes::default();
    let parameters = Parameters::new(class.parameters, &mistakes);
    let identity = identity::read(&parameters, &mut notes);
    let tenant = tenant(&parameters);
    let cloud = cloud(&parameters, clouds, &mut notes);
    let vault = vault(&parameters, cloud.as_ref());
    let items = objects::read(parameters.text("objects"), &mistakes);
    let notifying = items.iter().find(|(_, fields)| fields.notify.is_some()).map(|(index, _)| *index);
    // A class whose vault is wrong still gets all the mistakes of its objects.
    let host = vault.clone().or_else(|| VaultHost::parse("unknown.invalid").ok());
    let objects = host.map(|host| object::read_all(items, &host, &mistakes, &mut notes)).unwrap_or_default();
    mistakes.into_result(Code::ClassInvalid)?;
    if let Some(index) = notifying {
        let text = format!(
            "{}.notify: the node plugin signals, runs and posts nothing for a pod; use the sidecar, or watch over gRPC",
            objects::place(index)
        );
        return Err(Error::new(Code::NotifyNotHere, text));
    }
    match (identity, cloud, vault, tenant) {
        (Some(identity), Some(cloud), Some(vault), Some(tenant)) => {
            Ok(ClassSpec { identity, cloud, vault, tenant, objects, notes: notes.0 })
        }
        _ => Err(Error::new(Code::Internal, "a class was refused without a mistake")),
    }
}

/// `tenantID`, or its older spelling where that one is empty. It becomes part of a URL, hence the strict alphabet.
fn tenant(parameters: &Parameters<'_>) -> Option<String> {
    let tenant = match parameters.text("tenantID") {
        "" => parameters.text("tenantId"),
        tenant => tenant,
    };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    if tenant.is_empty() {
        parameters.mistake("tenantID", "is missing");
    } else if tenant.len() > 253 || tenant.starts_with('.') || !tenant.bytes().all(fits) {
        parameters.mistake("tenantID", "must be a tenant's id or domain");
    } else {
        return Some(tenant.to_owned());
    }
    None
}

fn cloud(
    parameters: &Parameters<'_>,
    clouds: &dyn Fn(&str) -> Option<Cloud>,
    notes: &mut Notes,
) -> Option<Cloud> {
    const PUBLIC: &str = "AzurePublicCloud";
    const AZURE: [&str; 5] =
        [PUBLIC, "AzureUSGovernmentCloud", "AzureChinaCloud", "AzureGermanCloud", "AzureStackCloud"];
    if !parameters.text("cloudEnvFileName").is_empty() {
        notes.add(
            "cloudEnvFileName",
            "is not read: a cloud of your own is defined by the administrator, under `clouds` of the node plugin",
        );
    }
    let name = parameters.text("cloudName");
    if name.is_empty() {
        return clouds("").or_else(|| clouds(PUBLIC)).or_else(|| Some(Cloud::public()));
    }
    let spelled = AZURE.into_iter().find(|known| known.eq_ignore_ascii_case(name)).unwrap_or(name);
    let cloud = clouds(spelled);
    if cloud.is_none() {
        parameters.mistake(
            "cloudName",
            if spelled == "AzureGermanCloud" {
                "names a cloud that was closed in 2021".to_owned()
            } else {
                format!(
                    "must be one of {}, or a cloud that the administrator defined under `clouds` of the node plugin",
                    Cloud::BUILT_IN.join(", ")
                )
            },
        );
    }
    cloud
}

/// The provider's own rule for vault names, which is laxer than Key Vault's.
fn vault(parameters: &Parameters<'_>, cloud: Option<&Cloud>) -> Option<VaultHost> {
    let name = parameters.text("keyvaultName");
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if name.is_empty() {
        parameters.mistake("keyvaultName", "is missing");
        return None;
    }
    let host = ((3..=24).contains(&name.len()) && name.bytes().all(fits)).then(|| {
        VaultHost::parse(&format!("{name}.{}", cloud.map_or("invalid", |cloud| &cloud.vault_dns_suffix))).ok()
    });
    match host {
        Some(Some(host)) => Some(host),
        Some(None) if cloud.is_none() => None,
        _ => {
            parameters.mistake(
                "keyvaultName",
                "must be a vault's name alone: 3 to 24 letters, digits and hyphens, neither first nor last a hyphen",
            );
            None
        }
    }
}
