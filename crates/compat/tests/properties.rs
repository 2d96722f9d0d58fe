//! What holds for every class.

#![expect(clippy::unwrap_used, reason = "a helper of a test panics as the test does")]

use std::collections::BTreeMap;
use std::time::Duration;

use keyward_compat::{ClassInput, ClassObject, ClassSpec, parse_class};
use keyward_core::cloud::Cloud;
use keyward_core::{Result, Version, VersionInfo};
use proptest::prelude::*;

fn parse(parameters: &[(&str, &str)]) -> Result<ClassSpec> {
    let parameters: BTreeMap<String, String> =
        parameters.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    parse_class(&ClassInput { provider: "azure", parameters: &parameters }, &Cloud::built_in)
}

fn with_objects(objects: &str) -> Result<ClassSpec> {
    parse(&[("keyvaultName", "shop"), ("tenantID", "shop.example"), ("objects", objects)])
}

fn with_history(history: u32, pinned: Option<&Version>) -> ClassObject {
    let pinned = pinned.map(|version| format!(", objectVersion: {version}")).unwrap_or_default();
    let list = format!("[{{objectName: s, objectType: secret, objectVersionHistory: {history}{pinned}}}]");
    with_objects(&list).unwrap().objects.remove(0)
}

fn version(number: usize) -> Version {
    Version::parse(&format!("{number:032x}")).unwrap()
}

prop_compose! {
    fn versions()(list in proptest::collection::vec((any::<bool>(), proptest::option::of(0..20u64)), 0..12)) -> Vec<VersionInfo> {
        list.into_iter()
            .enumerate()
            .map(|(at, (enabled, created))| VersionInfo {
                version: version(at),
                enabled,
                created: created.map(Duration::from_secs),
                updated: None,
            })
            .collect()
    }
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(objects in "\\PC{0,300}", other in "\\PC{0,40}") {
        let _ = with_objects(&objects);
        let _ = parse(&[("keyvaultName", &other), ("tenantID", &other), ("cloudName", &other), ("objects", "[]")]);
    }

    #[test]
    fn what_looks_like_objects_is_parsed_or_refused(objects in "(array:\n|- |\\|\n| +|objectName: |objectType: |secret|cert|[a-z]{1,3}|\n|[0-9._]{1,4}|[{}\\[\\]&*!'\"~]){0,40}") {
        let _ = with_objects(&objects);
    }

    #[test]
    fn a_vault_never_lies_outside_its_cloud(name in "[-A-Za-z0-9./@:#?]{0,30}", cloud in "Azure(Public|China|USGovernment)Cloud") {
        let class = parse(&[("keyvaultName", &name), ("tenantID", "t"), ("cloudName", &cloud), ("objects", "[{objectName: a, objectType: key}]")]);
        if let Ok(class) = class {
            prop_assert!(class.cloud.owns(class.vault.as_str()));
            prop_assert_eq!(class.vault.as_str().split('.').count(), class.cloud.vault_dns_suffix.split('.').count() + 1);
            let object = class.objects[0].spec.object().unwrap().clone();
            prop_assert_eq!(object.host(), &class.vault);
        }
    }

    #[test]
    fn an_accepted_class_has_paths_that_are_unique_below_the_mount_and_name_their_objects(
        aliases in proptest::collection::vec("[ab.]{1,2}(/[ab]{1,2})?", 1..6),
        history in proptest::collection::vec(0..3u32, 6),
    ) {
        let list: String = aliases.iter().zip(&history).map(|(alias, history)| {
            format!("- {{objectName: s, objectType: secret, objectAlias: '{alias}', objectVersionHistory: {history}}}\n")
        }).collect();
        if let Ok(class) = with_objects(&list) {
            let known = [VersionInfo { version: version(1), enabled: true, created: None, updated: None }];
            let specs: Vec<_> = class.objects.iter().flat_map(|object| object.expand(&known).unwrap()).collect();
            for (at, (spec, _)) in specs.iter().enumerate() {
                let file = spec.file.as_ref().unwrap();
                prop_assert_eq!(&spec.name, file.as_str());
                prop_assert!(!file.elements().any(|element| element == "." || element.starts_with("..")));
                for (other, _) in &specs[at + 1..] {
                    prop_assert!(!file.clashes_with(other.file.as_ref().unwrap()));
                }
            }
        }
    }

    #[test]
    fn a_history_holds_the_enabled_versions_newest_first_and_one_more_than_asked_for(
        list in versions(), history in 2..8u32, pin in proptest::option::of(0..12usize),
    ) {
        let pinned = pin.map(version);
        let made = with_history(history, pinned.as_ref()).expand(&list);
        let enabled = list.iter().filter(|info| info.enabled).count();
        match made {
            Ok(entries) => {
                prop_assert!(entries.len() <= history as usize + 1);
                prop_assert!(pinned.is_some() || entries.len() == enabled.min(history as usize + 1));
                let times: Vec<_> = entries.iter().map(|(spec, _)| {
                    let version = spec.object().unwrap().version().unwrap();
                    let info = list.iter().find(|info| info.version == *version).unwrap();
                    assert!(info.enabled);
                    info.created.unwrap_or_default()
                }).collect();
                prop_assert!(times.is_sorted_by(|a, b| a >= b));
                for (index, (spec, uid)) in entries.iter().enumerate() {
                    prop_assert_eq!(spec.file.as_ref().unwrap().as_str(), format!("s/{index}"));
                    prop_assert_eq!(uid, &format!("secret/s/{index}"));
                }
                if let Some(pinned) = &pinned {
                    prop_assert_eq!(entries[0].0.object().unwrap().version(), Some(pinned));
                }
            }
            Err(_) => {
                let begins = |info: &&VersionInfo| pinned.as_ref().is_none_or(|pinned| info.version == *pinned);
                prop_assert!(!list.iter().filter(begins).any(|info| info.enabled));
            }
        }
    }
}
