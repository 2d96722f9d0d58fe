//! One key vault: its objects, who may touch them, and its answers.

use std::collections::BTreeSet;

use parking_lot::{Mutex, RwLock};

use crate::access::{Assignment, Permission};
use crate::operation::Collection;

mod attributes;
mod auth;
mod bundles;
mod certificate_service;
mod certificates;
mod error;
mod handle;
mod keys;
mod limiter;
mod listing;
mod objects;
mod request;
mod secrets;
mod service;

pub(crate) use auth::refuse_by_fault;
pub use handle::{SecretOptions, VaultHandle};
pub(crate) use limiter::Limiter;
pub use limiter::RateLimits;
pub use request::{PathError, VaultPath, parse_vault_path};
pub(crate) use service::{Visit, serve};

use certificates::{CertificateContent, Pending};
use keys::KeyContent;
use objects::Objects;
use secrets::SecretContent;

/// A vault. Its objects sit behind one lock, which is never held across an await.
pub(crate) struct Vault {
    pub(crate) name: String,
    /// Full host name, such as `shop.vault.azure.net`.
    pub(crate) host: String,
    pub(crate) tenant_id: String,
    /// The resource that tokens must be for and that the challenge names.
    pub(crate) resource: String,
    pub(crate) region: String,
    pub(crate) store: Mutex<Store>,
    pub(crate) limiter: Limiter,
    assignments: RwLock<Vec<Assignment>>,
}

/// The objects of a vault.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) secrets: Objects<SecretContent>,
    pub(crate) keys: Objects<KeyContent>,
    pub(crate) certificates: Objects<CertificateContent>,
    pub(crate) pending: std::collections::BTreeMap<String, Pending>,
}

impl Vault {
    pub(crate) fn new(name: &str, host: &str, tenant_id: &str, resource: &str, region: &str) -> Self {
        Self {
            name: name.to_owned(),
            host: host.to_owned(),
            tenant_id: tenant_id.to_owned(),
            resource: resource.to_owned(),
            region: region.to_owned(),
            store: Mutex::default(),
            limiter: Limiter::default(),
            assignments: RwLock::default(),
        }
    }

    pub(crate) fn assign(
        &self,
        object_id: &str,
        object: Option<(Collection, &str)>,
        permissions: impl IntoIterator<Item = Permission>,
    ) {
        self.assignments.write().push(Assignment {
            object_id: object_id.to_owned(),
            object: object.map(|(collection, name)| (collection, name.to_ascii_lowercase())),
            permissions: permissions.into_iter().collect::<BTreeSet<_>>(),
        });
    }

    pub(crate) fn revoke(&self, object_id: &str) {
        self.assignments.write().retain(|a| !a.object_id.eq_ignore_ascii_case(object_id));
    }

    pub(crate) fn allows(&self, object_id: &str, needed: Permission, name: Option<&str>) -> bool {
        self.assignments.read().iter().any(|assignment| assignment.allows(object_id, needed, name))
    }
}

/// 400 for an object name that Key Vault does not allow.
pub(crate) fn bad_name(name: &str) -> crate::reply::Reply {
    error::VaultError::bad_parameter(format!("The request URI contains an invalid name: {name}")).into_reply()
}

/// 404 for a path that no operation has.
pub(crate) fn unknown_request() -> crate::reply::Reply {
    let message = "The requested resource does not exist.";
    error::VaultError::new(http::StatusCode::NOT_FOUND, "NotFound", message).into_reply()
}
