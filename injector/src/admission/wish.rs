//! What a pod's annotations ask for, checked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use keyward_core::config::injector::{Injection, Position, Via, is_quantity};
use keyward_core::document::{self, Mistakes};
use keyward_core::spec::{self, Context, ObjectSpec};
use keyward_core::{Code, Error, Result};

use super::annotations::{
    ADMIN_LISTEN, CLIENT_ID, CONFIG, CONTAINERS, FILE, IDENTITY, KNOWN, LIMITS_CPU, LIMITS_MEMORY, MODE,
    MOUNT_PATH, NOTIFY, OBJECTS, POSITION, PREFIX, REQUESTS_CPU, REQUESTS_MEMORY, SECRET, SIDECAR_ONLY,
    TENANT_ID, VIA, VIAS,
};
use super::pod::Pod;

/// How many mistakes of one kind are named.
const MOST_NAMED: usize = 16;

/// The pod's wishes.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) via: Via,
    /// The objects as a YAML list: what a flag or a volume attribute carries. Empty with a ConfigMap.
    pub(super) objects_text: String,
    pub(super) objects: Vec<ObjectSpec>,
    pub(super) config_map: Option<String>,
    pub(super) mount_path: String,
    /// Containers by name; empty means all of the application's.
    pub(super) containers: Vec<String>,
    pub(super) client_id: Option<String>,
    pub(super) tenant_id: Option<String>,
    pub(super) managed_identity: bool,
    pub(super) admin_listen: Option<SocketAddr>,
    pub(super) position: Position,
    pub(super) requests: BTreeMap<String, String>,
    pub(super) limits: BTreeMap<String, String>,
}

impl Wish {
    /// Reads all annotations.
    ///
    /// # Errors
    /// `KW_ANNOTATION_INVALID` with every mistake; those of objects have the codes of the object grammar.
    pub(super) fn read(pod: Pod<'_>, injection: &Injection) -> Result<Self> {
        let mistakes = Mistakes::default();
        unknown(pod, &mistakes);
        let via = choice(pod, VIA, VIAS, &mistakes).unwrap_or(injection.via);
        if via == Via::Csi {
            for key in SIDECAR_ONLY.iter().filter(|key| pod.annotation(key).is_some()) {
                mistakes.note(*key, "is about a sidecar or init container, and this pod gets a CSI volume");
            }
        }
        let objects_text = objects_text(pod, via, &mistakes);
        let config_map = text(pod, CONFIG, &mistakes, is_dns_name, "must be the name of a ConfigMap");
        let mount_path = mount_path(pod, injection, &mistakes);
        let containers = containers(pod, &mistakes);
        let id = |key| {
            text(pod, key, &mistakes, is_id, "must be an id such as 11111111-2222-3333-4444-555555555555")
        };
        let (client_id, tenant_id) = (id(CLIENT_ID), id(TENANT_ID));
        let methods = [("workload-identity", false), ("managed-identity", true)];
        let managed_identity = choice(pod, IDENTITY, &methods, &mistakes).unwrap_or_default();
        let admin_listen = pod.annotation(ADMIN_LISTEN).and_then(|value| {
            value
                .trim()
                .parse()
                .map_err(|_| {
                    mistakes.note(ADMIN_LISTEN, "must be an address and a port, such as 0.0.0.0:9464");
                })
                .ok()
        });
        let positions = [("auto", Position::Auto), ("first", Position::First), ("last", Position::Last)];
        let position = choice(pod, POSITION, &positions, &mistakes).unwrap_or(injection.position);
        let requests = quantities(
            pod,
            &injection.requests,
            &[("cpu", REQUESTS_CPU), ("memory", REQUESTS_MEMORY)],
            &mistakes,
        );
        let limits =
            quantities(pod, &injection.limits, &[("cpu", LIMITS_CPU), ("memory", LIMITS_MEMORY)], &mistakes);
        if config_map.is_none() && objects_text.is_empty() && mistakes.count() == 0 {
            mistakes.note(
                "keyward.dev/inject",
                format!("the pod names no object: add {SECRET}<name>, {OBJECTS} or {CONFIG}"),
            );
        }
        if config_map.is_some() && !objects_text.is_empty() {
            mistakes.note(
                CONFIG,
                "has the objects in its ConfigMap: leave out the annotations that name objects",
            );
        }
        mistakes.into_result(Code::AnnotationInvalid)?;
        let objects =
            if config_map.is_some() { Vec::new() } else { objects(pod, &objects_text, via, injection)? };
        Ok(Self {
            via,
            objects_text,
            objects,
            config_map,
            mount_path,
            containers,
            client_id,
            tenant_id,
            managed_identity,
            admin_listen,
            position,
            requests,
            limits,
        })
    }
}

/// Notes annotations of ours that do not exist, and those that belong to a name without an object.
fn unknown(pod: Pod<'_>, mistakes: &Mistakes) {
    for (key, _) in pod.annotations().filter(|(key, _)| key.starts_with(PREFIX)) {
        let known = KNOWN.iter().find(|known| {
            if known.ends_with('-') {
                key.len() > known.len() && key.starts_with(*known)
            } else {
                key == **known
            }
        });
        match known {
            None => mistakes.note(key, format!("is not an annotation of Keyward; {}", nearest(key))),
            Some(&(FILE | MODE | NOTIFY)) => {
                let name = key.rsplit_once(known.copied().unwrap_or_default()).map_or("", |(_, name)| name);
                if pod.annotation(&format!("{SECRET}{name}")).is_none() {
                    mistakes.note(key, format!("belongs to {SECRET}{name}, which is missing"));
                }
            }
            Some(_) => {}
        }
    }
}

fn nearest(key: &str) -> String {
    let similar = |known: &&&str| {
        let stem = known.trim_end_matches('-').trim_start_matches(PREFIX);
        let asked = key.trim_start_matches(PREFIX);
        asked.starts_with(stem)
            || stem.starts_with(asked)
            || stem.replace('-', "") == asked.replace(['-', '_'], "").to_lowercase()
    };
    match KNOWN.iter().find(similar) {
        Some(known) if known.ends_with('-') => format!("{known}<name> is"),
        Some(known) => format!("{known} is"),
        None => "docs/annotations.md lists them".to_owned(),
    }
}

/// The list of objects as text: the annotation `objects` as it stands, or one line for each `secret-<name>`, in the order
/// of the names. A MutatingAdmissionPolicy makes the same text (docs/adr/0014).
fn objects_text(pod: Pod<'_>, via: Via, mistakes: &Mistakes) -> String {
    let mut lines: Vec<(&str, String)> = pod
        .annotations()
        .filter_map(|(key, from)| Some((key.strip_prefix(SECRET).filter(|name| !name.is_empty())?, from)))
        .map(|(name, from)| (name, line(pod, name, from, via, mistakes)))
        .collect();
    lines.sort();
    match pod.annotation(OBJECTS) {
        Some(_) if let Some((first, _)) = lines.first() => {
            mistakes.note(OBJECTS, format!("stands beside {SECRET}{first}: write all objects one way"));
            String::new()
        }
        Some(text) if text.trim().is_empty() => {
            mistakes.note(OBJECTS, "is empty");
            String::new()
        }
        Some(text) => text.to_owned(),
        None => lines.into_iter().map(|(_, line)| line).collect(),
    }
}

fn line(pod: Pod<'_>, name: &str, from: &str, via: Via, mistakes: &Mistakes) -> String {
    let mut line = String::from("- {");
    let mut put = |key: String, word: &str, value: &str| {
        if value.chars().any(|c| c == '"' || c == '\\' || c.is_control()) {
            mistakes.note(key, "must not contain quotation marks, backslashes or control characters");
        }
        if line.len() > 3 {
            line.push_str(", ");
        }
        line.push_str(&format!("\"{word}\": \"{value}\""));
    };
    put(format!("{SECRET}{name}"), "from", from);
    put(format!("{SECRET}{name}"), "name", name);
    for (prefix, word) in [(FILE, "file"), (MODE, "mode")] {
        let key = format!("{prefix}{name}");
        if let Some(value) = pod.annotation(&key) {
            put(key, word, value);
        }
    }
    let key = format!("{NOTIFY}{name}");
    if let Some(value) = pod.annotation(&key) {
        if via == Via::Csi {
            mistakes.note(
                key,
                "is only for the sidecar: the node plugin never signals, posts or executes for a pod",
            );
        } else {
            match document::parse(value.as_bytes()) {
                Ok(notify) => line.push_str(&format!(", \"notify\": {notify}")),
                Err(error) => mistakes.note(key, error.message()),
            }
        }
    }
    line.push_str("}\n");
    line
}

fn objects(pod: Pod<'_>, text: &str, via: Via, injection: &Injection) -> Result<Vec<ObjectSpec>> {
    let listed: Vec<_> = injection.vaults.iter().map(|vault| vault.host.clone()).collect();
    let context = Context { cloud: &injection.cloud, listed_hosts: &listed, notify: via != Via::Csi };
    let specs = spec::parse_objects_text(text.as_bytes(), context)
        .map_err(|error| Error::new(error.code(), in_annotations(pod, error.message())))?;
    if specs.is_empty() {
        return Err(Error::new(Code::ObjectInvalid, format!("{OBJECTS}: the list is empty")));
    }
    Ok(specs)
}

/// Mistakes in the list as their author has written it: `objects[0].from` is an annotation where each object has its own.
fn in_annotations(pod: Pod<'_>, message: &str) -> String {
    if pod.annotation(OBJECTS).is_some() {
        return message
            .replace("objects[", "keyward.dev/objects[")
            .replace("objects: ", "keyward.dev/objects: ");
    }
    let mut names: Vec<_> = pod.annotations().filter_map(|(key, _)| key.strip_prefix(SECRET)).collect();
    names.sort_unstable();
    let parts = [(".from", SECRET), (".file", FILE), (".mode", MODE), (".notify", NOTIFY), ("", SECRET)];
    let mut pieces = message.split("objects[");
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let found = piece.split_once(']').and_then(|(index, rest)| {
            let name = names.get(index.parse::<usize>().ok()?)?;
            parts.iter().find_map(|(part, prefix)| Some((*prefix, *name, rest.strip_prefix(part)?)))
        });
        match found {
            Some((prefix, name, rest)) => text.extend([prefix, name, rest]),
            None => text.extend(["objects[", piece]),
        }
    }
    text
}

fn choice<T: Copy>(pod: Pod<'_>, key: &str, choices: &[(&str, T)], mistakes: &Mistakes) -> Option<T> {
    let value = pod.annotation(key)?;
    let found = choices.iter().find(|(word, _)| *word == value).map(|(_, choice)| *choice);
    if found.is_none() {
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        mistakes.note(key, format!("must be one of {}", words.join(", ")));
    }
    found
}

fn text(
    pod: Pod<'_>,
    key: &str,
    mistakes: &Mistakes,
    check: impl Fn(&str) -> bool,
    message: &str,
) -> Option<String> {
    let value = pod.annotation(key)?.trim();
    if !check(value) {
        mistakes.note(key, message);
        return None;
    }
    Some(value.to_owned())
}

fn is_dns_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=253).contains(&text.len())
        && text.bytes().all(|byte| inner(byte) || byte == b'-' || byte == b'.')
        && text.bytes().next().is_some_and(inner)
        && text.bytes().last().is_some_and(inner)
}

/// An id or a domain: what the identity settings of the sidecar take, without what could end a flag's value.
fn is_id(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
}

fn mount_path(pod: Pod<'_>, injection: &Injection, mistakes: &Mistakes) -> String {
    let Some(path) = pod.annotation(MOUNT_PATH) else {
        return injection.mount_path.display().to_string();
    };
    let parts = path.trim_end_matches('/').split('/').skip(1);
    let sound = path.starts_with('/')
        && path.len() <= 1024
        && path.trim_end_matches('/').len() > 1
        && parts.into_iter().all(|part| !part.is_empty() && part != "." && part != "..")
        && !path.chars().any(|c| c.is_control() || c == ':' || c == '"' || c == '\\');
    if !sound {
        mistakes.note(MOUNT_PATH, "must be an absolute path such as /var/run/secrets/app");
    }
    path.trim_end_matches('/').to_owned()
}

fn containers(pod: Pod<'_>, mistakes: &Mistakes) -> Vec<String> {
    let Some(list) = pod.annotation(CONTAINERS) else { return Vec::new() };
    let names: BTreeSet<&str> = list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    if names.is_empty() {
        mistakes.note(CONTAINERS, "names no container");
    }
    let all: BTreeSet<&str> =
        pod.containers().iter().chain(pod.init_containers()).map(super::pod::name).collect();
    for name in names.iter().filter(|name| !all.contains(name.as_str())).take(MOST_NAMED) {
        mistakes.note(CONTAINERS, format!("names {name}, which the pod does not have"));
    }
    names.retain(|name| all.contains(name.as_str()));
    names
}

fn quantities(
    pod: Pod<'_>,
    defaults: &BTreeMap<String, String>,
    keys: &[(&str, &str)],
    mistakes: &Mistakes,
) -> BTreeMap<String, String> {
    let mut all = defaults.clone();
    for (resource, key) in keys {
        if let Some(value) = pod.annotation(key) {
            if is_quantity(value) {
                all.insert((*resource).to_owned(), value.to_owned());
            } else {
                mistakes.note(*key, "must be a quantity of Kubernetes, such as 20m or 32Mi");
            }
        }
    }
    all
}
