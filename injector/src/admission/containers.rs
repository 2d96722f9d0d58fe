//! Changes of a pod's JSON: containers, volumes, mounts, annotations. Each leaves alone what is there already, so that
//! doing them again changes nothing.

use serde_json::{Map, Value, json};

use super::pod::{is_helper, name};
use super::wish::Wish;

/// The list at `/spec/<key>`, made when it is missing.
pub(super) fn list<'a>(pod: &'a mut Value, key: &str) -> &'a mut Vec<Value> {
    let place = member(member(pod, "spec"), key);
    if !place.is_array() {
        *place = Value::Array(Vec::new());
    }
    place.as_array_mut().expect("it was made an array")
}

fn member<'a>(value: &'a mut Value, key: &str) -> &'a mut Value {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was made an object").entry(key).or_insert(Value::Null)
}

pub(super) fn annotate(pod: &mut Value, key: &str, value: &str) {
    let place = member(member(pod, "metadata"), "annotations");
    *member(place, key) = json!(value);
}

pub(super) fn add_volume(pod: &mut Value, volume: Value) {
    let volumes = list(pod, "volumes");
    if !volumes.iter().any(|there| name(there) == name(&volume)) {
        volumes.push(volume);
    }
}

/// Gives the application's containers a mount: those that were named, else all but helpers of a mesh.
pub(super) fn mount(pod: &mut Value, wish: &Wish, volume: &str, path: &str) {
    for key in ["initContainers", "containers"] {
        if pod.pointer(&format!("/spec/{key}")).is_none_or(|list| !list.is_array()) {
            continue;
        }
        for container in list(pod, key).iter_mut() {
            let wanted = if wish.containers.is_empty() {
                key == "containers" && !is_helper(container) && !OURS.contains(&name(container))
            } else {
                wish.containers.iter().any(|wanted| wanted == name(container))
            };
            if wanted {
                mount_in(container, volume, path);
            }
        }
    }
}

/// The containers that we add.
pub(super) const SIDECAR: &str = "keyward-sidecar";
/// The init container that writes the files once.
pub(super) const INIT: &str = "keyward-init";
/// Both.
pub(super) const OURS: &[&str] = &[SIDECAR, INIT];

fn mount_in(container: &mut Value, volume: &str, path: &str) {
    let mounts = member(container, "volumeMounts");
    if !mounts.is_array() {
        *mounts = Value::Array(Vec::new());
    }
    let mounts = mounts.as_array_mut().expect("it was made an array");
    // One of the author's own, with another place or a subPath, is enough.
    if !mounts.iter().any(|there| name(there) == volume) {
        mounts.push(json!({"name": volume, "mountPath": path, "readOnly": true}));
    }
}
