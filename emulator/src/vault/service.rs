//! Answers to requests: what secrets and keys do, and what all collections do alike.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Map, Value};

use super::attributes::Attributes;
use super::auth::{authenticate, challenge, check_api_version, forbidden_by_rbac};
use super::bundles::{Base, Bundle, deleted_bundle, deleted_entry, members_of};
use super::certificates::secret_value;
use super::error::VaultError;
use super::keys::{CreateKey, KeyContent};
use super::limiter::RateLimits;
use super::listing::{ListingAddress, PageRequest, page};
use super::objects::{Objects, Version, entry};
use super::request::VaultPath;
use super::secrets::{SecretContent, SetSecret};
use super::{Store, Vault};
use crate::access::Permission;
use crate::faults::ListingFaults;
use crate::jwt::TokenSigner;
use crate::key_material::KeyMaterial;
use crate::operation::{Action, Collection};
use crate::reply::Reply;
use crate::rng::Rng;

/// One request to a vault.
pub(crate) struct Visit<'a> {
    pub(crate) vault: &'a Vault,
    /// Host and port as the client wrote them.
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
    pub(crate) asked: &'a VaultPath,
    pub(crate) query: &'a BTreeMap<String, String>,
    pub(crate) body: &'a [u8],
    pub(crate) bearer: Option<&'a str>,
    /// The service's idea of the time.
    pub(crate) now_millis: i64,
    /// The moment that writes are stamped with.
    pub(crate) write_millis: i64,
    /// How long a deletion takes to settle.
    pub(crate) settle_millis: i64,
    pub(crate) listing: &'a ListingFaults,
    pub(crate) limits: Option<RateLimits>,
    pub(crate) rng: &'a Rng,
    pub(crate) signer: &'a TokenSigner,
}

/// What a handler comes to.
pub(super) type Answer = Result<Reply, VaultError>;

/// Answers one request.
pub(crate) fn serve(visit: &Visit<'_>) -> Reply {
    answer(visit).unwrap_or_else(VaultError::into_reply)
}

fn answer(visit: &Visit<'_>) -> Answer {
    check_api_version(visit.query)?;
    let caller = match authenticate(visit) {
        Ok(caller) => caller,
        Err(error) => return Ok(challenge(visit.vault, error)),
    };
    let VaultPath { collection, action, name, .. } = visit.asked;
    let is_create = matches!(action, Action::Set | Action::Import);
    if visit.limits.is_some_and(|limits| !visit.vault.limiter.admit(limits, is_create, visit.now_millis)) {
        return Err(VaultError::throttled());
    }
    let needed = Permission::needed(*collection, *action);
    if !visit.vault.allows(&caller.object_id, needed, name.as_deref()) {
        return Err(forbidden_by_rbac(visit, &caller));
    }
    tracing::debug!(client = %caller.client_id, "authorized");
    visit.dispatch()
}

impl Visit<'_> {
    fn dispatch(&self) -> Answer {
        match (self.asked.collection, self.asked.action) {
            (Collection::Secrets, Action::Get) => self.get_secret(),
            (Collection::Secrets, Action::Set) => self.set_secret(),
            (Collection::Keys, Action::Create) => self.create_key(),
            (Collection::Certificates, Action::Import) => self.import_certificate(),
            (Collection::Certificates, Action::Create) => self.create_certificate(),
            (Collection::Certificates, Action::Pending) => self.pending_certificate(),
            (Collection::Certificates, Action::Policy) => {
                let store = self.vault.store.lock();
                let (object, version) = store.certificates.get_version(self.name(), None)?;
                Ok(ok(version.content.policy.render(&self.base(), &object.name)))
            }
            (Collection::Certificates, Action::Update) => self.update_certificate(),
            (Collection::Certificates, Action::Delete | Action::Recover | Action::Purge) => {
                self.move_certificate()
            }
            (Collection::Secrets, _) => self.common(&mut self.vault.store.lock().secrets),
            (Collection::Keys, _) => self.common(&mut self.vault.store.lock().keys),
            (Collection::Certificates, _) => self.common(&mut self.vault.store.lock().certificates),
        }
    }

    /// What all three collections do alike.
    pub(super) fn common<C: Bundle>(&self, objects: &mut Objects<C>) -> Answer {
        let (base, name, version) = (self.base(), self.name(), self.version());
        let bundle = match self.asked.action {
            Action::Get => {
                let (object, version) = objects.get_version(name, version)?;
                C::bundle(&base, &object.name, version, true)
            }
            Action::Update => {
                let body: Map<String, Value> = serde_json::from_slice(self.body)
                    .map_err(|_| VaultError::bad_parameter("The request body is malformed."))?;
                let (name, version) = objects.update(name, version, &body, self.write_millis)?;
                C::bundle(&base, name, version, false)
            }
            Action::Delete => {
                if objects.get(name)?.current().content.is_managed() && !self.asked_certificate() {
                    return Err(VaultError::managed(C::COLLECTION));
                }
                deleted_bundle(&base, objects.delete(name, self.write_millis, self.settle_millis)?)
            }
            Action::GetDeleted => deleted_bundle(&base, objects.get_deleted(name, self.now_millis)?),
            Action::Recover => {
                let object = objects.recover(name, self.now_millis)?;
                C::bundle(&base, &object.name, object.current(), false)
            }
            Action::Purge => {
                objects.purge(name, self.now_millis)?;
                return Ok(Reply::empty(StatusCode::NO_CONTENT));
            }
            Action::List => return self.list(objects),
            Action::Versions => return self.versions(objects),
            Action::ListDeleted => {
                let entries = objects.deleted(self.now_millis);
                let entries = entries.map(|d| (sort_key(&d.object.name), deleted_entry(&base, d))).collect();
                return self.page(entries);
            }
            Action::Set | Action::Create | Action::Import | Action::Pending | Action::Policy => {
                return Err(VaultError::bad_parameter("There is no such operation."));
            }
        };
        Ok(ok(Value::Object(bundle)))
    }

    fn list<C: Bundle>(&self, objects: &Objects<C>) -> Answer {
        let base = self.base();
        let with_id = |name: &str, shown: Value| {
            let mut members = members_of(shown);
            members.insert(C::ID_MEMBER.to_owned(), base.id(C::COLLECTION, name, None).into());
            (sort_key(name), Value::Object(members))
        };
        let entries = if self.listing.lag_millis > 0 {
            let then = self.now_millis - self.listing.lag_millis;
            objects.listing_as_of(then).into_iter().map(|(name, shown)| with_id(name, shown)).collect()
        } else {
            objects.live().map(|object| with_id(&object.name, entry(object.current()))).collect()
        };
        self.page(entries)
    }

    fn versions<C: Bundle>(&self, objects: &Objects<C>) -> Answer {
        let base = self.base();
        let object = objects.get(self.name())?;
        let until = self.now_millis - self.listing.lag_millis;
        let mut entries: Vec<(String, Value)> = object
            .versions
            .iter()
            .filter(|version| self.listing.lag_millis == 0 || version.created_millis <= until)
            .map(|version| {
                let mut members = members_of(entry(version));
                let id = base.id(C::COLLECTION, &object.name, Some(&version.id));
                members.insert(C::ID_MEMBER.to_owned(), id.into());
                (version.id.clone(), Value::Object(members))
            })
            .collect();
        // By id, not by age: the service promises no order.
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        self.page(entries)
    }

    fn page(&self, entries: Vec<(String, Value)>) -> Answer {
        let query = |name: &str| self.query.get(name).map(String::as_str);
        let request = PageRequest::parse(query("maxresults"), query("$skiptoken"))?;
        let address = ListingAddress {
            authority: self.authority,
            path: self.path,
            api_version: query("api-version").unwrap_or_default(),
        };
        Ok(ok(page(entries, &request, &address, self.listing)))
    }

    fn get_secret(&self) -> Answer {
        let store = self.vault.store.lock();
        let (object, version) = store.secrets.get_version(self.name(), self.version())?;
        if !version.attributes.enabled {
            return Err(VaultError::disabled());
        }
        let mut bundle = SecretContent::bundle(&self.base(), &object.name, version, true);
        if self.api_version() >= "2025-07-01" && self.api_version().len() > 3 {
            let before = object.versions.iter().take_while(|v| v.id != version.id).last();
            if let Some(before) = before {
                bundle.insert("previousVersion".to_owned(), before.id.as_str().into());
            }
        }
        if let Some(wanted) = self.query.get("outContentType") {
            let held = version.content.content_type.as_deref();
            if held != Some(wanted.as_str()) {
                bundle.insert("value".to_owned(), convert(&store, version, wanted)?.into());
                bundle.insert("contentType".to_owned(), wanted.as_str().into());
            }
        }
        Ok(ok(Value::Object(bundle)))
    }

    fn set_secret(&self) -> Answer {
        let set = SetSecret::parse(self.body)?;
        let content = SecretContent { value: set.value, content_type: set.content_type, certificate: None };
        let version = Version {
            id: self.rng.version(),
            attributes: Attributes::new(&set.attributes.unwrap_or_default(), self.write_millis / 1000),
            tags: set.tags.unwrap_or_default(),
            content,
            created_millis: self.write_millis,
        };
        let mut store = self.vault.store.lock();
        store.secrets.add(self.name(), version)?;
        let (object, version) = store.secrets.get_version(self.name(), None)?;
        Ok(ok(Value::Object(SecretContent::bundle(&self.base(), &object.name, version, true))))
    }

    fn create_key(&self) -> Answer {
        let create = CreateKey::parse(self.body)?;
        self.vault.store.lock().keys.check_free(self.name(), self.write_millis)?;
        let material = KeyMaterial::generate(create.kind()?)
            .ok_or_else(|| VaultError::of_status(StatusCode::INTERNAL_SERVER_ERROR))?;
        let version = Version {
            id: self.rng.version(),
            attributes: Attributes::new(&create.attributes.unwrap_or_default(), self.write_millis / 1000),
            tags: create.tags.unwrap_or_default(),
            content: KeyContent::new(material, create.key_ops, false),
            created_millis: self.write_millis,
        };
        let mut store = self.vault.store.lock();
        store.keys.add(self.name(), version)?;
        let (object, version) = store.keys.get_version(self.name(), None)?;
        Ok(ok(Value::Object(KeyContent::bundle(&self.base(), &object.name, version, true))))
    }

    /// Whether the request itself is about a certificate, and its key and secret only come along.
    fn asked_certificate(&self) -> bool {
        self.asked.collection == Collection::Certificates
    }

    pub(super) fn base(&self) -> Base<'_> {
        Base(self.authority)
    }

    pub(super) fn name(&self) -> &str {
        self.asked.name.as_deref().unwrap_or_default()
    }

    pub(super) fn version(&self) -> Option<&str> {
        self.asked.version.as_deref()
    }

    pub(super) fn api_version(&self) -> &str {
        self.query.get("api-version").map(String::as_str).unwrap_or_default()
    }
}

/// Only from PFX to PEM, as the service.
fn convert(store: &Store, version: &Version<SecretContent>, wanted: &str) -> Result<String, VaultError> {
    let refuse =
        || VaultError::bad_parameter("The requested conversion of the content type is not supported.");
    let (name, id) = version.content.certificate.as_ref().ok_or_else(refuse)?;
    if wanted != super::certificates::PEM {
        return Err(refuse());
    }
    let (keyed, policy) = store.keyed_chain(name, id).ok_or_else(refuse)?;
    secret_value(&keyed, &policy, wanted)
}

pub(super) fn ok(body: Value) -> Reply {
    Reply::json(StatusCode::OK, &body)
}

pub(super) fn sort_key(name: &str) -> String {
    name.to_ascii_lowercase()
}
