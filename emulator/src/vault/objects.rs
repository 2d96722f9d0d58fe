//! A collection of named, versioned, soft-deletable objects: what secrets, keys and certificates share.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::attributes::{AttributeChanges, Attributes, Tags};
use super::error::VaultError;
use crate::operation::Collection;

/// How many past states of an object's listing entry are remembered, for listings that lag.
const REMEMBERED_STATES: usize = 64;

/// What differs between the collections.
pub(crate) trait Content: Clone {
    const COLLECTION: Collection;

    /// Members that a listing shows beside id, attributes and tags.
    fn summary(&self, members: &mut Map<String, Value>);

    /// Whether a certificate owns its life.
    fn is_managed(&self) -> bool {
        false
    }

    /// Changes what an update of attributes may change beside attributes and tags.
    fn update(&mut self, _body: &Map<String, Value>) -> Result<(), VaultError> {
        Ok(())
    }
}

/// One version.
#[derive(Clone)]
pub(crate) struct Version<C> {
    pub(crate) id: String,
    pub(crate) attributes: Attributes,
    pub(crate) tags: Tags,
    pub(crate) content: C,
    pub(crate) created_millis: i64,
}

/// One name with its versions, oldest first; never without one.
#[derive(Clone)]
pub(crate) struct Object<C> {
    pub(crate) name: String,
    pub(crate) versions: Vec<Version<C>>,
}

/// A soft-deleted object.
#[derive(Clone)]
pub(crate) struct Deleted<C> {
    pub(crate) object: Object<C>,
    /// Unix seconds.
    pub(crate) deleted_date: i64,
    /// Until this moment the deletion is still settling: the object is neither here nor there.
    pub(crate) settled_millis: i64,
}

/// The collection. Names compare without regard to case.
pub(crate) struct Objects<C> {
    live: BTreeMap<String, Object<C>>,
    deleted: BTreeMap<String, Deleted<C>>,
    history: BTreeMap<String, Vec<(i64, Option<Value>)>>,
}

impl<C> Default for Objects<C> {
    fn default() -> Self {
        Self { live: BTreeMap::new(), deleted: BTreeMap::new(), history: BTreeMap::new() }
    }
}

impl<C> Object<C> {
    pub(crate) fn current(&self) -> &Version<C> {
        self.versions.last().expect("an object has at least one version")
    }

    pub(crate) fn version(&self, id: &str) -> Option<&Version<C>> {
        self.versions.iter().find(|version| version.id.eq_ignore_ascii_case(id))
    }
}

impl<C: Content> Objects<C> {
    /// Adds a version; refused while the name belongs to a deleted object.
    pub(crate) fn add(&mut self, name: &str, version: Version<C>) -> Result<(), VaultError> {
        self.check_free(name, version.created_millis)?;
        let now = version.created_millis;
        let key = key(name);
        self.live
            .entry(key.clone())
            .or_insert_with(|| Object { name: name.to_owned(), versions: Vec::new() })
            .versions
            .push(version);
        self.remember(&key, now);
        Ok(())
    }

    pub(crate) fn check_free(&self, name: &str, now_millis: i64) -> Result<(), VaultError> {
        match self.deleted.get(&key(name)) {
            Some(deleted) if now_millis < deleted.settled_millis => {
                Err(VaultError::being_deleted(C::COLLECTION, name))
            }
            Some(_) => Err(VaultError::deleted_but_recoverable(C::COLLECTION, name)),
            None => Ok(()),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Result<&Object<C>, VaultError> {
        self.live.get(&key(name)).ok_or_else(|| VaultError::not_found(C::COLLECTION, name, None))
    }

    pub(crate) fn get_version(
        &self,
        name: &str,
        version: Option<&str>,
    ) -> Result<(&Object<C>, &Version<C>), VaultError> {
        let object = self.get(name)?;
        let found = match version {
            None => Some(object.current()),
            Some(id) => object.version(id),
        };
        let found = found.ok_or_else(|| VaultError::not_found(C::COLLECTION, name, version))?;
        Ok((object, found))
    }

    /// Changes attributes, tags and what else `body` may change of one version.
    pub(crate) fn update(
        &mut self,
        name: &str,
        version: Option<&str>,
        body: &Map<String, Value>,
        now_millis: i64,
    ) -> Result<(&str, &Version<C>), VaultError> {
        let malformed =
            |e: serde_json::Error| VaultError::bad_parameter(format!("Malformed request body: {e}"));
        let member = |name: &str| body.get(name).filter(|value| !value.is_null()).cloned();
        let changes: AttributeChanges = member("attributes")
            .map(serde_json::from_value)
            .transpose()
            .map_err(malformed)?
            .unwrap_or_default();
        let tags: Option<Tags> = member("tags").map(serde_json::from_value).transpose().map_err(malformed)?;
        if let Some(tags) = &tags {
            super::attributes::check_tags(tags)?;
        }

        let missing = || VaultError::not_found(C::COLLECTION, name, version);
        let object = self.live.get_mut(&key(name)).ok_or_else(missing)?;
        let found = match version {
            None => object.versions.last_mut(),
            Some(id) => object.versions.iter_mut().find(|v| v.id.eq_ignore_ascii_case(id)),
        };
        let found = found.ok_or_else(missing)?;
        found.content.update(body)?;
        found.attributes.change(&changes, now_millis / 1000);
        if let Some(tags) = tags {
            found.tags = tags;
        }
        let id = found.id.clone();
        self.remember(&key(name), now_millis);
        let object = self.get(name)?;
        Ok((&object.name, object.version(&id).ok_or_else(missing)?))
    }

    pub(crate) fn delete(
        &mut self,
        name: &str,
        now_millis: i64,
        settle_millis: i64,
    ) -> Result<&Deleted<C>, VaultError> {
        let object =
            self.live.remove(&key(name)).ok_or_else(|| VaultError::not_found(C::COLLECTION, name, None))?;
        self.remember(&key(name), now_millis);
        let deleted =
            Deleted { object, deleted_date: now_millis / 1000, settled_millis: now_millis + settle_millis };
        Ok(self.deleted.entry(key(name)).insert_entry(deleted).into_mut())
    }

    pub(crate) fn get_deleted(&self, name: &str, now_millis: i64) -> Result<&Deleted<C>, VaultError> {
        self.deleted
            .get(&key(name))
            .filter(|deleted| deleted.settled_millis <= now_millis)
            .ok_or_else(|| VaultError::not_found(C::COLLECTION, name, None))
    }

    pub(crate) fn recover(&mut self, name: &str, now_millis: i64) -> Result<&Object<C>, VaultError> {
        let deleted = self.take_deleted(name, now_millis)?;
        self.live.insert(key(name), deleted.object);
        self.remember(&key(name), now_millis);
        self.get(name)
    }

    pub(crate) fn purge(&mut self, name: &str, now_millis: i64) -> Result<(), VaultError> {
        self.take_deleted(name, now_millis).map(drop)
    }

    fn take_deleted(&mut self, name: &str, now_millis: i64) -> Result<Deleted<C>, VaultError> {
        match self.deleted.get(&key(name)) {
            None => Err(VaultError::not_found(C::COLLECTION, name, None)),
            Some(deleted) if now_millis < deleted.settled_millis => {
                Err(VaultError::being_deleted(C::COLLECTION, name))
            }
            Some(_) => self
                .deleted
                .remove(&key(name))
                .ok_or_else(|| VaultError::not_found(C::COLLECTION, name, None)),
        }
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = &Object<C>> {
        self.live.values()
    }

    pub(crate) fn deleted(&self, now_millis: i64) -> impl Iterator<Item = &Deleted<C>> {
        self.deleted.values().filter(move |deleted| deleted.settled_millis <= now_millis)
    }

    /// Names with their listing entries (without ids) as they were at a moment.
    pub(crate) fn listing_as_of(&self, millis: i64) -> Vec<(&str, Value)> {
        self.history
            .iter()
            .filter_map(|(name, states)| {
                let (_, state) = states.iter().rev().find(|(at, _)| *at <= millis)?;
                let shown =
                    self.live.get(name).map(|o| &o.name).or(self.deleted.get(name).map(|d| &d.object.name));
                Some((shown.map_or(name.as_str(), String::as_str), state.clone()?))
            })
            .collect()
    }

    fn remember(&mut self, key: &str, now_millis: i64) {
        let state = self.live.get(key).map(|object| entry(object.current()));
        let states = self.history.entry(key.to_owned()).or_default();
        if states.len() == REMEMBERED_STATES {
            states.remove(0);
        }
        states.push((now_millis, state));
    }
}

/// A listing entry without its id.
pub(crate) fn entry<C: Content>(version: &Version<C>) -> Value {
    let mut members = Map::new();
    version.content.summary(&mut members);
    members.insert("attributes".to_owned(), version.attributes.render());
    if !version.tags.is_empty() {
        members.insert("tags".to_owned(), serde_json::json!(version.tags));
    }
    Value::Object(members)
}

fn key(name: &str) -> String {
    name.to_ascii_lowercase()
}
