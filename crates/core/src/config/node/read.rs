use std::net::SocketAddr;

use serde_json::Value;

use super::{
    CsiDriverFacts, IdentityBinding, NodeConfig, NodeGrpc, NodeIdentity, Registration, Selector, TrustAnchor,
    built_in, limits,
};
use crate::cloud::Cloud;
use crate::config::read::local::{audit, log, rotation, traces, uids};
use crate::config::read::path::{absolute, check_path, kubernetes_name};
use crate::config::read::upstream::{
    azure_resource_id, custom_cloud, id, metadata_endpoint, pem_certificates, tls, vaults,
};
use crate::config::read::{document_with, finish};
use crate::document::{Fields, Mistakes};
use crate::{Result, VaultHost, address};

/// Settings whose value is a number or a flag, whatever a flag's text looks like.
const NUMBERS: &[&str] = &[
    "rotation.jitter",
    "traces.sample",
    "grpc.ratePerCaller",
    "limits.volumes",
    "limits.volumesPerPod",
    "limits.objectsPerVolume",
    "limits.bytesPerVolume",
    "limits.bytesPerPod",
    "limits.bytesPerNode",
    "limits.cacheBytes",
    "limits.connections",
    "limits.connectionsPerPod",
    "limits.streams",
    "limits.streamsPerPod",
    "limits.pinnedVersions",
    "limits.pinnedVersionsPerPod",
    "limits.hostsPerPod",
    "limits.descriptorsPerPod",
];

/// Parses a configuration document; an empty one is valid.
///
/// # Errors
/// `KW_CONFIG_INVALID` with every mistake and its path.
pub fn parse(bytes: &[u8]) -> Result<NodeConfig> {
    parse_with(bytes, &[])
}

/// Parses a document whose settings are overridden by `(path, value)` pairs from the command line; values are YAML.
///
/// # Errors
/// As [`parse`].
pub fn parse_with(bytes: &[u8], overrides: &[(&str, &str)]) -> Result<NodeConfig> {
    let tree = document_with(bytes, overrides, NUMBERS)?;
    let mistakes = Mistakes::default();
    let config = Fields::new(&tree, "", &mistakes).map(|fields| read(fields, &mistakes));
    finish(config.flatten(), mistakes)
}

fn read(mut fields: Fields<'_>, mistakes: &Mistakes) -> Option<NodeConfig> {
    let clouds = clouds(&mut fields, mistakes);
    let default_cloud = default_cloud(&mut fields, &clouds);
    let vaults = vaults(&mut fields, mistakes);
    let tls = fields.section("tls").map(|fields| tls(fields, mistakes)).unwrap_or_default();
    let rotation = rotation(fields.section("rotation"));
    let node_identity = node_identity(&mut fields, mistakes);
    let identity_binding = fields.section("identityBinding").and_then(identity_binding);
    let metadata_endpoint = fields.parsed("metadataEndpoint", metadata_endpoint);
    let admin = fields.section("admin").and_then(|mut section| {
        let listen = section.parsed("listen", |text| {
            text.parse::<SocketAddr>()
                .map_err(|_| "must be an address and a port, such as 0.0.0.0:9464".to_owned())
        });
        section.finish();
        listen
    });
    let audit = audit(fields.section("audit"));
    let log = log(fields.section("log"));
    let traces = fields.section("traces").and_then(traces);
    let grpc = grpc(fields.section("grpc"), mistakes);
    let allow_swap = fields
        .section("files")
        .and_then(|mut section| {
            let allow = section.flag("allowSwap");
            section.finish();
            allow
        })
        .unwrap_or_default();
    let registration = registration(fields.section("registration"));
    let startup_taint = fields.section("startupTaint").and_then(startup_taint);
    let limits = limits::read(fields.section("limits"));
    let csi_driver = csi_driver(fields.section("csiDriver"));
    fields.finish();
    Some(NodeConfig {
        clouds,
        default_cloud: default_cloud?,
        vaults,
        tls,
        rotation,
        node_identity,
        identity_binding,
        metadata_endpoint,
        admin,
        audit,
        log,
        traces,
        grpc,
        allow_swap,
        registration,
        startup_taint,
        limits,
        csi_driver,
    })
}

fn clouds(fields: &mut Fields<'_>, mistakes: &Mistakes) -> Vec<Cloud> {
    let mut clouds: Vec<Cloud> = Vec::new();
    for (index, item) in fields.list("clouds").iter().enumerate() {
        let Some(mut section) = Fields::new(item, format!("clouds[{index}]"), mistakes) else { continue };
        let Some(name) = section.required_text("name") else { continue };
        if !is_cloud_name(name) {
            section.mistake("name", "must be 1 to 64 letters and digits");
        } else if built_in(name).is_some() {
            section.mistake("name", "is the name of a built-in cloud");
        } else if is_closed(name) {
            section.mistake("name", CLOSED);
        } else if clouds.iter().any(|cloud| cloud.name.eq_ignore_ascii_case(name)) {
            section.mistake("name", "is listed twice");
        }
        clouds.extend(custom_cloud(section));
    }
    clouds
}

fn default_cloud(fields: &mut Fields<'_>, clouds: &[Cloud]) -> Option<Cloud> {
    if fields.value("defaultCloud").is_none() {
        return Some(Cloud::public());
    }
    fields.parsed("defaultCloud", |name| {
        if is_closed(name) {
            return Err(CLOSED.to_owned());
        }
        let own = clouds.iter().find(|cloud| cloud.name.eq_ignore_ascii_case(name)).cloned();
        own.or_else(|| built_in(name))
            .ok_or_else(|| format!("must be one of {}, or a name from clouds", Cloud::BUILT_IN.join(", ")))
    })
}

const CLOSED: &str = "names the cloud that Microsoft closed in 2021";

fn is_closed(name: &str) -> bool {
    name.eq_ignore_ascii_case("AzureGermanCloud")
}

fn is_cloud_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn node_identity(fields: &mut Fields<'_>, mistakes: &Mistakes) -> Vec<NodeIdentity> {
    let mut entries: Vec<NodeIdentity> = Vec::new();
    for (index, item) in fields.list("nodeIdentity").iter().enumerate() {
        let path = format!("nodeIdentity[{index}]");
        let Some(mut section) = Fields::new(item, path.as_str(), mistakes) else { continue };
        for key in ["namespace", "serviceAccount"] {
            if section.value(key).is_none() {
                section.mistake(key, "is missing");
            }
        }
        let namespace = section.parsed("namespace", |text| kubernetes_name(text, 63, false));
        let service_account = section.parsed("serviceAccount", |text| kubernetes_name(text, 253, true));
        let selectors = [
            section.parsed("clientId", id).map(Selector::ClientId),
            section.parsed("objectId", id).map(Selector::ObjectId),
            section.parsed("resourceId", azure_resource_id).map(Selector::ResourceId),
            section.flag("system").filter(|system| *system).map(|_| Selector::System),
        ];
        let written = ["clientId", "objectId", "resourceId", "system"]
            .into_iter()
            .filter(|key| section.value(key).is_some_and(|value| *value != Value::Bool(false)))
            .count();
        if written != 1 {
            section.mistake("", "needs exactly one of clientId, objectId, resourceId, `system: true`");
        }
        let mut hosts = Vec::new();
        for (index, text) in section.texts("vaults").into_iter().enumerate() {
            match VaultHost::parse(text) {
                Ok(host) if !hosts.contains(&host) => hosts.push(host),
                Ok(_) => section.mistake(&format!("vaults[{index}]"), "is listed twice"),
                Err(error) => section.mistake(&format!("vaults[{index}]"), error.message()),
            }
        }
        if section.list("vaults").is_empty() {
            section.mistake("vaults", "is missing: list the hosts that may be asked with this identity");
        }
        section.finish();
        let selector = selectors.into_iter().flatten().next();
        if let (Some(namespace), Some(service_account), Some(selector)) =
            (namespace, service_account, selector)
        {
            let entry = NodeIdentity { namespace, service_account, selector, vaults: hosts };
            let same = |known: &NodeIdentity| {
                (&known.namespace, &known.service_account) == (&entry.namespace, &entry.service_account)
                    && known.selector.is_same(&entry.selector)
            };
            if entries.iter().any(same) {
                mistakes.note(path, "is listed twice");
            }
            entries.push(entry);
        }
    }
    entries
}

fn identity_binding(mut fields: Fields<'_>) -> Option<IdentityBinding> {
    if fields.value("proxy").is_none() {
        fields.mistake("proxy", "is missing");
    }
    let proxy = fields.parsed("proxy", |text| {
        let url = address::parse(text)?;
        if url.scheme() == "https"
            && url.host().is_some()
            && url.query().is_none()
            && url.fragment().is_none()
        {
            Ok(text.to_owned())
        } else {
            Err("must be an https URL without query and fragment".to_owned())
        }
    });
    let file = fields.parsed("caFile", check_path);
    let data = fields.parsed("caData", pem_certificates);
    if file.is_some() && data.is_some() {
        fields.mistake("caFile", "and caData exclude each other");
    }
    let sni = fields.parsed("sni", |text| match VaultHost::parse(text) {
        Ok(_) if !text.contains(':') => Ok(text.to_ascii_lowercase()),
        _ => Err("must be a DNS name".to_owned()),
    });
    fields.finish();
    let ca = file.map(TrustAnchor::File).or(data.map(TrustAnchor::Data));
    Some(IdentityBinding { proxy: proxy?, ca, sni })
}

fn grpc(fields: Option<Fields<'_>>, mistakes: &Mistakes) -> NodeGrpc {
    let mut grpc =
        NodeGrpc { enabled: true, host_pid: false, allow_uids: Vec::new(), rate_per_caller: 200_000 };
    let Some(mut fields) = fields else { return grpc };
    grpc.enabled = fields.flag("enabled").unwrap_or(true);
    grpc.host_pid = fields.flag("hostPid").unwrap_or_default();
    grpc.allow_uids = uids(&mut fields, mistakes);
    grpc.rate_per_caller = fields.number("ratePerCaller", 1..=10_000_000).unwrap_or(200_000) as u32;
    fields.finish();
    grpc
}

fn registration(fields: Option<Fields<'_>>) -> Registration {
    let mut registration = Registration { enabled: true, endpoint: None };
    let Some(mut fields) = fields else { return registration };
    registration.enabled = fields.flag("enabled").unwrap_or(true);
    registration.endpoint = absolute(&mut fields, "endpoint");
    fields.finish();
    registration
}

fn startup_taint(mut fields: Fields<'_>) -> Option<String> {
    if fields.value("key").is_none() {
        fields.mistake("key", "is missing");
    }
    let key = fields.parsed("key", |text| {
        // A label's name, with or without a domain before it.
        let (domain, name) = text.split_once('/').map_or((None, text), |(domain, name)| (Some(domain), name));
        let outer = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        let named = name.len() <= 63
            && outer(name.bytes().next())
            && outer(name.bytes().last())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if named && domain.is_none_or(|domain| kubernetes_name(domain, 253, true).is_ok()) {
            Ok(text.to_owned())
        } else {
            Err("must be a taint's key such as keyward.dev/driver-not-ready".to_owned())
        }
    });
    fields.finish();
    key
}

fn csi_driver(fields: Option<Fields<'_>>) -> CsiDriverFacts {
    let Some(mut fields) = fields else { return CsiDriverFacts::Check };
    let check = fields.flag("check").unwrap_or(true);
    let stated = [fields.flag("podInfoOnMount"), fields.flag("tokensInSecrets")];
    match (check, stated) {
        (true, [None, None]) => {}
        (true, _) => fields.mistake("check", "must be false where the facts are stated here"),
        (false, [Some(_), Some(_)]) => {}
        (false, _) => {
            fields.mistake("check", "may be false only where podInfoOnMount and tokensInSecrets are stated");
        }
    }
    fields.finish();
    if check {
        return CsiDriverFacts::Check;
    }
    let [pod_info_on_mount, tokens_in_secrets] = stated.map(Option::unwrap_or_default);
    CsiDriverFacts::Stated { pod_info_on_mount, tokens_in_secrets }
}
