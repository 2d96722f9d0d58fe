//! What holds for any pod and any annotations.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

use std::cell::Cell;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyward_core::config::injector::{self, Injection, Via};
use keyward_injector::admission::{self, ANNOTATIONS, Decision, Facts};
use keyward_injector::review;
use keyward_test_support::is_tidy;
use keyward_test_support::limits::limit;
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
        let patch = review::patch(pod.clone(), &made);
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

/// Text of every kind: empty, of one character, with control characters and others of several bytes, very long.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "\\PC{0,60}",
        2 => any::<String>(),
        2 => "[\u{0}-\u{1f}\"\\\\:{}\\[\\]é😀\u{200b}\u{feff}-]{0,50}",
        1 => Just(String::new()),
        1 => ("\\PC", 1_usize..20_000).prop_map(|(one, count)| one.repeat(count)),
        1 => (30_usize..50, "\\PC").prop_map(|(count, last)| format!("{}{last}", "a".repeat(count))),
    ]
}

/// Something where something of another kind may be expected.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        text().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let key = prop_oneof![
            text(),
            proptest::sample::select(vec!["name", "mountPath", "subPath", "volumeMounts", "runAsUser"])
                .prop_map(str::to_owned)
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key, inner), 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A pod of which anything may be anything.
fn hostile_pod() -> impl Strategy<Value = Value> {
    let places = proptest::sample::select(vec![
        "/metadata",
        "/metadata/labels",
        "/metadata/annotations",
        "/spec",
        "/spec/containers",
        "/spec/containers/0",
        "/spec/containers/0/name",
        "/spec/containers/0/volumeMounts",
        "/spec/initContainers",
        "/spec/volumes",
        "/spec/securityContext",
        "/spec/restartPolicy",
        "/spec/serviceAccountName",
        "/spec/nodeSelector",
        "/spec/shareProcessNamespace",
    ]);
    let known = (proptest::sample::select(ANNOTATIONS), text())
        .prop_map(|(key, name)| if key.ends_with('-') { format!("{key}{name}") } else { key.to_owned() });
    let annotations = proptest::collection::vec((known, text()), 0..4);
    let named = (text(), text()).prop_map(|(name, mount)| {
        json!({"name": name, "volumeMounts": [
            {"name": "keyward", "mountPath": mount, "subPath": "x"}, {"name": "keyward-files", "subPathExpr": mount},
        ]})
    });
    let changes = proptest::collection::vec((places, anything()), 0..3);
    (pod(), annotations, proptest::option::of(named), changes).prop_map(
        |(mut pod, annotations, named, changes)| {
            pod["metadata"]["labels"] = json!({"keyward.dev/inject": "true"});
            for (key, value) in annotations {
                pod["metadata"]["annotations"][key] = json!(value);
            }
            if let (Some(named), Some(containers)) = (named, pod["spec"]["containers"].as_array_mut()) {
                containers.push(named);
            }
            for (place, value) in changes {
                if let Some(there) = pod.pointer_mut(place) {
                    *there = value;
                }
            }
            pod
        },
    )
}

/// What an API server takes for an answer (k8s.io/apiserver, pkg/admission/plugin/webhook/request).
fn is_well_formed(answer: &Value, uid: &str) -> bool {
    let response = &answer["response"];
    let patch = response["patch"].as_str().map(|patch| STANDARD.decode(patch).ok());
    let patch = patch.map(|bytes| serde_json::from_slice::<json_patch::Patch>(&bytes?).ok());
    answer["apiVersion"] == "admission.k8s.io/v1"
        && answer["kind"] == "AdmissionReview"
        && response["uid"] == uid
        && response["allowed"].is_boolean()
        && patch.is_none_or(|patch| patch.is_some() && response["patchType"] == "JSONPatch")
        && response["warnings"].as_array().is_none_or(|all| {
            all.len() <= 16
                && all.iter().all(|text| text.as_str().is_some_and(|text| text.len() <= 256 && is_tidy(text)))
        })
        && (response["allowed"] == true
            || response["status"]["message"].as_str().is_some_and(|text| text.len() <= 900 && is_tidy(text)))
}

/// The whole way of a question, but for the lookups.
fn answered(body: &[u8], injection: &Injection, facts: &Facts) -> Option<(String, Value)> {
    let question = review::read(body).ok()?;
    let decision = question.check_size().and_then(|()| {
        let object = review::object(body)?;
        let _ = admission::needs(&object, &question.namespace, injection);
        let decision = admission::decide(&object, &question.namespace, injection, facts)?;
        Ok((object, decision))
    });
    let (object, decision) = match decision {
        Ok((object, decision)) => (object, Ok(decision)),
        Err(error) => (Value::Null, Err(error)),
    };
    Some((question.uid.clone(), review::answer(&question, object, &decision)))
}

#[test]
fn whatever_a_pod_says_it_is_answered_in_due_form() {
    let injection = injection();
    let decided = Cell::new([0, 0]);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(600));
    let via = proptest::sample::select(vec![Via::Sidecar, Via::Init, Via::Csi]);
    let config = proptest::option::of(text());
    let all = (hostile_pod(), text(), text(), any::<bool>(), via, config);
    let outcome = runner.run(&all, |(pod, uid, namespace, native, via, config)| {
        let mut injection = injection.clone();
        injection.via = via;
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": uid, "kind": {"group": "", "kind": "Pod"}, "operation": "CREATE",
                "namespace": namespace, "object": pod,
            },
        });
        let facts = Facts { config, ..facts(native) };
        let Some((uid, answer)) = answered(review.to_string().as_bytes(), &injection, &facts) else {
            prop_assert!(uid.is_empty() || uid.len() > 253 || namespace.len() > 253);
            return Ok(());
        };
        prop_assert!(is_well_formed(&answer, &uid), "{}", answer);
        let mut counts = decided.get();
        counts[usize::from(answer["response"]["allowed"] == true)] += 1;
        decided.set(counts);
        Ok(())
    });
    outcome.unwrap();
    let [refused, allowed] = decided.get();
    assert!(refused > 50 && allowed > 5, "{refused} refused, {allowed} allowed");
}

#[test]
fn mistakes_by_the_thousand_cost_no_more_than_they_are() {
    let injection = injection();
    // As many annotations as fit, each a mistake of its own.
    let annotations: Map<String, Value> =
        (0..6000).map(|index| (format!("keyward.dev/secret-{index}"), json!("kv://shop/no"))).collect();
    let names = (0..30_000).map(|index| format!("c{index}")).collect::<Vec<_>>().join(",");
    for annotations in [Value::Object(annotations), json!({"keyward.dev/containers": names})] {
        let pod = json!({
            "metadata": {"labels": {"keyward.dev/inject": "true"}, "annotations": annotations},
            "spec": {"containers": [{"name": "web"}]},
        });
        assert!(admission::decide(&pod, "shop", &injection, &facts(true)).is_err());
    }
    let row = limit("injector: annotations");
    let annotated = |bytes: usize| {
        json!({
            "metadata": {"labels": {"keyward.dev/inject": "true"}, "annotations": {"x": "y".repeat(bytes - 1)}},
            "spec": {"containers": [{"name": "web"}]},
        })
    };
    let at = admission::decide(&annotated(row.number()), "shop", &injection, &facts(true));
    assert!(!at.is_err_and(|error| error.to_string().contains("262144 bytes")));
    let too_much = annotated(row.number() + 1);
    row.refuses(admission::decide(&too_much, "shop", &injection, &facts(true)));
    assert!(admission::needs(&too_much, "shop", &injection).is_none());
}

/// Moves and insertions at the front of other containers, which a comparison place by place would make differ.
#[test]
fn a_patch_is_about_what_changed_and_not_about_what_stands_behind_it() {
    let container = |name: &str| {
        let env: Vec<Value> = (0..200).map(|index| json!({"name": format!("{name}{index}")})).collect();
        json!({"name": name, "image": name, "env": env})
    };
    let ours = json!({"name": "keyward-init", "image": "k"});
    let pod = |list: &[Value]| json!({"spec": {"initContainers": list}});
    let (a, b) = (container("a"), container("b"));
    for (from, to) in [
        (vec![a.clone(), b.clone()], vec![ours.clone(), a.clone(), b.clone()]),
        (vec![a.clone(), b.clone()], vec![a.clone(), ours.clone(), b.clone()]),
        (vec![a.clone(), b.clone(), ours.clone()], vec![ours.clone(), a.clone(), b.clone()]),
        (vec![ours.clone(), a.clone(), b.clone()], vec![a.clone(), b.clone(), ours.clone()]),
        (vec![a.clone()], vec![a, ours]),
    ] {
        let patch = review::patch(pod(&from), &pod(&to));
        assert_eq!(patch.len(), 1, "{patch}");
        let mut patched = pod(&from);
        json_patch::patch(&mut patched, &patch).unwrap();
        assert_eq!(patched, pod(&to));
    }
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
