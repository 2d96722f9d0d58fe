//! A kubelet, as far as a CSI driver can tell: its directories, its plugin watcher, its calls in its order, and what it
//! does after each kind of error (pkg/volume/csi and pkg/kubelet/pluginmanager of Kubernetes 1.36).

mod pod;
mod watcher;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use keyward_proto::csi::v1::identity_client::IdentityClient;
use keyward_proto::csi::v1::node_client::NodeClient;
use parking_lot::Mutex;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

pub use pod::{Context, Pod, PodVolume};
pub use watcher::Registered;

/// Kubelet's deadline for each call of a driver.
pub const CALL: Duration = Duration::from_secs(120);

/// A kubelet with directories of its own on a shared mount, so that a driver with mount namespaces of its own shows its
/// mounts here, as bidirectional propagation does in a cluster.
pub struct Kubelet {
    root: TempDir,
    registered: Arc<Mutex<Vec<Registered>>>,
}

impl Kubelet {
    /// Makes its directories; `None` for want of the right to mount, which says so, unless `KEYWARD_REQUIRE_ROOT` is
    /// set: then that is an error.
    #[must_use]
    pub fn start() -> Option<Self> {
        let root = tempfile::Builder::new().prefix("kubelet-").tempdir().expect("a directory");
        let mounted = mount("tmpfs", root.path(), "tmpfs", MountFlags::empty(), Some(c"mode=0755,size=256m"))
            .and_then(|()| mount_change(root.path(), MountPropagationFlags::SHARED));
        if let Err(errno) = mounted {
            assert!(std::env::var_os("KEYWARD_REQUIRE_ROOT").is_none(), "cannot mount: {errno}");
            #[expect(clippy::print_stderr, reason = "a test that does not run must say so")]
            {
                eprintln!("not run: a CSI volume needs the right to mount ({errno})");
            }
            return None;
        }
        for directory in ["pods", "plugins", "plugins_registry", "state"] {
            std::fs::create_dir(root.path().join(directory)).expect("a directory");
        }
        // A mount of its own, as the chart makes it.
        let state = root.path().join("state");
        mount("tmpfs", &state, "tmpfs", MountFlags::empty(), Some(c"mode=0700,size=8m")).expect("a mount");
        mount_change(&state, MountPropagationFlags::SHARED).expect("a mount");
        Some(Self { root, registered: Arc::default() })
    }

    /// `--root-dir`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.root.path()
    }

    /// Where a driver of this name listens.
    #[must_use]
    pub fn socket(&self, driver: &str) -> PathBuf {
        self.dir().join("plugins").join(driver).join("csi.sock")
    }

    /// A connection to a driver, made for one call as kubelet does.
    ///
    /// # Errors
    /// `UNAVAILABLE` when nobody answers, as kubelet sees it.
    pub async fn channel(socket: &Path) -> Result<Channel, Status> {
        let socket = socket.to_owned();
        let connect = service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://localhost")
            .connect_with_connector(connect)
            .await
            .map_err(|error| Status::unavailable(error.to_string()))
    }

    /// The node service of a driver.
    ///
    /// # Errors
    /// As [`Self::channel`].
    pub async fn node(&self, driver: &str) -> Result<NodeClient<Channel>, Status> {
        Ok(NodeClient::new(Self::channel(&self.socket(driver)).await?))
    }

    /// The identity service of a driver.
    ///
    /// # Errors
    /// As [`Self::channel`].
    pub async fn identity(&self, driver: &str) -> Result<IdentityClient<Channel>, Status> {
        Ok(IdentityClient::new(Self::channel(&self.socket(driver)).await?))
    }

    /// What it has registered so far, oldest first.
    #[must_use]
    pub fn registered(&self) -> Vec<Registered> {
        self.registered.lock().clone()
    }

    /// Mounts below its directory, as the kernel shows them.
    #[must_use]
    pub fn mounts(&self) -> Vec<PathBuf> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("a mount table");
        let below = self.dir().join("pods");
        table
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .map(|path| PathBuf::from(path.replace("\\040", " ")))
            .filter(|path| path.starts_with(&below))
            .collect()
    }
}

/// Whatever a failed test left is unmounted with the rest.
impl Drop for Kubelet {
    fn drop(&mut self) {
        for path in self.mounts().into_iter().rev() {
            let _ = unmount(&path, UnmountFlags::DETACH);
        }
        for _ in 0..3 {
            let _ = unmount(self.dir().join("state/snapshot"), UnmountFlags::DETACH);
        }
        let _ = unmount(self.dir().join("state"), UnmountFlags::DETACH);
        let _ = unmount(self.dir(), UnmountFlags::DETACH);
    }
}
