//! A stream that can be torn down with a reset instead of a goodbye.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Tells a connection, from within one of its requests, to end with a reset.
#[derive(Default)]
pub(super) struct ResetSwitch {
    thrown: AtomicBool,
    notify: Notify,
}

impl ResetSwitch {
    pub(super) fn throw(&self) {
        self.thrown.store(true, Ordering::SeqCst);
        self.notify.notify_one();
    }

    pub(super) async fn thrown(&self) {
        self.notify.notified().await;
    }
}

/// A way to a peer.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Makes the coming close a reset.
    fn reset_on_close(&self);
}

impl Wire for TcpStream {
    fn reset_on_close(&self) {
        // With a linger of zero the kernel sends RST on close.
        let _ = self.set_zero_linger();
    }
}

impl Wire for DuplexStream {
    /// In memory there is no reset: the peer sees the end in the middle of an exchange.
    fn reset_on_close(&self) {}
}

pub(super) struct ResettableStream<S: Wire> {
    inner: S,
    switch: Arc<ResetSwitch>,
}

impl<S: Wire> ResettableStream<S> {
    pub(super) fn new(inner: S, switch: Arc<ResetSwitch>) -> Self {
        Self { inner, switch }
    }
}

impl<S: Wire> Drop for ResettableStream<S> {
    fn drop(&mut self) {
        if self.switch.thrown.load(Ordering::SeqCst) {
            self.inner.reset_on_close();
        }
    }
}

impl<S: Wire> AsyncRead for ResettableStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: Wire> AsyncWrite for ResettableStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
