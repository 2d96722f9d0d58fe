use keyward_core::spec::ObjectSpec;
use keyward_core::{Code, Error, Result};
use serde_json::{Value, json};

use crate::admission::containers::OURS;
use crate::admission::pod::{Pod, is_helper, name};
use crate::admission::wish::Wish;

/// Whom the sidecar runs as when the pod does not say; the image's own user.
const NOBODY: u64 = 65532;

/// As whom the sidecar runs, and to whom its files belong.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u64,
    pub(super) gid: u64,
    /// Whether the uid is the one that the application states.
    pub(super) of_application: bool,
    pub(super) fs_group: Option<u64>,
    supplemental: Vec<u64>,
}

impl User {
    /// The application's user where it states one: its files are then its own, and kubelet's mode of the token files, which
    /// depends on whether all containers name one user, does not change. Root is never copied.
    pub(super) fn of(pod: Pod<'_>, wish: &Wish) -> Self {
        let uid = stated(pod, wish, "runAsUser").filter(|uid| *uid != 0);
        let gid = stated(pod, wish, "runAsGroup").filter(|gid| *gid != 0);
        let supplemental = pod.list("/spec/securityContext/supplementalGroups");
        Self {
            uid: uid.unwrap_or(NOBODY),
            gid: gid.unwrap_or(NOBODY),
            of_application: uid.is_some(),
            fs_group: pod.id("/spec/securityContext/fsGroup"),
            supplemental: supplemental.iter().filter_map(Value::as_u64).collect(),
        }
    }

    /// Files can only be given to whom the sidecar itself is.
    pub(super) fn check(&self, objects: &[ObjectSpec]) -> Result<()> {
        for object in objects {
            if let Some(uid) = object.uid.filter(|uid| u64::from(*uid) != self.uid) {
                return Err(Error::new(
                    Code::ObjectInvalid,
                    format!(
                        "{}: uid {uid} cannot be given to a file by a sidecar that runs as {}; state runAsUser: {uid} \
                         for the pod, or use keyward.dev/via: csi",
                        object.name, self.uid
                    ),
                ));
            }
            let mine =
                |gid: u64| gid == self.gid || self.fs_group == Some(gid) || self.supplemental.contains(&gid);
            if let Some(gid) = object.gid.filter(|gid| !mine(u64::from(*gid))) {
                return Err(Error::new(
                    Code::ObjectInvalid,
                    format!(
                        "{}: gid {gid} is no group of the sidecar; state fsGroup: {gid} for the pod, or use \
                         keyward.dev/via: csi",
                        object.name
                    ),
                ));
            }
        }
        Ok(())
    }

    /// What the profile `restricted` of the Pod Security Standards demands.
    pub(super) fn security_context(&self) -> Value {
        json!({
            "runAsNonRoot": true,
            "runAsUser": self.uid,
            "runAsGroup": self.gid,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        })
    }
}

/// What all containers that get the files state alike, each for itself or by the pod.
fn stated(pod: Pod<'_>, wish: &Wish, key: &str) -> Option<u64> {
    let by_pod = pod.id(&format!("/spec/securityContext/{key}"));
    let wanted = |container: &&Value| {
        !OURS.contains(&name(container))
            && if wish.containers.is_empty() {
                !is_helper(container)
            } else {
                wish.containers.iter().any(|wanted| wanted == name(container))
            }
    };
    let own =
        |container: &Value| container.pointer(&format!("/securityContext/{key}")).and_then(Value::as_u64);
    let all =
        pod.containers().iter().chain(pod.init_containers().iter().filter(|_| !wish.containers.is_empty()));
    let mut ids = all.filter(wanted).map(|container| own(container).or(by_pod));
    let first = ids.next().unwrap_or(by_pod)?;
    ids.all(|id| id == Some(first)).then_some(first)
}
