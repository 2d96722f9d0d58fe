//! What holds for any pod and any annotations.

use keyward_core::config::injector::{self, Injection};
use keyward_injector::admission::{self, ANNOTATIONS, Decision, Facts};
use keyward_injector::review;
use proptest::prelude::*;
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

/// Keys that we know, with names behind those that take one, and others.
fn key() -> impl Strategy<Value = String> {
    let known = (proptest::sample::select(ANNOTATIONS), "[a-c]")
        .prop_map(|(key, name)| if key.ends_with('-') { format!("{key}{name}") } else { key.to_owned() });
    prop_oneof![8 => known, 1 => "keyward\\.dev/[a-z-]{0,12}", 1 => "[a-z./]{1,12}"]
}

/// Values that are right for something, and others.
fn value() -> impl Strategy<Value = String> {
    let sound = proptest::sample::select(vec![
        "kv://shop/secrets/a",
        "kv://shop/certificates/b",
        "[kv://shop/secrets/a]",
        "true",
        "false",
        "csi",
        "init",
        "sidecar",
        "last",
        "first",
        "a/b",
        "0400",
        "/var/run/x",
        "web",
        "web,log",
        "0.0.0.0:9464",
        "20m",
        "32Mi",
        "11111111-1111-1111-1111-111111111111",
        "{signal: HUP, process: web}",
        "{http: 'http://127.0.0.1:1/x'}",
    ]);
    prop_oneof![6 => sound.prop_map(str::to_owned), 1 => "\\PC{0,20}"]
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
    let annotations = proptest::collection::btree_map(key(), value(), 0..6);
    let containers = proptest::collection::vec(container(), 0..3);
    let init = proptest::option::of(proptest::collection::vec(container(), 0..3));
    let volumes = proptest::option::of(proptest::sample::select(vec![
        json!([{"name": "data", "emptyDir": {}}]),
        json!([{"name": "keyward"}]),
    ]));
    (annotations, containers, init, volumes, any::<bool>(), any::<bool>()).prop_map(
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn a_decision_is_the_same_again_its_patch_makes_it_and_who_did_not_ask_is_left_alone(
        pod in pod(), native in any::<bool>(),
    ) {
        let (injection, facts) = (injection(), facts(native));
        let decision = admission::decide(&pod, "shop", &injection, &facts);
        let asked = pod["metadata"]["labels"]["keyward.dev/inject"] == "true"
            || pod["metadata"]["annotations"]["keyward.dev/inject"] == "true";
        match &decision {
            Ok(Decision::Untouched) => prop_assert!(!asked),
            _ => prop_assert!(asked),
        }
        let Ok(Decision::Injected { pod: injected, .. }) = decision else { return Ok(()) };
        let patch: json_patch::Patch = serde_json::from_value(review::patch(&pod, &injected)).unwrap();
        let mut patched = pod.clone();
        json_patch::patch(&mut patched, &patch).unwrap();
        prop_assert_eq!(&patched, &injected);
        match admission::decide(&injected, "shop", &injection, &facts) {
            Ok(Decision::Injected { pod: again, .. }) => prop_assert_eq!(&again, &injected),
            other => prop_assert!(false, "looked at again: {:?}", other),
        }
    }

    #[test]
    fn any_bytes_are_a_question_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,200}") {
        let _ = review::read(&bytes);
        let _ = review::read(text.as_bytes());
    }
}
