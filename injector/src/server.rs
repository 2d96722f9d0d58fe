//! The HTTPS server: TLS 1.3, and HTTP/1.1, which is what API servers speak to a Service (k8s.io/apiserver,
//! pkg/util/webhook/client.go), or HTTP/2; bounded in every direction, and no question lost at the end.

mod connection;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::server::graceful::GracefulShutdown;
use keyward_core::{Code, Error, Result};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::certificates::Serving;
use crate::places::Places;
use crate::webhook::Webhook;

/// Connections at a time. An API server has one for each question under way, and keeps a few.
const MAX_CONNECTIONS: usize = 256;

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
        Ok(Self { listener, acceptor: acceptor(serving)?, webhook })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        self.listener
            .local_addr()
            .map_err(|error| Error::new(Code::Internal, "the listener has no address").detail(error))
    }

    /// Answers until the end, and the questions that are under way then.
    pub(crate) async fn serve(self, ending: Ending) {
        let places = Places::new(MAX_CONNECTIONS);
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
            let Ok((stream, peer)) = accepted else {
                // Out of descriptors: the next accept would fail as fast.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Some(place) = places.take(peer.ip()) else { continue };
            let _ = stream.set_nodelay(true);
            let watcher = graceful.watcher();
            let (acceptor, webhook) = (self.acceptor.clone(), Arc::clone(&self.webhook));
            tokio::spawn(connection::serve(stream, acceptor, webhook, place, watcher));
        }
        // Nobody connects any more; what is connected is told to go elsewhere once it has its answers.
        drop(self.listener);
        places.end_strangers();
        if timeout(ending.finish, graceful.shutdown()).await.is_err() {
            tracing::warn!("some questions were still under way at the end");
        }
    }
}

fn acceptor(serving: Arc<Serving>) -> Result<TlsAcceptor> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Error::new(Code::Internal, "TLS 1.3 is not available").detail(error))?
        .with_no_client_auth()
        .with_cert_resolver(serving);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests;
