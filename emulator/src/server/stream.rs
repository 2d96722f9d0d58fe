//! A TCP stream that can be torn down with a reset instead of a goodbye.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
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

pub(super) struct ResettableStream {
    inner: TcpStream,
    switch: Arc<ResetSwitch>,
}

impl ResettableStream {
    pub(super) fn new(inner: TcpStream, switch: Arc<ResetSwitch>) -> Self {
        Self { inner, switch }
    }
}

impl Drop for ResettableStream {
    fn drop(&mut self) {
        if self.switch.thrown.load(Ordering::SeqCst) {
            // With a linger of zero the kernel sends RST on close.
            let _ = self.inner.set_zero_linger();
        }
    }
}

impl AsyncRead for ResettableStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for ResettableStream {
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
