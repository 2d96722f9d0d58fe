//! SecretProviderClasses of the Azure provider, unedited: served, edited under running pods, and told of.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyward_proto::csi::v1::NodeGetVolumeHealthRequest;
use keyward_test_support::fake_api::{CLASSES, DRIVERS, STATUSES};
use keyward_test_support::kubelet::PodVolume;
use keyward_test_support::node::{DRIVER, Driver, Node, PATIENCE};
use serde_json::Value;
use tonic::Code;

use crate::BINARY;
use crate::hands::{assert_refused, generation, listing, names, notes, publish_until_ok, until};

/// A class of the vault `shop` for `shop/web`, with these entries of `objects`.
pub(crate) fn put_class(node: &Node, name: &str, entries: &[&str], more: &[(&str, &str)]) {
    let mut objects = String::from("array:\n");
    for entry in entries {
        objects.push_str("  - |\n");
        for line in entry.lines() {
            objects.push_str("    ");
            objects.push_str(line);
            objects.push('\n');
        }
    }
    put_objects(node, name, &objects, more);
}

pub(crate) fn put_objects(node: &Node, name: &str, objects: &str, more: &[(&str, &str)]) {
    let mut parameters = vec![
        ("keyvaultName", "shop"),
        ("tenantId", node.emulator.tenant_id()),
        ("clientID", node.identity.client_id.as_str()),
        ("objects", objects),
    ];
    parameters.retain(|(key, _)| !more.iter().any(|(other, _)| other == key));
    parameters.extend(more.iter().filter(|(_, value)| !value.is_empty()));
    node.api.put_class("shop", name, "azure", &parameters);
}

pub(crate) fn entry(name: &str) -> String {
    format!("objectName: {name}\nobjectType: secret")
}

pub(crate) fn of_class(node: &Node, pod: &str, class: &str) -> PodVolume {
    node.pod(pod).volume(DRIVER, &[("secretProviderClass", class)])
}

fn status_of(node: &Node, volume: &PodVolume, class: &str) -> Option<Value> {
    node.api.object(STATUSES, "shop", &format!("{}-shop-{class}", volume.pod.name))
}

async fn health(node: &Node, volume: &PodVolume) -> Vec<(String, String)> {
    let request = NodeGetVolumeHealthRequest {
        volume_id: volume.id(),
        volume_publish_path: node.kubelet.target(volume).display().to_string(),
        ..NodeGetVolumeHealthRequest::default()
    };
    let answer = node.kubelet.node(DRIVER).await.unwrap().node_get_volume_health(request).await.unwrap();
    let entries = answer.into_inner().volume_health.unwrap().health_statuses;
    entries.into_iter().map(|entry| (entry.reason, entry.message)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_is_written_from_the_first_attempt_on_and_events_tell_of_failure_success_and_rotation() {
    let Some(node) = Node::start(BINARY).await else { return };
    let version = node.vault().set_secret("a", "1");
    put_class(&node, "web", &[&entry("a"), "objectName: late\nobjectType: secret\nobjectAlias: b"], &[]);
    let driver = node.drive().await;
    let volume = of_class(&node, "web-0", "web");
    let text = assert_refused(node.publish(&volume).await, Code::NotFound, "KW_OBJECT_NOT_FOUND");
    assert!(text.contains("/secrets/late"), "{text}");
    node.api.until("a status", |_| status_of(&node, &volume, "web").is_some()).await;
    let status = status_of(&node, &volume, "web").unwrap();
    assert_eq!(status["status"]["mounted"], false);
    assert_eq!(status["status"]["podName"], "web-0");
    assert_eq!(status["status"]["secretProviderClassName"], "web");
    assert_eq!(status["metadata"]["labels"]["internal.secrets-store.csi.k8s.io/node-name"], "node-0");
    assert_eq!(status["metadata"]["ownerReferences"][0]["uid"], volume.pod.uid);
    let error = status["metadata"]["annotations"]["keyward.dev/last-error"].as_str().unwrap();
    assert!(error.contains("KW_OBJECT_NOT_FOUND"), "{error}");
    node.api.until("an event", |_| !notes(&node, &volume, "SecretsMountFailed").is_empty()).await;
    assert!(notes(&node, &volume, "SecretsMountFailed")[0].contains("KW_OBJECT_NOT_FOUND"));

    let late = node.vault().set_secret("late", "2");
    publish_until_ok(&node, &volume).await;
    assert_eq!(node.read(&volume, "b").unwrap(), b"2");
    let mounted = |status: Option<Value>| status.is_some_and(|status| status["status"]["mounted"] == true);
    node.api.until("mounted", |_| mounted(status_of(&node, &volume, "web"))).await;
    let status = status_of(&node, &volume, "web").unwrap();
    assert_eq!(status["status"]["targetPath"], node.kubelet.target(&volume).display().to_string());
    assert!(status["metadata"]["annotations"]["keyward.dev/last-error"].is_null(), "{status}");
    let objects = |status: &Value| -> BTreeSet<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        status["status"]["objects"]
            .as_array()
            .unwrap()
            .iter()
            .map(|o| (text(&o["id"]), text(&o["version"])))
            .collect()
    };
    let pair = |id: &str, version: &str| (id.to_owned(), version.to_owned());
    assert_eq!(objects(&status), [pair("secret/a", &version), pair("secret/late", &late)].into());
    node.api.until("an event", |_| !notes(&node, &volume, "SecretsMounted").is_empty()).await;

    let next = node.vault().rotate_secret("a", "3");
    node.until_file(&volume, "a", b"3").await;
    node.api.until("an event", |_| !notes(&node, &volume, "SecretsRotated").is_empty()).await;
    assert!(notes(&node, &volume, "SecretsRotated")[0].contains("secret/a"));
    let rotated = || objects(&status_of(&node, &volume, "web").unwrap()).contains(&pair("secret/a", &next));
    node.api.until("the new version in the status", |_| rotated()).await;
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_that_comes_after_its_pod_is_waited_for() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", "1");
    let driver = node.drive().await;
    let volume = of_class(&node, "web-0", "late");
    let mut publish = std::pin::pin!(node.publish(&volume));
    let early = tokio::time::timeout(Duration::from_millis(500), &mut publish).await;
    assert!(early.is_err(), "it waits: {early:?}");
    put_class(&node, "late", &[&entry("a")], &[]);
    publish.await.unwrap();
    assert_eq!(node.read(&volume, "a").unwrap(), b"1");
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_without_pause_are_taken_up_once_a_second_and_the_last_one_stays() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", "1");
    put_class(&node, "web", &[&entry("a")], &[]);
    let mut driver = node.drive().await;
    let volume = of_class(&node, "web-0", "web");
    node.publish(&volume).await.unwrap();
    let data = node.kubelet.target(&volume).join("..data");
    let began = tokio::time::Instant::now();
    let mut seen = BTreeSet::new();
    for number in 0..60 {
        let alias = format!("objectName: a\nobjectType: secret\nobjectAlias: edit-{number}");
        put_class(&node, "web", &[&alias], &[]);
        tokio::time::sleep(Duration::from_millis(10)).await;
        seen.insert(std::fs::read_link(&data).unwrap());
    }
    let seconds = began.elapsed().as_secs();
    node.until_file(&volume, "edit-59", b"1").await;
    // The tree of the publish, the first edit, and one a second.
    let most = usize::try_from(seconds).unwrap() + 3;
    assert!(seen.len() <= most, "{} trees in {seconds} s", seen.len());
    driver.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_edited_while_pods_run_is_applied_as_a_whole() {
    let Some(node) = Node::start(BINARY).await else { return };
    for (name, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
        node.vault().set_secret(name, value);
    }
    put_class(&node, "web", &[&entry("a"), &entry("b")], &[]);
    let mut driver = node.drive().await;
    let volumes = [of_class(&node, "web-0", "web"), of_class(&node, "web-1", "web")];
    for volume in &volumes {
        node.publish(volume).await.unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (stop, target) = (Arc::clone(&stop), node.kubelet.target(&volumes[0]));
        std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !stop.load(Ordering::Relaxed) {
                seen.insert(listing(&target.join("..data")));
            }
            // It may not have run since the files were swapped.
            seen.insert(listing(&target.join("..data")));
            seen
        })
    };
    // One object goes, one comes, one has another name.
    put_class(&node, "web", &["objectName: a\nobjectType: secret\nobjectAlias: renamed", &entry("c")], &[]);
    for volume in &volumes {
        node.until_file(volume, "renamed", b"1").await;
        until("the old names are gone", || names(&node.kubelet, volume) == ["c", "renamed"]).await;
        assert_eq!(node.read(volume, "c").unwrap(), b"3");
    }
    stop.store(true, Ordering::Relaxed);
    let seen = watcher.join().unwrap();
    let of = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    assert_eq!(seen, [of(&["a", "b"]), of(&["c", "renamed"])].into(), "nobody saw a mixture");

    // An edit that names what is not there yet changes nothing, and is applied once it is.
    put_class(&node, "web", &[&entry("a"), &entry("later")], &[]);
    let waiting = &volumes[1];
    node.api.until("an event", |_| !notes(&node, waiting, "SecretsRotationFailed").is_empty()).await;
    assert!(notes(&node, waiting, "SecretsRotationFailed")[0].contains("KW_OBJECT_NOT_FOUND"));
    assert_eq!(names(&node.kubelet, waiting), ["c", "renamed"]);
    node.vault().set_secret("later", "4");
    node.until_file(waiting, "later", b"4").await;

    // Edited while the driver is away.
    driver.stop().await;
    put_class(&node, "web", &[&entry("b")], &[]);
    let driver = node.drive().await;
    for volume in &volumes {
        node.publish(volume).await.unwrap();
        until("the edit", || names(&node.kubelet, volume) == ["b"]).await;
    }
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_edit_never_touches_live_files_and_gives_an_event() {
    let Some(node) = Node::start(BINARY).await else { return };
    for name in ["a", "b"] {
        node.vault().set_secret(name, name);
    }
    let alias =
        |name: &str, alias: &str| format!("objectName: {name}\nobjectType: secret\nobjectAlias: {alias:?}");
    let bad = [
        vec![alias("a", "."), entry("b")],
        vec![alias("a", "x"), alias("b", "x")],
        vec![alias("a", "x"), alias("b", "x/y")],
        vec![alias("a", "../../etc/x"), entry("b")],
        vec![alias("a", "..data"), entry("b")],
        vec![alias("a", "/etc/passwd"), entry("b")],
        vec![alias("a", "./x"), entry("b")],
        vec![],
    ];
    for number in 0..bad.len() {
        put_class(&node, &format!("c{number}"), &[&entry("a"), &entry("b")], &[]);
    }
    let driver = node.drive().await;
    let volumes: Vec<_> =
        (0..bad.len()).map(|n| of_class(&node, &format!("web-{n}"), &format!("c{n}"))).collect();
    for volume in &volumes {
        node.publish(volume).await.unwrap();
    }
    let before: Vec<_> = volumes.iter().map(|volume| generation(&node.kubelet, volume)).collect();
    for (number, entries) in bad.iter().enumerate() {
        let entries: Vec<_> = entries.iter().map(String::as_str).collect();
        put_class(&node, &format!("c{number}"), &entries, &[]);
    }
    for (volume, entries) in volumes.iter().zip(&bad) {
        node.api
            .until(&format!("an event for {entries:?}"), |_| {
                !notes(&node, volume, "SecretsRotationFailed").is_empty()
            })
            .await;
        let note = notes(&node, volume, "SecretsRotationFailed").remove(0);
        assert!(note.contains("KW_") && note.contains("keeps what it holds"), "{note}");
        node.publish(volume).await.unwrap();
    }
    let after: Vec<_> = volumes.iter().map(|volume| generation(&node.kubelet, volume)).collect();
    assert_eq!(after, before);
    for volume in &volumes {
        assert_eq!(names(&node.kubelet, volume), ["a", "b"]);
    }
    // And refused before any fetch where a pod is new.
    node.emulator.counters().reset();
    for number in 0..bad.len() {
        let volume = of_class(&node, &format!("new-{number}"), &format!("c{number}"));
        assert_refused(node.publish(&volume).await, Code::InvalidArgument, "KW_");
    }
    assert_eq!(node.emulator.counters().requests("token.*"), 0, "nobody was asked for it");
    // A good edit takes over as if nothing had been.
    put_class(&node, "c0", &[&entry("b")], &[]);
    until("the good edit", || names(&node.kubelet, &volumes[0]) == ["b"]).await;
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_disabled_object_of_ten_holds_up_none_of_the_others_and_is_told_of() {
    let Some(node) = Node::start(BINARY).await else { return };
    let all: Vec<_> = (0..10).map(|n| format!("s{n}")).collect();
    for name in &all {
        node.vault().set_secret(name, "old");
    }
    let entries: Vec<_> = all.iter().map(|name| entry(name)).collect();
    put_class(&node, "ten", &entries.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    let driver = node.drive().await;
    let volume = of_class(&node, "web-0", "ten");
    node.publish(&volume).await.unwrap();
    node.vault().disable_secret("s3");
    for name in all.iter().filter(|name| *name != "s3") {
        node.vault().rotate_secret(name, "new");
    }
    for name in all.iter().filter(|name| *name != "s3") {
        node.until_file(&volume, name, b"new").await;
    }
    node.api.until("an event", |_| !notes(&node, &volume, "SecretsRotationFailed").is_empty()).await;
    let note = notes(&node, &volume, "SecretsRotationFailed").remove(0);
    assert!(note.contains("KW_OBJECT_DISABLED") && note.contains("/secrets/s3"), "{note}");
    assert_eq!(node.read(&volume, "s3").unwrap(), b"old", "the last good value stays");
    let told = health(&node, &volume).await;
    assert!(told.iter().any(|(reason, text)| reason == "ObjectStale" && text.contains("s3")), "{told:?}");
    let annotated = || {
        let status = status_of(&node, &volume, "ten").unwrap_or_default();
        status["metadata"]["annotations"]["keyward.dev/last-error"].as_str().is_some_and(|e| e.contains("s3"))
    };
    node.api.until("the error in the status", |_| annotated()).await;
    node.publish(&volume).await.unwrap();
    node.vault().enable_secret("s3");
    node.vault().rotate_secret("s3", "new");
    node.until_file(&volume, "s3", b"new").await;
    let end = tokio::time::Instant::now() + PATIENCE;
    while !health(&node, &volume).await.is_empty() {
        assert!(tokio::time::Instant::now() < end, "health does not recover");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_larger_than_a_grpc_message_is_no_special_case() {
    let Some(node) = Node::start(BINARY).await else { return };
    let value = |n: usize, c: char| format!("{n:03}{}", c.to_string().repeat(24_900));
    let all: Vec<_> = (0..200).map(|n| format!("s{n}")).collect();
    for (n, name) in all.iter().enumerate() {
        node.vault().set_secret(name, value(n, 'x'));
    }
    let entries: Vec<_> = all.iter().map(|name| entry(name)).collect();
    put_class(&node, "large", &entries.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    let driver = node.drive().await;
    let volume = of_class(&node, "web-0", "large");
    node.publish(&volume).await.unwrap();
    let mut total = 0;
    for (n, name) in all.iter().enumerate() {
        let content = node.read(&volume, name).unwrap();
        assert_eq!(content, value(n, 'x').into_bytes());
        total += content.len();
    }
    assert!(total > 4 << 20, "{total}");
    node.vault().rotate_secret("s7", value(7, 'y'));
    node.until_file(&volume, "s7", value(7, 'y').as_bytes()).await;
    node.publish(&volume).await.unwrap();
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_of_n_gives_n_more_files_and_a_new_version_shifts_them() {
    let Some(node) = Node::start(BINARY).await else { return };
    for value in ["v1", "v2", "v3", "v4"] {
        node.vault().set_secret("db", value);
        // Versions of one second have no order.
        node.emulator.advance_clock(Duration::from_secs(2));
    }
    put_class(&node, "web", &["objectName: db\nobjectType: secret\nobjectVersionHistory: 2"], &[]);
    let driver = node.drive().await;
    let volume = of_class(&node, "web-0", "web");
    node.publish(&volume).await.unwrap();
    let contents = || -> Vec<String> {
        (0..4)
            .filter_map(|n| node.read(&volume, &format!("db/{n}")))
            .map(|bytes| String::from_utf8(bytes).unwrap())
            .collect()
    };
    assert_eq!(contents(), ["v4", "v3", "v2"]);
    node.vault().rotate_secret("db", "v5");
    until("the shift", || contents() == ["v5", "v4", "v3"]).await;
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_driver_stands_in_under_the_name_of_the_secrets_store_driver() {
    const OTHER: &str = "secrets-store.csi.k8s.io";
    let Some(node) = Node::start(BINARY).await else { return };
    node.api.delete(DRIVERS, "", DRIVER);
    node.api.put_usual_driver(OTHER, &["api://AzureADTokenExchange"]);
    node.vault().set_secret("a", "1");
    put_class(&node, "web", &[&entry("a")], &[]);
    std::fs::create_dir_all(node.kubelet.socket(OTHER).parent().unwrap()).unwrap();
    let mut line = node.command();
    line.arguments[1] = format!("unix://{}", node.kubelet.socket(OTHER).display());
    line.arguments.extend(["--driver-name".to_owned(), OTHER.to_owned()]);
    let driver = Driver::spawn(&line);
    let registered = node.kubelet.register(OTHER, PATIENCE).await.unwrap();
    assert_eq!(registered.endpoint, node.kubelet.socket(OTHER));
    // A pod's manifest as it is for that driver.
    let volume = node.pod("web-0").volume(OTHER, &[("secretProviderClass", "web")]);
    publish_until_ok(&node, &volume).await;
    assert_eq!(node.read(&volume, "a").unwrap(), b"1");
    node.api.until("an event", |_| !notes(&node, &volume, "SecretsMounted").is_empty()).await;
    let events = node.api.events();
    assert!(events.iter().all(|event| event["reportingController"] == OTHER), "{events:?}");
    node.kubelet.unpublish(&volume).await.unwrap();
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_of_the_old_version_are_served_and_one_that_is_deleted_leaves_its_volumes_as_they_are() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.api.serve_versions(&["v1alpha1"]);
    node.vault().set_secret("a", "1");
    put_class(&node, "old", &[&entry("a")], &[]);
    let driver = node.drive().await;
    let volume = of_class(&node, "web-0", "old");
    node.publish(&volume).await.unwrap();
    node.api.delete(CLASSES, "shop", "old");
    node.vault().rotate_secret("a", "2");
    node.until_file(&volume, "a", b"2").await;
    node.publish(&volume).await.unwrap();
    assert_eq!(names(&node.kubelet, &volume), ["a"]);
    assert!(notes(&node, &volume, "SecretsRotationFailed").is_empty());
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_that_never_comes_is_named_in_the_answer_and_in_an_event() {
    let Some(node) = Node::start(BINARY).await else { return };
    let driver = node.drive().await;
    let volume = of_class(&node, "web-0", "never");
    let text = assert_refused(node.publish(&volume).await, Code::NotFound, "KW_CLASS_NOT_FOUND");
    assert!(text.contains("`never`") && text.contains("`shop`"), "{text}");
    node.api.until("an event", |_| !notes(&node, &volume, "SecretsMountFailed").is_empty()).await;
    assert!(notes(&node, &volume, "SecretsMountFailed")[0].contains("KW_CLASS_NOT_FOUND"));
    assert!(node.kubelet.mounts().is_empty());
    drop(driver);
}
