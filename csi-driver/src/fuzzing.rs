//! What fuzz targets call: how a volume's context is read, without a node around it.

use std::collections::HashMap;
use std::path::Path;

use keyward_core::Result;
use keyward_core::config::node::NodeConfig;
use keyward_proto::csi::v1::volume_capability::{AccessType, MountVolume};
use keyward_proto::csi::v1::{NodePublishVolumeRequest, VolumeCapability};

use crate::plan::{Basis, ClassText, Plan};
use crate::protocol::Place;
use crate::request::{Source, Wanted};
use crate::volume::{Presented, credential};

/// Kubelet's root directory.
const KUBELET: &str = "/var/lib/kubelet";

/// As [`publish`], for a volume of the pod that the context names.
///
/// # Panics
/// As [`publish`]; when a refusal has no words.
pub fn volume_context(
    context: HashMap<String, String>,
    secrets: HashMap<String, String>,
    config: &NodeConfig,
) {
    let uid = context.get("csi.storage.k8s.io/pod.uid").cloned().unwrap_or_default();
    if let Err(error) = publish(context, secrets, &uid, "secrets", config) {
        assert!(!error.message().is_empty());
    }
}

/// Reads a publish with this volume context and these secrets, at the target of the pod `uid` and the volume `name`, and
/// plans it; what begins with `class.` are the parameters of its class.
///
/// # Errors
/// What kubelet would be told.
///
/// # Panics
/// When what is accepted would leave the volume, leave the clouds' vaults, or take another pod's credential.
pub fn publish(
    context: HashMap<String, String>,
    secrets: HashMap<String, String>,
    uid: &str,
    name: &str,
    config: &NodeConfig,
) -> Result<()> {
    // The volume's id follows from the place, which only a usable pair has.
    let place = Place::new(uid, name);
    let volume_id = place.as_ref().map_or_else(|_| name.to_owned(), |place| place.volume_id().to_owned());
    let target = format!("{KUBELET}/pods/{uid}/volumes/kubernetes.io~csi/{name}/mount");
    let parameters = context
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("class.")?.to_owned(), value.clone())))
        .collect();
    let request = NodePublishVolumeRequest {
        volume_id,
        target_path: target,
        volume_capability: Some(VolumeCapability {
            access_type: Some(AccessType::Mount(MountVolume::default())),
            access_mode: None,
        }),
        readonly: true,
        volume_context: context,
        secrets,
        ..NodePublishVolumeRequest::default()
    };
    let wanted = Wanted::read(Path::new(KUBELET), request)?;
    assert!(place.is_ok_and(|place| wanted.place == place) && wanted.pod.uid == uid, "another volume");
    let mut basis = Basis::of(&wanted);
    if let Source::Class(name) = &wanted.source {
        basis.class = Some(ClassText { name: name.clone(), provider: "azure".to_owned(), parameters });
    }
    let plan = Plan::make(&basis, &wanted.pod, config)?;
    for host in plan.hosts() {
        let listed = config.vaults.iter().any(|vault| vault.host == host);
        assert!(listed || plan.cloud.owns(host.name()), "{host} is nobody's vault");
    }
    for in_secrets in [false, true] {
        let Ok(presented) = Presented::of(&wanted, in_secrets) else { continue };
        // Whether the token is genuine only its issuer knows; that it names this pod is ours to know.
        drop(credential(&plan.way, &presented, &wanted.pod));
    }
    Ok(())
}

/// Reads what a client of the registration socket sends, as the HTTP/2 library would be given it.
///
/// # Panics
/// When the size of the pieces in which the bytes come makes a difference.
pub fn registration_call(bytes: &[u8], piece: usize) -> Option<Vec<u8>> {
    crate::registration::filtered(bytes, piece).ok()
}
