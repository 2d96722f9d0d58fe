//! Changes of a pod's JSON: containers, volumes, mounts, annotations. Each leaves alone what is there already, so that
//! doing them again changes nothing.

use serde_json::{Map, Value, json};

use super::pod::{is_helper, name};
use super::wish::Wish;

/// The list at `/spec/<key>`, made when it is missing.
pub(super) fn list<'a>(pod: &'a mut Value, key: &str) -> &'a mut Vec<Value> {
    array(member(member(pod, "spec"), key))
}

/// `value` as a list; what is none becomes an empty one.
#[expect(clippy::unreachable, reason = "what is no list was made one in the line before")]
fn array(value: &mut Value) -> &mut Vec<Value> {
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    let Value::Array(items) = value else { unreachable!() };
    items
}

/// The entry of a mapping, null if it is new; what is no mapping becomes an empty one first. Unlike an index, this never
/// panics.
#[expect(clippy::unreachable, reason = "what is no mapping was made one in the line before")]
pub(crate) fn member<'a>(value: &'a mut Value, key: &str) -> &'a mut Value {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(map) = value else { unreachable!() };
    map.entry(key).or_insert(Value::Null)
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

/// The container that goes on running.
pub(super) const SIDECAR: &str = "keyward-sidecar";
/// The init container that writes the files once.
pub(super) const INIT: &str = "keyward-init";
/// Names of the containers that we add.
pub const OURS: &[&str] = &[SIDECAR, INIT];

fn mount_in(container: &mut Value, volume: &str, path: &str) {
    let mounts = array(member(container, "volumeMounts"));
    // One of the author's own, with another place or a subPath, is enough.
    if !mounts.iter().any(|there| name(there) == volume) {
        mounts.push(json!({"name": volume, "mountPath": path, "readOnly": true}));
    }
}
