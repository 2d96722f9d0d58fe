//! One request, one reply.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Gid, Uid, fchown, fstat};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::detached::{self, LARGEST, Waiting};
use super::listen::Sockets;
use super::signals::Signals;
use super::targets::{Refused, Targets};
use super::tmpfs::Failed;
use crate::protocol::{DESCRIPTORS, PAGE, REQUEST, Reason, Reply, Request, Tmpfs, Which};

/// All that the mounter knows.
pub(super) struct Mounter {
    pub(super) signals: Signals,
    pub(super) waiting: Waiting,
    pub(super) targets: Targets,
    pub(super) sockets: Sockets,
}

/// A reply and what goes with it.
type Answer = std::result::Result<(Reply, Vec<OwnedFd>), Refused>;

impl Mounter {
    /// Takes one request from the broker and answers it. False when there will be no more: the broker is gone, or does
    /// not read its replies, which one that waits for each of them always does.
    pub(super) fn serve(&mut self, socket: &OwnedFd) -> bool {
        let Ok(Some((request, descriptors))) = receive(socket) else { return false };
        let answer = match (request, &descriptors[..]) {
            (Some(Request::Own { uid, gid }), [file]) => self.own(file, uid, gid).map(without),
            (Some(Request::Own { .. }) | None, _) => Err(Reason::Malformed.into()),
            (Some(request), []) => self.answer(request),
            (Some(_), _) => Err(Reason::Malformed.into()),
        };
        let (reply, descriptors) = answer.unwrap_or_else(|refused| without(refusal(&refused)));
        send(socket, &reply, &descriptors).is_ok()
    }

    fn answer(&mut self, request: Request) -> Answer {
        Ok(match request {
            Request::Create(tmpfs) => self.create(&tmpfs)?,
            Request::Commit(id, place) => {
                if !self.waiting.has(id) {
                    return Err(Reason::UnknownId.into());
                }
                let (target, made) = self.targets.make(&place)?;
                self.waiting.commit(id, &target).inspect_err(|_| {
                    if made {
                        self.targets.unmake(&place);
                    }
                })?;
                self.targets.check_seen(&place)?;
                without(Reply::Done(true))
            }
            Request::Discard(id) => without(Reply::Done(self.waiting.discard(id))),
            Request::Inspect(place) => without(Reply::Found(self.targets.inspect(&place)?)),
            Request::Reopen(place) => (Reply::Opened, vec![self.targets.reopen(&place)?]),
            Request::Resize(_, bytes) if bytes > LARGEST => return Err(Reason::Limit.into()),
            Request::Resize(Which::Detached(id), _) if !self.waiting.has(id) => {
                return Err(Reason::UnknownId.into());
            }
            Request::Resize(Which::Detached(id), bytes) => {
                self.waiting.resize(id, bytes)?;
                without(Reply::Done(true))
            }
            Request::Resize(Which::At(place), bytes) => {
                self.targets.resize(&place, bytes)?;
                without(Reply::Done(true))
            }
            Request::Unmount(place) => without(Reply::Done(self.targets.unmount(&place)?)),
            Request::List(from) => {
                let places = self.targets.list()?;
                let rest = places.get(usize::try_from(from).unwrap_or(usize::MAX)..).unwrap_or_default();
                without(Reply::Places(rest.iter().take(PAGE).cloned().collect(), rest.len() > PAGE))
            }
            Request::Listen(socket) => {
                let bound = self.sockets.listen(socket)?.ok_or(Reason::NoSocket)?;
                let descriptors = [bound.listener, bound.file].into_iter().chain(bound.watch).collect();
                (Reply::Opened, descriptors)
            }
            Request::Named(socket) => without(Reply::Done(self.sockets.is_named(socket))),
            Request::Own { .. } => return Err(Reason::Malformed.into()),
        })
    }

    fn create(&mut self, wanted: &Tmpfs) -> Answer {
        let no_group = wanted.gid == Some(u32::MAX);
        if wanted.mode & !0o777 != 0 || no_group {
            return Err(Reason::Malformed.into());
        }
        match self.waiting.create(wanted) {
            Ok(made) => Ok((Reply::Created { id: made.id, noswap: made.noswap }, vec![made.root])),
            Err(detached::Refused::Limit) => Err(Reason::Limit.into()),
            Err(detached::Refused::Failed(Failed::Swap)) => Err(Reason::Swap.into()),
            Err(detached::Refused::Failed(Failed::Call(errno))) => Err(errno.into()),
        }
    }

    /// A regular file on a volume, mounted or waiting: nothing else changes its owner.
    fn own(&mut self, file: &OwnedFd, uid: u32, gid: u32) -> std::result::Result<Reply, Refused> {
        let stat = fstat(file)?;
        let ours = FileType::from_raw_mode(stat.st_mode).is_file()
            && (self.waiting.has_device(stat.st_dev) || self.targets.has_device(stat.st_dev)?);
        if !ours {
            return Err(Reason::NotOurFile.into());
        }
        // To the kernel the highest number means "leave as it is".
        if uid == u32::MAX || gid == u32::MAX {
            return Err(Reason::Malformed.into());
        }
        fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        Ok(Reply::Done(true))
    }
}

fn without(reply: Reply) -> (Reply, Vec<OwnedFd>) {
    (reply, Vec::new())
}

fn refusal(refused: &Refused) -> Reply {
    match refused {
        Refused::Because(reason) => Reply::Refused { reason: *reason, errno: 0 },
        Refused::Call(errno) => Reply::Refused { reason: Reason::Kernel, errno: errno.raw_os_error() },
    }
}

/// The next message; `None` in the place of a request that makes no sense, `None` for all when the broker is gone.
fn receive(socket: &OwnedFd) -> rustix::io::Result<Option<(Option<Request>, Vec<OwnedFd>)>> {
    // One byte more than allowed tells a longer message.
    let mut message = [0; REQUEST + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received =
        retry_on_intr(|| recvmsg(socket, &mut [IoSliceMut::new(&mut message)], &mut control, flags))?;
    let mut descriptors = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            descriptors.extend(rights);
        }
    }
    let message = message.get(..received.bytes).unwrap_or_default();
    Ok((!message.is_empty()).then(|| (Request::decode(message), descriptors)))
}

fn send(socket: &OwnedFd, reply: &Reply, descriptors: &[OwnedFd]) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let rights: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    if !rights.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&rights)) {
        return Err(Errno::NOBUFS);
    }
    let message = reply.encode();
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    retry_on_intr(|| sendmsg(socket, &[IoSlice::new(&message)], &mut control, flags)).map(drop)
}
