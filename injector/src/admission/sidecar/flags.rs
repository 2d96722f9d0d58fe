//! The sidecar's configuration as flags, which nobody can change once the pod exists.

use keyward_core::cloud::Cloud;
use keyward_core::config::injector::{Injection, Via};
use keyward_core::config::{self, Config, Rotation, Tls, TlsVersion};
use keyward_core::document::{self, show_duration};
use keyward_core::{Code, Error, Result};
use serde_json::{Value, json};

use super::identity::Identity;
use super::user::User;
use super::{API_PATH, CONFIG_PATH, Facts, STATE_PATH, TOKEN_PATH};
use crate::admission::annotations::CONFIG;
use crate::admission::containers::member;
use crate::admission::wish::Wish;

/// Sections of a configuration that a pod's author may write; the rest is the administrator's, or follows from the pod.
const OF_THE_AUTHOR: &[&str] = &["objects", "rotation", "audit", "log", "files"];
/// What of `files` the author may write.
const OF_THE_AUTHORS_FILES: &[&str] = &["mode", "uid", "gid"];

/// The configuration in the ConfigMap, checked.
///
/// # Errors
/// `KW_CONFIG_INVALID` with every mistake, or with the settings that are not the author's to make.
pub(super) fn config(wish: &Wish, injection: &Injection, facts: &Facts) -> Result<Option<Config>> {
    let Some(map) = &wish.config_map else { return Ok(None) };
    let in_map = |message: &str| of_map(map, facts, &Error::new(Code::ConfigInvalid, message));
    let Some(text) = &facts.config else {
        return Err(Error::new(
            Code::ConfigInvalid,
            format!("{CONFIG}: the namespace has no ConfigMap {map} with the key config.yaml"),
        ));
    };
    let tree = document::parse(text.as_bytes()).map_err(|error| in_map(error.message()))?;
    refuse_settings(&tree, "", OF_THE_AUTHOR).map_err(|key| in_map(&not_yours(&key)))?;
    if let Some(files) = tree.get("files") {
        refuse_settings(files, "files.", OF_THE_AUTHORS_FILES).map_err(|key| in_map(&not_yours(&key)))?;
    }
    // Parsed with what the flags will say, so that what is checked here is what the sidecar will see.
    let cloud = cloud(&injection.cloud);
    let vaults = vaults(injection);
    let socket = format!("{API_PATH}/keyward.sock");
    let settings = [
        ("cloud", cloud.as_str()),
        ("vaults", vaults.as_str()),
        ("files.path", wish.mount_path.as_str()),
        ("grpc.socket", socket.as_str()),
    ];
    let config = config::parse_with(text.as_bytes(), &settings).map_err(|error| in_map(error.message()))?;
    if config.audit.file.is_some() || config.audit.key_file.is_some() {
        return Err(in_map(
            "audit.file and audit.keyFile: the sidecar's root file system is read-only; leave them out",
        ));
    }
    Ok(Some(config))
}

/// A mistake in the ConfigMap `map`. Who asks for a pod may not be one who may read it, so that nothing of it is repeated
/// unless it came with the pod.
pub(super) fn of_map(map: &str, facts: &Facts, error: &Error) -> Error {
    let what = if facts.config_is_askers {
        error.message()
    } else {
        "it is not one that this pod can use; keyward-injector --explain shows why, of the pod and the ConfigMap in one file"
    };
    Error::new(error.code(), format!("ConfigMap {map}, config.yaml: {what}"))
}

fn not_yours(key: &str) -> String {
    format!(
        "{key} is the administrator's to set, or follows from the pod; only {} may stand here",
        OF_THE_AUTHOR.join(", ")
    )
}

fn refuse_settings(tree: &Value, at: &str, allowed: &[&str]) -> std::result::Result<(), String> {
    let keys = tree.as_object().into_iter().flatten().map(|(key, _)| key);
    match keys.filter(|key| !allowed.contains(&key.as_str())).min() {
        Some(key) => Err(format!("{at}{key}")),
        None => Ok(()),
    }
}

/// The audience of the token that Entra takes from this cloud's pods.
pub(super) fn audience(injection: &Injection) -> String {
    injection.token_audience.clone().unwrap_or_else(|| {
        match injection.cloud.name.as_str() {
            "AzureUSGovernmentCloud" => "api://AzureADTokenExchangeUSGov",
            "AzureChinaCloud" => "api://AzureADTokenExchangeChina",
            _ => "api://AzureADTokenExchange",
        }
        .to_owned()
    })
}

pub(super) fn of(
    wish: &Wish,
    injection: &Injection,
    facts: &Facts,
    identity: &Identity,
    user: &User,
) -> Vec<String> {
    let mut flags = Vec::new();
    let mut put = |flag: &str, value: &str| flags.push(format!("--{flag}={value}"));
    match &wish.config_map {
        Some(_) => put("config", &format!("{CONFIG_PATH}/config.yaml")),
        None => put("objects", &wish.objects_text),
    }
    put("cloud", &cloud(&injection.cloud));
    if identity.managed {
        put("identity-method", "managed-identity");
    } else {
        put("identity-method", "workload-identity");
        put("identity-token-file", &format!("{TOKEN_PATH}/token"));
        put("identity-authority-host", &injection.cloud.authority_host);
    }
    if let Some(id) = &identity.client_id {
        put("identity-client-id", id);
    }
    if let Some(id) = &identity.tenant_id {
        put("identity-tenant-id", id);
    }
    put("vaults", &vaults(injection));
    tls(&injection.tls, facts, &mut put);
    put("files-path", &wish.mount_path);
    put("files-tmpfs", "require");
    if let Some(group) = user.fs_group {
        put("files-gid", &group.to_string());
        if wish.via == Via::Sidecar {
            put("grpc-gid", &group.to_string());
        }
    }
    if wish.via == Via::Sidecar {
        put("grpc-socket", &format!("{API_PATH}/keyward.sock"));
        // Below the volume's root, which belongs to root: a directory that the sidecar makes is its own.
        put("state-path", &format!("{STATE_PATH}/snapshot"));
        if let Some(listen) = wish.admin_listen {
            put("admin-listen", &listen.to_string());
        }
    }
    if wish.config_map.is_none() {
        rotation(&injection.rotation, &mut put);
    }
    flags
}

fn cloud(cloud: &Cloud) -> String {
    if Cloud::built_in(&cloud.name).as_ref() == Some(cloud) {
        return cloud.name.clone();
    }
    json!({
        "name": cloud.name,
        "authorityHost": cloud.authority_host,
        "vaultDnsSuffix": cloud.vault_dns_suffix,
        "audience": cloud.audience,
    })
    .to_string()
}

/// Always said, so that nothing in the pod's environment or configuration can say otherwise.
fn vaults(injection: &Injection) -> String {
    let vaults = injection.vaults.iter().map(|vault| {
        let mut entry = json!({
            "host": vault.host.to_string(),
            "verifyChallengeResource": vault.verify_challenge_resource,
        });
        if let Some(address) = vault.address {
            *member(&mut entry, "address") = json!(address.to_string());
        }
        entry
    });
    Value::Array(vaults.collect()).to_string()
}

fn tls(tls: &Tls, facts: &Facts, put: &mut impl FnMut(&str, &str)) {
    let word = |version: TlsVersion| if version == TlsVersion::V1_2 { "1.2" } else { "1.3" };
    if let Some(roots) = &facts.extra_roots {
        put("tls-extra-roots", &json!(roots).to_string());
    }
    put("tls-minimum-version", &format!("\"{}\"", word(tls.minimum_version)));
    let hosts: Vec<_> = tls
        .hosts
        .iter()
        .map(|(host, version)| json!({"host": host, "minimumVersion": word(*version)}))
        .collect();
    put("tls-hosts", &Value::Array(hosts).to_string());
}

fn rotation(rotation: &Rotation, put: &mut impl FnMut(&str, &str)) {
    put("rotation-interval", &show_duration(rotation.interval));
    put("rotation-jitter", &rotation.jitter.to_string());
    put("rotation-max-stale", &show_duration(rotation.max_stale));
}
