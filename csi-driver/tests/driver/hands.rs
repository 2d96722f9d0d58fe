//! What several of these tests do by hand.

use std::path::{Path, PathBuf};
use std::time::Duration;

use keyward_emulator::{Effect, Fault};
use keyward_test_support::fake_api::EVENTS;
use keyward_test_support::kubelet::{Kubelet, PodVolume};
use keyward_test_support::node::{Node, PATIENCE, VAULT};
use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tonic::Status;

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    until_else(condition, || format!("never: {what}")).await;
}

/// The same, with something to say otherwise that is only known then.
pub(crate) async fn until_else(condition: impl Fn() -> bool, say: impl Fn() -> String) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{}", say());
        sleep(Duration::from_millis(5)).await;
    }
}

/// Publishes again and again, as kubelet does, until it succeeds.
pub(crate) async fn publish_until_ok(node: &Node, volume: &PodVolume) {
    let end = Instant::now() + PATIENCE;
    while let Err(status) = node.publish(volume).await {
        assert!(Instant::now() < end, "never published: {status:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Publishes once, as a kubelet of less patience.
pub(crate) async fn publish_within(
    node: &Node,
    volume: &PodVolume,
    patience: Duration,
) -> Result<(), Status> {
    let directory = node.kubelet.target(volume);
    std::fs::create_dir_all(directory.parent().unwrap()).unwrap();
    let mut request = tonic::Request::new(node.kubelet.request(volume, &node.context(&volume.pod)));
    request.set_timeout(patience);
    node.kubelet.node(&volume.driver).await?.node_publish_volume(request).await.map(drop)
}

/// The vault and Entra answer every request with 503.
pub(crate) fn everything_is_down(node: &Node) {
    node.emulator.faults().set(Fault::on("*", status(503)));
}

pub(crate) fn status(status: u16) -> Effect {
    Effect::Status { status, retry_after: None }
}

/// Whether an answer has this code and names this reason.
#[track_caller]
pub(crate) fn assert_refused(answer: Result<(), Status>, code: tonic::Code, reason: &str) -> String {
    let status = answer.expect_err("this cannot be published");
    assert_eq!(status.code(), code, "{}", status.message());
    assert!(status.message().contains(reason), "{reason} is not in: {}", status.message());
    assert!(status.details().is_empty(), "the specification demands that details are empty");
    status.message().to_owned()
}

/// What an identifier of the vault looks like.
pub(crate) fn secret(name: &str) -> String {
    format!("https://{VAULT}/secrets/{name}")
}

/// The names that a reader of the volume sees.
pub(crate) fn names(kubelet: &Kubelet, volume: &PodVolume) -> Vec<String> {
    listing(&kubelet.target(volume)).into_iter().filter(|name| !name.starts_with("..")).collect()
}

/// All names in a directory, sorted.
pub(crate) fn listing(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<_> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Where `..data` leads.
pub(crate) fn generation(kubelet: &Kubelet, volume: &PodVolume) -> Option<PathBuf> {
    std::fs::read_link(kubelet.target(volume).join("..data")).ok()
}

/// The volume by a path that is short enough for sockets, as a container's own mount is.
pub(crate) fn door(kubelet: &Kubelet, volume: &PodVolume) -> PathBuf {
    let door = kubelet.dir().join(format!("door-{}", volume.pod.name));
    if std::fs::symlink_metadata(&door).is_err() {
        std::os::unix::fs::symlink(kubelet.target(volume), &door).unwrap();
    }
    door
}

/// The records of volumes that the driver has written down.
pub(crate) fn records(kubelet: &Kubelet) -> Vec<String> {
    listing(&kubelet.dir().join("state/volumes"))
}

/// Notes of the events of one reason about one pod.
pub(crate) fn notes(node: &Node, volume: &PodVolume, reason: &str) -> Vec<String> {
    let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    node.api
        .objects(EVENTS)
        .iter()
        .filter(|event| event["regarding"]["uid"] == volume.pod.uid && event["reason"] == reason)
        .map(|event| text(event, "note"))
        .collect()
}

/// A writable view of a mounted volume, as a process with the node's root could make it.
pub(crate) struct Writable {
    at: TempDir,
}

impl Writable {
    pub(crate) fn view(kubelet: &Kubelet, volume: &PodVolume) -> Self {
        let at = tempfile::tempdir().unwrap();
        mount_bind(kubelet.target(volume), at.path()).unwrap();
        mount_remount(at.path(), MountFlags::BIND, "").unwrap();
        Self { at }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.at.path().join(name)
    }
}

impl Drop for Writable {
    fn drop(&mut self) {
        let _ = unmount(self.at.path(), UnmountFlags::DETACH);
    }
}
