//! What cannot work is refused before the pod exists.

use keyward_core::config::injector::{Injection, Via};
use keyward_core::{Code, Error, Result};

use super::annotations::{CONFIG, LARGEST, MOUNT_PATH, was_injected};
use super::containers::OURS;
use super::csi::VOLUME;
use super::pod::{Pod, name};
use super::sidecar::{FILES, PRIVATE_PATHS, VOLUMES};
use super::wish::Wish;
use crate::text::cut;

/// Longest name in a warning, bytes.
const LONGEST_NAME: usize = 40;
/// Most warnings: no answer carries more.
const MOST_WARNINGS: usize = 16;

fn unsupported(message: impl Into<String>) -> Error {
    Error::new(Code::PodUnsupported, message.into())
}

/// What Kubernetes itself would refuse later, and what would cost much to read before.
///
/// # Errors
/// `KW_ANNOTATION_INVALID` with the limit.
pub(super) fn annotations(pod: Pod<'_>) -> Result<()> {
    let sizes = pod.annotations().map(|(key, value)| key.len().saturating_add(value.len()));
    if sizes.fold(0, usize::saturating_add) <= LARGEST {
        return Ok(());
    }
    Err(Error::new(
        Code::AnnotationInvalid,
        format!(
            "the annotations have more than the {LARGEST} bytes that Kubernetes allows: name the objects in a ConfigMap \
             by {CONFIG}"
        ),
    ))
}

/// Whether the pod can be given what it asks for.
///
/// # Errors
/// `KW_POD_UNSUPPORTED` with what to change.
pub(super) fn pod(pod: Pod<'_>, wish: &Wish, injection: &Injection) -> Result<()> {
    windows(pod)?;
    names(pod, wish)?;
    places(pod, wish)?;
    if wish.via != Via::Csi && injection.image.is_empty() {
        return Err(unsupported(
            "the injector has no image for sidecars; set `image`, or use keyward.dev/via: csi",
        ));
    }
    Ok(())
}

fn windows(pod: Pod<'_>) -> Result<()> {
    let selector = pod.0.pointer("/spec/nodeSelector/kubernetes.io~1os").and_then(|os| os.as_str());
    if pod.text("/spec/os/name") == Some("windows") || selector == Some("windows") {
        return Err(unsupported(
            "Windows nodes have neither tmpfs nor our programs: remove the label keyward.dev/inject",
        ));
    }
    Ok(())
}

/// Names that are ours, in a pod that we have not touched yet; in one that we have, each is there once.
fn names(pod: Pod<'_>, wish: &Wish) -> Result<()> {
    for ours in OURS {
        for list in [pod.containers(), pod.init_containers()] {
            if list.iter().filter(|container| name(container) == *ours).nth(1).is_some() {
                return Err(unsupported(format!("the pod has two containers named {ours}: remove one")));
            }
        }
    }
    if was_injected(pod) {
        return Ok(());
    }
    let taken = |kind: &str, name: &str| {
        Err(unsupported(format!("the pod has a {kind} named {name}, which is the name of ours: rename it")))
    };
    for container in pod.containers().iter().chain(pod.init_containers()) {
        if OURS.contains(&name(container)) {
            return taken("container", name(container));
        }
    }
    let ours: &[&str] = if wish.via == Via::Csi { &[VOLUME] } else { VOLUMES };
    match pod.volumes().iter().find(|volume| ours.contains(&name(volume))) {
        Some(volume) => taken("volume", name(volume)),
        None => Ok(()),
    }
}

/// The place of the files must be free in every container.
fn places(pod: Pod<'_>, wish: &Wish) -> Result<()> {
    let path = wish.mount_path.as_str();
    if wish.via != Via::Csi
        && let Some(private) = PRIVATE_PATHS.iter().find(|private| overlaps(private, path))
    {
        return Err(unsupported(format!(
            "{MOUNT_PATH}: {path} overlaps {private}, which is the sidecar's own"
        )));
    }
    for container in pod.containers().iter().chain(pod.init_containers()) {
        let mounts = container.get("volumeMounts").and_then(|mounts| mounts.as_array());
        let ours = |volume: &str| volume == VOLUME || VOLUMES.contains(&volume);
        for mount in mounts.into_iter().flatten().filter(|mount| !ours(name(mount))) {
            let at = mount.get("mountPath").and_then(|at| at.as_str()).unwrap_or_default();
            if at.trim_end_matches('/') == path {
                return Err(unsupported(format!(
                    "container {} already mounts {} at {path}: set {MOUNT_PATH} to another place",
                    name(container),
                    name(mount)
                )));
            }
        }
    }
    Ok(())
}

fn overlaps(one: &str, other: &str) -> bool {
    let below = |outer: &str, inner: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    below(one, other) || below(other, one)
}

/// What works, but not as its author may think.
pub(super) fn warnings(pod: Pod<'_>, wish: &Wish) -> Vec<String> {
    let mut warnings = Vec::new();
    let ours = if wish.via == Via::Csi { VOLUME } else { FILES };
    for container in pod.containers().iter().chain(pod.init_containers()) {
        let mounts = container.get("volumeMounts").and_then(|mounts| mounts.as_array());
        for mount in mounts.into_iter().flatten().filter(|mount| name(mount) == ours) {
            if mount.get("subPath").is_some() || mount.get("subPathExpr").is_some() {
                let name = cut(name(container), LONGEST_NAME);
                warnings.push(format!(
                    "container {name}: a subPath of {ours} never sees a rotation; mount it whole"
                ));
                if warnings.len() == MOST_WARNINGS {
                    return warnings;
                }
            }
        }
    }
    warnings
}
