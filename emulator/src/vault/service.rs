//! Answers to requests: who asks, may they, and what they get.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Map, Value};

use super::attributes::Attributes;
use super::bundles::{Base, Bundle, deleted_bundle, deleted_entry, members_of};
use super::certificates::{read_create, read_import, secret_value};
use super::error::VaultError;
use super::keys::{CreateKey, KeyContent};
use super::limiter::RateLimits;
use super::listing::{ListingAddress, PageRequest, page};
use super::objects::{Objects, Version, entry};
use super::request::VaultPath;
use super::secrets::{SecretContent, SetSecret};
use super::{Store, Vault};
use crate::access::{Permission, data_action};
use crate::faults::{ListingFaults, ShortCircuit};
use crate::jwt::{TokenSigner, has_audience, seconds, text};
use crate::key_material::KeyMaterial;
use crate::operation::{Action, Collection};
use crate::reply::Reply;
use crate::rng::Rng;

/// Versions of the protocol that are answered.
const API_VERSIONS: [&str; 11] = [
    "2016-10-01",
    "7.0",
    "7.1",
    "7.2",
    "7.3",
    "7.4",
    "7.5",
    "7.6",
    "2025-07-01",
    "2026-03-01-preview",
    "2026-04-01",
];

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

/// Who a good token says it is.
pub(crate) struct Caller {
    pub(crate) client_id: String,
    pub(crate) object_id: String,
    issuer: String,
}

type Answer = Result<Reply, VaultError>;

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

/// The refusal that a fault asks for, in the words of a real one.
pub(crate) fn refuse_by_fault(vault: &Vault, fault: &ShortCircuit) -> Option<Reply> {
    match fault {
        ShortCircuit::Status { status, retry_after } => {
            let status = StatusCode::from_u16(*status).ok()?;
            let reply = VaultError::of_status(status).into_reply();
            Some(match retry_after {
                Some(value) => reply.with_header("retry-after", value),
                None => reply,
            })
        }
        ShortCircuit::Forbidden { inner_code } => {
            let message = "Caller is not authorized to perform action on resource.\r\nIf role assignments, deny \
                           assignments or role definitions were changed recently, please observe propagation time.";
            Some(VaultError::forbidden(inner_code, message).into_reply())
        }
        ShortCircuit::Unauthorized => Some(challenge(
            vault,
            VaultError::unauthorized("AKV10046: Unable to resolve the key used for signature validation."),
        )),
        ShortCircuit::Hang | ShortCircuit::Reset | ShortCircuit::TokenError(_) => None,
    }
}

fn check_api_version(query: &BTreeMap<String, String>) -> Result<(), VaultError> {
    match query.get("api-version") {
        None => Err(VaultError::bad_parameter("AKV10000: api-version must be specified.")),
        Some(version) if API_VERSIONS.contains(&version.as_str()) => Ok(()),
        Some(_) => Err(VaultError::bad_parameter(
            "The specified version is not recognized. Consider using the latest supported version.",
        )),
    }
}

fn authenticate(visit: &Visit<'_>) -> Result<Caller, VaultError> {
    let vault = visit.vault;
    let token = visit
        .bearer
        .ok_or_else(|| VaultError::unauthorized("AKV10000: Request is missing a Bearer or PoP token."))?;
    let claims = visit.signer.verify(token).ok_or_else(|| {
        VaultError::unauthorized("AKV10046: Unable to resolve the key used for signature validation.")
    })?;
    let now = visit.now_millis / 1000;
    // Five minutes of leeway at the beginning, none at the end.
    if seconds(&claims, "exp").is_none_or(|exp| exp <= now)
        || seconds(&claims, "nbf").is_some_and(|nbf| nbf > now + 300)
    {
        return Err(VaultError::unauthorized(
            "[BearerReadAccessTokenFailed] Error validating token: IDX10223: Lifetime validation failed. The token \
             is expired or not yet valid.",
        ));
    }
    if !has_audience(&claims, &vault.resource) {
        let found = text(&claims, "aud").unwrap_or_default();
        return Err(VaultError::unauthorized(format!(
            "AKV10022: Invalid audience. Expected {}, found: {found}.",
            vault.resource
        )));
    }
    let expected = format!("https://sts.windows.net/{}/", vault.tenant_id);
    let issuer = text(&claims, "iss").unwrap_or_default();
    if issuer != expected {
        return Err(VaultError::unauthorized(format!(
            "AKV10032: Invalid issuer. Expected one of {expected}, found {issuer}."
        )));
    }
    let claim = |name| text(&claims, name).unwrap_or_default().to_owned();
    Ok(Caller { client_id: claim("appid"), object_id: claim("oid"), issuer: expected })
}

/// 401 with the header that tells clients where to get a token and for what.
fn challenge(vault: &Vault, error: VaultError) -> Reply {
    let header = format!(
        "Bearer authorization=\"https://login.windows.net/{}\", resource=\"{}\"",
        vault.tenant_id, vault.resource
    );
    error.into_reply().with_header("www-authenticate", &header)
}

fn forbidden_by_rbac(visit: &Visit<'_>, caller: &Caller) -> VaultError {
    let VaultPath { collection, action, name, .. } = visit.asked;
    let vault = &visit.vault.name;
    let action = data_action(*collection, *action);
    let object = name.as_ref().map(|name| format!("/{}/{name}", collection.as_str())).unwrap_or_default();
    VaultError::forbidden(
        "ForbiddenByRbac",
        format!(
            "Caller is not authorized to perform action on resource.\r\nIf role assignments, deny assignments or role \
             definitions were changed recently, please observe propagation time.\r\nCaller: \
             appid={};oid={};iss={}\r\nAction: '{action}'\r\nResource: \
             '/subscriptions/00000000-0000-0000-0000-000000000000/resourcegroups/emulator/providers/\
             microsoft.keyvault/vaults/{vault}{object}'\r\nAssignment: (not found)\r\nDenyAssignmentId: \
             null\r\nDecisionReason: null \r\nVault: {vault};location={}\r\n",
            caller.client_id, caller.object_id, caller.issuer, visit.vault.region
        ),
    )
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
    fn common<C: Bundle>(&self, objects: &mut Objects<C>) -> Answer {
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

    fn import_certificate(&self) -> Answer {
        let (keyed, new) = read_import(self.body)?;
        let mut store = self.vault.store.lock();
        store.add_certificate(self.name(), self.rng.version(), keyed, new, self.write_millis)?;
        let (object, version) = store.certificates.get_version(self.name(), None)?;
        Ok(ok(Value::Object(Bundle::bundle(&self.base(), &object.name, version, true))))
    }

    /// Answers "in progress" even when the certificate is there at once, as the service does.
    fn create_certificate(&self) -> Answer {
        self.vault.store.lock().certificates.check_free(self.name(), self.write_millis)?;
        let (pending, made) = read_create(self.body, self.rng.version(), self.write_millis / 1000)?;
        let mut store = self.vault.store.lock();
        if let Some((keyed, new)) = made {
            store.add_certificate(self.name(), self.rng.version(), keyed, new, self.write_millis)?;
        }
        let base = self.base();
        let operation = pending.render(&base, self.name(), false);
        store.pending.insert(sort_key(self.name()), pending);
        let location = format!(
            "{}/pending?api-version={}",
            base.id(Collection::Certificates, self.name(), None),
            self.api_version()
        );
        Ok(Reply::json(StatusCode::ACCEPTED, &operation)
            .with_header("location", &location)
            .with_header("retry-after", "10"))
    }

    fn pending_certificate(&self) -> Answer {
        let store = self.vault.store.lock();
        let pending = store.pending.get(&sort_key(self.name())).ok_or_else(|| {
            let missing = VaultError::not_found(Collection::Certificates, self.name(), None);
            VaultError { code: "PendingCertificateNotFound".to_owned(), ..missing }
        })?;
        Ok(ok(pending.render(&self.base(), self.name(), pending.completed())))
    }

    /// Attributes and tags of a certificate are those of its key and secret too.
    fn update_certificate(&self) -> Answer {
        let mut store = self.vault.store.lock();
        let store = &mut *store;
        let reply = self.common(&mut store.certificates)?;
        let id = store.certificates.get_version(self.name(), self.version())?.1.id.clone();
        let mut body: Map<String, Value> = serde_json::from_slice(self.body).unwrap_or_default();
        body.remove("contentType");
        store.keys.update(self.name(), Some(&id), &body, self.write_millis)?;
        store.secrets.update(self.name(), Some(&id), &body, self.write_millis)?;
        Ok(reply)
    }

    /// Deleting, recovering and purging a certificate takes its key and secret along.
    fn move_certificate(&self) -> Answer {
        let mut store = self.vault.store.lock();
        let store = &mut *store;
        let reply = self.common(&mut store.certificates)?;
        self.common(&mut store.keys)?;
        self.common(&mut store.secrets)?;
        Ok(reply)
    }

    fn base(&self) -> Base<'_> {
        Base(self.authority)
    }

    fn name(&self) -> &str {
        self.asked.name.as_deref().unwrap_or_default()
    }

    fn version(&self) -> Option<&str> {
        self.asked.version.as_deref()
    }

    fn api_version(&self) -> &str {
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

fn ok(body: Value) -> Reply {
    Reply::json(StatusCode::OK, &body)
}

fn sort_key(name: &str) -> String {
    name.to_ascii_lowercase()
}
