//! The label and the annotations: their names, and the few that are read before anything else.

use keyward_core::config::injector::Via;

use super::pod::Pod;

/// The label, or annotation, that opts in.
pub const INJECT: &str = "keyward.dev/inject";
/// Where the decision is written.
pub const STATUS: &str = "keyward.dev/status";

pub(super) const PREFIX: &str = "keyward.dev/";
pub(super) const SECRET: &str = "keyward.dev/secret-";
pub(super) const FILE: &str = "keyward.dev/file-";
pub(super) const MODE: &str = "keyward.dev/mode-";
pub(super) const NOTIFY: &str = "keyward.dev/notify-";
pub(super) const OBJECTS: &str = "keyward.dev/objects";
pub(super) const VIA: &str = "keyward.dev/via";
pub(super) const MOUNT_PATH: &str = "keyward.dev/mount-path";
pub(super) const CONTAINERS: &str = "keyward.dev/containers";
pub(super) const CLIENT_ID: &str = "keyward.dev/client-id";
pub(super) const TENANT_ID: &str = "keyward.dev/tenant-id";
pub(super) const IDENTITY: &str = "keyward.dev/identity";
pub(super) const CONFIG: &str = "keyward.dev/config";
pub(super) const ADMIN_LISTEN: &str = "keyward.dev/admin-listen";
pub(super) const POSITION: &str = "keyward.dev/position";
pub(super) const REQUESTS_CPU: &str = "keyward.dev/requests-cpu";
pub(super) const REQUESTS_MEMORY: &str = "keyward.dev/requests-memory";
pub(super) const LIMITS_CPU: &str = "keyward.dev/limits-cpu";
pub(super) const LIMITS_MEMORY: &str = "keyward.dev/limits-memory";

/// Every annotation; one that ends in a dash takes a name of the author's behind it.
pub const KNOWN: &[&str] = &[
    INJECT,
    STATUS,
    SECRET,
    FILE,
    MODE,
    NOTIFY,
    OBJECTS,
    VIA,
    MOUNT_PATH,
    CONTAINERS,
    CLIENT_ID,
    TENANT_ID,
    IDENTITY,
    CONFIG,
    ADMIN_LISTEN,
    POSITION,
    REQUESTS_CPU,
    REQUESTS_MEMORY,
    LIMITS_CPU,
    LIMITS_MEMORY,
];

/// Annotations that say something about a container of ours, of which a CSI volume has none.
pub(super) const SIDECAR_ONLY: &[&str] =
    &[IDENTITY, CONFIG, ADMIN_LISTEN, POSITION, REQUESTS_CPU, REQUESTS_MEMORY, LIMITS_CPU, LIMITS_MEMORY];

/// The most that all annotations of an object may hold, keys and values, bytes (kubernetes.io, "Annotations":
/// TotalAnnotationSizeLimitB). The API server looks at this only after us.
pub(super) const LARGEST: usize = 256 * 1024;

/// Whether the pod asks: by the label, or where it has no such label by the annotation.
pub(super) fn opted_in(pod: Pod<'_>) -> bool {
    match pod.label(INJECT) {
        Some(value) => value == "true",
        None => pod.annotation(INJECT) == Some("true"),
    }
}

/// Why an opted-in pod is left alone.
pub(super) fn skipped(pod: Pod<'_>) -> Option<String> {
    if pod.annotation(INJECT).is_some_and(|value| value != "true") {
        return Some(format!("the annotation {INJECT} is not \"true\""));
    }
    if pod.annotation("kubernetes.io/config.mirror").is_some() {
        return Some("a static pod of a node cannot be changed".to_owned());
    }
    None
}

/// How the pod wants its secrets, if it says so in a word that we know.
pub(super) fn via(pod: Pod<'_>) -> Option<Via> {
    VIAS.iter().find(|(word, _)| pod.annotation(VIA) == Some(word)).map(|(_, via)| *via)
}

pub(super) const VIAS: &[(&str, Via)] = &[("sidecar", Via::Sidecar), ("init", Via::Init), ("csi", Via::Csi)];

/// Whether we have been here before.
pub(super) fn was_injected(pod: Pod<'_>) -> bool {
    pod.annotation(STATUS).is_some_and(|status| status.starts_with("injected: "))
}
