//! What a driver that was killed, upgraded or rebooted goes on with.

use keyward_emulator::{Effect, Fault};
use keyward_test_support::fake_api::EVENTS;
use keyward_test_support::kubelet::{Context, PodVolume};
use keyward_test_support::node::Node;
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use serde_json::json;

use crate::BINARY;
use crate::application::{Client, as_user};
use crate::hands::{
    Writable, door, everything_is_down, generation, listing, names, publish_until_ok, records, secret,
    status, until,
};

fn with_socket(node: &Node, pod: &str, objects: &[&str]) -> PodVolume {
    let objects: Vec<_> = objects.iter().map(|name| secret(name)).collect();
    node.volume_of(&node.pod(pod), &json!(objects).to_string(), &[("grpc", "true")])
}

/// Whether the driver-only snapshot holds this value.
fn is_kept(node: &Node, value: &str) -> bool {
    let snapshot = node.kubelet.dir().join("state/snapshot");
    listing(&snapshot).iter().any(|name| {
        let bytes = std::fs::read(snapshot.join(name)).unwrap_or_default();
        bytes.windows(value.len()).any(|window| window == value.as_bytes())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_process_is_killed_a_new_start_answers_lookups_at_once_while_everything_is_down() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", "value-1");
    let mut driver = node.drive().await;
    let volume = with_socket(&node, "web-0", &["a"]);
    node.publish(&volume).await.unwrap();
    let socket = door(&node.kubelet, &volume).join("keyward.sock");
    let value = |round: usize| format!("value-{round}");
    until("the snapshot has the value", || is_kept(&node, &value(1))).await;
    for (round, kill_broker) in [true, false].into_iter().enumerate() {
        everything_is_down(&node);
        let pid = if kill_broker { driver.broker().unwrap() } else { driver.mounter() };
        driver.kill(pid).await;
        assert_eq!(
            node.read(&volume, "a").unwrap(),
            value(round + 1).into_bytes(),
            "files outlive the driver"
        );
        driver = node.drive().await;
        let (at, expected) = (socket.clone(), value(round + 1).into_bytes());
        // By itself, through the mount that the pod has had all the time.
        as_user(1000, 1000, move || async move {
            let client = Client::connect(at).await.unwrap();
            let secret = client.get("a").await.unwrap();
            assert_eq!((&secret.value[..], secret.stale), (&expected[..], true));
            let mut watch = client.watch(&[]).await;
            assert_eq!(&watch.value().await.unwrap().value[..], &expected[..]);
        })
        .await;
        // Kubelet calls, with nothing to prove anything by, and is answered.
        node.kubelet
            .publish(&volume, &Context { tokens_in_secrets: true, ..Context::default() })
            .await
            .unwrap();
        node.emulator.faults().clear_all();
        let next = value(round + 2);
        node.vault().rotate_secret("a", &next);
        assert_ne!(
            node.read(&volume, "a").unwrap(),
            next.as_bytes(),
            "nothing is delivered before the pod proves itself"
        );
        node.publish(&volume).await.unwrap();
        node.until_file(&volume, "a", next.as_bytes()).await;
        let client = Client::connect(socket.clone()).await.unwrap();
        let end = tokio::time::Instant::now() + keyward_test_support::node::PATIENCE;
        while client.get("a").await.unwrap().stale {
            assert!(tokio::time::Instant::now() < end, "still stale");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        until("the snapshot follows", || is_kept(&node, &next)).await;
    }
    assert_eq!(node.kubelet.mounts().len(), 1);
    node.kubelet.unpublish(&volume).await.unwrap();
    assert!(node.kubelet.mounts().is_empty() && records(&node.kubelet).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_killed_in_the_middle_of_a_publish_leaves_nothing_and_never_says_that_it_was_published() {
    let Some(node) = Node::start(BINARY).await else { return };
    for kill_broker in [true, false] {
        let name = if kill_broker { "a" } else { "b" };
        node.vault().set_secret(name, "1");
        let mut driver = node.drive().await;
        let volume = node.volume(&format!("web-{name}"), &[name]);
        let hang = node.emulator.faults().set(Fault::on("secrets.get", Effect::Hang));
        let before = node.emulator.counters().requests("secrets.get");
        let publish = node.publish(&volume);
        let kill = async {
            until("the publish is under way", || node.emulator.counters().requests("secrets.get") > before)
                .await;
            let pid = if kill_broker { driver.broker().unwrap() } else { driver.mounter() };
            driver.kill(pid).await;
            driver
        };
        let (answer, dead) = tokio::join!(publish, kill);
        assert!(answer.is_err(), "nothing was published");
        drop(dead);
        assert!(node.kubelet.mounts().is_empty());
        let mut driver = node.drive().await;
        assert!(records(&node.kubelet).is_empty());
        node.emulator.faults().clear(hang);
        publish_until_ok(&node, &volume).await;
        assert_eq!(node.read(&volume, name).unwrap(), b"1");
        node.kubelet.unpublish(&volume).await.unwrap();
        driver.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_of_the_node_what_is_remembered_is_swept() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", "1");
    let mut driver = node.drive().await;
    let gone: Vec<_> = (0..3).map(|n| node.volume(&format!("gone-{n}"), &["a"])).collect();
    for volume in &gone {
        node.publish(volume).await.unwrap();
    }
    assert_eq!(records(&node.kubelet).len(), 3);
    driver.stop().await;
    // No tmpfs outlives a reboot, and the disk does.
    for volume in &gone {
        unmount(node.kubelet.target(volume), UnmountFlags::DETACH).unwrap();
    }
    while unmount(node.kubelet.dir().join("state/snapshot"), UnmountFlags::DETACH).is_ok() {}
    std::fs::write(node.kubelet.dir().join("state/volumes/.new-csi-half"), "{").unwrap();
    std::fs::write(node.kubelet.dir().join("state/volumes/csi-nonsense"), "{").unwrap();
    let driver = node.drive().await;
    assert!(records(&node.kubelet).is_empty(), "{:?}", records(&node.kubelet));
    // Kubelet mounts a pod's volume again, and tears down that of a pod that is gone.
    publish_until_ok(&node, &gone[0]).await;
    assert_eq!(node.read(&gone[0], "a").unwrap(), b"1");
    for volume in &gone {
        node.kubelet.unpublish(volume).await.unwrap();
    }
    assert!(node.kubelet.mounts().is_empty());
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_that_was_left_half_written_is_swept_at_the_next_start() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", "1");
    let mut driver = node.drive().await;
    let volume = node.volume("web-0", &["a"]);
    node.publish(&volume).await.unwrap();
    driver.kill(driver.mounter()).await;
    let committed = generation(&node.kubelet, &volume).unwrap();
    let view = Writable::view(&node.kubelet, &volume);
    std::fs::create_dir(view.path("..kw_2000000000_half")).unwrap();
    std::fs::write(view.path("..kw_2000000000_half").join("a"), "half").unwrap();
    std::os::unix::fs::symlink("..kw_2000000000_half", view.path("..data_tmp")).unwrap();
    drop(view);
    let driver = node.drive().await;
    let target = node.kubelet.target(&volume);
    until("the sweep", || {
        listing(&target) == ["..data".to_owned(), committed.to_str().unwrap().to_owned(), "a".to_owned()]
    })
    .await;
    assert_eq!(node.read(&volume, "a").unwrap(), b"1");
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_under_ten_volumes_is_seen_by_none_of_them() {
    let Some(node) = Node::start(BINARY).await else { return };
    for n in 0..10 {
        node.vault().set_secret(&format!("s{n}"), "1");
    }
    let mut driver = node.drive().await;
    let volumes: Vec<_> = (0..10)
        .map(|n| node.volume(&format!("web-{n}"), &[&format!("s{n}"), "s0"][..if n == 0 { 1 } else { 2 }]))
        .collect();
    for answer in futures::future::join_all(volumes.iter().map(|volume| node.publish(volume))).await {
        answer.unwrap();
    }
    let before: Vec<_> = volumes.iter().map(|volume| generation(&node.kubelet, volume)).collect();
    assert!(driver.stop().await.success());
    let driver = node.drive().await;
    let after: Vec<_> = volumes.iter().map(|volume| generation(&node.kubelet, volume)).collect();
    assert_eq!(after, before, "no file was written anew");
    node.vault().rotate_secret("s0", "2");
    for answer in futures::future::join_all(volumes.iter().map(|volume| node.publish(volume))).await {
        answer.unwrap();
    }
    for volume in &volumes {
        node.until_file(volume, "s0", b"2").await;
    }
    assert_eq!(names(&node.kubelet, &volumes[3]), ["s0", "s3"]);
    assert_eq!(node.kubelet.mounts().len(), 10);
    for volume in &volumes {
        node.kubelet.unpublish(volume).await.unwrap();
    }
    assert!(node.kubelet.mounts().is_empty() && records(&node.kubelet).is_empty());
    drop(driver);
}

/// The names of what is kept of volumes.
fn kept(node: &Node) -> Vec<String> {
    listing(&node.kubelet.dir().join("state/snapshot"))
}

/// The vault answers 503, and Entra as ever.
fn vault_is_away(node: &Node) {
    node.emulator.faults().set(Fault::on("secrets.*", status(503)));
}

/// Waits until the vault was asked `more` times in vain.
async fn asked_in_vain(node: &Node, more: u64) {
    let asked = || node.emulator.counters().with_status("secrets.get", 503);
    let target = asked() + more;
    until("the vault was asked in vain", || asked() >= target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_versions_in_a_moment_then_killed_and_the_vault_away_files_and_api_stay_at_the_second() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", "value-0");
    let mut driver = node.drive().await;
    // Under two names, since one name is refreshed once in a while only.
    let objects = json!([secret("a"), {"from": secret("a"), "name": "again", "file": null}]).to_string();
    let volume = node.volume_of(&node.pod("web-0"), &objects, &[("grpc", "true")]);
    // One that has only files, of the same identity, and its proof is not renewed.
    let files = node.volume("web-1", &["a"]);
    node.publish(&volume).await.unwrap();
    node.publish(&files).await.unwrap();
    let socket = door(&node.kubelet, &volume).join("keyward.sock");
    for (round, kill_broker) in [true, false, true].into_iter().enumerate() {
        let client = Client::connect(socket.clone()).await.unwrap();
        let (first, second) = (format!("first-{round}"), format!("second-{round}"));
        for (name, value) in [("a", &first), ("again", &second)] {
            node.vault().rotate_secret("a", value);
            client.refresh(name).await.unwrap();
            node.until_file(&volume, "a", value.as_bytes()).await;
        }
        // The moment that it is on disk.
        let pid = if kill_broker { driver.broker().unwrap() } else { driver.mounter() };
        driver.kill(pid).await;
        let others = node.read(&files, "a").unwrap();
        vault_is_away(&node);
        driver = node.drive().await;
        for published in [false, true, true] {
            if published {
                node.publish(&volume).await.unwrap();
                node.publish(&files).await.unwrap();
                // Without a token nobody asks.
                asked_in_vain(&node, 2).await;
            }
            assert_eq!(node.read(&volume, "a").unwrap(), second.as_bytes(), "files, published: {published}");
            let secret = Client::connect(socket.clone()).await.unwrap().get("a").await.unwrap();
            assert_eq!((&secret.value[..], secret.stale), (second.as_bytes(), true));
            // The other pod has what it had, too.
            assert_eq!(node.read(&files, "a").unwrap(), others);
        }
        // A pod that proves itself now is given the newest that is remembered.
        let late = node.volume(&format!("late-{round}"), &["a"]);
        node.publish(&late).await.unwrap();
        assert_eq!(node.read(&late, "a").unwrap(), second.as_bytes());
        node.kubelet.unpublish(&late).await.unwrap();
        node.emulator.faults().clear_all();
        node.until_file(&files, "a", second.as_bytes()).await;
        // What the vault names current now is delivered, also when it is old.
        node.vault().rotate_secret("a", &first);
        node.until_file(&volume, "a", first.as_bytes()).await;
        node.until_file(&files, "a", first.as_bytes()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_volume_has_a_snapshot_of_its_own_that_goes_with_it_and_leftovers_go_at_the_next_start() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", "1");
    let mut driver = node.drive().await;
    let volumes = [node.volume("web-0", &["a"]), node.volume("web-1", &["a"])];
    for volume in &volumes {
        node.publish(volume).await.unwrap();
    }
    let mut ids: Vec<_> = volumes.iter().map(PodVolume::id).collect();
    ids.sort();
    assert_eq!(kept(&node), ids, "kept before the publish was answered");
    node.kubelet.unpublish(&volumes[0]).await.unwrap();
    assert_eq!(kept(&node), [volumes[1].id()]);
    assert!(node.publish(&node.volume("web-2", &["nowhere"])).await.is_err());
    assert_eq!(kept(&node), [volumes[1].id()], "what was not published is not kept");
    driver.stop().await;
    let snapshot = node.kubelet.dir().join("state/snapshot");
    for name in ["csi-of-nobody", "csi-of-nobody.next"] {
        std::fs::write(snapshot.join(name), "x").unwrap();
    }
    unmount(node.kubelet.target(&volumes[1]), UnmountFlags::DETACH).unwrap();
    let _driver = node.drive().await;
    assert_eq!(kept(&node), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_release_kept_for_all_volumes_in_one_file_is_gone_on_with() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", "1");
    let mut driver = node.drive().await;
    let volume = with_socket(&node, "web-0", &["a"]);
    node.publish(&volume).await.unwrap();
    driver.stop().await;
    let snapshot = node.kubelet.dir().join("state/snapshot");
    let own = snapshot.join(volume.id());
    let mut old = std::fs::read(&own).unwrap();
    old.truncate(old.len() - 32);
    old[7] = 1;
    let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &old);
    old.extend_from_slice(sum.as_ref());
    std::fs::write(snapshot.join("snapshot"), old).unwrap();
    std::fs::remove_file(own).unwrap();
    everything_is_down(&node);
    let _driver = node.drive().await;
    let client = Client::connect(door(&node.kubelet, &volume).join("keyward.sock")).await.unwrap();
    let secret = client.get("a").await.unwrap();
    assert_eq!((&secret.value[..], secret.stale), (&b"1"[..], true));
    until("it has a snapshot of its own", || kept(&node).contains(&volume.id())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_has_no_room_is_told_of_while_the_files_go_on_and_is_kept_again_when_it_has() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", "1");
    let mut driver = node.drive().await;
    let volume = with_socket(&node, "web-0", &["a"]);
    node.publish(&volume).await.unwrap();
    assert_eq!(kept(&node), [volume.id()]);
    // As much as it holds now: the old snapshot and a new one are there together.
    let snapshot = node.kubelet.dir().join("state/snapshot");
    mount_remount(&snapshot, MountFlags::empty(), c"size=4096").unwrap();
    node.vault().rotate_secret("a", "2");
    node.until_file(&volume, "a", b"2").await;
    until("its pod is told", || {
        let events = node.api.objects(EVENTS);
        let of_pod = |event: &&serde_json::Value| event["regarding"]["uid"] == volume.pod.uid;
        events.iter().filter(of_pod).any(|event| event.to_string().contains("keep the snapshot"))
    })
    .await;
    assert_eq!(kept(&node), [""; 0], "nothing older stays in its place");
    // A restart has nothing for the API, and the files are what they were.
    driver.kill(driver.broker().unwrap()).await;
    vault_is_away(&node);
    let _driver = node.drive().await;
    node.publish(&volume).await.unwrap();
    asked_in_vain(&node, 2).await;
    assert_eq!(node.read(&volume, "a").unwrap(), b"2");
    let client = Client::connect(door(&node.kubelet, &volume).join("keyward.sock")).await.unwrap();
    let refused = client.get("a").await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
    node.emulator.faults().clear_all();
    until("it is kept again", || is_kept(&node, "2")).await;
    assert_eq!(node.read(&volume, "a").unwrap(), b"2");
}
