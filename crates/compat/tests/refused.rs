//! Bad classes, each with the exact error that the user gets.

#![expect(clippy::unwrap_used, reason = "a helper of a test panics as the test does")]

use std::collections::BTreeMap;

use keyward_compat::{ClassInput, ClassSpec, MAX_OBJECTS, parse_class};
use keyward_core::cloud::Cloud;
use keyward_core::{Code, Result};

const TENANT: &str = "11111111-2222-3333-4444-555555555555";
const OBJECTS: &str = "- {objectName: one, objectType: secret}";

fn class(changes: &[(&str, &str)]) -> Result<ClassSpec> {
    let good = [("keyvaultName", "shop"), ("tenantID", TENANT), ("clientID", TENANT), ("objects", OBJECTS)];
    let parameters: BTreeMap<String, String> =
        good.iter().chain(changes).map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    parse_class(&ClassInput { provider: "azure", parameters: &parameters }, &Cloud::built_in)
}

fn complaint(changes: &[(&str, &str)]) -> String {
    let error = class(changes).unwrap_err();
    assert_eq!(error.code(), Code::ClassInvalid);
    error.message().to_owned()
}

/// What is wrong, the parameter, its value, the whole error.
const PARAMETERS: &[(&str, &str, &str, &str)] = &[
    ("no vault", "keyvaultName", " ", "keyvaultName: is missing"),
    (
        "a vault's URL",
        "keyvaultName",
        "https://shop.vault.azure.net",
        "keyvaultName: must be a vault's name alone: 3 to 24 letters, digits and hyphens, neither first nor last a hyphen",
    ),
    (
        "a vault of another suffix",
        "keyvaultName",
        "shop.evil.example",
        "keyvaultName: must be a vault's name alone: 3 to 24 letters, digits and hyphens, neither first nor last a hyphen",
    ),
    (
        "a short vault",
        "keyvaultName",
        "kv",
        "keyvaultName: must be a vault's name alone: 3 to 24 letters, digits and hyphens, neither first nor last a hyphen",
    ),
    ("no tenant", "tenantID", "", "tenantID: is missing"),
    ("a tenant with a path", "tenantID", "a/../b", "tenantID: must be a tenant's id or domain"),
    ("a tenant with a query", "tenantID", "common?x=1", "tenantID: must be a tenant's id or domain"),
    (
        "a client id with a blank",
        "clientID",
        "my client",
        "clientID: must be a client id, such as 11111111-2222-3333-4444-555555555555",
    ),
    (
        "an identity's resource id",
        "userAssignedIdentityID",
        "/subscriptions/x",
        "userAssignedIdentityID: must be a client id, such as 11111111-2222-3333-4444-555555555555",
    ),
    (
        "an unknown cloud",
        "cloudName",
        "AzureMoonCloud",
        "cloudName: must be one of AzurePublicCloud, AzureUSGovernmentCloud, AzureChinaCloud, or a cloud that the administrator defined under `clouds` of the node plugin",
    ),
    ("a closed cloud", "cloudName", "azuregermancloud", "cloudName: names a cloud that was closed in 2021"),
    (
        "pod identity",
        "usePodIdentity",
        "true",
        "usePodIdentity: is not available: AAD Pod Identity was retired; give the pod's service account a federated credential (workload identity), write its client id as clientID, and leave usePodIdentity out",
    ),
    (
        "a flag in another language",
        "useVMManagedIdentity",
        "yes",
        "useVMManagedIdentity: must be true or false",
    ),
    ("a flag in odd capitals", "useAzureTokenProxy", "tRUE", "useAzureTokenProxy: must be true or false"),
    ("no objects", "objects", " \n", "objects: is missing: say what to fetch"),
    ("an empty list", "objects", "array: []", "objects: is empty: a volume needs at least one object"),
    (
        "a list of nothing",
        "objects",
        "array: [null, ~]",
        "objects: is empty: a volume needs at least one object",
    ),
    (
        "a list under another name",
        "objects",
        "arrays: [a]",
        "objects: is empty: a volume needs at least one object",
    ),
    (
        "a text",
        "objects",
        "one",
        "objects: cannot be read: expected a YAML list of objects, alone or under `array`, without anchors, aliases or repeated keys",
    ),
    (
        "no YAML",
        "objects",
        "array: [",
        "objects: cannot be read at line 1 column 8: expected a YAML list of objects, alone or under `array`, without anchors, aliases or repeated keys",
    ),
    (
        "an anchor",
        "objects",
        "array: &a [x]",
        "objects: cannot be read at line 1 column 11: expected a YAML list of objects, alone or under `array`, without anchors, aliases or repeated keys",
    ),
    (
        "a list twice",
        "objects",
        "array: []\narray: []",
        "objects: cannot be read at line 2 column 1: expected a YAML list of objects, alone or under `array`, without anchors, aliases or repeated keys",
    ),
    (
        "an object that is no mapping",
        "objects",
        "array: ['one']",
        "objects[0]: cannot be read at line 1 column 1: expected the fields of an object as YAML, without anchors, aliases or repeated keys",
    ),
    (
        "an indented text whose trimmed first line stands alone",
        "objects",
        "  a: 1\n  array: []",
        "objects: cannot be read at line 2 column 8: expected a YAML list of objects, alone or under `array`, without anchors, aliases or repeated keys",
    ),
];

/// What is wrong, the fields of the one object, the error without its place.
const FIELDS: &[(&str, &str, &str)] = &[
    ("no name", "objectName: '', objectType: secret", "objectName: is missing"),
    (
        "a name with a slash",
        "objectName: a/b, objectType: secret",
        "objectName: an object name has 1 to 127 letters, digits and hyphens, nothing else",
    ),
    ("no type", "objectName: one", "objectType: is missing; it is one of secret, key and cert"),
    (
        "a type in capitals",
        "objectName: one, objectType: Secret",
        "objectType: must be one of secret, key and cert, in lower case",
    ),
    (
        "a type of another name",
        "objectName: one, objectType: certificate",
        "objectType: must be one of secret, key and cert, in lower case",
    ),
    (
        "an unknown format",
        "objectName: one, objectType: secret, objectFormat: jks",
        "objectFormat: must be pem or pfx",
    ),
    (
        "a key as PFX",
        "objectName: one, objectType: key, objectFormat: pfx",
        "objectFormat: pfx is for objectType secret: only a secret holds the private key",
    ),
    (
        "an unknown encoding",
        "objectName: one, objectType: secret, objectEncoding: utf8",
        "objectEncoding: must be utf-8, base64 or hex",
    ),
    (
        "an encoded certificate",
        "objectName: one, objectType: cert, objectEncoding: utf-8",
        "objectEncoding: is for objectType secret",
    ),
    (
        "a version that is none",
        "objectName: one, objectType: secret, objectVersion: v2",
        "objectVersion: a version is 32 hexadecimal digits as the vault shows it",
    ),
    (
        "a version in other words",
        "objectName: one, objectType: secret, objectVersion: Latest",
        "objectVersion: a version is 32 hexadecimal digits as the vault shows it",
    ),
    (
        "letters for a mode",
        "objectName: one, objectType: secret, filePermission: u+r",
        "filePermission: must be an octal number up to 0777, such as 0400 (the Azure provider would drop what it cannot use)",
    ),
    (
        "a mode that is not octal",
        "objectName: one, objectType: secret, filePermission: '0888'",
        "filePermission: must be an octal number up to 0777, such as 0400 (the Azure provider would drop what it cannot use)",
    ),
    (
        "a negative mode",
        "objectName: one, objectType: secret, filePermission: '-1'",
        "filePermission: must be an octal number up to 0777, such as 0400 (the Azure provider would drop what it cannot use)",
    ),
    (
        "a mode with setuid",
        "objectName: one, objectType: secret, filePermission: '4755'",
        "filePermission: must be an octal number up to 0777, such as 0400 (the Azure provider would drop what it cannot use)",
    ),
    (
        "an absolute alias",
        "objectName: one, objectType: secret, objectAlias: /etc/passwd",
        "objectAlias: must be relative to the mount, without a leading slash",
    ),
    (
        "an alias that leaves the mount",
        "objectName: one, objectType: secret, objectAlias: a/../../x",
        "objectAlias: has an element that begins with .., which is kept for the directory's own links",
    ),
    (
        "an alias of the directory's own",
        "objectName: one, objectType: secret, objectAlias: ..data",
        "objectAlias: has an element that begins with .., which is kept for the directory's own links",
    ),
    (
        "an alias that is the mount itself",
        "objectName: one, objectType: secret, objectAlias: .",
        "objectAlias: may not contain the element .",
    ),
    (
        "the same with a history",
        "objectName: one, objectType: secret, objectAlias: ., objectVersionHistory: 2",
        "objectAlias: may not contain the element .",
    ),
    (
        "an alias that is not clean",
        "objectName: one, objectType: secret, objectAlias: a//b",
        "objectAlias: has an empty element (a doubled or trailing slash)",
    ),
];

#[test]
fn a_bad_parameter_is_refused_by_name_with_the_next_step() {
    let wrong: Vec<String> = PARAMETERS
        .iter()
        .map(|(what, name, value, expected)| (what, complaint(&[(name, value)]), expected))
        .filter(|(_, complaint, expected)| complaint != **expected)
        .map(|(what, complaint, expected)| format!("{what}\n  {complaint}\n  {expected}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_bad_object_is_refused_by_its_place_and_field() {
    for (what, fields, expected) in FIELDS {
        let as_mapping = format!("[{{{fields}}}]");
        assert_eq!(complaint(&[("objects", &as_mapping)]), format!("objects[0].{expected}"), "{what}");
        let as_text = format!("array:\n- |\n  {{{fields}}}\n");
        assert_eq!(complaint(&[("objects", &as_text)]), format!("objects[0].{expected}"), "{what}");
    }
}

#[test]
fn a_history_is_a_number_and_not_a_text() {
    for written in ["\"2\"", "'2'", "two", "2147483648", ".inf", "[2]", "true"] {
        let objects = format!(
            "array:\n- |\n  objectName: one\n  objectType: secret\n  objectVersionHistory: {written}\n"
        );
        let complaint = complaint(&[("objects", &objects)]);
        assert!(complaint.starts_with("objects[0]: cannot be read at line 3"), "{written}: {complaint}");
    }
}

#[test]
fn two_modes_at_once_are_refused() {
    let both = [("useVMManagedIdentity", "true"), ("useAzureTokenProxy", "true")];
    assert_eq!(complaint(&both), "useVMManagedIdentity: stands beside useAzureTokenProxy; write one of them");
}

#[test]
fn another_provider_is_left_to_its_own_driver() {
    let error =
        parse_class(&ClassInput { provider: "vault", parameters: &BTreeMap::new() }, &Cloud::built_in)
            .unwrap_err();
    assert_eq!(
        error.to_string(),
        "KW_CLASS_INVALID: provider: only classes with `provider: azure` are served; keep the other provider's own driver for this one"
    );
}

#[test]
fn paths_that_clash_are_refused_before_anything_is_fetched() {
    for (what, a, b, clashing) in [
        ("the same name", "one", "one", "one"),
        ("a directory where a file is", "a", "a/b", "a/b"),
        ("a file where a directory is", "a/b", "a", "a"),
    ] {
        let objects = format!(
            "[{{objectName: one, objectType: secret, objectAlias: {a}}}, {{objectName: two, objectType: secret, objectAlias: {b}}}]"
        );
        let expected = format!(
            "objects[1]: {clashing} clashes with the file of objects[0]; give one of them an objectAlias"
        );
        assert_eq!(complaint(&[("objects", &objects)]), expected, "{what}");
    }
    let history = "[{objectName: one, objectType: secret, objectVersionHistory: 3}, {objectName: two, objectType: secret, objectAlias: one/0}]";
    assert_eq!(
        complaint(&[("objects", history)]),
        "objects[1]: one/0 clashes with the file of objects[0]; give one of them an objectAlias"
    );
}

#[test]
fn every_mistake_is_told_at_once() {
    let complaint = complaint(&[
        ("keyvaultName", ""),
        ("tenantID", ""),
        ("usePodIdentity", "maybe"),
        ("objects", "[{objectName: one}, {objectType: key}]"),
    ]);
    for expected in [
        "usePodIdentity: must be true or false",
        "tenantID: is missing",
        "keyvaultName: is missing",
        "objects[0].objectType: is missing",
        "objects[1].objectName: is missing",
    ] {
        assert!(complaint.contains(expected), "{expected} in {complaint}");
    }
}

#[test]
fn a_huge_text_and_a_huge_list_are_refused_early() {
    let huge = format!("# {}\n{OBJECTS}", "x".repeat(1 << 20));
    let refused = complaint(&[("objects", &huge)]);
    assert!(
        refused.starts_with("objects: has ") && refused.ends_with(" bytes, more than the 1048576 allowed")
    );

    let list = |count: usize| {
        (0..count).map(|at| format!("- {{objectName: s{at}, objectType: key}}\n")).collect::<String>()
    };
    assert!(class(&[("objects", &list(MAX_OBJECTS))]).is_ok());
    assert_eq!(
        complaint(&[("objects", &list(MAX_OBJECTS + 1))]),
        "objects: has 1001 entries, more than the 1000 allowed"
    );
}

#[test]
fn notify_is_for_the_sidecar_and_said_so_once_the_rest_is_right() {
    for objects in [
        "- {objectName: one, objectType: secret, notify: {signal: HUP}}",
        "array:\n- |\n  objectName: one\n  objectType: secret\n  notify: [anything]\n",
    ] {
        let error = class(&[("objects", objects)]).unwrap_err();
        assert_eq!(error.code(), Code::NotifyNotHere);
        assert!(error.message().starts_with("objects[0].notify: "), "{error}");
    }
    assert!(class(&[("objects", "- {objectName: one, objectType: secret, notify: null}")]).is_ok());
    complaint(&[("objects", "- {objectName: one, objectType: nonsense, notify: {signal: HUP}}")]);
}
