//! What becomes of pods as controllers ask for them, word for word, and what holds for all of them. After a change that is
//! meant: `KEYWARD_UPDATE_GOLDEN=1 cargo test -p keyward-injector --test golden`, and look at the difference.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use keyward_core::config::injector::{self, Injection};
use keyward_core::document;
use keyward_injector::admission::{Decision, STATUS};
use keyward_injector::explain::{Explained, explain};
use keyward_injector::review;
use serde_json::{Value, json};

fn inputs(directory: &str, ending: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let entries =
        std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut found: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().ends_with(ending))
        .collect();
    found.sort();
    assert!(found.len() >= 5, "only {} inputs", found.len());
    found
}

/// The settings of an input's first line.
fn settings(text: &str) -> Injection {
    let base = json!({"image": "keyward:1", "certificates": {"namespace": "keyward-system"}});
    let mut tree = base;
    if let Some(own) = text.lines().next().and_then(|line| line.strip_prefix("# settings: ")) {
        for (key, value) in document::parse(own.as_bytes()).unwrap().as_object().unwrap() {
            tree[key] = value.clone();
        }
    }
    injector::parse(tree.to_string().as_bytes()).unwrap().injection
}

fn pods(path: &Path) -> (Injection, Vec<Explained>) {
    let text = std::fs::read_to_string(path).unwrap();
    let injection = settings(&text);
    let explained =
        explain(text.as_bytes(), &injection).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (injection, explained)
}

fn told(explained: &Explained) -> String {
    let of = &explained.of;
    match &explained.decision {
        Ok(Decision::Untouched) => format!("{of}: untouched\n"),
        Ok(Decision::Skipped { reason, .. }) => format!("{of}: skipped, {reason}\n"),
        Ok(Decision::Injected { pod, summary, warnings }) => {
            let mut text = format!("{of}: injected, {summary}\n");
            for warning in warnings {
                let _ = writeln!(text, "warning: {warning}");
            }
            let _ = writeln!(text, "{pod:#}");
            text
        }
        Err(error) => format!("{of}: refused, {error}\n"),
    }
}

#[test]
fn pods_become_what_the_golden_files_say() {
    let update = std::env::var_os("KEYWARD_UPDATE_GOLDEN").is_some();
    for path in inputs("tests/golden", ".yaml") {
        let text: String = pods(&path).1.iter().map(told).collect();
        let golden = path.with_extension("golden");
        if update {
            std::fs::write(&golden, &text).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        assert!(text == expected, "{} says otherwise:\n{text}", golden.display());
    }
}

#[test]
fn an_injected_pod_is_left_as_it_is_when_it_is_looked_at_again() {
    for path in inputs("tests/golden", ".yaml") {
        let text = std::fs::read_to_string(&path).unwrap();
        let (injection, pods) = pods(&path);
        let others: Vec<Value> = document::parse_all(text.as_bytes())
            .unwrap()
            .into_iter()
            .filter(|object| matches!(object["kind"].as_str(), Some("ServiceAccount" | "ConfigMap")))
            .collect();
        for once in pods {
            let Ok(Decision::Injected { pod, .. }) = once.decision else { continue };
            let mut pod = pod;
            // The namespace of a controller's pod is that of the request.
            pod["metadata"]["namespace"] = json!("shop");
            let mut manifest = others.clone();
            manifest.push(pod.clone());
            let stream: String = manifest.iter().map(|object| format!("---\n{object}\n")).collect();
            let again = explain(stream.as_bytes(), &injection).unwrap().remove(0);
            match again.decision {
                Ok(Decision::Injected { pod: twice, .. }) => {
                    assert_eq!(twice, pod, "{}: {}", path.display(), once.of);
                }
                other => panic!("{}: {} became {other:?}", path.display(), once.of),
            }
        }
    }
}

#[test]
fn the_patch_makes_the_decided_pod_and_touches_nothing_of_the_applications_commands() {
    for path in inputs("tests/golden", ".yaml") {
        for explained in pods(&path).1 {
            let Ok(Decision::Injected { pod, .. } | Decision::Skipped { pod, .. }) = &explained.decision
            else {
                continue;
            };
            let patch = review::patch(explained.pod.clone(), pod);
            let mut patched = explained.pod.clone();
            json_patch::patch(&mut patched, &patch).unwrap();
            assert_eq!(&patched, pod);
            for list in ["containers", "initContainers"] {
                for container in explained.pod["spec"][list].as_array().into_iter().flatten() {
                    let after = pod["spec"][list].as_array().unwrap();
                    let after = after.iter().find(|after| after["name"] == container["name"]).unwrap();
                    for part in ["command", "args", "env", "envFrom", "image", "securityContext", "resources"]
                    {
                        assert_eq!(after.get(part), container.get(part), "{part} of {}", container["name"]);
                    }
                }
            }
        }
    }
}

#[test]
fn every_mount_of_ours_in_a_container_of_the_application_is_read_only() {
    for path in inputs("tests/golden", ".yaml") {
        for explained in pods(&path).1 {
            let Ok(Decision::Injected { pod, .. }) = &explained.decision else { continue };
            let lists = ["containers", "initContainers"].map(|list| pod["spec"][list].as_array().cloned());
            for container in lists.into_iter().flatten().flatten() {
                let ours = container["name"].as_str().unwrap().starts_with("keyward-");
                for mount in container["volumeMounts"].as_array().into_iter().flatten() {
                    if !ours && mount["name"].as_str().unwrap().starts_with("keyward") {
                        assert_eq!(mount["readOnly"], true, "{}: {mount}", explained.of);
                    }
                }
                if ours {
                    let context = &container["securityContext"];
                    assert_eq!(context["runAsNonRoot"], true);
                    assert_eq!(context["readOnlyRootFilesystem"], true);
                    assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
                    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
                }
            }
            assert!(pod["metadata"]["annotations"][STATUS].as_str().unwrap().starts_with("injected: "));
        }
    }
}

/// The cases of the admission policy (`injector.mode: policy`), which the API server's own code decides in tests/chart.
#[test]
fn the_webhook_makes_the_same_csi_volumes_as_the_admission_policy() {
    let mut injection = settings("");
    injection.via = injector::Via::Csi;
    for path in inputs("../tests/chart/policy", ".pod.yaml") {
        let name = path.to_str().unwrap().strip_suffix(".pod.yaml").unwrap().to_owned();
        let explained = explain(&std::fs::read(&path).unwrap(), &injection).unwrap().remove(0);
        if let Ok(refusal) = std::fs::read_to_string(format!("{name}.refused")) {
            // `via: sidecar` is what a webhook can do and a policy cannot.
            let only_policy = refusal.contains("this cluster gives secrets by CSI volumes only");
            let code = refusal.split(':').next().unwrap();
            match explained.decision {
                Err(error) => {
                    assert!(only_policy || error.code().as_str() == code, "{name}: {error}, {code}");
                }
                Ok(_) => assert!(only_policy, "{name} is refused by the policy alone"),
            }
            continue;
        }
        let expected = document::parse(&std::fs::read(format!("{name}.csi.yaml")).unwrap()).unwrap();
        let pod = match explained.decision.unwrap_or_else(|error| panic!("{name}: {error}")) {
            Decision::Untouched => explained.pod,
            Decision::Skipped { pod, .. } | Decision::Injected { pod, .. } => pod,
        };
        assert_eq!(pod, expected, "{name}");
    }
}
