//! Who exists in the directory, and by what they prove it.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::rng::Rng;

/// What is registered about an application or a managed identity. Build one with [`application`](Self::application),
/// [`user_assigned`](Self::user_assigned) or [`system_assigned`](Self::system_assigned).
#[derive(Clone)]
pub struct Registration {
    pub(crate) kind: IdentityKind,
    pub(crate) tenant_id: Option<String>,
    pub(crate) client_id: Option<String>,
    pub(crate) object_id: Option<String>,
    pub(crate) client_secrets: Vec<ClientSecret>,
    pub(crate) certificates: Vec<Vec<u8>>,
    pub(crate) federated: Vec<FederatedCredential>,
}

/// The three kinds of identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityKind {
    /// An application with its service principal.
    Application,
    /// The machine's own managed identity; at most one.
    SystemAssigned,
    /// A managed identity of its own, by its resource id.
    UserAssigned {
        /// `/subscriptions/…/userAssignedIdentities/NAME`
        resource_id: String,
    },
}

#[derive(Clone)]
pub(crate) struct ClientSecret {
    pub(crate) value: String,
    /// Unix seconds.
    pub(crate) expires: Option<i64>,
}

/// Whose assertion an identity accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FederatedCredential {
    /// The exact `iss`.
    pub issuer: String,
    /// The exact `sub`, such as `system:serviceaccount:NAMESPACE:NAME`.
    pub subject: String,
    /// One of `aud`: `api://AzureADTokenExchange`, or `api://AKSIdentityBinding` for an identity binding, which only
    /// the token proxy serves.
    pub audience: String,
}

impl Registration {
    fn of(kind: IdentityKind) -> Self {
        Self {
            kind,
            tenant_id: None,
            client_id: None,
            object_id: None,
            client_secrets: Vec::new(),
            certificates: Vec::new(),
            federated: Vec::new(),
        }
    }

    /// An application.
    #[must_use]
    pub fn application() -> Self {
        Self::of(IdentityKind::Application)
    }

    /// The machine's system-assigned identity.
    #[must_use]
    pub fn system_assigned() -> Self {
        Self::of(IdentityKind::SystemAssigned)
    }

    /// A user-assigned identity, assigned to the machine as well.
    #[must_use]
    pub fn user_assigned(resource_id: &str) -> Self {
        Self::of(IdentityKind::UserAssigned { resource_id: resource_id.to_owned() })
    }

    /// Sets the tenant; default: the emulator's.
    #[must_use]
    pub fn tenant(mut self, tenant_id: &str) -> Self {
        self.tenant_id = Some(tenant_id.to_owned());
        self
    }

    /// Sets the client id; default: a random one.
    #[must_use]
    pub fn client_id(mut self, client_id: &str) -> Self {
        self.client_id = Some(client_id.to_owned());
        self
    }

    /// Sets the object id; default: a random one.
    #[must_use]
    pub fn object_id(mut self, object_id: &str) -> Self {
        self.object_id = Some(object_id.to_owned());
        self
    }

    /// Adds a client secret that does not expire.
    #[must_use]
    pub fn client_secret(mut self, secret: &str) -> Self {
        self.client_secrets.push(ClientSecret { value: secret.to_owned(), expires: None });
        self
    }

    /// Adds a client secret that expires at this Unix second.
    #[must_use]
    pub fn expiring_client_secret(mut self, secret: &str, expires: i64) -> Self {
        self.client_secrets.push(ClientSecret { value: secret.to_owned(), expires: Some(expires) });
        self
    }

    /// Adds a certificate, in DER, that may sign client assertions.
    #[must_use]
    pub fn certificate(mut self, der: &[u8]) -> Self {
        self.certificates.push(der.to_vec());
        self
    }

    /// Trusts a service account, or any other subject, of an issuer.
    #[must_use]
    pub fn federated(mut self, issuer: &str, subject: &str, audience: &str) -> Self {
        self.federated.push(FederatedCredential {
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
            audience: audience.to_owned(),
        });
        self
    }
}

/// A registered identity's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its tenant.
    pub tenant_id: String,
    /// Its client (application) id.
    pub client_id: String,
    /// Its object (principal) id, to which rights are assigned.
    pub object_id: String,
    /// What it is.
    pub kind: IdentityKind,
}

pub(crate) struct Entry {
    pub(crate) identity: Identity,
    pub(crate) client_secrets: Vec<ClientSecret>,
    pub(crate) certificates: Vec<Vec<u8>>,
    pub(crate) federated: Vec<FederatedCredential>,
}

/// The directory.
pub struct Identities {
    tenant_id: String,
    rng: Arc<Rng>,
    by_client_id: RwLock<BTreeMap<String, Entry>>,
}

impl Identities {
    pub(crate) fn new(tenant_id: &str, rng: Arc<Rng>) -> Self {
        Self { tenant_id: tenant_id.to_owned(), rng, by_client_id: RwLock::default() }
    }

    /// Registers an identity, replacing one with the same client id.
    pub fn register(&self, registration: Registration) -> Identity {
        let identity = Identity {
            tenant_id: registration.tenant_id.unwrap_or_else(|| self.tenant_id.clone()),
            client_id: registration.client_id.unwrap_or_else(|| self.rng.uuid()),
            object_id: registration.object_id.unwrap_or_else(|| self.rng.uuid()),
            kind: registration.kind,
        };
        let entry = Entry {
            identity: identity.clone(),
            client_secrets: registration.client_secrets,
            certificates: registration.certificates,
            federated: registration.federated,
        };
        self.by_client_id.write().insert(identity.client_id.to_ascii_lowercase(), entry);
        identity
    }

    /// Adds a federated credential; false when nobody has this client id.
    pub fn add_federated(&self, client_id: &str, credential: FederatedCredential) -> bool {
        let mut entries = self.by_client_id.write();
        let entry = entries.get_mut(&client_id.to_ascii_lowercase());
        entry.map(|entry| entry.federated.push(credential)).is_some()
    }

    /// Replaces all client secrets by this one; false when nobody has this client id.
    pub fn replace_client_secret(&self, client_id: &str, secret: &str) -> bool {
        let mut entries = self.by_client_id.write();
        let entry = entries.get_mut(&client_id.to_ascii_lowercase());
        entry
            .map(|entry| {
                entry.client_secrets = vec![ClientSecret { value: secret.to_owned(), expires: None }];
            })
            .is_some()
    }

    /// Removes an identity; tokens already issued stay good until they expire.
    pub fn remove(&self, client_id: &str) -> bool {
        self.by_client_id.write().remove(&client_id.to_ascii_lowercase()).is_some()
    }

    /// Everyone, sorted by client id.
    #[must_use]
    pub fn list(&self) -> Vec<Identity> {
        self.by_client_id.read().values().map(|entry| entry.identity.clone()).collect()
    }

    /// Finds an identity by client id.
    #[must_use]
    pub fn find(&self, client_id: &str) -> Option<Identity> {
        self.with(client_id, |entry| entry.identity.clone())
    }

    pub(crate) fn with<T>(&self, client_id: &str, look: impl FnOnce(&Entry) -> T) -> Option<T> {
        self.by_client_id.read().get(&client_id.to_ascii_lowercase()).map(look)
    }

    pub(crate) fn tenants(&self) -> Vec<String> {
        let mut tenants: Vec<_> =
            self.by_client_id.read().values().map(|entry| entry.identity.tenant_id.clone()).collect();
        tenants.push(self.tenant_id.clone());
        tenants
    }
}
