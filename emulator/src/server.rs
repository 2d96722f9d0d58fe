//! Sockets: five listeners that feed the handler.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::{Core, ListenerKind};
use crate::reply::{HandlerOutcome, Reply};

mod body;
mod stream;

use body::OutgoingBody;
use stream::{ResetSwitch, ResettableStream, Wire};

/// Longest request body read; a certificate with its chain fits many times.
const LONGEST_REQUEST: usize = 1024 * 1024;
/// How long requests under way may take to finish at shutdown.
const DRAIN: Duration = Duration::from_millis(500);
/// What a connection in memory holds on its way, in bytes.
const IN_MEMORY: usize = 64 * 1024;

/// The running listeners; dropping the last handle stops them.
pub(crate) struct Servers {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Servers {
    pub(crate) fn new() -> Self {
        Self { stop: CancellationToken::new(), tasks: TaskTracker::new() }
    }

    /// Serves connections to `listener` until shutdown.
    pub(crate) fn serve(
        &self,
        core: &Arc<Core>,
        kind: ListenerKind,
        listener: TcpListener,
        tls: Option<TlsAcceptor>,
    ) {
        let (core, stop, tasks) = (core.clone(), self.stop.clone(), self.tasks.clone());
        self.tasks.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = stop.cancelled() => break,
                };
                match accepted {
                    Ok((stream, _)) => {
                        // Small answers must not wait for acknowledgements.
                        let _ = stream.set_nodelay(true);
                        let connection = Connection { core: core.clone(), kind, stop: stop.clone() };
                        tasks.spawn(connection.run(stream, tls.clone()));
                    }
                    // Out of descriptors, most likely: yield to those who will free some.
                    Err(error) => {
                        tracing::warn!(%error, "accept");
                        tokio::task::yield_now().await;
                    }
                }
            }
        });
    }

    /// The client's end of a new connection in memory.
    pub(crate) fn connect(
        &self,
        core: &Arc<Core>,
        kind: ListenerKind,
        tls: Option<TlsAcceptor>,
    ) -> DuplexStream {
        let (theirs, ours) = tokio::io::duplex(IN_MEMORY);
        let connection = Connection { core: core.clone(), kind, stop: self.stop.clone() };
        self.tasks.spawn(connection.run(ours, tls));
        theirs
    }

    /// Stops listening, lets requests under way finish for half a second, then cuts them off.
    pub(crate) async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Binds a listener.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

struct Connection {
    core: Arc<Core>,
    kind: ListenerKind,
    stop: CancellationToken,
}

impl Connection {
    async fn run(self, stream: impl Wire, tls: Option<TlsAcceptor>) {
        let counted = self.kind == ListenerKind::Https;
        if counted {
            self.core.counters.connection_opened();
        }
        let core = self.core.clone();
        let switch = Arc::new(ResetSwitch::default());
        let stream = ResettableStream::new(stream, switch.clone());
        let stop = self.stop.clone();
        match tls {
            Some(tls) => {
                let handshake = tokio::select! {
                    done = tls.accept(stream) => done,
                    () = stop.cancelled() => return self.closed(counted),
                };
                match handshake {
                    Ok(stream) => self.converse(stream, switch).await,
                    Err(error) => tracing::debug!(%error, "TLS handshake"),
                }
            }
            None => self.converse(stream, switch).await,
        }
        if counted {
            core.counters.connection_closed();
        }
    }

    fn closed(&self, counted: bool) {
        if counted {
            self.core.counters.connection_closed();
        }
    }

    async fn converse(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        switch: Arc<ResetSwitch>,
    ) {
        let Self { core, kind, stop } = self;
        let for_requests = switch.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (core, switch) = (core.clone(), for_requests.clone());
            async move { Ok::<_, Infallible>(respond(&core, kind, request, &switch).await) }
        });
        let builder = auto::Builder::new(TokioExecutor::new());
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let mut stopping = false;
        loop {
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "connection");
                    }
                    break;
                }
                () = switch.thrown() => break,
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = tokio::time::sleep(DRAIN), if stopping => break,
            }
        }
    }
}

async fn respond(
    core: &Arc<Core>,
    kind: ListenerKind,
    request: Request<Incoming>,
    switch: &ResetSwitch,
) -> Response<OutgoingBody> {
    let (parts, body) = request.into_parts();
    let body: Bytes = match Limited::new(body, LONGEST_REQUEST).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(_) => return into_response(Reply::empty(StatusCode::PAYLOAD_TOO_LARGE)),
    };
    match Box::pin(core.handle(kind, Request::from_parts(parts, body))).await {
        HandlerOutcome::Reply(reply) => into_response(reply),
        HandlerOutcome::Hang => std::future::pending().await,
        HandlerOutcome::Reset => {
            switch.throw();
            std::future::pending().await
        }
    }
}

fn into_response(reply: Reply) -> Response<OutgoingBody> {
    let mut response = Response::new(OutgoingBody::new(reply.body));
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    response
}
