//! A container whose root got hold of its own volume's tmpfs plants what it likes in it.

use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use keyward_test_support::kubelet::PodVolume;
use keyward_test_support::node::Node;
use serde_json::json;

use crate::BINARY;
use crate::application::Client;
use crate::hands::{Writable, door, generation, listing, publish_until_ok, secret, until_else};

/// Everything at once: `outside` is a directory of the node that must stay as it is.
fn plant(node: &Node, volume: &PodVolume, outside: &Path, time: u32) {
    let view = Writable::view(&node.kubelet, volume);
    let data = std::fs::read_link(view.path("..data")).unwrap();
    // The name that the swap is prepared under, as a directory that is not empty.
    std::fs::create_dir(view.path("..data_tmp")).unwrap();
    std::fs::write(view.path("..data_tmp").join("x"), "x").unwrap();
    // The generation that readers have, as a way out of the mount.
    std::fs::rename(view.path(data.to_str().unwrap()), view.path(&format!("moved-{time}"))).unwrap();
    symlink(outside, view.path(data.to_str().unwrap())).unwrap();
    symlink(outside, view.path(&format!("..kw_1_planted-{time}"))).unwrap();
    // A user-visible name as a way out, too.
    std::fs::remove_file(view.path("a")).unwrap();
    symlink(outside.join("kept"), view.path("a")).unwrap();
    // A socket that is somebody else's, in place of the real one.
    let _ = std::fs::remove_file(view.path("keyward.sock"));
    let fake = UnixListener::bind(view.path("keyward.sock")).unwrap();
    drop(fake);
    // A tree that is deeper than any path may be long.
    let mut deep = std::fs::canonicalize(view.path(".")).unwrap();
    deep.push(format!("..kw_deep-{time}"));
    std::fs::create_dir(&deep).unwrap();
    let mut at = rustix::fs::open(&deep, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    for _ in 0..1500 {
        rustix::fs::mkdirat(&at, "deeper", rustix::fs::Mode::from_raw_mode(0o700)).unwrap();
        at = rustix::fs::openat(&at, "deeper", rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty())
            .unwrap();
    }
}

fn rig(node: &Node, pod: &str) -> PodVolume {
    let objects = json!([secret("a"), {"from": secret("b"), "file": "x/b"}]).to_string();
    node.volume_of(&node.pod(pod), &objects, &[("grpc", "true")])
}

async fn is_whole(node: &Node, volume: &PodVolume, a: &[u8]) {
    node.until_file(volume, "a", a).await;
    node.until_file(volume, "x/b", b"2").await;
    let target = node.kubelet.target(volume);
    let whole = generation(&node.kubelet, volume).unwrap();
    let whole = whole.to_str().unwrap();
    assert!(std::fs::symlink_metadata(target.join(whole)).unwrap().is_dir());
    assert_eq!(std::fs::read_link(target.join("a")).unwrap(), Path::new("..data/a"));
}

async fn is_clean(node: &Node, volume: &PodVolume) {
    let target = node.kubelet.target(volume);
    // A name of a generation that was replaced is left to the sweep after its grace, whatever it is.
    let ours = |name: &String| {
        ["..data", "a", "x", "keyward.sock"].contains(&name.as_str()) || name.starts_with("..kw_0")
    };
    until_else(|| listing(&target).iter().all(ours), || format!("still there: {:?}", listing(&target))).await;
}

fn untouched(outside: &Path) {
    assert_eq!(listing(outside), ["kept"]);
    assert_eq!(std::fs::read(outside.join("kept")).unwrap(), b"kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_plants_is_repaired_by_republish_rotation_or_restart_and_leads_nowhere() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", "1");
    node.vault().set_secret("b", "2");
    let outside = node.kubelet.dir().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("kept"), "kept").unwrap();
    let mut driver = node.drive().await;
    let volume = rig(&node, "web-0");
    node.publish(&volume).await.unwrap();

    // By the next republish.
    plant(&node, &volume, &outside, 1);
    node.publish(&volume).await.unwrap();
    is_whole(&node, &volume, b"1").await;
    untouched(&outside);

    // By the next rotation. What else was planted goes with the sweep that follows a commit after its grace.
    plant(&node, &volume, &outside, 2);
    node.vault().rotate_secret("a", "next");
    is_whole(&node, &volume, b"next").await;
    untouched(&outside);

    // By the next start, whose socket is the real one again.
    driver.kill(driver.mounter()).await;
    plant(&node, &volume, &outside, 3);
    let driver = node.drive().await;
    publish_until_ok(&node, &volume).await;
    is_whole(&node, &volume, b"next").await;
    is_clean(&node, &volume).await;
    untouched(&outside);
    let socket = door(&node.kubelet, &volume).join("keyward.sock");
    assert!(std::fs::symlink_metadata(&socket).unwrap().file_type().is_socket());
    let client = Client::connect(socket).await.unwrap();
    assert_eq!(&client.get("a").await.unwrap().value[..], b"next");

    // And none of it keeps a pod from ending.
    plant(&node, &volume, &outside, 4);
    node.kubelet.unpublish(&volume).await.unwrap();
    untouched(&outside);
    assert!(node.kubelet.mounts().is_empty());
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_a_container_filled_up_stays_as_it_is_and_rotates_when_there_is_room() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", "1");
    let driver = node.drive().await;
    let volume = node.volume("web-0", &["a"]);
    node.publish(&volume).await.unwrap();
    let view = Writable::view(&node.kubelet, &volume);
    let full = std::fs::write(view.path("ballast"), vec![0; 1 << 20]);
    assert!(full.is_err(), "the tmpfs has a size");
    drop(view);
    let new = "x".repeat(20_000);
    node.vault().rotate_secret("a", &new);
    node.until_file(&volume, "a", new.as_bytes()).await;
    node.publish(&volume).await.unwrap();
    drop(driver);
}
