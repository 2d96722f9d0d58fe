//! Arbitrary Unicode, control characters, empty and very long text through the entry points for what people and
//! kubelet write: each is taken or refused with a message that may be shown, and none ends the process.

use std::collections::{BTreeMap, HashMap};

use keyward_compat::{ClassInput, parse_class};
use keyward_core::cloud::Cloud;
use keyward_core::config;
use keyward_test_support::{any_text, is_tidy};
use proptest::prelude::*;
use proptest::sample::select;

const UID: &str = "11111111-1111-1111-1111-111111111111";

/// The attributes and secrets of a publish that is fine.
fn publish() -> (HashMap<String, String>, HashMap<String, String>) {
    let context = [
        ("csi.storage.k8s.io/pod.name", "web-0"),
        ("csi.storage.k8s.io/pod.namespace", "shop"),
        ("csi.storage.k8s.io/pod.uid", UID),
        ("csi.storage.k8s.io/serviceAccount.name", "web"),
        ("csi.storage.k8s.io/ephemeral", "true"),
        ("objects", "['https://shop.vault.azure.net/secrets/a']"),
        ("clientID", UID),
        ("tenantID", UID),
    ];
    let owned = |pair: &(&str, &str)| (pair.0.to_owned(), pair.1.to_owned());
    (context.iter().map(owned).collect(), HashMap::new())
}

/// Whatever stands in a document's place for a value.
fn any_yaml() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => any_text().prop_map(|text| serde_json::Value::String(text).to_string()),
        2 => any_text(),
        1 => any_text().prop_map(|text| serde_json::json!([text]).to_string()),
        1 => any_text().prop_map(|text| serde_json::json!({"host": text.clone(), "from": text.clone(), "name": text}).to_string()),
        1 => any_text().prop_map(|text| serde_json::json!([{"host": text.clone(), "from": text.clone(), "file": text}]).to_string()),
        1 => select(&["1e400", "-1", "18446744073709551616", ".nan", "0x10", "~", "1s", "9999999999999h"][..]).prop_map(str::to_owned),
    ]
}

const ATTRIBUTES: &[&str] = &[
    "csi.storage.k8s.io/pod.name",
    "csi.storage.k8s.io/pod.namespace",
    "csi.storage.k8s.io/pod.uid",
    "csi.storage.k8s.io/serviceAccount.name",
    "csi.storage.k8s.io/ephemeral",
    "csi.storage.k8s.io/serviceAccount.tokens",
    "objects",
    "secretProviderClass",
    "clientID",
    "tenantID",
    "cloud",
    "grpc",
];

const PARAMETERS: &[&str] = &[
    "keyvaultName",
    "tenantId",
    "tenantID",
    "cloudName",
    "clientID",
    "objects",
    "useVMManagedIdentity",
    "userAssignedIdentityID",
    "usePodIdentity",
    "useAzureTokenProxy",
    "cloudEnvFileName",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_publish_of_any_text_is_planned_or_refused_in_words_that_may_be_shown(
        changes in prop::collection::vec((select(ATTRIBUTES), any_text()), 1..4),
        more in prop::option::of((any_text(), any_text())),
        secrets in prop::collection::hash_map(select(&["clientid", "clientsecret", "csi.storage.k8s.io/serviceAccount.tokens", "x"][..]), any_text(), 0..3),
    ) {
        let config = config::node::parse(b"vaults: [{host: listed.example}]").expect("a configuration");
        let (mut context, _) = publish();
        context.extend(changes.into_iter().map(|(name, text)| (name.to_owned(), text)));
        context.extend(more);
        let secrets = secrets.into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
        if let Err(error) = keyward_csi_driver::fuzzing::publish(context, secrets, UID, "secrets", &config) {
            prop_assert!(is_tidy(error.message()), "{:?}", error.message());
        }
    }

    #[test]
    fn a_target_of_any_text_is_refused(uid in any_text(), name in any_text()) {
        let config = config::node::parse(b"").expect("a configuration");
        let (context, secrets) = publish();
        if let Err(error) = keyward_csi_driver::fuzzing::publish(context, secrets, &uid, &name, &config) {
            prop_assert!(is_tidy(error.message()), "{:?}", error.message());
        } else {
            prop_assert!(uid == UID && !name.is_empty() && !name.contains('/'), "{uid:?} {name:?}");
        }
    }

    #[test]
    fn a_class_of_any_text_is_read_or_refused_in_words_that_may_be_shown(
        changes in prop::collection::vec((select(PARAMETERS), any_text()), 1..5),
        field in select(&["objectName", "objectType", "objectAlias", "objectVersion", "objectFormat", "objectEncoding", "filePermission", "objectVersionHistory"][..]),
        value in any_text(),
    ) {
        let object = format!("array:\n- |\n  objectName: a\n  objectType: secret\n  {field}: {}\n", serde_json::Value::String(value));
        let mut parameters: BTreeMap<String, String> =
            [("keyvaultName", "shop"), ("tenantId", UID), ("objects", &object)].map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        if changes.len() > 1 {
            parameters.extend(changes.into_iter().map(|(name, text)| (name.to_owned(), text)));
        }
        if let Err(error) = parse_class(&ClassInput { provider: "azure", parameters: &parameters }, &Cloud::built_in) {
            prop_assert!(is_tidy(error.message()), "{:?}", error.message());
        }
    }

    #[test]
    fn a_setting_of_any_text_is_taken_or_refused_in_words_that_may_be_shown(
        setting in 0_usize..1000, value in any_yaml(), other in 0_usize..1000, second in any_yaml(), document in any_text(),
    ) {
        let of = |settings: &'static [config::Setting], index: usize| settings.get(index % settings.len()).map_or("", |setting| setting.path);
        for settings in [config::SETTINGS, config::node::SETTINGS, config::injector::SETTINGS] {
            let overrides = [(of(settings, setting), value.as_str()), (of(settings, other), second.as_str())];
            let base = b"objects: [kv://shop/secrets/a]\ngrpc: {socket: /run/k.sock}\n";
            let refused = [
                config::parse_with(base, &overrides).err(),
                config::node::parse_with(b"", &overrides).err(),
                config::injector::parse_with(b"image: k:1\n", &overrides).err(),
                config::parse(document.as_bytes()).err(),
                config::node::parse(document.as_bytes()).err(),
                config::injector::parse(document.as_bytes()).err(),
            ];
            for error in refused.into_iter().flatten() {
                prop_assert!(is_tidy(error.message()), "{:?}", error.message());
            }
        }
    }
}
