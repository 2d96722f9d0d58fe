//! The difference between two pods, as a JSON Patch (RFC 6902).

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, MoveOperation, Patch, PatchOperation};
use serde_json::Value;

use crate::admission::OURS;

/// Turns `from` into `to`. A list is compared place by place, so that a container put in front of others would make each
/// of them differ from what stood there before: a container of ours is put into its place first, by a step of its own,
/// and what is compared then differs in what was really changed.
#[must_use]
pub fn patch(mut from: Value, to: &Value) -> Patch {
    let mut steps = Vec::new();
    for ours in OURS {
        steps.extend(put_into_place(&mut from, to, ours));
    }
    steps.extend(json_patch::diff(&from, to).0);
    Patch(steps)
}

fn put_into_place(from: &mut Value, to: &Value, name: &str) -> Option<PatchOperation> {
    let place = |pod: &Value| {
        let containers = pod.pointer(LIST)?.as_array()?;
        containers.iter().position(|container| container.get("name").and_then(Value::as_str) == Some(name))
    };
    let (before, after) = (place(from), place(to)?);
    let containers = from.pointer_mut(LIST)?.as_array_mut()?;
    match before {
        Some(before) if before == after || after >= containers.len() => None,
        Some(before) => {
            let ours = containers.remove(before);
            containers.insert(after, ours);
            Some(PatchOperation::Move(MoveOperation { from: at(before), path: at(after) }))
        }
        None if after > containers.len() => None,
        None => {
            let value = to.pointer(LIST)?.get(after)?.clone();
            containers.insert(after, value.clone());
            Some(PatchOperation::Add(AddOperation { path: at(after), value }))
        }
    }
}

/// Where containers stand of which the order matters.
const LIST: &str = "/spec/initContainers";

fn at(index: usize) -> PointerBuf {
    PointerBuf::from_tokens(["spec".to_owned(), "initContainers".to_owned(), index.to_string()])
}
