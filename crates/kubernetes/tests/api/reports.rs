use keyward_core::{Code, Error};
use keyward_kubernetes::{ObjectVersion, Outcome, PodRef, Report, Reporter};
use keyward_test_support::fake_api::{EVENTS, FakeApi, STATUSES};
use keyward_test_support::limits::limit;
use serde_json::json;

use crate::{DRIVER, NODE, PATIENCE, cluster};

fn pod(name: &str) -> PodRef {
    PodRef { namespace: "shop".to_owned(), name: name.to_owned(), uid: format!("uid-of-{name}") }
}

fn objects(pairs: &[(&str, &str)]) -> Vec<ObjectVersion> {
    let object =
        |(id, version): &(&str, &str)| ObjectVersion { id: (*id).into(), version: (*version).into() };
    pairs.iter().map(object).collect()
}

fn report(pod: PodRef, outcome: Outcome) -> Report {
    let target_path = format!("/pods/{}/volumes/secrets/mount", pod.uid);
    Report { pod, volume: "secrets".to_owned(), class: Some("vault".to_owned()), target_path, outcome }
}

fn failed(code: Code, why: &str) -> Outcome {
    Outcome::Failed { error: Error::new(code, why), mounted: false }
}

fn published() -> Outcome {
    Outcome::Published { objects: objects(&[("secret/b", "2"), ("key/a", "1")]) }
}

async fn told(reporter: &Reporter) {
    assert!(reporter.drain(PATIENCE).await, "everything is told: {:?}", reporter.stats());
}

fn reasons(api: &FakeApi) -> Vec<String> {
    let reason = |event: &serde_json::Value| event["reason"].as_str().unwrap_or_default().to_owned();
    let mut reasons: Vec<_> = api.events().iter().map(reason).collect();
    reasons.sort();
    reasons
}

#[tokio::test]
async fn a_status_exists_from_the_first_failure_and_follows_to_success() {
    let api = FakeApi::start();
    let reporter = cluster(&api).await.reporter();
    reporter.report(report(pod("web"), failed(Code::VaultForbidden, "assign a role")));
    told(&reporter).await;
    let status = api.object(STATUSES, "shop", "web-shop-vault").unwrap();
    assert_eq!(status["status"]["mounted"], json!(false));
    let annotation = &status["metadata"]["annotations"]["keyward.dev/last-error"];
    assert_eq!(annotation, &json!("KW_VAULT_FORBIDDEN: assign a role"));

    reporter.report(report(pod("web"), published()));
    told(&reporter).await;
    let status = api.object(STATUSES, "shop", "web-shop-vault").unwrap();
    assert_eq!(
        status["status"],
        json!({
            "podName": "web",
            "secretProviderClassName": "vault",
            "mounted": true,
            "targetPath": "/pods/uid-of-web/volumes/secrets/mount",
            "objects": [{ "id": "key/a", "version": "1" }, { "id": "secret/b", "version": "2" }],
        })
    );
    assert_eq!(status["metadata"]["annotations"], json!({}));
    assert_eq!(status["metadata"]["labels"], json!({ "internal.secrets-store.csi.k8s.io/node-name": NODE }));
    let owners = json!([{ "apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "uid-of-web" }]);
    assert_eq!(status["metadata"]["ownerReferences"], owners);
    assert_eq!(reasons(&api), ["SecretsMountFailed", "SecretsMounted"]);
}

#[tokio::test]
async fn nothing_is_written_when_nothing_changed() {
    let api = FakeApi::start();
    let reporter = cluster(&api).await.reporter();
    reporter.report(report(pod("web"), published()));
    told(&reporter).await;
    let writes = api.writes();
    for _ in 0..50 {
        reporter.report(report(pod("web"), published()));
    }
    told(&reporter).await;
    assert_eq!(api.writes(), writes);
}

#[tokio::test]
async fn a_failure_of_a_mounted_volume_leaves_its_objects_and_says_why() {
    let api = FakeApi::start();
    let reporter = cluster(&api).await.reporter();
    reporter.report(report(pod("web"), published()));
    told(&reporter).await;
    let error = Error::new(Code::VaultUnavailable, "the vault answers 503");
    reporter.report(report(pod("web"), Outcome::Failed { error, mounted: true }));
    told(&reporter).await;
    let status = api.object(STATUSES, "shop", "web-shop-vault").unwrap();
    assert_eq!(status["status"]["mounted"], json!(true));
    assert_eq!(status["status"]["objects"].as_array().unwrap().len(), 2);
    assert!(status["metadata"]["annotations"]["keyward.dev/last-error"].is_string());

    let now = objects(&[("secret/b", "3"), ("key/a", "1")]);
    reporter.report(report(pod("web"), Outcome::Rotated { objects: now, changed: vec!["secret/b".into()] }));
    told(&reporter).await;
    let status = api.object(STATUSES, "shop", "web-shop-vault").unwrap();
    assert_eq!(status["status"]["objects"][1], json!({ "id": "secret/b", "version": "3" }));
    assert_eq!(reasons(&api), ["SecretsMounted", "SecretsRotated", "SecretsRotationFailed"]);
}

#[tokio::test]
async fn a_status_of_an_earlier_pod_or_node_is_taken_over() {
    let api = FakeApi::start();
    let metadata = json!({
        "namespace": "shop", "name": "web-shop-vault",
        "labels": { "internal.secrets-store.csi.k8s.io/node-name": "node-0", "kept": "yes" },
        "ownerReferences": [{ "apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "old" }],
    });
    api.put(STATUSES, json!({ "metadata": metadata, "status": { "mounted": true, "targetPath": "/old" } }));
    let reporter = cluster(&api).await.reporter();
    reporter.report(report(pod("web"), published()));
    told(&reporter).await;
    let status = api.object(STATUSES, "shop", "web-shop-vault").unwrap();
    assert_eq!(status["metadata"]["labels"]["internal.secrets-store.csi.k8s.io/node-name"], json!(NODE));
    assert_eq!(status["metadata"]["labels"]["kept"], json!("yes"));
    assert_eq!(status["metadata"]["ownerReferences"][0]["uid"], json!("uid-of-web"));
    assert_eq!(status["status"]["targetPath"], json!("/pods/uid-of-web/volumes/secrets/mount"));
}

/// As the chart's policies have it: an earlier pod of the same name was on another node.
#[tokio::test]
async fn a_status_that_may_not_be_taken_over_is_made_when_it_has_gone_and_nothing_else_waits_for_it() {
    let api = FakeApi::start();
    let label = "internal.secrets-store.csi.k8s.io/node-name";
    let metadata = json!({ "namespace": "shop", "name": "web-shop-vault", "labels": { label: "node-0" } });
    api.put(STATUSES, json!({ "metadata": metadata, "status": { "mounted": true } }));
    api.forbid("patch", STATUSES);
    let reporter = cluster(&api).await.reporter();
    reporter.report(report(pod("web"), published()));
    // Failures of the server would hold up all others for a second and more.
    for number in 0..10 {
        reporter.report(report(pod(&format!("other-{number}")), published()));
    }
    let others = || api.statuses().len() == 11;
    let started = tokio::time::Instant::now();
    while !others() {
        assert!(started.elapsed() < PATIENCE, "others wait: {:?}", reporter.stats());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let old = api.object(STATUSES, "shop", "web-shop-vault").unwrap();
    assert_eq!(old["metadata"]["labels"][label], json!("node-0"));
    assert_eq!(reporter.stats().dropped, 0);
    // The garbage collector takes the old one with its pod.
    api.delete(STATUSES, "shop", "web-shop-vault");
    told(&reporter).await;
    let status = api.object(STATUSES, "shop", "web-shop-vault").unwrap();
    assert_eq!(status["metadata"]["labels"][label], json!(NODE));
    assert_eq!(status["status"]["mounted"], json!(true));
}

#[tokio::test]
async fn a_status_that_somebody_deleted_is_made_again() {
    let api = FakeApi::start();
    let reporter = cluster(&api).await.reporter();
    reporter.report(report(pod("web"), published()));
    told(&reporter).await;
    api.delete(STATUSES, "shop", "web-shop-vault");
    let now = objects(&[("secret/b", "9")]);
    reporter.report(report(pod("web"), Outcome::Rotated { objects: now, changed: vec![] }));
    told(&reporter).await;
    let status = api.object(STATUSES, "shop", "web-shop-vault").unwrap();
    assert_eq!(status["status"]["objects"][0]["version"], json!("9"));
}

#[tokio::test]
async fn a_definition_with_a_status_subresource_is_written_there() {
    let api = FakeApi::start();
    api.with_status_subresource(true);
    let reporter = cluster(&api).await.reporter();
    reporter.report(report(pod("web"), published()));
    told(&reporter).await;
    let status = api.object(STATUSES, "shop", "web-shop-vault").unwrap();
    assert_eq!(status["status"]["mounted"], json!(true));
}

#[tokio::test]
async fn a_name_that_is_too_long_is_shortened_and_the_pod_told() {
    let api = FakeApi::start();
    let reporter = cluster(&api).await.reporter();
    let name = "p".repeat(250);
    reporter.report(report(pod(&name), published()));
    told(&reporter).await;
    let statuses = api.statuses();
    assert_eq!(statuses.len(), 1);
    assert_eq!(statuses[0]["status"]["podName"], json!(name));
    assert_eq!(reasons(&api), ["SecretsMounted", "SecretsStatusNameShortened"]);
}

#[tokio::test]
async fn a_volume_without_a_class_has_events_and_no_status() {
    let api = FakeApi::start();
    let reporter = cluster(&api).await.reporter();
    reporter.report(Report { class: None, ..report(pod("web"), published()) });
    told(&reporter).await;
    assert!(api.statuses().is_empty());
    let event = &api.events()[0];
    assert_eq!(event["reportingController"], json!(DRIVER));
    assert_eq!(event["regarding"]["uid"], json!("uid-of-web"));
    assert_eq!(event["note"], json!("mounted volume secrets with 2 objects"));
}

#[tokio::test]
async fn identical_failures_are_one_event_and_different_ones_are_limited() {
    let api = FakeApi::start();
    let reporter = cluster(&api).await.reporter();
    for _ in 0..30 {
        reporter.report(report(pod("web"), failed(Code::VaultForbidden, "the same")));
        told(&reporter).await;
    }
    assert_eq!(api.events().len(), 1);
    for n in 0..30 {
        reporter.report(report(pod("web"), failed(Code::VaultForbidden, &format!("another {n}"))));
        told(&reporter).await;
    }
    assert!(api.events().len() <= 11, "{}", api.events().len());
    assert!(reporter.stats().dropped >= 20);
    let statuses = api.statuses();
    let error = statuses[0]["metadata"]["annotations"]["keyward.dev/last-error"].as_str().unwrap();
    assert!(error.ends_with("another 29"), "the status has the last error: {error}");
}

#[tokio::test]
async fn a_failure_is_told_however_many_rotations_wait_to_be_told() {
    let api = FakeApi::start();
    let reporter = cluster(&api).await.reporter();
    api.down();
    for n in 0..8 {
        let changed = vec![format!("secret/{n}")];
        reporter
            .report(report(pod("web"), Outcome::Rotated { objects: objects(&[("secret/b", "2")]), changed }));
    }
    let error = Error::new(Code::ObjectDisabled, "disabled");
    reporter.report(report(pod("web"), Outcome::Failed { error, mounted: true }));
    api.up();
    told(&reporter).await;
    assert!(reasons(&api).contains(&"SecretsRotationFailed".to_owned()), "{:?}", reasons(&api));
}

#[tokio::test]
async fn a_failure_is_told_however_many_rotations_were_told_before() {
    let api = FakeApi::start();
    let reporter = cluster(&api).await.reporter();
    for n in 0..30 {
        let changed = vec![format!("secret/{n}")];
        reporter
            .report(report(pod("web"), Outcome::Rotated { objects: objects(&[("secret/b", "2")]), changed }));
        told(&reporter).await;
    }
    let error = Error::new(Code::ObjectDisabled, "disabled");
    reporter.report(report(pod("web"), Outcome::Failed { error, mounted: true }));
    told(&reporter).await;
    assert!(reasons(&api).contains(&"SecretsRotationFailed".to_owned()), "{:?}", reasons(&api));
}

#[tokio::test]
async fn reports_wait_for_the_server_and_the_last_state_arrives() {
    let api = FakeApi::start();
    let reporter = cluster(&api).await.reporter();
    api.down();
    reporter.report(report(pod("web"), failed(Code::VaultUnavailable, "first")));
    for n in 0..100 {
        reporter.report(report(pod(&format!("other-{n}")), failed(Code::VaultUnavailable, "down")));
    }
    reporter.report(report(pod("web"), published()));
    for n in 0..90 {
        reporter.report(report(pod(&format!("other-{n}")), Outcome::Gone));
    }
    api.up();
    told(&reporter).await;
    assert_eq!(api.statuses().len(), 11, "who is gone need not be told of");
    let status = api.object(STATUSES, "shop", "web-shop-vault").unwrap();
    assert_eq!(status["status"]["mounted"], json!(true));
    assert_eq!(status["metadata"]["annotations"].get("keyward.dev/last-error"), None);
}

#[tokio::test]
async fn a_refused_write_is_dropped_and_the_others_go_on() {
    let api = FakeApi::start();
    api.forbid("create", STATUSES);
    let reporter = cluster(&api).await.reporter();
    reporter.report(report(pod("web"), published()));
    told(&reporter).await;
    assert!(api.statuses().is_empty());
    assert_eq!(reasons(&api), ["SecretsMounted"]);
    assert_eq!(reporter.stats().dropped, 1);
    api.allow_all();
    api.forbid("create", EVENTS);
    reporter.report(report(pod("web"), failed(Code::VaultForbidden, "no")));
    told(&reporter).await;
    assert_eq!(api.statuses().len(), 1);
}

#[tokio::test]
async fn a_pod_whose_name_is_none_is_not_told_of() {
    let api = FakeApi::start();
    let reporter = cluster(&api).await.reporter();
    for name in ["../../secrets/x", "a/b", ""] {
        reporter.report(report(pod(name), published()));
        reporter.report(report(PodRef { namespace: name.to_owned(), ..pod("web") }, published()));
        reporter.report(Report { class: Some(name.to_owned()), ..report(pod("web"), published()) });
    }
    assert_eq!(reporter.stats().dropped, 9);
    assert_eq!(api.writes(), 0);
}

#[tokio::test]
async fn a_failing_server_gets_the_write_again() {
    let api = FakeApi::start();
    let reporter = cluster(&api).await.reporter();
    api.fail_next(1, 503);
    reporter.report(report(pod("web"), published()));
    told(&reporter).await;
    assert_eq!((api.statuses().len(), api.events().len()), (1, 1));
    assert_eq!(reporter.stats().failed, 1);
}

#[tokio::test]
async fn memory_is_bounded_by_dropping_reports_of_further_volumes() {
    let api = FakeApi::start();
    api.down();
    let reporter = cluster(&api).await.reporter();
    for n in 0..3000 {
        reporter.report(report(pod(&format!("pod-{n}")), published()));
    }
    let stats = reporter.stats();
    assert_eq!(stats.volumes, 2 * limit("events: volumes").number(), "each pod has two places all the same");
    assert!(stats.dropped >= 3000 - 2048);
}

#[tokio::test]
async fn pods_that_take_all_places_together_leave_each_other_pod_two() {
    let api = FakeApi::start();
    api.down();
    let reporter = cluster(&api).await.reporter();
    let volume = |uid: &str, n: usize| Report { volume: format!("v{n}"), ..report(pod(uid), published()) };
    let (of_pod, places) = (limit("events: volumes of a pod").number(), limit("events: volumes").number());
    for n in 0..places {
        reporter.report(volume(&format!("hostile-{}", n / of_pod), n));
    }
    assert_eq!(reporter.stats().volumes, places);
    for n in 0..3 {
        reporter.report(volume("web", n));
    }
    assert_eq!(reporter.stats().volumes, places + 2);
}

#[tokio::test]
async fn a_pod_with_ever_more_volumes_takes_no_places_from_others() {
    let api = FakeApi::start();
    api.down();
    let reporter = cluster(&api).await.reporter();
    let most = limit("events: volumes of a pod").number();
    let volume = |n: usize| Report { volume: format!("v{n}"), ..report(pod("hostile"), published()) };
    for n in 0..most {
        reporter.report(volume(n));
    }
    assert_eq!(reporter.stats().volumes, most);
    let dropped = reporter.stats().dropped;
    reporter.report(volume(most));
    assert_eq!((reporter.stats().volumes, reporter.stats().dropped), (most, dropped + 1));
    reporter.report(report(pod("web"), published()));
    assert_eq!(reporter.stats().volumes, most + 1);
    // A place is free again when its volume has gone.
    reporter.report(Report { outcome: Outcome::Gone, ..volume(0) });
    assert_eq!(reporter.stats().volumes, most);
    reporter.report(volume(most));
    assert_eq!(reporter.stats().volumes, most + 1);
}
