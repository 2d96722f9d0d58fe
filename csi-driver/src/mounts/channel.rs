use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use keyward_core::{Code, Error, Result};
use parking_lot::Mutex;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
};

use crate::protocol::{DESCRIPTORS, REPLY, REQUEST, Reply, Request};

/// The broker's end of the socket pair.
pub(super) struct Channel {
    socket: Mutex<OwnedFd>,
    gone: AtomicBool,
}

impl Channel {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket: Mutex::new(socket), gone: AtomicBool::new(false) }
    }

    /// Sends a request and waits for its reply.
    pub(super) fn call(
        &self,
        request: &Request,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(Reply, Vec<OwnedFd>)> {
        let socket = self.socket.lock();
        if self.is_gone() {
            return Err(gone());
        }
        // After a failure a late reply could be taken for that of the next request: nothing more is asked, and the
        // hang-up ends both processes.
        let lost = |errno: Errno| {
            self.gone.store(true, Ordering::Release);
            let _ = shutdown(&*socket, Shutdown::Both);
            gone().detail(errno)
        };
        send(&socket, &request.encode(), descriptor).map_err(lost)?;
        let (message, descriptors) = receive(&socket).map_err(lost)?;
        match Reply::decode(&message) {
            Some(reply) => Ok((reply, descriptors)),
            None => Err(lost(Errno::BADMSG)),
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(super) fn number(&self) -> RawFd {
        self.socket.lock().as_raw_fd()
    }

    pub(super) fn duplicate(&self) -> Result<OwnedFd> {
        self.socket
            .lock()
            .try_clone()
            .map_err(|error| Error::new(Code::Internal, "there is no file descriptor left").detail(error))
    }
}

fn send(
    socket: &OwnedFd,
    message: &[u8; REQUEST],
    descriptor: Option<BorrowedFd<'_>>,
) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let rights = descriptor.map(|descriptor| [descriptor]);
    if let Some(rights) = &rights {
        control.push(SendAncillaryMessage::ScmRights(rights));
    }
    let data = [IoSlice::new(message)];
    retry_on_intr(|| sendmsg(socket, &data, &mut control, SendFlags::NOSIGNAL)).map(drop)
}

fn receive(socket: &OwnedFd) -> rustix::io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut message = vec![0; REPLY];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut message)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut descriptors = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            descriptors.extend(rights);
        }
    }
    message.truncate(received.bytes);
    if message.is_empty() { Err(Errno::PIPE) } else { Ok((message, descriptors)) }
}

fn gone() -> Error {
    Error::new(Code::ShuttingDown, "the mounter has ended; the container starts again")
}
