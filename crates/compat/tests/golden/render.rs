//! A class as text: what it says, and the tree that it becomes.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use keyward_compat::{ClassIdentity, ClassInput, ClassSpec, parse_class};
use keyward_core::cloud::Cloud;
use keyward_core::spec::{ObjectSource, ObjectSpec, Source};
use keyward_core::{FetchRequest, IdentityKey, ObjectKey, Snapshot, State};
use keyward_delivery::conversions::apart;
use keyward_delivery::projection::{Defaults, project};
use serde::Deserialize;

use super::vault::{fetch, fixture, versions};

#[derive(Deserialize)]
struct Manifest {
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    provider: String,
    parameters: BTreeMap<String, String>,
}

/// The clouds of an administrator who runs an Azure Stack.
pub(crate) fn clouds(name: &str) -> Option<Cloud> {
    match name {
        "AzureStackCloud" => Some(Cloud {
            name: name.to_owned(),
            authority_host: "https://login.stack.example".to_owned(),
            vault_dns_suffix: "vault.stack.example".to_owned(),
            audience: "https://vault.stack.example".to_owned(),
        }),
        name => Cloud::built_in(name),
    }
}

pub(crate) fn render(manifest: &str) -> String {
    let manifest: Manifest = serde_saphyr::from_str(manifest).unwrap();
    let input = ClassInput { provider: &manifest.spec.provider, parameters: &manifest.spec.parameters };
    let class = match parse_class(&input, &clouds) {
        Ok(class) => class,
        Err(error) => return format!("refused: {error}\n"),
    };
    let mut text = head(&class);
    let mut uids = BTreeMap::new();
    let mut specs: Vec<ObjectSpec> = Vec::new();
    for object in &class.objects {
        let Source::Object(source) = &object.spec.source else { panic!("a template") };
        match object.expand(&versions(&source.object)) {
            Ok(entries) => {
                for (spec, uid) in entries {
                    uids.insert(spec.name.clone(), uid);
                    specs.push(spec);
                }
            }
            Err(error) => writeln!(text, "{} ! {error}", object.spec.name).unwrap(),
        }
    }
    let defaults = Defaults { mode: 0o444, uid: None, gid: None };
    let look = |source: &ObjectSource| Some(Arc::new(snapshot(source)));
    let projection =
        apart(|turn| project(turn, &specs, &look, None, &defaults, keyward_delivery::Meter::unlimited()))
            .unwrap();
    for entry in &projection.entries {
        let uid = &uids[&entry.name];
        if let Err(error) = &entry.value {
            writeln!(text, "{} ! {uid} {error}", entry.name).unwrap();
        }
        for (path, file) in &entry.files {
            assert_eq!(path.as_str(), entry.name, "the name of an entry is its path");
            let version = entry.version.as_ref().unwrap().as_str().trim_start_matches('0').to_owned();
            let mode = file.mode;
            writeln!(text, "{path} {mode:04o} {uid}@{version} {}", content(file.content.expose())).unwrap();
        }
    }
    text
}

fn head(class: &ClassSpec) -> String {
    let mode = match &class.identity {
        ClassIdentity::Default { .. } => "default",
        ClassIdentity::TokenProxy { .. } => "token proxy",
        ClassIdentity::VmManaged { .. } => "machine",
    };
    let client = class.identity.client_id().unwrap_or("none");
    let mut text = format!(
        "identity: {mode}, client {client}\nvault: {} in {}\ntenant: {}\n",
        class.vault, class.cloud.name, class.tenant
    );
    for note in &class.notes {
        writeln!(text, "note: {note}").unwrap();
    }
    text
}

fn snapshot(source: &ObjectSource) -> Snapshot {
    let fetched = fetch(&source.object);
    let error = fetched.is_none().then(|| {
        keyward_core::Error::new(keyward_core::Code::ObjectNotFound, "the vault does not know it")
            .object(&source.object)
    });
    Snapshot {
        key: ObjectKey {
            identity: Arc::new(IdentityKey {
                method: "test",
                authority: String::new(),
                tenant: String::new(),
                client: String::new(),
            }),
            request: FetchRequest { object: source.object.clone(), parts: source.parts() },
        },
        state: if fetched.is_some() { State::Fresh } else { State::Pending },
        fetched: fetched.map(Arc::new),
        error,
        confirmed: None,
        confirmed_boot: None,
        asked: None,
        checked: None,
        next_check: None,
        sequence: 1,
    }
}

/// The fixture that holds the bytes, or the bytes as a quoted text.
fn content(bytes: &[u8]) -> String {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    if let Some(name) = names.iter().find(|name| fixture(name) == bytes) {
        return format!("= fixtures/{name}");
    }
    let encoded = |name: &&String| {
        use base64::Engine;
        base64::prelude::BASE64_STANDARD.encode(fixture(name)).as_bytes() == bytes
    };
    if let Some(name) = names.iter().find(encoded) {
        return format!("= base64 of fixtures/{name}");
    }
    format!("\"{}\"", bytes.escape_ascii())
}
