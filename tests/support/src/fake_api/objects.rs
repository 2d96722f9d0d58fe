use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The objects, and what changed since the last time that history was forgotten.
#[derive(Default)]
pub(super) struct Objects {
    version: u64,
    oldest: u64,
    objects: BTreeMap<(String, String, String), Value>,
    changes: Vec<Change>,
}

#[derive(Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) resource: String,
    pub(super) kind: &'static str,
    pub(super) object: Value,
}

impl Objects {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.objects.get(&key(resource, namespace, name)).cloned()
    }

    pub(super) fn list(&self, resource: &str, namespace: Option<&str>) -> Vec<Value> {
        let of = |key: &(String, String, String)| {
            key.0 == resource && namespace.is_none_or(|namespace| key.1 == namespace)
        };
        self.objects.iter().filter(|(key, _)| of(key)).map(|(_, object)| object.clone()).collect()
    }

    /// Stores `object` and gives it its version; nothing moves when nothing is different.
    pub(super) fn put(&mut self, resource: &str, mut object: Value) -> Value {
        let key = key(resource, text(&object, "namespace"), text(&object, "name"));
        let before = self.objects.get(&key);
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        let uid = before.map_or_else(|| format!("uid-{}", self.version + 1), |o| text(o, "uid").to_owned());
        object["metadata"]["uid"] = json!(uid);
        if let Some(before) = before {
            object["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
            if object == *before {
                return object;
            }
        }
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(key, object.clone());
        self.note(resource, kind, object.clone());
        object
    }

    pub(super) fn delete(&mut self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let mut object = self.objects.remove(&key(resource, namespace, name))?;
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.note(resource, "DELETED", object.clone());
        Some(object)
    }

    fn note(&mut self, resource: &str, kind: &'static str, object: Value) {
        let change = Change { version: self.version, resource: resource.to_owned(), kind, object };
        self.changes.push(change);
    }

    /// Forgets history. The version moves on, so that whoever was up to date is not any more.
    pub(super) fn expire(&mut self) {
        self.version += 1;
        self.oldest = self.version;
        self.changes.clear();
    }

    /// What changed after `version`, or `None` when that is forgotten.
    pub(super) fn since(&self, version: u64, resource: &str) -> Option<Vec<Change>> {
        if version < self.oldest {
            return None;
        }
        let new = |change: &&Change| change.version > version && change.resource == resource;
        Some(self.changes.iter().filter(new).cloned().collect())
    }
}

pub(super) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

fn key(resource: &str, namespace: &str, name: &str) -> (String, String, String) {
    (resource.to_owned(), namespace.to_owned(), name.to_owned())
}

/// A JSON merge patch, RFC 7396.
pub(super) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}
