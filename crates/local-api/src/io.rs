//! One connection's bytes, and whether its peer reads them.

#![expect(clippy::arithmetic_side_effects, reason = "bounds of the settings, and times a bounded wait ahead")]

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Instant, Sleep};

use crate::ApiSettings;
use crate::pool::{Pool, Taken};

/// What an HTTP/2 client says first (RFC 9113, section 3.4).
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Half of what the kernel may hold for a peer that does not read, in bytes (`SO_SNDBUF` doubles it). What it holds
/// counts as the writer's memory (`unix(7)` sockets are charged to the control group of the sender), not the reader's.
const SEND_BUFFER: usize = 32 << 10;

/// What a peer must read within the time to read while more waits for it, in bytes.
const LEAST: u64 = 16 << 10;

/// What a peer that does not read holds beside answers: the kernel's buffer, and for each call the headers that wait.
fn stuck_cost(settings: &ApiSettings) -> usize {
    2 * SEND_BUFFER + settings.max_calls_per_connection as usize * 2048
}

/// What a connection reads before others have their turn, in bytes: some hundred of the smallest requests.
const TURN: usize = 16 << 10;

/// Whether the kernel takes what is written, and what was read in this turn.
#[derive(Default)]
pub(crate) struct Flow {
    blocked: AtomicBool,
    written: AtomicU64,
    read: AtomicUsize,
}

impl Flow {
    /// A new turn of the connection's task begins.
    pub(crate) fn turn(&self) {
        self.read.store(0, Ordering::Relaxed);
    }
}

/// A connection whose preface was read already.
pub(crate) struct Io {
    stream: UnixStream,
    preface_read: usize,
    flow: Arc<Flow>,
}

impl Io {
    pub(crate) fn new(stream: UnixStream, flow: Arc<Flow>) -> Self {
        // The kernel's default is larger; a socket that keeps it works all the same.
        let _ = setsockopt(&stream, sockopt::SndBuf, &SEND_BUFFER);
        Self { stream, preface_read: 0, flow }
    }

    fn note(&self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Pending => self.flow.blocked.store(true, Ordering::Relaxed),
            Poll::Ready(Ok(length)) => {
                self.flow.blocked.store(false, Ordering::Relaxed);
                self.flow.written.fetch_add(*length as u64, Ordering::Relaxed);
            }
            Poll::Ready(Err(_)) => {}
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = PREFACE.get(self.preface_read..).unwrap_or_default();
        if rest.is_empty() {
            if self.flow.read.load(Ordering::Relaxed) >= TURN {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let before = buffer.filled().len();
            let read = Pin::new(&mut self.stream).poll_read(context, buffer);
            self.flow.read.fetch_add(buffer.filled().len().saturating_sub(before), Ordering::Relaxed);
            return read;
        }
        let length = rest.len().min(buffer.remaining());
        buffer.put_slice(rest.get(..length).unwrap_or_default());
        self.preface_read += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, buffer);
        self.note(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Ends a connection whose peer does not read, when what it holds cannot be charged or its time is over.
pub(crate) struct Reading {
    flow: Arc<Flow>,
    pool: Arc<Pool>,
    patience: Duration,
    cost: usize,
    stuck: Option<Stuck>,
}

struct Stuck {
    timer: Pin<Box<Sleep>>,
    /// What had been written when the timer was set.
    mark: u64,
    _charge: Taken,
}

impl Reading {
    pub(crate) fn new(flow: Arc<Flow>, pool: Arc<Pool>, settings: &ApiSettings) -> Self {
        Self { flow, pool, patience: settings.read_timeout, cost: stuck_cost(settings), stuck: None }
    }

    /// Ready when the connection must end. To be polled after the connection itself, which finds out what is blocked.
    pub(crate) fn poll_stuck(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.flow.blocked.load(Ordering::Relaxed) {
            self.stuck = None;
            return Poll::Pending;
        }
        let written = self.flow.written.load(Ordering::Relaxed);
        let stuck = match &mut self.stuck {
            Some(stuck) => stuck,
            None => {
                let Ok(charge) = self.pool.take(self.cost) else { return Poll::Ready(()) };
                let timer = Box::pin(tokio::time::sleep(self.patience));
                self.stuck.insert(Stuck { timer, mark: written, _charge: charge })
            }
        };
        while stuck.timer.as_mut().poll(context).is_ready() {
            if written.saturating_sub(stuck.mark) < LEAST {
                return Poll::Ready(());
            }
            stuck.mark = written;
            stuck.timer.as_mut().reset(Instant::now() + self.patience);
        }
        Poll::Pending
    }
}
