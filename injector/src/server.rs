//! The HTTPS server: TLS 1.3, bounded in every direction, and no question lost at the end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use keyward_core::{Code, Error, Result};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::certificates::Serving;
use crate::webhook::Webhook;

/// Connections at a time: an API server keeps one or a few.
const MAX_CONNECTIONS: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(5);
const HEADERS: Duration = Duration::from_secs(5);
/// A silent HTTP/2 connection is asked whether it is alive.
const ALIVE: Duration = Duration::from_secs(20);

/// A bound server.
pub(crate) struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    webhook: Arc<Webhook>,
}

/// How it ends.
pub(crate) struct Ending {
    /// No new questions are expected from then on.
    pub(crate) begins: CancellationToken,
    /// How long new connections are still taken: until every API server has seen that this replica goes.
    pub(crate) linger: Duration,
    /// How long questions under way may take after that.
    pub(crate) finish: Duration,
}

impl Server {
    /// Binds `address`.
    ///
    /// # Errors
    /// `KW_CONFIG_INVALID` when it cannot be bound.
    pub(crate) async fn bind(
        address: SocketAddr,
        serving: Arc<Serving>,
        webhook: Arc<Webhook>,
    ) -> Result<Self> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            Error::new(Code::ConfigInvalid, format!("listen: {address} cannot be bound; is the port taken?"))
                .detail(error)
        })?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| Error::new(Code::Internal, "TLS 1.3 is not available").detail(error))?
            .with_no_client_auth()
            .with_cert_resolver(serving);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { listener, acceptor: TlsAcceptor::from(Arc::new(config)), webhook })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        self.listener
            .local_addr()
            .map_err(|error| Error::new(Code::Internal, "the listener has no address").detail(error))
    }

    /// Answers until the end, and the questions that are under way then.
    pub(crate) async fn serve(self, ending: Ending) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let graceful = GracefulShutdown::new();
        let last = async {
            ending.begins.cancelled().await;
            tokio::time::sleep(ending.linger).await;
        };
        let mut last = std::pin::pin!(last);
        loop {
            let accepted = tokio::select! {
                () = &mut last => break,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                // Out of descriptors: the next accept would fail as fast.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
            let watcher = graceful.watcher();
            let (acceptor, webhook) = (self.acceptor.clone(), Arc::clone(&self.webhook));
            tokio::spawn(async move {
                let _place = place;
                connection(stream, &acceptor, webhook, watcher).await;
            });
        }
        // Nobody connects any more; what is connected is told to go elsewhere once it has its answers.
        drop(self.listener);
        if timeout(ending.finish, graceful.shutdown()).await.is_err() {
            tracing::warn!("some questions were still under way at the end");
        }
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    webhook: Arc<Webhook>,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "handshake");
            return;
        }
        Err(_) => return,
    };
    let service = service_fn(move |request| {
        let webhook = Arc::clone(&webhook);
        async move { Ok::<_, Infallible>(webhook.serve(request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(256)
        .max_header_list_size(16 * 1024)
        .keep_alive_interval(ALIVE)
        .keep_alive_timeout(HANDSHAKE);
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "connection");
    }
}
