//! The exec probe: a process of its own, which asks the driver's socket one question.
//!
//! What it reads comes from the broker. So it first gives up what it was started with: it connects, drops all
//! capabilities, keeps the system calls that a connected socket needs, and only then speaks HTTP/2. It holds one socket
//! and no other descriptor of its own: the runtime has no driver, and waiting is done by `poll`.

#![expect(clippy::arithmetic_side_effects, reason = "a time a bounded wait ahead")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use keyward_core::{Code, Error, Result};
use keyward_proto::csi::v1::ProbeRequest;
use keyward_proto::csi::v1::identity_client::IdentityClient;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, retry_on_intr};
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tonic::transport::Endpoint;
use tower::service_fn;

use super::cut;
use crate::confine;

/// As long as the liveness probe of other drivers waits.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long one wait for the socket is, at most: other work of the same thread goes on in between.
const SLICE: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// Calls Identity.Probe on a socket: whether the whole way from kubelet to the mounter works. The process is confined
/// afterwards, for good; it must have one thread.
///
/// # Errors
/// `KW_CONNECT`, `KW_TIMEOUT`, `KW_SHUTTING_DOWN` with what the driver says, or `KW_INTERNAL` when the process cannot
/// be confined.
pub(crate) fn probe(path: &Path) -> Result<()> {
    confine::name(c"keyward-probe")?;
    let until = Instant::now() + PATIENCE;
    let socket = reach(path, until)?;
    confine::enter_probe(socket.as_raw_fd())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|error| Error::new(Code::Internal, "the runtime cannot start").detail(error))?;
    let answer = runtime.block_on(ask(Connection { socket, until }));
    match answer {
        Err(_) if Instant::now() >= until => Err(silent()),
        answer => answer,
    }
}

fn silent() -> Error {
    Error::new(Code::Timeout, "the driver does not answer on its socket")
}

/// Connects. A driver whose queue is full may be about to take from it.
fn reach(path: &Path, until: Instant) -> Result<OwnedFd> {
    let failed = |errno: Errno| {
        let text = format!("nobody answers on {} ({})", path.display(), io::Error::from(errno));
        Error::new(Code::Connect, text)
    };
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed)?;
    loop {
        match connect(&socket, &address) {
            Err(Errno::AGAIN) if Instant::now() < until => drop(poll(&mut [], Some(&SLICE))),
            Err(Errno::AGAIN) => return Err(silent()),
            done => return done.map(|()| socket).map_err(failed),
        }
    }
}

async fn ask(connection: Connection) -> Result<()> {
    let mut connection = Some(connection);
    let connect = service_fn(move |_| {
        let connection = connection.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        std::future::ready(connection.map(TokioIo::new))
    });
    let lost = |error: &dyn std::fmt::Display| {
        Error::new(Code::Connect, "the driver's socket does not speak gRPC").detail(error)
    };
    // The authority that kubelet sends.
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(connect)
        .await
        .map_err(|error| lost(&error))?;
    let mut client = IdentityClient::new(channel);
    let answer = client.probe(ProbeRequest {}).await;
    answer.map(drop).map_err(|status| {
        Error::new(Code::ShuttingDown, format!("the driver says: {}", cut(status.message())))
    })
}

/// The connected socket. Where it is not ready it waits a moment and comes back, until the time is over.
struct Connection {
    socket: OwnedFd,
    until: Instant,
}

impl Connection {
    fn ready<T>(
        &self,
        cx: &Context<'_>,
        wanted: PollFlags,
        done: rustix::io::Result<T>,
    ) -> Poll<io::Result<T>> {
        match done {
            Err(Errno::AGAIN) if Instant::now() < self.until => {
                // An error shows again at the next read or write.
                let _ = poll(&mut [PollFd::new(&self.socket, wanted)], Some(&SLICE));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Err(Errno::AGAIN) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            done => Poll::Ready(done.map_err(io::Error::from)),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let done = retry_on_intr(|| read(&self.socket, out.initialize_unfilled()));
        self.ready(cx, PollFlags::IN, done).map_ok(|count| out.advance(count))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = retry_on_intr(|| send(&self.socket, bytes, SendFlags::NOSIGNAL));
        self.ready(cx, PollFlags::OUT, done)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
