use std::collections::HashMap;
use std::path::PathBuf;

use keyward_proto::csi::v1::volume_capability::{AccessMode, AccessType, MountVolume, access_mode};
use keyward_proto::csi::v1::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability};
use sha2::{Digest, Sha256};
use tonic::{Code, Request, Status};

use super::{CALL, Kubelet};

/// A pod on the node.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its service account.
    pub service_account: String,
    /// Its fsGroup.
    pub group: Option<u32>,
}

/// An inline volume of a pod.
#[derive(Debug, Clone)]
pub struct PodVolume {
    /// Whose.
    pub pod: Pod,
    /// Its name in the pod.
    pub name: String,
    /// Which driver it names.
    pub driver: String,
    /// `csi.readOnly`.
    pub read_only: bool,
    /// `volumeAttributes`.
    pub attributes: HashMap<String, String>,
    /// What `nodePublishSecretRef` holds.
    pub secrets: HashMap<String, String>,
}

/// What kubelet adds to a publish.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// Tokens by audience.
    pub tokens: Vec<(String, String)>,
    /// `serviceAccountTokenInSecrets` of the CSIDriver object.
    pub tokens_in_secrets: bool,
    /// Changes what is sent, for kubelets that do not exist.
    pub overrides: HashMap<String, String>,
    /// `podInfoOnMount: false`.
    pub without_pod_info: bool,
}

impl Pod {
    /// A pod with a UID that is made of its name.
    #[must_use]
    pub fn new(namespace: &str, name: &str, service_account: &str) -> Self {
        let hash = hex::encode(Sha256::digest(format!("{namespace}/{name}")));
        let uid =
            format!("{}-{}-{}-{}-{}", &hash[..8], &hash[8..12], &hash[12..16], &hash[16..20], &hash[20..32]);
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid,
            service_account: service_account.to_owned(),
            group: None,
        }
    }

    /// A read-only volume of this pod.
    #[must_use]
    pub fn volume(&self, driver: &str, attributes: &[(&str, &str)]) -> PodVolume {
        PodVolume {
            pod: self.clone(),
            name: "secrets".to_owned(),
            driver: driver.to_owned(),
            read_only: true,
            attributes: attributes
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            secrets: HashMap::new(),
        }
    }
}

impl PodVolume {
    /// `makeVolumeHandle` of csi_mounter.go.
    #[must_use]
    pub fn id(&self) -> String {
        format!("csi-{}", hex::encode(Sha256::digest(format!("{}{}", self.pod.uid, self.name))))
    }
}

impl Kubelet {
    /// Where the volume's files are.
    #[must_use]
    pub fn target(&self, volume: &PodVolume) -> PathBuf {
        self.directory(volume).join("mount")
    }

    fn directory(&self, volume: &PodVolume) -> PathBuf {
        self.dir().join("pods").join(&volume.pod.uid).join("volumes/kubernetes.io~csi").join(&volume.name)
    }

    /// The request that kubelet would make.
    #[must_use]
    pub fn request(&self, volume: &PodVolume, context: &Context) -> NodePublishVolumeRequest {
        let pod = &volume.pod;
        let mut volume_context = volume.attributes.clone();
        if !context.without_pod_info {
            for (key, value) in [
                ("pod.name", pod.name.as_str()),
                ("pod.namespace", &pod.namespace),
                ("pod.uid", &pod.uid),
                ("serviceAccount.name", &pod.service_account),
                ("ephemeral", "true"),
            ] {
                volume_context.insert(format!("csi.storage.k8s.io/{key}"), value.to_owned());
            }
        }
        let mut secrets = volume.secrets.clone();
        if !context.tokens.is_empty() {
            let tokens: serde_json::Map<_, _> = context
                .tokens
                .iter()
                .map(|(audience, token)| {
                    (
                        audience.clone(),
                        serde_json::json!({"token": token, "expirationTimestamp": "2099-01-01T00:00:00Z"}),
                    )
                })
                .collect();
            let text = serde_json::Value::Object(tokens).to_string();
            let to = if context.tokens_in_secrets { &mut secrets } else { &mut volume_context };
            to.insert("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), text);
        }
        volume_context.extend(context.overrides.clone());
        let mount = MountVolume {
            volume_mount_group: pod.group.map(|group| group.to_string()).unwrap_or_default(),
            ..MountVolume::default()
        };
        NodePublishVolumeRequest {
            volume_id: volume.id(),
            target_path: self.target(volume).display().to_string(),
            volume_capability: Some(VolumeCapability {
                access_type: Some(AccessType::Mount(mount)),
                access_mode: Some(AccessMode { mode: access_mode::Mode::SingleNodeWriter.into() }),
            }),
            readonly: volume.read_only,
            secrets,
            volume_context,
            ..NodePublishVolumeRequest::default()
        }
    }

    /// Makes the volume's directory with kubelet's record of it, as before each publish, and returns the directory.
    pub fn prepare(&self, volume: &PodVolume) -> PathBuf {
        let directory = self.directory(volume);
        std::fs::create_dir_all(&directory).expect("a directory");
        let data = serde_json::json!({
            "driverName": volume.driver,
            "specVolID": volume.name,
            "volumeHandle": volume.id(),
            "volumeLifecycleMode": "Ephemeral",
        });
        std::fs::write(directory.join("vol_data.json"), data.to_string()).expect("vol_data.json");
        directory
    }

    /// SetUpAt: makes the volume's directory, publishes, and after a final error removes what is not mounted.
    ///
    /// # Errors
    /// What the driver answers.
    pub async fn publish(&self, volume: &PodVolume, context: &Context) -> Result<(), Status> {
        let directory = self.prepare(volume);
        let mut request = Request::new(self.request(volume, context));
        request.set_timeout(CALL);
        let answer = match self.node(&volume.driver).await {
            Ok(mut node) => node.node_publish_volume(request).await.map(drop),
            Err(status) => Err(status),
        };
        if let Err(status) = &answer
            && is_final(status.code())
            && !self.mounts().contains(&self.target(volume))
        {
            // removeMountDir of csi_mounter.go: a driver that left something inside keeps it from being removed.
            let _ = std::fs::remove_dir(self.target(volume));
            let _ = std::fs::remove_file(directory.join("vol_data.json"));
        }
        answer
    }

    /// TearDownAt: unpublishes and removes the volume's directory.
    ///
    /// # Errors
    /// What the driver answers; `INTERNAL` when it left the target.
    pub async fn unpublish(&self, volume: &PodVolume) -> Result<(), Status> {
        let target = self.target(volume);
        let mut request = Request::new(NodeUnpublishVolumeRequest {
            volume_id: volume.id(),
            target_path: target.display().to_string(),
        });
        request.set_timeout(CALL);
        self.node(&volume.driver).await?.node_unpublish_volume(request).await?;
        if target.exists() {
            return Err(Status::internal("the target is still there"));
        }
        std::fs::remove_dir_all(self.dir().join("pods").join(&volume.pod.uid))
            .map_err(|error| Status::internal(error.to_string()))
    }
}

/// `isFinalError` of csi_client.go: after any other kubelet keeps the volume as uncertain.
#[must_use]
pub(crate) fn is_final(code: Code) -> bool {
    !matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Unavailable
            | Code::ResourceExhausted
            | Code::Aborted
    )
}
