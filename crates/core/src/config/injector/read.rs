use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde_json::Value;

use super::{
    CertificateSource, Certificates, Injection, InjectorConfig, ManagedIdentity, NativeSidecars, Position,
    Via, is_quantity,
};
use crate::Result;
use crate::config::read::local::{log, rotation};
use crate::config::read::path::{absolute, check_absolute, kubernetes_name};
use crate::config::read::upstream::{cloud, id, tls, vaults};
use crate::config::read::{document_with, finish};
use crate::document::{Fields, Mistakes};

/// Settings whose value is a number or a flag, whatever a flag's text looks like.
const NUMBERS: &[&str] = &["rotation.jitter", "volumeSize"];

/// Parses a configuration document; an empty one has no image and no certificates, and is refused.
///
/// # Errors
/// `KW_CONFIG_INVALID` with every mistake and its path.
pub fn parse(bytes: &[u8]) -> Result<InjectorConfig> {
    parse_with(bytes, &[])
}

/// Parses a document whose settings are overridden by `(path, value)` pairs from the command line; values are YAML.
///
/// # Errors
/// As [`parse`].
pub fn parse_with(bytes: &[u8], overrides: &[(&str, &str)]) -> Result<InjectorConfig> {
    let tree = document_with(bytes, overrides, NUMBERS)?;
    let mistakes = Mistakes::default();
    let config = Fields::new(&tree, "", &mistakes).map(|fields| read(fields, &mistakes));
    finish(config.flatten(), mistakes)
}

fn read(mut fields: Fields<'_>, mistakes: &Mistakes) -> Option<InjectorConfig> {
    let listen = fields
        .parsed("listen", |text| address(text, "0.0.0.0:9443"))
        .unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 9443)));
    let admin = fields.section("admin").and_then(|mut section| {
        let listen = section.parsed("listen", |text| address(text, "0.0.0.0:9464"));
        section.finish();
        listen
    });
    let certificates = match fields.section("certificates") {
        Some(section) => certificates(section),
        None => {
            fields.mistake(
                "certificates",
                "is missing: say certificates.namespace, or mode: files and a directory",
            );
            None
        }
    };
    let log = log(fields.section("log"));
    let own = certificates.as_ref().map_or("", |certificates| certificates.namespace.as_str());
    let injection = injection(&mut fields, own, mistakes);
    fields.finish();
    Some(InjectorConfig { listen, admin, certificates: certificates?, log, injection: injection? })
}

fn address(text: &str, example: &str) -> std::result::Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("must be an address and a port, such as {example}"))
}

fn certificates(mut fields: Fields<'_>) -> Option<Certificates> {
    let files = fields.choice("mode", &[("own", false), ("files", true)]).unwrap_or_default();
    let mut named = |key: &'static str, default: &str| {
        fields.parsed(key, object_name).unwrap_or_else(|| default.to_owned())
    };
    let namespace = named("namespace", "");
    let secret = named("secret", if files { "keyward-injector-path" } else { "keyward-injector-tls" });
    let service = named("service", "keyward-injector");
    let webhook = named("webhook", "keyward-injector");
    let lease = named("lease", "keyward-injector");
    let directory = absolute(&mut fields, "directory");
    match (files, &directory) {
        (true, None) if !fields.has("directory") => fields.mistake("directory", "is missing"),
        (false, Some(_)) => fields.mistake("directory", "is for mode: files"),
        _ => {}
    }
    if files && fields.has("service") {
        fields.mistake("service", "is for mode: own");
    }
    if namespace.is_empty() && !fields.has("namespace") {
        fields.mistake("namespace", "is missing: the injector's own namespace");
    }
    fields.finish();
    let source = if files {
        CertificateSource::Files { directory: directory? }
    } else {
        CertificateSource::OwnCa { service }
    };
    Some(Certificates { source, namespace, secret, webhook, lease })
}

fn injection(fields: &mut Fields<'_>, own_namespace: &str, mistakes: &Mistakes) -> Option<Injection> {
    let via = fields
        .choice("via", &[("sidecar", Via::Sidecar), ("init", Via::Init), ("csi", Via::Csi)])
        .unwrap_or(Via::Sidecar);
    let image = fields.parsed("image", image).unwrap_or_default();
    let policies = ["Always", "IfNotPresent", "Never"].map(|policy| (policy, policy));
    let image_pull_policy = fields.choice("imagePullPolicy", &policies).map(str::to_owned);
    let native = [
        ("auto", NativeSidecars::Auto),
        ("always", NativeSidecars::Always),
        ("never", NativeSidecars::Never),
    ];
    let native_sidecars = fields.choice("nativeSidecars", &native).unwrap_or(NativeSidecars::Auto);
    let positions = [("auto", Position::Auto), ("first", Position::First), ("last", Position::Last)];
    let position = fields.choice("position", &positions).unwrap_or(Position::Auto);
    let requests = resources(fields, "requests", &[("cpu", "10m"), ("memory", "16Mi")]);
    let limits = resources(fields, "limits", &[("memory", "64Mi")]);
    let volume_size = fields.number("volumeSize", 65_536..=1 << 34).unwrap_or(16 << 20);
    let mount_path =
        fields.parsed("mountPath", check_absolute).unwrap_or_else(|| PathBuf::from("/var/run/keyward"));
    let driver_name =
        fields.parsed("driverName", object_name).unwrap_or_else(|| "csi.keyward.dev".to_owned());
    let cloud = cloud(fields);
    let token_audience = fields.parsed("tokenAudience", |text| {
        let sound = (1..=253).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if sound {
            Ok(text.to_owned())
        } else {
            Err("must be an audience such as api://AzureADTokenExchange".to_owned())
        }
    });
    let vaults = vaults(fields, mistakes);
    let tls = fields.section("tls").map(|fields| tls(fields, mistakes)).unwrap_or_default();
    let rotation = rotation(fields.section("rotation"));
    let managed_identity = managed_identity(fields, mistakes);
    let excluded_namespaces = excluded_namespaces(fields, own_namespace, mistakes);
    if image.is_empty() && via != Via::Csi && !fields.has("image") {
        fields.mistake("image", "is missing: sidecars and init containers need one; or say via: csi");
    }
    Some(Injection {
        via,
        image,
        image_pull_policy,
        native_sidecars,
        position,
        requests,
        limits,
        volume_size,
        mount_path,
        driver_name,
        cloud: cloud?,
        token_audience,
        vaults,
        tls,
        rotation,
        managed_identity,
        excluded_namespaces,
    })
}

/// Those that are listed, else kube-system; our own in any case.
fn excluded_namespaces(fields: &mut Fields<'_>, own: &str, mistakes: &Mistakes) -> Vec<String> {
    let mut all = if fields.has("excludedNamespaces") { Vec::new() } else { vec!["kube-system".to_owned()] };
    for (index, item) in fields.list("excludedNamespaces").iter().enumerate() {
        match item.as_str().map_or_else(|| Err("must be a text".to_owned()), object_name) {
            Ok(name) => all.push(name),
            Err(message) => mistakes.note(format!("excludedNamespaces[{index}]"), message),
        }
    }
    if !own.is_empty() {
        all.push(own.to_owned());
    }
    all.sort_unstable();
    all.dedup();
    all
}

fn image(text: &str) -> std::result::Result<String, String> {
    let sound = (1..=512).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"./:@_-".contains(&byte));
    if sound {
        Ok(text.to_owned())
    } else {
        Err("must be an image such as ghcr.io/keyward/keyward:0.1.0".to_owned())
    }
}

/// A DNS subdomain.
fn object_name(text: &str) -> std::result::Result<String, String> {
    kubernetes_name(text, 253, true)
}

fn resources(
    fields: &mut Fields<'_>,
    key: &'static str,
    defaults: &[(&str, &str)],
) -> BTreeMap<String, String> {
    let Some(mut section) = fields.section(key) else {
        return defaults.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    };
    let mut found = BTreeMap::new();
    for name in ["cpu", "memory"] {
        // A whole number is a quantity too, and YAML takes it for a number.
        let text = match section.value(name) {
            None => continue,
            Some(Value::Number(number)) => number.to_string(),
            Some(value) => value.as_str().unwrap_or_default().to_owned(),
        };
        if is_quantity(&text) {
            found.insert(name.to_owned(), text);
        } else {
            section.mistake(name, "must be a quantity of Kubernetes, such as 20m or 32Mi");
        }
    }
    section.finish();
    found
}

fn managed_identity(fields: &mut Fields<'_>, mistakes: &Mistakes) -> Vec<ManagedIdentity> {
    let mut entries = Vec::new();
    for (index, item) in fields.list("managedIdentity").iter().enumerate() {
        let path = format!("managedIdentity[{index}]");
        let Some(mut section) = Fields::new(item, path.as_str(), mistakes) else { continue };
        for key in ["namespace", "serviceAccount"] {
            if section.value(key).is_none() {
                section.mistake(key, "is missing");
            }
        }
        let namespace = section.parsed("namespace", object_name);
        let service_account = section.parsed("serviceAccount", object_name);
        let client_id = section.parsed("clientId", id);
        section.finish();
        if let (Some(namespace), Some(service_account)) = (namespace, service_account) {
            let entry = ManagedIdentity { namespace, service_account, client_id };
            if entries.contains(&entry) {
                mistakes.note(path, "is listed twice");
            }
            entries.push(entry);
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::Map;

    use super::*;
    use crate::config::Setting;
    use crate::config::injector::SETTINGS;
    use crate::config::read::set;
    use crate::document;

    const SMALLEST: &str = "certificates: {namespace: keyward-system}\nimage: keyward:1\n";

    #[test]
    fn the_smallest_configuration_has_sensible_defaults() {
        let config = parse(SMALLEST.as_bytes()).unwrap();
        assert_eq!(config.listen.port(), 9443);
        assert_eq!(config.injection.rotation.interval, Duration::from_secs(60));
        assert_eq!(config.injection.requests["memory"], "16Mi");
        assert!(config.admin.is_none() && config.injection.managed_identity.is_empty());
    }

    #[test]
    fn the_own_namespace_and_kube_system_are_excluded_unless_others_are_listed() {
        let excluded =
            |more: &str| parse(format!("{SMALLEST}{more}").as_bytes()).unwrap().injection.excluded_namespaces;
        assert_eq!(excluded(""), ["keyward-system", "kube-system"]);
        assert_eq!(excluded("excludedNamespaces: [b, a, b]\n"), ["a", "b", "keyward-system"]);
        assert_eq!(excluded("excludedNamespaces: []\n"), ["keyward-system"]);
        let files = "certificates: {mode: files, namespace: ks, directory: /etc/tls}\nvia: csi\n";
        let config = parse(files.as_bytes()).unwrap();
        assert!(config.injection.excludes("ks") && !config.injection.excludes("shop"));
        assert_eq!(config.certificates.secret, "keyward-injector-path");
    }

    #[test]
    fn every_setting_of_the_reference_is_taken_from_document_and_flag() {
        for Setting { path, example, .. } in SETTINGS {
            let mut overrides = vec![(*path, *example)];
            let mut document = SMALLEST;
            if matches!(*path, "certificates.mode" | "certificates.directory") {
                document =
                    "certificates: {mode: files, namespace: k, directory: /etc/tls}\nimage: keyward:1\n";
            } else if path.starts_with("certificates.") {
                overrides.insert(0, ("certificates.namespace", "keyward-system"));
            }
            let read = parse_with(document.as_bytes(), &overrides);
            assert!(read.is_ok(), "{path}: {}", read.unwrap_err());
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
    fn mistakes_come_together_and_name_their_setting() {
        let text = "certificates: {mode: files, service: x}\nlimits: {memory: much}\nmanagedIdentity: [{namespace: A}]\nexcludedNamespaces: [a, B]\n";
        let error = parse(text.as_bytes()).unwrap_err();
        for part in [
            "certificates.service: is for mode: own",
            "certificates.namespace: is missing",
            "excludedNamespaces[1]: must be a name",
            "certificates.directory: is missing",
            "limits.memory: must be a quantity",
            "managedIdentity[0].namespace: must be a name",
            "managedIdentity[0].serviceAccount: is missing",
            "image: is missing",
        ] {
            assert!(error.message().contains(part), "{part} in {error}");
        }
    }

    proptest! {
        #[test]
        fn any_document_is_parsed_or_refused(text in "\\PC{0,300}") {
            let _ = parse(text.as_bytes());
        }
    }
}
