//! `keyward.sock` in a volume, files and owners: what a container that is not root has of it.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use keyward_test_support::node::{DRIVER, Node};
use serde_json::json;
use tonic::Code;

use crate::BINARY;
use crate::application::{Client, as_user};
use crate::class::{entry, of_class, put_class};
use crate::hands::{assert_refused, door, names, secret};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_not_root_reads_lists_and_watches_through_its_read_only_mount() {
    let Some(node) = Node::start(BINARY).await else { return };
    for (name, value) in [("a", "1"), ("b", "2"), ("foreign", "x")] {
        node.vault().set_secret(name, value);
    }
    let driver = node.drive().await;
    let objects = json!([secret("a"), {"from": secret("b"), "file": null}]).to_string();
    let volume = node.volume_of(&node.pod("web-0"), &objects, &[("grpc", "true")]);
    let neighbour =
        node.volume_of(&node.pod("other-0"), &json!([secret("foreign")]).to_string(), &[("grpc", "true")]);
    let silent = node.volume("silent-0", &["a"]);
    for volume in [&volume, &neighbour, &silent] {
        node.publish(volume).await.unwrap();
    }
    assert_eq!(names(&node.kubelet, &volume), ["a", "keyward.sock"], "what is for the API only is no file");
    assert_eq!(names(&node.kubelet, &silent), ["a"]);
    let target = door(&node.kubelet, &volume);
    let socket = std::fs::symlink_metadata(target.join("keyward.sock")).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.mode() & 0o7777, 0o666);
    let (told, is_told) = tokio::sync::oneshot::channel();
    let application = as_user(1000, 1000, move || async move {
        assert_eq!(std::fs::read(target.join("a")).unwrap(), b"1");
        assert!(std::fs::remove_file(target.join("keyward.sock")).is_err(), "the mount is read-only");
        let client = Client::connect(target.join("keyward.sock")).await.unwrap();
        let a = client.get("a").await.unwrap();
        assert_eq!((&a.value[..], a.stale), (&b"1"[..], false));
        assert_eq!(&client.get("b").await.unwrap().value[..], b"2");
        for name in ["foreign", "c", "../a", ""] {
            let code = client.get(name).await.err().unwrap().code();
            assert!(matches!(code, Code::NotFound | Code::InvalidArgument), "{name}: {code:?}");
        }
        assert_eq!(client.list().await, ["a", "b"]);
        let mut watch = client.watch(&["b"]).await;
        assert_eq!(&watch.value().await.unwrap().value[..], b"2");
        told.send(()).unwrap();
        assert_eq!(&watch.value().await.unwrap().value[..], b"3");
    });
    let rotate = async {
        is_told.await.unwrap();
        node.vault().rotate_secret("b", "3");
    };
    tokio::join!(application, rotate);
    // An open watch does not hold a pod's end up.
    let client = Client::connect(door(&node.kubelet, &volume).join("keyward.sock")).await.unwrap();
    let mut watch = client.watch(&[]).await;
    assert!(watch.value().await.is_some());
    node.kubelet.unpublish(&volume).await.unwrap();
    while watch.value().await.is_some() {}
    assert_eq!(node.kubelet.mounts().len(), 2);
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_fs_group_owns_socket_files_and_directories_and_nobody_else_may_read() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", "1");
    let driver = node.drive().await;
    let mut pod = node.pod("web-0");
    pod.group = Some(3000);
    let objects = json!([secret("a"), {"from": secret("a"), "name": "deep", "file": "x/y/deep"}]).to_string();
    let volume = node.volume_of(&pod, &objects, &[("grpc", "true")]);
    node.publish(&volume).await.unwrap();
    let target = door(&node.kubelet, &volume);
    let check = || {
        for (path, mode) in [("a", 0o440), ("x/y/deep", 0o440), ("keyward.sock", 0o660)] {
            let found = std::fs::metadata(target.join(path)).unwrap();
            assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (0, 3000, mode), "{path}");
        }
        for path in ["..data", "..data/x", "x/y"] {
            let found = std::fs::metadata(target.join(path)).unwrap();
            assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (0, 3000, 0o755), "{path}");
        }
    };
    check();
    let at = target.clone();
    as_user(1000, 3000, move || async move {
        assert_eq!(std::fs::read(at.join("x/y/deep")).unwrap(), b"1");
        let client = Client::connect(at.join("keyward.sock")).await.unwrap();
        assert_eq!(&client.get("a").await.unwrap().value[..], b"1");
    })
    .await;
    let at = target.clone();
    as_user(1000, 1000, move || async move {
        assert!(std::fs::read(at.join("a")).is_err());
        assert!(Client::connect(at.join("keyward.sock")).await.is_err());
    })
    .await;
    node.vault().rotate_secret("a", "2");
    node.until_file(&volume, "x/y/deep", b"2").await;
    check();
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn owner_and_mode_of_single_files_are_honoured_and_those_of_a_class_are_as_ever() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", "1");
    put_class(
        &node,
        "web",
        &[&entry("a"), "objectName: a\nobjectType: secret\nobjectAlias: b\nfilePermission: 0600"],
        &[],
    );
    let driver = node.drive().await;
    let objects = json!([
        secret("a"),
        {"from": secret("a"), "name": "own", "file": "own", "mode": "0400", "uid": 1000, "gid": 2000},
    ])
    .to_string();
    let volume = node.volume_of(&node.pod("web-0"), &objects, &[]);
    let class = of_class(&node, "web-1", "web");
    node.publish(&volume).await.unwrap();
    node.publish(&class).await.unwrap();
    let of = |volume, file: &str| {
        let found = std::fs::metadata(node.kubelet.target(volume).join(file)).unwrap();
        (found.uid(), found.gid(), found.mode() & 0o7777)
    };
    assert_eq!(of(&volume, "a"), (0, 0, 0o444));
    assert_eq!(of(&volume, "own"), (1000, 2000, 0o400));
    assert_eq!(of(&class, "a"), (0, 0, 0o644));
    assert_eq!(of(&class, "b"), (0, 0, 0o600));
    node.vault().rotate_secret("a", "2");
    node.until_file(&volume, "own", b"2").await;
    assert_eq!(of(&volume, "own"), (1000, 2000, 0o400));
    let at = node.kubelet.target(&volume).join("own");
    let read = as_user(1000, 1000, move || async move { std::fs::read(at).unwrap() }).await;
    assert_eq!(read, b"2");
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_api_can_be_switched_off_for_a_node_and_narrowed_to_users() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", "1");
    node.configure("grpc: {enabled: false}\n");
    let mut driver = node.drive().await;
    let volume = node.volume_of(&node.pod("web-0"), &json!([secret("a")]).to_string(), &[("grpc", "true")]);
    let text = assert_refused(node.publish(&volume).await, Code::InvalidArgument, "KW_VOLUME_INVALID");
    assert!(text.contains("grpc.enabled"), "{text}");
    driver.stop().await;
    node.configure("grpc: {allowUids: [1000]}\n");
    let driver = node.drive().await;
    node.publish(&volume).await.unwrap();
    let socket = door(&node.kubelet, &volume).join("keyward.sock");
    let at = socket.clone();
    as_user(1000, 1000, move || async move {
        assert_eq!(&Client::connect(at).await.unwrap().get("a").await.unwrap().value[..], b"1");
    })
    .await;
    let refused = as_user(1001, 1001, move || async move {
        match Client::connect(socket).await {
            Ok(client) => client.get("a").await.is_err(),
            Err(_) => true,
        }
    })
    .await;
    assert!(refused);
    assert_eq!(volume.driver, DRIVER);
    drop(driver);
}
