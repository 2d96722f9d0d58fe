//! What holds for any pod and any annotations.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

use std::cell::Cell;
use std::collections::BTreeMap;

use keyward_core::config::injector::{self, Injection};
use keyward_injector::admission::{self, ANNOTATIONS, Decision, Facts};
use keyward_injector::review;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value, json};

fn injection() -> Injection {
    injector::parse(b"image: k:1\ncertificates: {namespace: k}\n").unwrap().injection
}

fn facts(native_sidecars: bool) -> Facts {
    Facts {
        client_id: Some("11111111-1111-1111-1111-111111111111".to_owned()),
        tenant_id: Some("22222222-2222-2222-2222-222222222222".to_owned()),
        native_sidecars,
        ..Facts::default()
    }
}

/// An annotation with a value that is right for it.
fn sound() -> impl Strategy<Value = (String, String)> {
    proptest::sample::select(vec![
        ("secret-a", "kv://shop/secrets/a"),
        ("secret-b", "kv://shop/certificates/b"),
        ("secret-c", "https://shop.vault.azure.net/keys/c"),
        ("file-a", "a/b"),
        ("mode-a", "0400"),
        ("notify-a", "{http: 'http://127.0.0.1:1/$x'}"),
        ("via", "csi"),
        ("via", "init"),
        ("via", "sidecar"),
        ("position", "last"),
        ("position", "first"),
        ("mount-path", "/var/run/x/"),
        ("containers", "web"),
        ("admin-listen", "0.0.0.0:9464"),
        ("requests-cpu", "20m"),
        ("limits-memory", "32Mi"),
        ("client-id", "33333333-3333-3333-3333-333333333333"),
        ("status", "injected: sidecar, 1 object"),
    ])
    .prop_map(|(key, value)| (format!("keyward.dev/{key}"), value.to_owned()))
}

/// Anything under a key of ours.
fn wild() -> impl Strategy<Value = (String, String)> {
    let known = (proptest::sample::select(ANNOTATIONS), "[a-c]")
        .prop_map(|(key, name)| if key.ends_with('-') { format!("{key}{name}") } else { key.to_owned() });
    (prop_oneof![8 => known, 1 => "keyward\\.dev/[a-z-]{0,12}", 1 => "[a-z./]{1,12}"], "\\PC{0,20}")
}

fn annotations() -> impl Strategy<Value = BTreeMap<String, String>> {
    let all = proptest::collection::vec(prop_oneof![20 => sound(), 1 => wild()], 0..6);
    (all, proptest::bool::weighted(0.9)).prop_map(|(all, named)| {
        let mut all: BTreeMap<_, _> = all.into_iter().collect();
        if named {
            all.insert("keyward.dev/secret-a".to_owned(), "kv://shop/secrets/a".to_owned());
        }
        all
    })
}

fn container() -> impl Strategy<Value = Value> {
    let name = proptest::sample::select(vec![
        "web",
        "log",
        "istio-proxy",
        "migrate",
        "keyward-sidecar",
        "keyward-init",
    ]);
    let mounts = proptest::option::of(proptest::sample::select(vec![
        json!([]),
        json!([{"name": "data", "mountPath": "/var/run/keyward"}]),
        json!([{"name": "keyward-files", "mountPath": "/x", "subPath": "y"}]),
        json!("no list"),
    ]));
    let user = proptest::option::of(0_u32..3);
    (name, mounts, user).prop_map(|(name, mounts, user)| {
        let mut container = json!({"name": name, "image": "i", "command": ["c"], "args": ["$(A)"]});
        if let Some(mounts) = mounts {
            container["volumeMounts"] = mounts;
        }
        if let Some(user) = user {
            container["securityContext"] = json!({"runAsUser": user});
        }
        container
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let containers = proptest::collection::vec(container(), 0..3);
    let init = proptest::option::of(proptest::collection::vec(container(), 0..3));
    let volumes = proptest::option::of(proptest::sample::select(vec![
        json!([{"name": "data", "emptyDir": {}}]),
        json!([{"name": "other", "configMap": {"name": "x"}}]),
    ]));
    (annotations(), containers, init, volumes, proptest::bool::weighted(0.9), any::<bool>()).prop_map(
        |(annotations, containers, init, volumes, label, ends)| {
            let mut metadata = Map::new();
            if label {
                metadata.insert("labels".to_owned(), json!({"keyward.dev/inject": "true"}));
            }
            if !annotations.is_empty() {
                metadata.insert("annotations".to_owned(), json!(annotations));
            }
            let mut spec = json!({"containers": containers});
            if let Some(init) = init {
                spec["initContainers"] = json!(init);
            }
            if let Some(volumes) = volumes {
                spec["volumes"] = volumes;
            }
            if ends {
                spec["restartPolicy"] = json!("Never");
            }
            json!({"metadata": metadata, "spec": spec})
        },
    )
}

#[test]
fn a_decision_is_the_same_again_its_patch_makes_it_and_who_did_not_ask_is_left_alone() {
    let injection = injection();
    let injected = Cell::new(0);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(3000));
    let outcome = runner.run(&(pod(), any::<bool>()), |(pod, native)| {
        let facts = facts(native);
        let decision = admission::decide(&pod, "shop", &injection, &facts);
        let asked = pod["metadata"]["labels"]["keyward.dev/inject"] == "true"
            || pod["metadata"]["annotations"]["keyward.dev/inject"] == "true";
        prop_assert_eq!(decision.as_ref().ok() == Some(&Decision::Untouched), !asked);
        let Ok(Decision::Injected { pod: made, .. }) = decision else { return Ok(()) };
        injected.set(injected.get() + 1);
        let patch: json_patch::Patch = serde_json::from_value(review::patch(&pod, &made)).unwrap();
        let mut patched = pod.clone();
        json_patch::patch(&mut patched, &patch).unwrap();
        prop_assert_eq!(&patched, &made);
        match admission::decide(&made, "shop", &injection, &facts) {
            Ok(Decision::Injected { pod: again, .. }) => prop_assert_eq!(&again, &made),
            other => prop_assert!(false, "looked at again: {:?}", other),
        }
        Ok(())
    });
    outcome.unwrap();
    assert!(injected.get() > 300, "only {} of 3000 pods were injected", injected.get());
}

proptest! {
    #[test]
    fn any_bytes_are_a_question_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,200}",
    ) {
        let _ = review::read(&bytes);
        let _ = review::read(text.as_bytes());
    }
}
