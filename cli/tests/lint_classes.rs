//! `keyward lint` over SecretProviderClass manifests.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn lint(file: &Path) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_keyward")).arg("lint").arg(file).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn lint_text(document: &str) -> (i32, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("class.yaml");
    std::fs::write(&file, document).unwrap();
    let (code, shown, refused) = lint(&file);
    (code, shown.replace(file.to_str().unwrap(), "class.yaml"), refused)
}

fn class(name: &str, parameters: &str, rest: &str) -> String {
    format!(
        "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  provider: azure\n{rest}  parameters:\n    keyvaultName: shop\n    tenantID: shop.example\n\
         \u{20}   objects: '[{{objectName: db, objectType: secret}}]'\n{parameters}"
    )
}

#[test]
fn a_class_without_a_difference_is_one_line() {
    let (code, shown, _) = lint_text(&class("plain", "    clientID: abc\n", ""));
    assert_eq!((code, shown.as_str()), (0, "class.yaml: shop/plain: no mistakes, 1 objects\n"));
}

#[test]
fn each_difference_is_a_note_and_no_failure() {
    let parameters = "    cloudName: AzureStackCloud\n    cloudEnvFileName: /etc/stack.json\n    useVMManagedIdentity: 'true'\n";
    let mirrored = "  secretObjects: [{secretName: x, type: Opaque, data: [{objectName: db, key: db}]}]\n";
    let (code, shown, _) = lint_text(&class("odd", parameters, mirrored));
    assert_eq!(code, 0);
    for place in ["useVMManagedIdentity", "cloudEnvFileName", "cloudName", "secretObjects"] {
        assert!(shown.contains(&format!("\n  note: {place}: ")), "{place} in {shown}");
    }
}

#[test]
fn every_class_of_a_stream_or_a_list_is_checked_and_one_bad_one_fails_the_file() {
    let good = class("good", "    clientID: abc\n", "");
    let older = good.replace("/v1\n", "/v1alpha1\n").replace("good", "older");
    let bad = class("bad", "    usePodIdentity: 'true'\n    cloudName: AzureMoonCloud\n", "");
    let other = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: shop}\n";
    let (code, shown, refused) = lint_text(&format!("{other}---\n{good}---\n---\n{bad}---\n{older}"));
    assert_eq!(code, 64);
    assert!(shown.contains("shop/good: no mistakes") && shown.contains("shop/older: no mistakes"), "{shown}");
    assert!(
        refused.starts_with("keyward: KW_CLASS_INVALID: shop/bad: usePodIdentity: is not available"),
        "{refused}"
    );
    assert!(refused.contains("\nshop/bad: cloudName: must be one of "), "{refused}");

    let indented = |text: &str| text.lines().map(|line| format!("  {line}\n")).collect::<String>();
    let list = format!("apiVersion: v1\nkind: List\nitems:\n-\n{}-\n{}", indented(&good), indented(&older));
    let (code, shown, _) = lint_text(&list);
    assert_eq!((code, shown.lines().count()), (0, 2), "{shown}");
}

#[test]
fn what_the_api_server_or_keyward_would_not_take_is_a_mistake() {
    for (document, expected) in [
        (
            class("flag", "    usePodIdentity: false\n", ""),
            "shop/flag: usePodIdentity: must be a text; put it in quotes",
        ),
        (
            class("beta", "", "").replace("/v1\n", "/v1beta1\n"),
            "shop/beta: apiVersion: must be v1 or v1alpha1",
        ),
        (
            class("vault", "", "").replace("azure", "vault"),
            "shop/vault: provider: only classes with `provider: azure`",
        ),
        ("apiVersion: v1\nkind: Pod\n".to_owned(), "holds no SecretProviderClass"),
        (
            "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {name: x}\n"
                .to_owned(),
            "x: spec.parameters: is missing",
        ),
    ] {
        let (code, _, refused) = lint_text(&document);
        assert_eq!(code, 64, "{refused}");
        assert!(refused.contains(expected), "{expected} in {refused}");
    }
}

#[test]
fn every_class_that_is_tested_for_its_tree_is_good_here_too() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/compat/tests/golden");
    let mut classes: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    classes.sort();
    for file in classes {
        let (code, shown, refused) = lint(&file);
        assert_eq!(code, 0, "{}: {shown}{refused}", file.display());
    }
}
