//! Every class of `golden/` against the tree that stands beside it: who asks where, what differs, and each file with
//! its mode, its identifier and its bytes.
//!
//! `KEYWARD_GOLDEN=write` writes the trees anew, to be read before they are committed. What certificates become was
//! written by openssl (`fixtures/generate.sh`), never by us.

#![expect(clippy::unwrap_used, reason = "a helper of a test panics as the test does")]

mod golden {
    pub(crate) mod render;
    pub(crate) mod vault;
}

use std::path::{Path, PathBuf};

use golden::render::render;

fn classes() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    paths.sort();
    paths
}

#[test]
fn every_class_becomes_the_tree_that_is_written_beside_it() {
    let write = std::env::var("KEYWARD_GOLDEN").is_ok_and(|word| word == "write");
    let mut differing = Vec::new();
    for class in classes() {
        let name = class.file_stem().unwrap().to_str().unwrap().to_owned();
        let tree = class.with_extension("tree");
        let made = render(&std::fs::read_to_string(&class).unwrap());
        if write {
            std::fs::write(&tree, &made).unwrap();
        }
        let expected = std::fs::read_to_string(&tree).unwrap_or_default();
        if made != expected {
            differing.push(format!("{name}\n--- expected\n{expected}--- made\n{made}"));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

#[test]
fn there_are_enough_classes_and_together_they_use_every_parameter_and_field() {
    let texts: Vec<String> = classes().iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    assert!(texts.len() >= 40, "only {} classes", texts.len());
    let all = texts.concat();
    for word in [
        "keyvaultName",
        "tenantID",
        "tenantId",
        "cloudName",
        "cloudEnvFileName",
        "usePodIdentity",
        "useVMManagedIdentity",
        "useAzureTokenProxy",
        "userAssignedIdentityID",
        "clientID",
        "objectName",
        "objectAlias",
        "objectVersion",
        "objectVersionHistory",
        "objectType",
        "objectFormat",
        "objectEncoding",
        "filePermission",
    ] {
        assert!(all.contains(&format!("{word}:")), "no class uses {word}");
    }
}
