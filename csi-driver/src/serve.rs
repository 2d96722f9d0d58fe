use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use keyward_core::{Result, SecretView};
use keyward_local_api::{ApiSettings, PodCgroup, Server};
use keyward_volume::View;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::node::Node;
use crate::request::Pod;

/// The socket's name in a volume.
pub(crate) const SOCKET: &str = "keyward.sock";

/// How long calls in flight may take to end when a volume goes: kubelet waits for it.
const DRAIN: Duration = Duration::from_millis(500);

/// A volume's local API.
pub(crate) struct Serving {
    stop: CancellationToken,
    task: JoinHandle<Result<()>>,
    /// Whether `grpc.health.v1` says SERVING.
    _ready: watch::Sender<bool>,
}

impl Serving {
    /// Binds the socket below `root` and answers on it from `view`. Possession of the pod's mount is what authorises
    /// a caller (promise 12).
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM` when the socket cannot be put in its place.
    pub(crate) fn start(
        node: &Node,
        root: &OwnedFd,
        view: &Arc<View>,
        group: Option<u32>,
        pod: &Pod,
    ) -> Result<Self> {
        let (grpc, limits) = (&node.settings.config.grpc, &node.settings.config.limits);
        let settings = ApiSettings {
            shown: Some(format!("{SOCKET} of pod {}/{}", pod.namespace, pod.name)),
            pod: Some(keyward_local_api::Pod {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
            }),
            replace: true,
            mode: if group.is_some() { 0o660 } else { 0o666 },
            allow_uids: (!grpc.allow_uids.is_empty()).then(|| grpc.allow_uids.clone()),
            lookups_per_caller: grpc.rate_per_caller,
            // The pod's share in the ledger is the limit; a user id alone gets three quarters of it.
            max_connections: usize::MAX,
            max_connections_per_caller: limits.connections_per_pod.div_ceil(4).saturating_mul(3),
            max_calls: usize::MAX,
            drain_timeout: DRAIN,
            ..ApiSettings::new(format!("/proc/self/fd/{}/{SOCKET}", root.as_raw_fd()))
        };
        let (ready, is_ready) = watch::channel(true);
        let parts = keyward_local_api::Parts {
            view: Arc::clone(view) as Arc<dyn SecretView>,
            audit: Arc::clone(&node.audit),
            observer: Arc::clone(&node.observer),
            clock: Arc::clone(&node.clock),
            ready: is_ready,
            account: node.account(pod),
        };
        let server = Server::bind(settings, parts)?.among(Arc::clone(&node.crowd));
        let mut server = server.paced(node.crowd.pace(&pod.uid));
        if grpc.host_pid {
            server = server.check_peers(Arc::new(PodCgroup::new(&pod.uid)));
        }
        let stop = CancellationToken::new();
        let stopping = stop.clone().cancelled_owned();
        let task = tokio::spawn(async move { server.serve(stopping).await });
        Ok(Self { stop, task, _ready: ready })
    }

    /// Ends calls and closes the socket, which would otherwise keep the volume busy.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        // A defect was reported by the panic hook.
        let _ = self.task.await;
    }
}
