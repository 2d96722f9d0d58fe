//! How kubelet learns of the driver: it finds a socket in its registry, asks who is there, and calls the CSI socket.
//! The sockets are bound by the mounter, the CSI socket first; one that vanishes is bound again at once.

mod alive;
mod authority;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use alive::Alive;
use authority::AnyAuthority;
pub(crate) use authority::filtered;
use keyward_core::{Code, Error, Result};
use keyward_proto::csi::v1::identity_server::IdentityServer;
use keyward_proto::csi::v1::node_server::NodeServer;
use keyward_proto::registration::registration_server::{Registration, RegistrationServer};
use keyward_proto::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use keyward_telemetry::health::Condition;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::csi::{IdentityService, MAX_MESSAGE, NodeService};
use crate::mounts::{Listening, Socket};
use crate::node::Node;

/// Between two tries to bind a socket whose directory is not there.
const RETRY: Duration = Duration::from_millis(200);
/// Calls at a time on one connection: kubelet works on fewer volumes than this at once.
const CALLS: u32 = 256;
/// Kubelet said no: before it is asked again.
const REFUSED: Duration = Duration::from_secs(5);
/// How often a socket's name is looked for where inotify is used up.
const LOOK: Duration = Duration::from_secs(2);

/// Answers CSI calls until `stop`.
pub(crate) async fn serve_csi(
    node: Arc<Node>,
    first: Listening,
    again: Arc<Notify>,
    stop: CancellationToken,
) {
    let mut next = Some(first);
    while !stop.is_cancelled() {
        let Some(listening) = bound(&node, Socket::Csi, &mut next, &stop).await else { return };
        node.health.set(Condition::Socket, true);
        let node_server =
            NodeServer::new(NodeService(Arc::clone(&node))).max_decoding_message_size(MAX_MESSAGE);
        let router = server()
            .add_service(IdentityServer::new(IdentityService(Arc::clone(&node))))
            .add_service(node_server);
        let ended = run(&node, Socket::Csi, router, listening, &stop, std::future::pending()).await;
        node.health.set(Condition::Socket, false);
        tell(ended, "CSI");
        // Kubelet keeps the endpoint that it registered: it must find the new socket by registering anew.
        again.notify_one();
    }
}

/// Is there for kubelet until `stop`; registers again when the socket vanishes, kubelet refuses, or `again` says so.
pub(crate) async fn serve_registration(
    node: Arc<Node>,
    endpoint: String,
    again: Arc<Notify>,
    stop: CancellationToken,
) {
    let mut next = None;
    while !stop.is_cancelled() {
        let Some(listening) = bound(&node, Socket::Registration, &mut next, &stop).await else { return };
        let refused = Arc::new(Notify::new());
        let service =
            Registrar { node: Arc::clone(&node), endpoint: endpoint.clone(), refused: Arc::clone(&refused) };
        let router = server().add_service(RegistrationServer::new(service));
        let over = async {
            tokio::select! {
                () = again.notified() => {}
                () = async { refused.notified().await; tokio::time::sleep(REFUSED).await } => {}
            }
        };
        let ended = run(&node, Socket::Registration, router, listening, &stop, over).await;
        node.health.set(Condition::Registration, false);
        tell(ended, "registration");
    }
}

/// A server that asks a silent peer for a sign of life, so that [`Alive`] tells a quiet connection from a stuck one.
fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(alive::ASK))
        .http2_keepalive_timeout(Some(alive::ANSWER))
        .max_concurrent_streams(CALLS)
}

async fn bound(
    node: &Node,
    socket: Socket,
    next: &mut Option<Listening>,
    stop: &CancellationToken,
) -> Option<Listening> {
    if let Some(listening) = next.take() {
        return Some(listening);
    }
    let mut warned = false;
    loop {
        match node.blocking(move |mounts| mounts.listen(socket)).await {
            Ok(listening) => return Some(listening),
            Err(error) if !warned => tracing::warn!(%error, "a socket cannot be bound; trying on"),
            Err(error) => tracing::debug!(%error, "a socket cannot be bound"),
        }
        warned = true;
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// Serves until the socket's name is gone, `over` or `stop`.
async fn run(
    node: &Node,
    socket: Socket,
    router: tonic::transport::server::Router,
    listening: Listening,
    stop: &CancellationToken,
    over: impl Future<Output = ()>,
) -> Result<()> {
    let Listening { listener, watch, .. } = listening;
    let failed = |error: std::io::Error| {
        Error::new(Code::FileSystem, "the runtime cannot take a socket").detail(error)
    };
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = UnixListener::from_std(listener).map_err(failed)?;
    let vanished = vanished(node, socket, watch);
    let end = CancellationToken::new();
    let incoming = UnixListenerStream::new(listener)
        .map(|stream| stream.map(|stream| AnyAuthority::new(Alive::new(stream))));
    let serving = router.serve_with_incoming_shutdown(incoming, end.cancelled());
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        served = &mut serving => {
            return served.map_err(|error| Error::new(Code::FileSystem, "a socket cannot be served").detail(error));
        }
        () = vanished => {}
        () = over => {}
        () = stop.cancelled() => {}
    }
    end.cancel();
    // Calls in flight end by themselves: publish and unpublish run in tasks of their own.
    let _ = tokio::time::timeout(Duration::from_secs(1), serving).await;
    Ok(())
}

/// Returns when the name or its directory is gone: inotify tells, or else the mounter is asked.
async fn vanished(node: &Node, socket: Socket, watch: Option<OwnedFd>) {
    let nothing = || Error::new(Code::Internal, "the mounter has no inotify instance");
    match watch.ok_or_else(nothing).and_then(watched) {
        Ok(watch) => {
            // Any event is a reason to bind anew, and the descriptor is not used again.
            let _ = watch.readable().await;
        }
        Err(error) => {
            keyward_egress::tell_of_polling(&error);
            loop {
                tokio::time::sleep(LOOK).await;
                if let Ok(false) = node.blocking(move |mounts| mounts.is_named(socket)).await {
                    return;
                }
            }
        }
    }
}

/// A descriptor whose readiness the runtime tells.
#[expect(
    deprecated,
    reason = "the caller's descriptor is owned, which is all that the newer, unsafe call asks for"
)]
pub(crate) fn watched(descriptor: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
        .map_err(|error| Error::new(Code::Internal, "the runtime cannot watch a descriptor").detail(error))
}

fn tell(ended: Result<()>, which: &str) {
    match ended {
        Ok(()) => tracing::debug!(which, "a socket is closed"),
        Err(error) => tracing::warn!(which, %error, "a socket ended"),
    }
}

struct Registrar {
    node: Arc<Node>,
    endpoint: String,
    refused: Arc<Notify>,
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: Request<InfoRequest>) -> std::result::Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: self.node.settings.driver_name.clone(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec!["1.0.0".to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> std::result::Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus { plugin_registered, error } = request.into_inner();
        self.node.health.set(Condition::Registration, plugin_registered);
        if plugin_registered {
            tracing::info!(driver = self.node.settings.driver_name, "kubelet has registered the driver");
        } else {
            let said: String = error.chars().filter(|c| !c.is_control()).take(300).collect();
            tracing::error!(
                driver = self.node.settings.driver_name,
                said,
                "kubelet refuses the driver; it will be asked again"
            );
            self.refused.notify_one();
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
