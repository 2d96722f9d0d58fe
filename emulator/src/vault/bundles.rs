//! How versions of secrets, keys and certificates look in answers.

use serde_json::{Map, Value, json};

use super::attributes::RECOVERABLE_DAYS;
use super::certificates::CertificateContent;
use super::keys::KeyContent;
use super::objects::{Content, Deleted, Version, entry};
use super::secrets::SecretContent;
use crate::operation::Collection;

/// Where the client believes the vault to be: ids repeat it.
pub(crate) struct Base<'a>(pub(crate) &'a str);

impl Base<'_> {
    pub(crate) fn id(&self, collection: Collection, name: &str, version: Option<&str>) -> String {
        let collection = collection.as_str();
        match version {
            Some(version) => format!("https://{}/{collection}/{name}/{version}", self.0),
            None => format!("https://{}/{collection}/{name}", self.0),
        }
    }
}

/// A version of any kind, rendered in full.
pub(crate) trait Bundle: Content {
    /// The answer to a get; `with_value` is false after an update and in deleted bundles.
    fn bundle(base: &Base<'_>, name: &str, version: &Version<Self>, with_value: bool) -> Map<String, Value>;

    /// The member that holds the id in a listing.
    const ID_MEMBER: &'static str;
}

impl Bundle for SecretContent {
    const ID_MEMBER: &'static str = "id";

    fn bundle(base: &Base<'_>, name: &str, version: &Version<Self>, with_value: bool) -> Map<String, Value> {
        let mut members = members_of(entry(version));
        if with_value {
            members.insert("value".to_owned(), version.content.value.as_str().into());
        }
        if let Some((key, key_version)) = &version.content.certificate {
            members.insert("kid".to_owned(), base.id(Collection::Keys, key, Some(key_version)).into());
        }
        members.insert("id".to_owned(), base.id(Collection::Secrets, name, Some(&version.id)).into());
        members
    }
}

impl Bundle for KeyContent {
    const ID_MEMBER: &'static str = "kid";

    fn bundle(base: &Base<'_>, name: &str, version: &Version<Self>, _: bool) -> Map<String, Value> {
        let mut members = members_of(entry(version));
        let mut jwk = version.content.material.public_jwk();
        jwk.insert("kid".to_owned(), base.id(Collection::Keys, name, Some(&version.id)).into());
        jwk.insert("key_ops".to_owned(), json!(version.content.operations));
        members.insert("key".to_owned(), Value::Object(jwk));
        members
    }
}

impl Bundle for CertificateContent {
    const ID_MEMBER: &'static str = "id";

    fn bundle(base: &Base<'_>, name: &str, version: &Version<Self>, _: bool) -> Map<String, Value> {
        let mut members = members_of(entry(version));
        let content = &version.content;
        let id = |collection| Value::from(base.id(collection, name, Some(&version.id)));
        members.insert("id".to_owned(), id(Collection::Certificates));
        members.insert("kid".to_owned(), id(Collection::Keys));
        members.insert("sid".to_owned(), id(Collection::Secrets));
        members.insert("cer".to_owned(), content.der_base64().into());
        members.insert("contentType".to_owned(), content.policy.content_type().into());
        members.insert("policy".to_owned(), content.policy.render(base, name));
        if let Some(preserve) = content.preserve_order {
            members.insert("preserveCertOrder".to_owned(), preserve.into());
        }
        members
    }
}

/// The answer to a delete and to a get of what was deleted.
pub(crate) fn deleted_bundle<C: Bundle>(base: &Base<'_>, deleted: &Deleted<C>) -> Map<String, Value> {
    let name = &deleted.object.name;
    let mut members = C::bundle(base, name, deleted.object.current(), false);
    add_deletion(base, deleted, &mut members);
    members
}

/// An entry in the listing of what was deleted.
pub(crate) fn deleted_entry<C: Bundle>(base: &Base<'_>, deleted: &Deleted<C>) -> Value {
    let mut members = members_of(entry(deleted.object.current()));
    members.insert(C::ID_MEMBER.to_owned(), base.id(C::COLLECTION, &deleted.object.name, None).into());
    add_deletion(base, deleted, &mut members);
    Value::Object(members)
}

fn add_deletion<C: Bundle>(base: &Base<'_>, deleted: &Deleted<C>, members: &mut Map<String, Value>) {
    let (name, date) = (&deleted.object.name, deleted.deleted_date);
    let recovery = format!("https://{}/deleted{}/{name}", base.0, C::COLLECTION.as_str());
    members.insert("recoveryId".to_owned(), recovery.into());
    members.insert("deletedDate".to_owned(), date.into());
    members.insert("scheduledPurgeDate".to_owned(), (date + RECOVERABLE_DAYS * 86_400).into());
}

pub(crate) fn members_of(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}
