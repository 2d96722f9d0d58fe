use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use super::{
    Audit, Config, Files, Grpc, Identity, Log, Method, Rotation, Tls, TlsVersion, Tmpfs, Traces, Vault,
};
use crate::cloud::Cloud;
use crate::document::{self, Fields, Mistakes};
use crate::spec::{self, Context, parse_mode};
use crate::{Code, Error, Result, VaultHost};

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
    let mut tree = match document::parse(bytes)? {
        Value::Null => Value::Object(Map::new()),
        tree => tree,
    };
    for (path, text) in overrides {
        let value = document::parse(text.as_bytes()).unwrap_or_else(|_| Value::String((*text).to_owned()));
        set(&mut tree, path, scalar(path, text, value))?;
    }
    let mistakes = Mistakes::default();
    let config = Fields::new(&tree, "", &mistakes).map(|fields| read(fields, &mistakes));
    mistakes.into_result(Code::ConfigInvalid)?;
    config
        .flatten()
        .ok_or_else(|| Error::new(Code::Internal, "a configuration was refused without a mistake"))
}

/// A flag's text stays a text where the setting is one, whatever YAML would make of `1.3` or `0440`.
fn scalar(path: &str, text: &str, value: Value) -> Value {
    const NUMBERS: [&str; 8] = [
        "files.size",
        "files.uid",
        "files.gid",
        "grpc.gid",
        "grpc.ratePerCaller",
        "rotation.jitter",
        "traces.sample",
        "audit.fsync",
    ];
    if value.is_number() && !NUMBERS.contains(&path) { Value::String(text.to_owned()) } else { value }
}

fn set(tree: &mut Value, path: &str, value: Value) -> Result<()> {
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

fn cloud(fields: &mut Fields<'_>) -> Option<Cloud> {
    match fields.value("cloud") {
        None => Some(Cloud::public()),
        Some(Value::Object(_)) => {
            let mut section = fields.section("cloud")?;
            let name = section.text("name").unwrap_or("custom").to_owned();
            let authority_host = section.required_text("authorityHost").map(str::to_owned);
            let suffix = section.required_text("vaultDnsSuffix").map(str::to_owned);
            let audience = section.text("audience").map(str::to_owned);
            if let Some(host) = &authority_host
                && let Err(message) = check_origin(host)
            {
                section.mistake("authorityHost", message);
            }
            if let Some(suffix) = &suffix
                && VaultHost::parse(suffix).is_err()
            {
                section.mistake("vaultDnsSuffix", "must be a DNS suffix such as vault.azure.net");
            }
            if let Some(audience) = &audience
                && check_origin(audience).is_err()
            {
                section.mistake(
                    "audience",
                    "must be an https URL without a path, such as https://vault.azure.net",
                );
            }
            section.finish();
            let vault_dns_suffix = suffix?.to_ascii_lowercase();
            let audience = audience.unwrap_or_else(|| format!("https://{vault_dns_suffix}"));
            let trim = |text: String| text.trim_end_matches('/').to_owned();
            Some(Cloud {
                name,
                authority_host: trim(authority_host?),
                vault_dns_suffix,
                audience: trim(audience),
            })
        }
        Some(_) => fields.parsed("cloud", |name| {
            Cloud::built_in(name).ok_or_else(|| {
                format!("must be one of {}, or a mapping for another cloud", Cloud::BUILT_IN.join(", "))
            })
        }),
    }
}

fn identity(mut fields: Fields<'_>) -> Identity {
    let methods = [
        ("workload-identity", Some(Method::WorkloadIdentity)),
        ("managed-identity", Some(Method::ManagedIdentity)),
        ("service-principal", Some(Method::ServicePrincipal)),
        ("web-identity", None),
    ];
    let method = fields.choice("method", &methods);
    if method == Some(None) {
        fields.mistake("method", "web-identity is for AWS, which is not available yet");
    }
    let identity = Identity {
        method: method.flatten(),
        client_id: fields.parsed("clientId", id),
        object_id: fields.parsed("objectId", id),
        resource_id: fields.parsed("resourceId", |text| {
            if text.starts_with("/subscriptions/")
                && text.len() <= 1024
                && !text.chars().any(char::is_control)
            {
                Ok(text.to_owned())
            } else {
                Err("must be an Azure resource id that begins with /subscriptions/".to_owned())
            }
        }),
        tenant_id: fields.parsed("tenantId", id),
        token_file: fields.parsed("tokenFile", check_path),
        authority_host: fields.parsed("authorityHost", |text| {
            check_origin(text).map(|()| text.trim_end_matches('/').to_owned())
        }),
        secret_file: fields.parsed("secretFile", check_path),
        certificate_file: fields.parsed("certificateFile", check_path),
        certificate_password_file: fields.parsed("certificatePasswordFile", check_path),
        send_chain: fields.flag("sendChain").unwrap_or_default(),
        metadata_endpoint: fields.parsed("metadataEndpoint", |text| {
            let plain =
                text.strip_prefix("http://").is_some_and(|rest| !rest.is_empty() && !rest.contains('@'));
            if plain {
                Ok(text.trim_end_matches('/').to_owned())
            } else {
                Err("must be an http URL".to_owned())
            }
        }),
    };
    let selectors = [&identity.client_id, &identity.object_id, &identity.resource_id];
    if identity.method == Some(Method::ManagedIdentity)
        && selectors.iter().filter(|selector| selector.is_some()).count() > 1
    {
        fields.mistake("method", "managed-identity takes at most one of clientId, objectId, resourceId");
    }
    if identity.method == Some(Method::ServicePrincipal)
        && identity.secret_file.is_some() == identity.certificate_file.is_some()
    {
        fields.mistake("method", "service-principal needs exactly one of secretFile, certificateFile");
    }
    if matches!(identity.method, Some(Method::WorkloadIdentity | Method::ServicePrincipal))
        && (identity.object_id.is_some() || identity.resource_id.is_some())
    {
        fields.mistake("method", "objectId and resourceId are for managed-identity");
    }
    fields.finish();
    identity
}

fn vaults(fields: &mut Fields<'_>, mistakes: &Mistakes) -> Vec<Vault> {
    let mut vaults: Vec<Vault> = Vec::new();
    for (index, item) in fields.list("vaults").iter().enumerate() {
        let Some(mut section) = Fields::new(item, format!("vaults[{index}]"), mistakes) else { continue };
        if section.value("host").is_none() {
            section.mistake("host", "is missing");
        }
        let host =
            section.parsed("host", |text| VaultHost::parse(text).map_err(|error| error.message().to_owned()));
        let verify_challenge_resource = section.flag("verifyChallengeResource").unwrap_or(true);
        let address = section.parsed("address", |text| {
            text.parse().map_err(|_| "must be an IP address and a port, such as 10.0.0.4:443".to_owned())
        });
        if let Some(host) = &host
            && vaults.iter().any(|vault| vault.host == *host)
        {
            section.mistake("host", "is listed twice");
        }
        section.finish();
        vaults.extend(host.map(|host| Vault { host, verify_challenge_resource, address }));
    }
    vaults
}

const VERSIONS: &[(&str, TlsVersion)] = &[("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];

fn tls(mut fields: Fields<'_>, mistakes: &Mistakes) -> Tls {
    let extra_roots_file = fields.parsed("extraRootsFile", check_path);
    let minimum_version = fields.choice("minimumVersion", VERSIONS).unwrap_or_default();
    let mut hosts = Vec::new();
    for (index, item) in fields.list("hosts").iter().enumerate() {
        let Some(mut section) = Fields::new(item, format!("tls.hosts[{index}]"), mistakes) else { continue };
        let host = section.required_text("host").map(str::to_ascii_lowercase);
        if section.value("minimumVersion").is_none() {
            section.mistake("minimumVersion", "is missing");
        }
        let version = section.choice("minimumVersion", VERSIONS);
        section.finish();
        hosts.extend(host.zip(version));
    }
    fields.finish();
    Tls { extra_roots_file, minimum_version, hosts }
}

fn files(mut fields: Fields<'_>) -> Option<Files> {
    let path = absolute(&mut fields, "path");
    if fields.value("path").is_none() {
        fields.mistake("path", "is missing");
    }
    let tmpfs = fields
        .choice("tmpfs", &[("auto", Tmpfs::Auto), ("mount", Tmpfs::Mount), ("require", Tmpfs::Require)])
        .unwrap_or_default();
    let size = fields.number("size", 4096..=1 << 34);
    let mode = fields.parsed("mode", parse_mode);
    let uid = fields.number("uid", 0..=u64::from(u32::MAX - 1)).map(|id| id as u32);
    let gid = fields.number("gid", 0..=u64::from(u32::MAX - 1)).map(|id| id as u32);
    let allow_swap = fields.flag("allowSwap").unwrap_or_default();
    fields.finish();
    let mode = mode.unwrap_or(if gid.is_some() { 0o440 } else { 0o444 });
    Some(Files { path: path?, tmpfs, size, mode, uid, gid, allow_swap })
}

fn grpc(mut fields: Fields<'_>, mistakes: &Mistakes) -> Option<Grpc> {
    let socket = absolute(&mut fields, "socket");
    if fields.value("socket").is_none() {
        fields.mistake("socket", "is missing");
    }
    let mut allow_uids = Vec::new();
    for (index, item) in fields.list("allowUids").iter().enumerate() {
        match item.as_u64().and_then(|uid| u32::try_from(uid).ok()) {
            Some(uid) => allow_uids.push(uid),
            None => mistakes.note(format!("grpc.allowUids[{index}]"), "must be a user id, a whole number"),
        }
    }
    let mode = fields.parsed("mode", parse_mode);
    let gid = fields.number("gid", 0..=u64::from(u32::MAX - 1)).map(|id| id as u32);
    let rate_per_caller = fields.number("ratePerCaller", 1..=10_000_000).unwrap_or(200_000) as u32;
    fields.finish();
    let mode = mode.unwrap_or(if gid.is_some() { 0o660 } else { 0o666 });
    Some(Grpc { socket: socket?, allow_uids, mode, gid, rate_per_caller })
}

fn rotation(fields: Option<Fields<'_>>) -> Rotation {
    let mut rotation = Rotation {
        interval: Duration::from_secs(60),
        jitter: 0.1,
        max_stale: Duration::from_secs(24 * 3600),
    };
    let Some(mut fields) = fields else { return rotation };
    let day = Duration::from_secs(86_400);
    rotation.interval =
        fields.duration("interval", Duration::from_secs(1)..=30 * day).unwrap_or(rotation.interval);
    rotation.jitter = fields.fraction("jitter", 0.0..=1.0).unwrap_or(rotation.jitter);
    rotation.max_stale =
        fields.duration("maxStale", Duration::from_secs(1)..=365 * day).unwrap_or(rotation.max_stale);
    if rotation.max_stale < rotation.interval {
        fields.mistake("maxStale", "must not be shorter than rotation.interval");
    }
    fields.finish();
    rotation
}

fn audit(fields: Option<Fields<'_>>) -> Audit {
    let mut audit = Audit { file: None, fsync: false, deny_on_failure: false, key_file: None };
    let Some(mut fields) = fields else { return audit };
    audit.file = fields
        .parsed("file", |text| match text {
            "-" => Ok(None),
            path => check_absolute(path).map(Some),
        })
        .flatten();
    audit.fsync = fields.flag("fsync").unwrap_or_default();
    audit.deny_on_failure =
        fields.choice("onFailure", &[("allow", false), ("deny", true)]).unwrap_or_default();
    audit.key_file = fields.parsed("keyFile", check_path);
    fields.finish();
    audit
}

fn log(fields: Option<Fields<'_>>) -> Log {
    let mut log = Log { json: true, level: "info" };
    let Some(mut fields) = fields else { return log };
    log.json = fields.choice("format", &[("json", true), ("text", false)]).unwrap_or(log.json);
    let levels = ["error", "warn", "info", "debug", "trace"].map(|level| (level, level));
    log.level = fields.choice("level", &levels).unwrap_or(log.level);
    fields.finish();
    log
}

fn traces(mut fields: Fields<'_>) -> Option<Traces> {
    if fields.value("endpoint").is_none() {
        fields.mistake("endpoint", "is missing");
    }
    let endpoint = fields.parsed("endpoint", |text| match url::Url::parse(text) {
        Ok(url)
            if matches!(url.scheme(), "http" | "https")
                && url.host().is_some()
                && url.username().is_empty() =>
        {
            Ok(text.to_owned())
        }
        _ => Err("must be an http or https URL".to_owned()),
    });
    let sample = fields.fraction("sample", 0.0..=1.0).unwrap_or(1.0);
    fields.finish();
    Some(Traces { endpoint: endpoint?, sample_per_mille: (sample * 1000.0).round() as u32 })
}

/// Ids go into URLs and form bodies: GUIDs and domains need no more than this.
fn id(text: &str) -> std::result::Result<String, String> {
    if (1..=253).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
    {
        Ok(text.to_owned())
    } else {
        Err("must be a GUID, or for a tenant a domain".to_owned())
    }
}

fn check_origin(text: &str) -> std::result::Result<(), String> {
    match url::Url::parse(text) {
        Ok(url)
            if url.scheme() == "https"
                && url.host().is_some()
                && url.username().is_empty()
                && url.password().is_none()
                && matches!(url.path(), "" | "/")
                && url.query().is_none()
                && url.fragment().is_none() =>
        {
            Ok(())
        }
        _ => Err("must be an https URL without a path, such as https://login.microsoftonline.com".to_owned()),
    }
}

fn absolute(fields: &mut Fields<'_>, key: &'static str) -> Option<PathBuf> {
    fields.parsed(key, check_absolute)
}

/// A file that is only read may be named relative to the working directory.
fn check_path(text: &str) -> std::result::Result<PathBuf, String> {
    if text.is_empty() || text.len() > 4096 || text.contains('\0') {
        return Err("must be a file's path".to_owned());
    }
    Ok(PathBuf::from(text))
}

fn check_absolute(text: &str) -> std::result::Result<PathBuf, String> {
    if text.starts_with('/') && text.len() <= 4096 && !text.contains('\0') {
        Ok(PathBuf::from(text))
    } else {
        Err("must be an absolute path".to_owned())
    }
}

#[cfg(test)]
mod tests {
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
