use std::collections::BTreeMap;
use std::path::Path;

use keyward_compat::{ClassInput, ClassSpec, Note, parse_class};
use keyward_core::cloud::Cloud;
use keyward_core::document::Mistakes;
use keyward_core::{Code, Error, Result};
use serde_json::Value;

use crate::failure::Failure;
use crate::output;

const GROUP: &str = "secrets-store.csi.x-k8s.io";

/// The SecretProviderClasses of a stream of Kubernetes manifests; `None` when it is no such stream at all.
pub(super) fn find(documents: &[Value]) -> Option<Vec<&Value>> {
    let manifests: Vec<&Value> = documents
        .iter()
        .filter(|document| !document.is_null())
        .flat_map(|document| match (text(document, "kind"), document.get("items")) {
            ("List" | "SecretProviderClassList", Some(Value::Array(items))) => items.iter().collect(),
            _ => vec![document],
        })
        .collect();
    let is_manifest =
        |document: &&Value| !text(document, "apiVersion").is_empty() && !text(document, "kind").is_empty();
    if !documents.iter().filter(|document| !document.is_null()).any(|document| is_manifest(&document)) {
        return None;
    }
    Some(manifests.into_iter().filter(is_class).collect())
}

fn is_class(document: &&Value) -> bool {
    text(document, "kind") == "SecretProviderClass"
        && text(document, "apiVersion").split_once('/').is_some_and(|(group, _)| group == GROUP)
}

/// Says of each class whether it is served, and where that would differ; fails when one of them is not.
pub(super) fn check(classes: &[&Value], file: &Path) -> std::result::Result<(), Failure> {
    let file = file.display();
    if classes.is_empty() {
        return Err(Failure::usage(format!("{file}: holds no SecretProviderClass of {GROUP}")));
    }
    let mut refused = Vec::new();
    for class in classes {
        let name = name(class);
        match read(class) {
            Ok((class, notes)) => {
                output::line(format!("{file}: {name}: no mistakes, {} objects", class.objects.len()))?;
                notes.iter().try_for_each(|note| output::line(format!("  note: {note}")))?;
            }
            Err(error) => refused.push((name, error)),
        }
    }
    if refused.is_empty() {
        return Ok(());
    }
    let lines = refused.iter().flat_map(|(name, error)| {
        error.message().lines().map(|line| format!("{name}: {line}")).collect::<Vec<_>>()
    });
    Err(Error::new(Code::ClassInvalid, lines.collect::<Vec<_>>().join("\n")).into())
}

fn read(class: &Value) -> Result<(ClassSpec, Vec<Note>)> {
    let mut notes = Vec::new();
    let spec = class.get("spec").unwrap_or(&Value::Null);
    match text(class, "apiVersion").split_once('/') {
        Some((_, "v1" | "v1alpha1")) => {}
        _ => return Err(Error::new(Code::ClassInvalid, "apiVersion: must be v1 or v1alpha1 of the group")),
    }
    let parameters = parameters(spec)?;
    let parsed =
        parse_class(&ClassInput { provider: text(spec, "provider"), parameters: &parameters }, &clouds)?;
    if parsed.cloud.name == STACK {
        notes.push(note(
            "cloudName",
            "AzureStackCloud must be defined by the administrator, under `clouds` of the node plugin",
        ));
    }
    if spec.get("secretObjects").and_then(Value::as_array).is_some_and(|objects| !objects.is_empty()) {
        notes.push(note(
            "secretObjects",
            "are not made: Keyward writes no Kubernetes Secrets; let the application read the files, or keep the \
             Secrets Store CSI driver for this one",
        ));
    }
    notes.splice(0..0, parsed.notes.iter().cloned());
    Ok((parsed, notes))
}

/// The API server takes texts only, and a manifest's author sees that late.
fn parameters(spec: &Value) -> Result<BTreeMap<String, String>> {
    let mistakes = Mistakes::default();
    let mut parameters = BTreeMap::new();
    match spec.get("parameters") {
        Some(Value::Object(map)) => {
            for (name, value) in map {
                match value {
                    Value::String(text) => {
                        parameters.insert(name.clone(), text.clone());
                    }
                    _ => mistakes.note(name.as_str(), "must be a text; put it in quotes"),
                }
            }
        }
        _ => mistakes.note("spec.parameters", "is missing"),
    }
    mistakes.into_result(Code::ClassInvalid)?;
    Ok(parameters)
}

const STACK: &str = "AzureStackCloud";

/// The clouds that are built in, and a place holder for the one that only an administrator can define.
fn clouds(name: &str) -> Option<Cloud> {
    if name == STACK {
        return Some(Cloud { name: STACK.to_owned(), ..Cloud::public() });
    }
    Cloud::built_in(name)
}

fn note(place: &str, message: &str) -> Note {
    Note { place: place.to_owned(), message: message.to_owned() }
}

fn name(class: &Value) -> String {
    let metadata = class.get("metadata").unwrap_or(&Value::Null);
    match (text(metadata, "namespace"), text(metadata, "name")) {
        ("", name) => name.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}
