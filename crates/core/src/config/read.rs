pub(super) mod local;
pub(super) mod path;
pub(super) mod upstream;

use std::net::SocketAddr;

use serde_json::{Map, Value};

use super::Config;
use crate::cloud::Cloud;
use crate::document::{self, Fields, Mistakes};
use crate::spec::{self, Context};
use crate::{Code, Error, Result};
use local::{audit, files, grpc, log, rotation, traces};
use path::absolute;
use upstream::{cloud, identity, tls, vaults};

/// Parses a configuration document.
///
/// # Errors
/// `KW_CONFIG_INVALID` with every mistake and its path.
pub fn parse(bytes: &[u8]) -> Result<Config> {
    parse_with(bytes, &[])
}

/// Parses a document whose settings are overridden by `(path, value)` pairs from the command line; values are YAML.
///
/// # Errors
/// As [`parse`].
pub fn parse_with(bytes: &[u8], overrides: &[(&str, &str)]) -> Result<Config> {
    let tree = document_with(bytes, overrides, NUMBERS)?;
    let mistakes = Mistakes::default();
    let config = Fields::new(&tree, "", &mistakes).map(|fields| read(fields, &mistakes));
    finish(config.flatten(), mistakes)
}

/// Settings whose value is a number or a flag, whatever a flag's text looks like.
const NUMBERS: &[&str] = &[
    "files.size",
    "files.uid",
    "files.gid",
    "grpc.gid",
    "grpc.ratePerCaller",
    "rotation.jitter",
    "traces.sample",
    "audit.fsync",
];

/// The document's tree with the overrides put in; `numbers` are settings that are no texts.
pub(super) fn document_with(bytes: &[u8], overrides: &[(&str, &str)], numbers: &[&str]) -> Result<Value> {
    let mut tree = match document::parse(bytes)? {
        Value::Null => Value::Object(Map::new()),
        tree => tree,
    };
    for (path, text) in overrides {
        let value = document::parse(text.as_bytes()).unwrap_or_else(|_| Value::String((*text).to_owned()));
        // A flag's text stays a text where the setting is one, whatever YAML would make of `1.3` or `0440`.
        let is_text = value.is_number() && !numbers.contains(path);
        set(&mut tree, path, if is_text { Value::String((*text).to_owned()) } else { value })?;
    }
    Ok(tree)
}

/// What was read, unless there were mistakes.
pub(super) fn finish<T>(read: Option<T>, mistakes: Mistakes) -> Result<T> {
    mistakes.into_result(Code::ConfigInvalid)?;
    read.ok_or_else(|| Error::new(Code::Internal, "a configuration was refused without a mistake"))
}

pub(super) fn set(tree: &mut Value, path: &str, value: Value) -> Result<()> {
    let mut place = tree;
    for key in path.split('.') {
        let Value::Object(map) = place else {
            return Err(Error::new(
                Code::ConfigInvalid,
                format!("{path}: cannot be set, since the document has no mapping there"),
            ));
        };
        place = map.entry(key).or_insert_with(|| Value::Object(Map::new()));
    }
    *place = value;
    Ok(())
}

fn read(mut fields: Fields<'_>, mistakes: &Mistakes) -> Option<Config> {
    let cloud = cloud(&mut fields);
    let identity = fields.section("identity").map(identity).unwrap_or_default();
    let vaults = vaults(&mut fields, mistakes);
    let tls = fields.section("tls").map(|fields| tls(fields, mistakes)).unwrap_or_default();
    let listed: Vec<_> = vaults.iter().map(|vault| vault.host.clone()).collect();
    let fallback = Cloud::public();
    let context = Context { cloud: cloud.as_ref().unwrap_or(&fallback), listed_hosts: &listed, notify: true };
    let objects = spec::parse_objects(fields.list("objects"), "objects", context, mistakes);
    let files = fields.section("files").and_then(files);
    let state = fields.section("state").and_then(|mut section| {
        let path = absolute(&mut section, "path");
        if path.is_none() && !section.has("path") {
            section.mistake("path", "is missing");
        }
        section.finish();
        path
    });
    let grpc = fields.section("grpc").and_then(|fields| grpc(fields, mistakes));
    let rotation = rotation(fields.section("rotation"));
    let admin = fields.section("admin").and_then(|mut section| {
        let listen = section.parsed("listen", |text| {
            text.parse::<SocketAddr>()
                .map_err(|_| "must be an address and a port, such as 127.0.0.1:9464".to_owned())
        });
        section.finish();
        listen
    });
    let audit = audit(fields.section("audit"));
    let log = log(fields.section("log"));
    let traces = fields.section("traces").and_then(traces);
    if files.is_none() && grpc.is_none() && !fields.has("files") && !fields.has("grpc") {
        fields.mistake("", "needs files.path or grpc.socket, else nobody would receive anything");
    }
    if !fields.has("objects") {
        fields.mistake("objects", "is missing: say what to fetch");
    }
    fields.finish();
    Some(Config {
        cloud: cloud?,
        identity,
        vaults,
        tls,
        objects,
        files,
        state,
        grpc,
        rotation,
        admin,
        audit,
        log,
        traces,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{SETTINGS, Setting};
    use proptest::prelude::*;

    const SMALLEST: &str = "objects: [kv://shop/secrets/a]\ngrpc: {socket: /run/k.sock}\n";

    #[test]
    fn the_smallest_configuration_has_sensible_defaults() {
        let config = parse(SMALLEST.as_bytes()).unwrap();
        assert_eq!(config.rotation.interval, Duration::from_secs(60));
        assert_eq!(config.grpc.unwrap().mode, 0o666);
        assert!(config.files.is_none() && config.log.json);
    }

    #[test]
    fn every_setting_of_the_reference_is_taken_from_document_and_flag() {
        for Setting { path, example, .. } in SETTINGS {
            let mut overrides = vec![(*path, *example)];
            let section = path.split('.').next().unwrap();
            match section {
                "files" if *path != "files.path" => overrides.push(("files.path", "/run/f")),
                "grpc" if *path != "grpc.socket" => overrides.push(("grpc.socket", "/run/k.sock")),
                "traces" if *path != "traces.endpoint" => {
                    overrides.push(("traces.endpoint", "http://127.0.0.1:4318"));
                }
                _ => {}
            }
            let from_flag = parse_with(SMALLEST.as_bytes(), &overrides);
            assert!(from_flag.is_ok(), "{path}: {}", from_flag.unwrap_err());
        }
    }

    #[test]
    fn a_document_that_uses_every_setting_has_no_unknown_ones() {
        let mut tree = Value::Object(Map::new());
        for Setting { path, example, .. } in SETTINGS {
            set(&mut tree, path, document::parse(example.as_bytes()).unwrap()).unwrap();
        }
        let text = serde_json::to_string(&tree).unwrap();
        if let Err(error) = parse(text.as_bytes()) {
            assert!(!error.message().contains("is not a setting"), "{error}");
        }
    }

    #[test]
    fn mistakes_in_several_sections_come_together() {
        let error = parse(b"cloud: Moon\nrotation: {interval: 5, jiter: 1}\nobjects: []\n").unwrap_err();
        for part in [
            "cloud: must be one of",
            "rotation.interval: must be a text",
            "did you mean jitter?",
            "needs files.path or grpc.socket",
        ] {
            assert!(error.message().contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn a_custom_cloud_gives_its_own_suffix_and_audience() {
        let text = "cloud: {authorityHost: 'https://login.corp.example/', vaultDnsSuffix: vault.corp.example}\n\
                    objects: [kv://shop/secrets/a]\ngrpc: {socket: /run/k.sock}\n";
        let config = parse(text.as_bytes()).unwrap();
        assert_eq!(config.cloud.audience, "https://vault.corp.example");
        assert_eq!(config.cloud.authority_host, "https://login.corp.example");
        assert_eq!(config.objects[0].object().unwrap().host().as_str(), "shop.vault.corp.example");
    }

    proptest! {
        #[test]
        fn any_document_is_parsed_or_refused(text in "\\PC{0,300}") {
            let _ = parse(text.as_bytes());
        }
    }
}
