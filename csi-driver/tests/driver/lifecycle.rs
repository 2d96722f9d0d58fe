use std::os::unix::fs::MetadataExt;

use keyward_test_support::node::{Node, VAULT};

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
