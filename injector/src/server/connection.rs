//! One connection, from its TLS handshake to its end.

use std::convert::Infallible;
use std::sync::Arc;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::graceful::Watcher;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use crate::places::Place;
use crate::webhook::Webhook;

/// Bytes of a head that are read, at most.
const HEAD: usize = 16 * 1024;
/// Headers of a question over HTTP/1.1.
const MAX_HEADERS: usize = 64;
/// Questions at a time on a connection of HTTP/2.
pub(super) const STREAMS: u32 = 32;
/// Bytes of questions over HTTP/2 that are taken before they are read, for one stream and for all of a connection
/// (RFC 9113, 6.9.2: the window that a connection begins with).
const WINDOW: u32 = 65_535;

/// Answers until the peer goes, or its place is over: whatever it is doing then is given up.
pub(super) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    acceptor: TlsAcceptor,
    webhook: Arc<Webhook>,
    place: Place,
    watcher: Watcher,
) {
    let place = Arc::new(place);
    let answers = answers(stream, acceptor, webhook, Arc::clone(&place), watcher);
    tokio::select! {
        () = answers => {}
        () = place.over() => tracing::debug!("a connection's place is over"),
    }
}

async fn answers(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    acceptor: TlsAcceptor,
    webhook: Arc<Webhook>,
    place: Arc<Place>,
    watcher: Watcher,
) {
    let stream = match acceptor.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "handshake");
            return;
        }
    };
    let service = service_fn(move |request| {
        let (webhook, place) = (Arc::clone(&webhook), Arc::clone(&place));
        async move { Ok::<_, Infallible>(webhook.serve(request, &place).await) }
    });
    // Without a time-out for heads: the place has one, from accept on.
    let ended = if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_header_list_size(u32::try_from(HEAD).unwrap_or(u32::MAX))
            .max_send_buf_size(HEAD);
        watcher.watch(builder.serve_connection(TokioIo::new(stream), service)).await
    } else {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD).max_headers(MAX_HEADERS).header_read_timeout(None);
        watcher.watch(builder.serve_connection(TokioIo::new(stream), service)).await
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection");
    }
}
