use std::collections::BTreeMap;
use std::time::Duration;

use keyward_core::{
    BundleType, Code, Collection, Error, ObjectMetadata, ObjectRef, Result, SecretBytes, UnixTime, VaultHost,
    Version, VersionInfo,
};

/// Objects with their versions, and what listings showed when.
#[derive(Default)]
pub(super) struct Store {
    objects: BTreeMap<ObjectRef, Entry>,
    versions_made: u64,
}

#[derive(Default)]
struct Entry {
    versions: Vec<Stored>,
    deleted: bool,
    /// What a listing shows from a moment on, on the boot clock.
    listed: Vec<(Duration, Option<ObjectMetadata>)>,
}

/// One version.
pub(super) struct Stored {
    pub(super) version: Version,
    pub(super) value: Value,
    pub(super) content_type: Option<String>,
    pub(super) enabled: bool,
    pub(super) created: UnixTime,
    pub(super) updated: UnixTime,
    pub(super) expires: Option<UnixTime>,
}

/// What a version holds.
pub(super) enum Value {
    Secret { value: SecretBytes, bundle: Option<BundleType> },
    Key { jwk: String },
    Certificate { leaf_der: Vec<u8> },
}

impl Store {
    /// A version id that no other object of this store has, the same in every run.
    pub(super) fn new_version(&mut self) -> Version {
        self.versions_made += 1;
        // An odd factor permutes the numbers, so that ids look like ids and do not sort by age.
        let scattered =
            u128::from(self.versions_made).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        Version::parse(&format!("{scattered:032x}")).expect("32 hexadecimal digits are a version")
    }

    pub(super) fn put(
        &mut self,
        object: &ObjectRef,
        value: Value,
        content_type: Option<String>,
        version: Version,
        now: UnixTime,
        boot: Duration,
    ) {
        let key = unversioned(object);
        let entry = self.objects.entry(key.clone()).or_default();
        assert!(!entry.deleted, "{key} is deleted but recoverable: a vault answers 409 to setting it");
        let now = Duration::from_secs(now.as_secs());
        let (enabled, expires) = (true, None);
        entry.versions.push(Stored {
            version,
            value,
            content_type,
            enabled,
            created: now,
            updated: now,
            expires,
        });
        entry.record(&key, boot);
    }

    pub(super) fn change(
        &mut self,
        object: &ObjectRef,
        version: Option<&Version>,
        now: UnixTime,
        boot: Duration,
        change: impl FnOnce(&mut Stored),
    ) {
        let key = unversioned(object);
        let entry = self.objects.get_mut(&key).unwrap_or_else(|| panic!("the test never set {key}"));
        let stored = match version {
            Some(version) => entry.versions.iter_mut().find(|stored| stored.version == *version),
            None => entry.versions.last_mut(),
        };
        let stored = stored.unwrap_or_else(|| panic!("the test never set that version of {key}"));
        change(stored);
        stored.updated = Duration::from_secs(now.as_secs());
        entry.record(&key, boot);
    }

    pub(super) fn set_deleted(&mut self, object: &ObjectRef, deleted: bool, boot: Duration) {
        let key = unversioned(object);
        let entry = self.objects.get_mut(&key).unwrap_or_else(|| panic!("the test never set {key}"));
        entry.deleted = deleted;
        entry.record(&key, boot);
    }

    pub(super) fn get(&self, object: &ObjectRef) -> Result<&Stored> {
        let entry = self.entry(object)?;
        let stored = match object.version() {
            Some(version) => entry.versions.iter().find(|stored| stored.version == *version),
            None => entry.versions.last(),
        };
        let stored = stored.ok_or_else(absent)?;
        if stored.enabled {
            Ok(stored)
        } else {
            Err(Error::new(Code::ObjectDisabled, "the object's version is disabled"))
        }
    }

    /// Newest first.
    pub(super) fn versions(&self, object: &ObjectRef) -> Result<Vec<VersionInfo>> {
        let entry = self.entry(object)?;
        Ok(entry
            .versions
            .iter()
            .rev()
            .map(|stored| VersionInfo {
                version: stored.version.clone(),
                enabled: stored.enabled,
                created: Some(stored.created),
                updated: Some(stored.updated),
            })
            .collect())
    }

    /// What a listing showed at `moment` on the boot clock.
    pub(super) fn list(
        &self,
        host: &VaultHost,
        collection: Collection,
        moment: Duration,
    ) -> Vec<ObjectMetadata> {
        self.objects
            .iter()
            .filter(|(key, _)| key.host() == host && key.collection() == collection)
            .filter_map(|(_, entry)| {
                let line = entry.listed.iter().rev().find(|(since, _)| *since <= moment);
                line.and_then(|(_, line)| line.clone())
            })
            .collect()
    }

    fn entry(&self, object: &ObjectRef) -> Result<&Entry> {
        self.objects.get(&unversioned(object)).filter(|entry| !entry.deleted).ok_or_else(absent)
    }
}

impl Entry {
    fn record(&mut self, key: &ObjectRef, boot: Duration) {
        let current = self.versions.last().filter(|_| !self.deleted);
        let line = current.map(|stored| ObjectMetadata {
            object: key.clone(),
            enabled: stored.enabled,
            updated: Some(stored.updated),
        });
        self.listed.push((boot, line));
        // A simulated year changes an object often; no listing lags that far behind.
        if self.listed.len() > 256 {
            self.listed.remove(0);
        }
    }
}

fn absent() -> Error {
    Error::new(Code::ObjectNotFound, "the vault has no such object or version, or it is deleted")
}

fn unversioned(object: &ObjectRef) -> ObjectRef {
    ObjectRef::new(object.host().clone(), object.collection(), object.name(), None)
        .expect("the name was legal before")
}
