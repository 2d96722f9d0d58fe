use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use keyward_proto::csi::v1::NodeGetInfoRequest;
use keyward_proto::csi::v1::node_client::NodeClient;
use keyward_proto::registration::registration_client::RegistrationClient;
use keyward_proto::registration::{InfoRequest, RegistrationStatus};
use tokio::time::{Instant, sleep, timeout};
use tonic::Request;

use super::Kubelet;

/// A driver that was registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Its name.
    pub name: String,
    /// Its CSI socket.
    pub endpoint: PathBuf,
    /// The node's id, as the driver says it.
    pub node_id: String,
    /// Which socket it was found on: another inode is another registration.
    socket: (u64, Option<SystemTime>),
}

impl Kubelet {
    /// Looks into the registry until a driver of this name is there that was not registered from this very socket
    /// before, and registers it: GetInfo within a second, then NodeGetInfo on the endpoint, then the verdict.
    ///
    /// `None` when none comes within `patience`.
    ///
    /// # Panics
    /// When the driver breaks the protocol.
    pub async fn register(&self, driver: &str, patience: Duration) -> Option<Registered> {
        let end = Instant::now() + patience;
        loop {
            if let Some(registered) = self.look(driver).await {
                self.registered.lock().push(registered.clone());
                return Some(registered);
            }
            if Instant::now() >= end {
                return None;
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    async fn look(&self, driver: &str) -> Option<Registered> {
        for entry in std::fs::read_dir(self.dir().join("plugins_registry")).ok()? {
            let path = entry.ok()?.path();
            let hidden = path.file_name()?.to_string_lossy().starts_with('.');
            let metadata = std::fs::symlink_metadata(&path).ok()?;
            let socket = {
                use std::os::unix::fs::{FileTypeExt, MetadataExt};
                metadata.file_type().is_socket().then(|| (metadata.ino(), metadata.created().ok()))
            };
            let Some(socket) = socket.filter(|_| !hidden) else { continue };
            if self.registered.lock().iter().any(|known| known.socket == socket) {
                continue;
            }
            let Ok(channel) = Self::channel(&path).await else { continue };
            let mut client = RegistrationClient::new(channel);
            let info = timeout(Duration::from_secs(1), client.get_info(InfoRequest {})).await;
            let Ok(Ok(info)) = info.map(|info| info.map(tonic::Response::into_inner)) else { continue };
            if info.name != driver {
                continue;
            }
            assert_eq!(info.r#type, "CSIPlugin");
            assert!(info.supported_versions.iter().all(|version| version.starts_with("1.")), "{info:?}");
            let endpoint = PathBuf::from(&info.endpoint);
            let mut request = Request::new(NodeGetInfoRequest {});
            request.set_timeout(super::CALL);
            let node = NodeClient::new(
                Self::channel(&endpoint).await.expect("the CSI socket listens before registration"),
            )
            .node_get_info(request)
            .await
            .expect("NodeGetInfo")
            .into_inner();
            assert!(!node.node_id.is_empty());
            let verdict = RegistrationStatus { plugin_registered: true, error: String::new() };
            client.notify_registration_status(verdict).await.expect("NotifyRegistrationStatus");
            return Some(Registered { name: info.name, endpoint, node_id: node.node_id, socket });
        }
        None
    }
}
