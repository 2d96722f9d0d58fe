use std::os::unix::fs::MetadataExt;

use keyward_test_support::fake_api::{CSI_NODES, FakeApi, NODES};
use keyward_test_support::node::{Node, VAULT};
use serde_json::json;

use crate::BINARY;

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_mounted_whole_read_only_and_goes_without_a_trace() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("db-password", "hunter2");
    node.vault().set_secret("api-key", "k");
    let mut driver = node.drive().await;
    let volume = node.volume("web-0", &["db-password", "api-key"]);
    node.publish(&volume).await.unwrap();
    assert_eq!(node.read(&volume, "db-password").unwrap(), b"hunter2");
    assert_eq!(node.read(&volume, "api-key").unwrap(), b"k");
    let target = node.kubelet.target(&volume);
    assert_eq!(node.kubelet.mounts(), std::slice::from_ref(&target));
    assert!(std::fs::write(target.join("x"), "x").is_err(), "the mount is read-only");
    assert_eq!(std::fs::metadata(target.join("db-password")).unwrap().mode() & 0o7777, 0o444);
    node.vault().rotate_secret("db-password", "next");
    node.until_file(&volume, "db-password", b"next").await;
    node.publish(&volume).await.unwrap();
    node.kubelet.unpublish(&volume).await.unwrap();
    assert!(node.kubelet.mounts().is_empty());
    assert!(driver.stop().await.success(), "{}", driver.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_fs_group_files_belong_to_it_also_in_directories_and_others_read_nothing() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("db-password", "hunter2");
    let _driver = node.drive().await;
    let mut pod = node.pod("web-0");
    pod.group = Some(2000);
    let objects = format!("[{{from: 'https://{VAULT}/secrets/db-password', file: db/a/password}}]");
    let volume = node.volume_of(&pod, &objects, &[]);
    node.publish(&volume).await.unwrap();
    for value in ["next", "last"] {
        let metadata = std::fs::metadata(node.kubelet.target(&volume).join("db/a/password")).unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (0, 2000, 0o440));
        node.vault().rotate_secret("db-password", value);
        node.until_file(&volume, "db/a/password", value.as_bytes()).await;
    }
    node.kubelet.unpublish(&volume).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_up_taint_goes_when_kubelet_lists_the_driver_and_no_other_taint_does() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.configure("startupTaint: {key: keyward.dev/driver-not-ready}");
    let ours = json!({"key": "keyward.dev/driver-not-ready", "value": "true", "effect": "NoSchedule"});
    let other = json!({"key": "other.example/taint", "effect": "NoExecute"});
    let tainted = json!({"metadata": {"name": "node-0"}, "spec": {"taints": [other, ours]}});
    node.api.put(NODES, tainted.clone());
    let keys = |api: &FakeApi| -> Vec<String> {
        let taints = api.object(NODES, "", "node-0").unwrap()["spec"]["taints"].clone();
        let taints = taints.as_array().cloned().unwrap_or_default();
        taints.iter().map(|taint| taint["key"].as_str().unwrap().to_owned()).collect()
    };
    let _driver = node.drive().await;
    // Kubelet has not listed it yet, however often it looks.
    let looks = |api: &FakeApi| api.requests().iter().filter(|line| line.contains("csinodes")).count();
    node.api.until("three looks", |api| looks(api) >= 3).await;
    assert_eq!(keys(&node.api).len(), 2);
    let driver = json!({"name": "csi.keyward.dev", "nodeID": "node-0"});
    node.api.put(CSI_NODES, json!({"metadata": {"name": "node-0"}, "spec": {"drivers": [driver]}}));
    node.api.until("the taint gone", |api| keys(api) == ["other.example/taint"]).await;
    // Nothing was shown to anybody.
    assert!(node.kubelet.mounts().is_empty());
}
