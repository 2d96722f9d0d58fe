//! Ends a connection that has gone silent, also before it has said that it speaks HTTP/2: it would hold its descriptor
//! and its task for ever.

#![expect(clippy::arithmetic_side_effects, reason = "a time a bounded wait ahead")]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tonic::transport::server::Connected;

/// From the last sign of life to the question for another.
pub(super) const ASK: Duration = Duration::from_secs(60);
/// From that question to the end of the connection.
pub(super) const ANSWER: Duration = Duration::from_secs(20);
/// How long a new connection may take to say something.
const FIRST: Duration = Duration::from_secs(10);
/// How long a connection may be silent: longer than the HTTP/2 layer takes to find out by itself.
const SILENT: Duration = Duration::from_secs(90);

/// A connection of which a read fails when nothing has come for too long.
pub(super) struct Alive<S> {
    inner: S,
    silence: Pin<Box<Sleep>>,
}

impl<S> Alive<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, silence: Box::pin(sleep(FIRST)) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Alive<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Poll::Ready(read) = Pin::new(&mut this.inner).poll_read(context, buffer) {
            this.silence.as_mut().reset(Instant::now() + SILENT);
            return Poll::Ready(read);
        }
        if this.silence.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer is silent")));
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Alive<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<S: Connected> Connected for Alive<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use keyward_proto::registration::registration_server::{Registration, RegistrationServer};
    use keyward_proto::registration::{
        InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
    };
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tonic::{Request, Response, Status};

    use super::super::{AnyAuthority, server};
    use super::*;

    struct Mute;

    #[tonic::async_trait]
    impl Registration for Mute {
        async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
            Err(Status::internal("not asked here"))
        }

        async fn notify_registration_status(
            &self,
            _: Request<RegistrationStatus>,
        ) -> Result<Response<RegistrationStatusResponse>, Status> {
            Err(Status::internal("not asked here"))
        }
    }

    /// A peer of the very server that kubelet speaks to, and when it was closed.
    async fn closed_after(says: &[u8]) -> Duration {
        let (mut peer, served): (DuplexStream, DuplexStream) = duplex(64 << 10);
        peer.write_all(says).await.unwrap();
        let incoming = tokio_stream::iter([Ok::<_, io::Error>(AnyAuthority::new(Alive::new(served)))]);
        let router = server().add_service(RegistrationServer::new(Mute));
        let serving = tokio::spawn(
            router.serve_with_incoming(tokio_stream::StreamExt::chain(incoming, tokio_stream::pending())),
        );
        let began = Instant::now();
        let _ = peer.read_to_end(&mut Vec::new()).await;
        serving.abort();
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_half_a_preface_or_no_more_than_that_is_closed() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        assert_eq!(closed_after(b"").await, FIRST);
        assert_eq!(closed_after(&preface[..10]).await, SILENT);
        assert!(closed_after(preface).await <= SILENT);
    }
}
