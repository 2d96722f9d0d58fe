//! The SecretProviderClassPodStatus of a pod and a class.

use std::hash::{DefaultHasher, Hash, Hasher as _};

use keyward_core::Error;
use serde_json::{Map, Value, json};

use super::{ObjectVersion, Outcome, PodRef};
use crate::names;

pub(super) const GROUP: &str = "secrets-store.csi.x-k8s.io";
pub(super) const RESOURCE: &str = "secretproviderclasspodstatuses";
const NODE_LABEL: &str = "internal.secrets-store.csi.k8s.io/node-name";
const LAST_ERROR: &str = "keyward.dev/last-error";

/// The last error as an annotation, bytes at most.
const LONGEST_ERROR: usize = 512;

/// What a status should say.
#[derive(Debug, Clone)]
pub(super) struct Desired {
    mounted: bool,
    /// `None`: what it says of objects stays.
    objects: Option<Vec<ObjectVersion>>,
    error: Option<String>,
}

/// What a status says, so that it is written only when that changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Said {
    mounted: bool,
    objects: u64,
    error: u64,
    target: u64,
}

impl Desired {
    /// What follows from an outcome; `None` when the status has nothing to say of it.
    pub(super) fn of(outcome: &Outcome) -> Option<Self> {
        Some(match outcome {
            Outcome::Published { objects } | Outcome::Rotated { objects, .. } => {
                let mut objects = objects.clone();
                objects.sort();
                objects.dedup_by(|later, first| later.id == first.id);
                Self { mounted: true, objects: Some(objects), error: None }
            }
            Outcome::Failed { error, mounted: true } => {
                Self { mounted: true, objects: None, error: Some(short(error)) }
            }
            Outcome::Failed { error, mounted: false } => {
                Self { mounted: false, objects: Some(Vec::new()), error: Some(short(error)) }
            }
            Outcome::Gone => return None,
        })
    }

    /// What is left to say when `self` has not been said yet and `later` follows.
    pub(super) fn then(self, later: Self) -> Self {
        Self { objects: later.objects.or(self.objects), ..later }
    }

    pub(super) fn said(&self, before: Said, target: &str) -> Said {
        Said {
            mounted: self.mounted,
            objects: self.objects.as_ref().map_or(before.objects, hash),
            error: hash(&self.error),
            target: hash(&target),
        }
    }

    /// The whole object, to be created.
    #[expect(clippy::indexing_slicing, reason = "the object is made here")]
    pub(super) fn object(&self, name: &str, pod: &PodRef, class: &str, node: &str, target: &str) -> Value {
        let mut object = self.patch(pod, class, node, target);
        object["apiVersion"] = json!(format!("{GROUP}/v1"));
        object["kind"] = json!("SecretProviderClassPodStatus");
        object["metadata"]["name"] = json!(name);
        object["metadata"]["namespace"] = json!(pod.namespace);
        if self.error.is_none() {
            object["metadata"]["annotations"] = json!({});
        }
        object
    }

    /// What an existing object is to become, whoever owned it before.
    pub(super) fn patch(&self, pod: &PodRef, class: &str, node: &str, target: &str) -> Value {
        json!({
            "metadata": {
                "labels": { NODE_LABEL: names::label(node) },
                "annotations": { LAST_ERROR: self.error },
                "ownerReferences": [
                    { "apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid }
                ],
            },
            "status": self.status(pod, class, target),
        })
    }

    /// The status alone, for a definition with a status subresource.
    pub(super) fn status(&self, pod: &PodRef, class: &str, target: &str) -> Value {
        let mut status = Map::new();
        status.insert("podName".to_owned(), json!(pod.name));
        status.insert("secretProviderClassName".to_owned(), json!(class));
        status.insert("mounted".to_owned(), json!(self.mounted));
        status.insert("targetPath".to_owned(), json!(target));
        if let Some(objects) = &self.objects {
            let objects = objects.iter().map(|o| json!({ "id": o.id, "version": o.version }));
            status.insert("objects".to_owned(), objects.collect());
        }
        Value::Object(status)
    }
}

/// The name that existing tools know; shortened when it is longer than a name may be.
pub(super) fn name(pod: &PodRef, class: &str) -> (String, bool) {
    let whole = format!("{}-{}-{class}", pod.name, pod.namespace);
    let fitted = names::fitted(&whole);
    let shortened = fitted != whole;
    (fitted, shortened)
}

/// Whether the server has kept the status that it was given.
pub(super) fn took(answer: &Value, status: &Value) -> bool {
    let (Some(has), Some(wants)) = (answer["status"].as_object(), status.as_object()) else { return false };
    wants
        .iter()
        .all(|(key, value)| has.get(key) == Some(value) || (is_empty(value) && !has.contains_key(key)))
}

fn is_empty(value: &Value) -> bool {
    matches!(value, Value::Bool(false)) || value.as_array().is_some_and(Vec::is_empty)
}

fn short(error: &Error) -> String {
    names::cut(&error.to_string(), LONGEST_ERROR).to_owned()
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
