//! A vault in the hands of a test: no HTTP, no token, no limits.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::Vault;
use super::attributes::Attributes;
use super::certificates::{read_create, read_import};
use super::error::VaultError;
use super::keys::KeyContent;
use super::objects::{Content, Objects, Version};
use super::secrets::{SecretContent, SetSecret};
use crate::access::Permission;
use crate::engine::Core;
use crate::identities::Identity;
use crate::key_material::{KeyKind, KeyMaterial};
use crate::operation::Collection;

/// Direct access to one vault.
///
/// Methods panic on what a test never means: a name that Key Vault does not allow, a value that is too long or is not
/// UTF-8, a name that is soft-deleted, an object that is not there.
#[derive(Clone)]
pub struct VaultHandle {
    core: Arc<Core>,
    vault: Arc<Vault>,
}

/// What a secret may have beside its value.
#[derive(Debug, Clone, Default)]
pub struct SecretOptions {
    /// Up to 255 characters.
    pub content_type: Option<String>,
    /// Up to 15.
    pub tags: BTreeMap<String, String>,
    /// Default: enabled.
    pub disabled: bool,
    /// Unix seconds.
    pub not_before: Option<i64>,
    /// Unix seconds.
    pub expires: Option<i64>,
}

impl VaultHandle {
    pub(crate) fn new(core: Arc<Core>, vault: Arc<Vault>) -> Self {
        Self { core, vault }
    }

    /// The vault's name, such as `shop`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.vault.name
    }

    /// The vault's host name, such as `shop.vault.azure.net`.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.vault.host
    }

    /// Lets an identity do something with all objects of the vault.
    pub fn assign(&self, identity: &Identity, permissions: impl IntoIterator<Item = Permission>) {
        self.vault.assign(&identity.object_id, None, permissions);
    }

    /// Lets an identity do something with one object only.
    pub fn assign_object(
        &self,
        identity: &Identity,
        collection: Collection,
        name: &str,
        permissions: impl IntoIterator<Item = Permission>,
    ) {
        self.vault.assign(&identity.object_id, Some((collection, name)), permissions);
    }

    /// Takes all rights in this vault from an identity.
    pub fn revoke(&self, identity: &Identity) {
        self.vault.revoke(&identity.object_id);
    }

    /// Sets a secret, or gives it a new version; the version's id.
    pub fn set_secret(&self, name: &str, value: impl AsRef<[u8]>) -> String {
        self.set_secret_with(name, value, SecretOptions::default())
    }

    /// The same as [`set_secret`](Self::set_secret), by the name that tells a story.
    pub fn rotate_secret(&self, name: &str, value: impl AsRef<[u8]>) -> String {
        self.set_secret(name, value)
    }

    /// Sets a secret with all its attributes; the version's id.
    pub fn set_secret_with(&self, name: &str, value: impl AsRef<[u8]>, options: SecretOptions) -> String {
        expect_done(self.try_set_secret(name, value.as_ref(), options))
    }

    pub(crate) fn try_set_secret(
        &self,
        name: &str,
        value: &[u8],
        options: SecretOptions,
    ) -> Result<String, VaultError> {
        check_name(name)?;
        let value =
            std::str::from_utf8(value).map_err(|_| VaultError::bad_parameter("the value is not UTF-8"))?;
        let body = json!({
            "value": value,
            "contentType": options.content_type,
            "attributes": { "enabled": !options.disabled, "nbf": options.not_before, "exp": options.expires },
            "tags": options.tags,
        });
        let set = SetSecret::parse(body.to_string().as_bytes())?;
        let now = self.now();
        let version = Version {
            id: self.core.rng.version(),
            attributes: Attributes::new(&set.attributes.unwrap_or_default(), now / 1000),
            tags: set.tags.unwrap_or_default(),
            content: SecretContent { value: set.value, content_type: set.content_type, certificate: None },
            created_millis: now,
        };
        let id = version.id.clone();
        self.vault.store.lock().secrets.add(name, version)?;
        Ok(id)
    }

    /// The current version's id.
    #[must_use]
    pub fn secret_version(&self, name: &str) -> Option<String> {
        self.vault.store.lock().secrets.get(name).ok().map(|object| object.current().id.clone())
    }

    /// Disables the current version of a secret.
    pub fn disable_secret(&self, name: &str) {
        self.update_secret(name, json!({ "attributes": { "enabled": false } }));
    }

    /// Enables the current version of a secret.
    pub fn enable_secret(&self, name: &str) {
        self.update_secret(name, json!({ "attributes": { "enabled": true } }));
    }

    /// Changes a tag, which moves `updated` but makes no version.
    pub fn tag_secret(&self, name: &str, tag: &str, value: &str) {
        self.update_secret(name, json!({ "tags": { tag: value } }));
    }

    fn update_secret(&self, name: &str, body: Value) {
        let body: Map<String, Value> = body.as_object().cloned().unwrap_or_default();
        let now = self.now();
        expect_done(self.vault.store.lock().secrets.update(name, None, &body, now).map(drop));
    }

    /// Deletes a secret softly.
    pub fn delete_secret(&self, name: &str) {
        let (now, settle) = (self.now(), self.core.settle_millis);
        expect_done(self.vault.store.lock().secrets.delete(name, now, settle).map(drop));
    }

    /// Recovers a deleted secret.
    pub fn recover_secret(&self, name: &str) {
        let now = self.now();
        expect_done(self.vault.store.lock().secrets.recover(name, now).map(drop));
    }

    /// Purges a deleted secret.
    pub fn purge_secret(&self, name: &str) {
        let now = self.now();
        expect_done(self.vault.store.lock().secrets.purge(name, now));
    }

    /// Creates a key, or gives it a new version; the version's id.
    pub fn create_key(&self, name: &str, kind: KeyKind) -> String {
        expect_done(check_name(name));
        let material = KeyMaterial::generate(kind).expect("a size that Key Vault offers");
        let now = self.now();
        let version = Version {
            id: self.core.rng.version(),
            attributes: Attributes::new(&Default::default(), now / 1000),
            tags: BTreeMap::new(),
            content: KeyContent::new(material, None, false),
            created_millis: now,
        };
        let id = version.id.clone();
        expect_done(self.vault.store.lock().keys.add(name, version));
        id
    }

    /// Imports a certificate from PEM text or from a base64 PFX; `content_type` is that of the backing secret. The
    /// version's id.
    pub fn import_certificate(&self, name: &str, value: &str, password: &str, content_type: &str) -> String {
        let body = json!({
            "value": value,
            "pwd": password,
            "policy": { "secret_props": { "contentType": content_type } },
        });
        self.store_certificate(name, read_import(body.to_string().as_bytes()))
    }

    /// Makes a self-signed EC certificate for this DNS name, or a new version of it; the version's id.
    pub fn create_certificate(&self, name: &str, dns_name: &str, content_type: &str) -> String {
        let body = json!({ "policy": {
            "issuer": { "name": "Self" },
            "key_props": { "kty": "EC", "crv": "P-256", "exportable": true },
            "secret_props": { "contentType": content_type },
            "x509_props": { "subject": format!("CN={dns_name}"), "sans": { "dns_names": [dns_name] } },
        } });
        let made = read_create(body.to_string().as_bytes(), self.core.rng.version(), self.now() / 1000);
        self.store_certificate(name, made.map(|(_, made)| made.expect("the issuer is the vault itself")))
    }

    fn store_certificate(
        &self,
        name: &str,
        read: Result<(crate::pki::KeyedChain, super::certificates::NewCertificate), VaultError>,
    ) -> String {
        expect_done(check_name(name));
        let (keyed, new) = expect_done(read);
        let (id, now) = (self.core.rng.version(), self.now());
        expect_done(self.vault.store.lock().add_certificate(name, id.clone(), keyed, new, now));
        id
    }

    /// The names in a collection, sorted.
    #[must_use]
    pub fn names(&self, collection: Collection) -> Vec<String> {
        fn of<C: Content>(objects: &Objects<C>) -> Vec<String> {
            objects.live().map(|object| object.name.clone()).collect()
        }
        let store = self.vault.store.lock();
        match collection {
            Collection::Secrets => of(&store.secrets),
            Collection::Keys => of(&store.keys),
            Collection::Certificates => of(&store.certificates),
        }
    }

    fn now(&self) -> i64 {
        self.core.write_moment(&self.vault.name)
    }
}

fn check_name(name: &str) -> Result<(), VaultError> {
    let fits =
        (1..=127).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if fits { Ok(()) } else { Err(VaultError::bad_parameter(format!("{name} is not a name"))) }
}

#[track_caller]
fn expect_done<T>(result: Result<T, VaultError>) -> T {
    match result {
        Ok(done) => done,
        Err(error) => panic!("the vault refuses: {} {}", error.code, error.message),
    }
}
