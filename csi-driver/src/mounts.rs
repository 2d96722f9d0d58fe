//! The broker's side of the mounter: one blocking call for each thing the mounter does.
//!
//! Every call waits for its reply, one at a time: call them where blocking is allowed (`spawn_blocking`). Descriptors
//! of directories are roots of views that are mounted nowhere, so `..` leads nowhere.

mod channel;
mod failure;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use keyward_core::{Code, Error, Result};

pub use crate::protocol::{Found, Place, Socket, Tmpfs, Volume};
use crate::protocol::{Reply, Request, Which};
use channel::Channel;
use failure::refused;

/// The mounter.
#[derive(Clone)]
pub struct Mounts {
    channel: Arc<Channel>,
}

/// A tmpfs that no pod can see yet. It goes when this is dropped without a commit.
pub struct Detached {
    mounts: Mounts,
    id: u64,
    root: Option<OwnedFd>,
    noswap: bool,
}

/// A bound socket.
pub struct Listening {
    /// Listens, non-blocking.
    pub listener: UnixListener,
    /// The socket's file (`O_PATH`): connecting to `/proc/self/fd/<its number>` reaches this very socket, and its link
    /// count is 0 once its name is gone.
    pub file: OwnedFd,
    /// An inotify instance that becomes readable when the name or its directory goes or is replaced; `None` when the
    /// node has none left, and [`Mounts::is_named`] has to be asked.
    pub watch: Option<OwnedFd>,
}

impl Mounts {
    /// The mounter that started this process, on the other end of standard input.
    ///
    /// # Errors
    /// `KW_INTERNAL` when standard input is not its socket.
    pub fn from_stdin() -> Result<Self> {
        let input = std::io::stdin();
        let socket = input.as_fd().try_clone_to_owned().map_err(|error| {
            Error::new(Code::Internal, "standard input is not the mounter's socket").detail(error)
        })?;
        Ok(Self::new(socket))
    }

    /// The mounter on the other end of `socket`.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self { channel: Arc::new(Channel::new(socket)) }
    }

    /// Makes a tmpfs that no pod can see: nosuid, nodev, noexec, `noswap` where the kernel knows it.
    ///
    /// # Errors
    /// `KW_TMPFS_REQUIRED` while swap is on and the kernel knows no `noswap`; `KW_LIMIT_EXCEEDED` when too many wait
    /// for their commit; `KW_FILE_SYSTEM`.
    pub fn create(&self, tmpfs: &Tmpfs) -> Result<Detached> {
        let (reply, mut descriptors) = self.ask(&Request::Create(*tmpfs), "make a tmpfs")?;
        match (reply, descriptors.pop()) {
            (Reply::Created { id, noswap }, Some(root)) => {
                Ok(Detached { mounts: self.clone(), id, root: Some(root), noswap })
            }
            _ => Err(senseless()),
        }
    }

    /// What is at a volume's target now, as the kernel says.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM` when the way there is not what kubelet makes.
    pub fn inspect(&self, place: &Place) -> Result<Found> {
        match self.ask(&Request::Inspect(place.clone()), "look at the target")? {
            (Reply::Found(found), _) => Ok(found),
            _ => Err(senseless()),
        }
    }

    /// The root of a writable view of the volume that is mounted at a target. It keeps the tmpfs alive: close it
    /// before or soon after [`Self::unmount`].
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM` when nothing of ours is mounted there.
    pub fn reopen(&self, place: &Place) -> Result<OwnedFd> {
        match self.ask(&Request::Reopen(place.clone()), "open the volume for writing")? {
            (Reply::Opened, mut descriptors) => descriptors.pop().ok_or_else(senseless),
            _ => Err(senseless()),
        }
    }

    /// Lets the volume grow to `bytes`; a volume that is larger stays as it is.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM` when nothing of ours is mounted there.
    pub fn resize(&self, place: &Place, bytes: u64) -> Result<()> {
        self.ask(&Request::Resize(Which::At(place.clone()), bytes), "let the volume grow").map(drop)
    }

    /// Unmounts the volume, lazily if it is in use, and removes its target. Returns whether there was something to do.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM` when a mount that is not ours is there, or the kernel refuses.
    pub fn unmount(&self, place: &Place) -> Result<bool> {
        match self.ask(&Request::Unmount(place.clone()), "unmount the volume")? {
            (Reply::Done(something), _) => Ok(something),
            _ => Err(senseless()),
        }
    }

    /// The places of all volumes of ours that are mounted, sorted, each once.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM` when the mount table cannot be read.
    pub fn list(&self) -> Result<Vec<Place>> {
        let mut all = Vec::new();
        loop {
            let from = u32::try_from(all.len()).map_err(|_| senseless())?;
            match self.ask(&Request::List(from), "list the volumes")? {
                (Reply::Places(places, more), _) => {
                    let empty = places.is_empty();
                    all.extend(places);
                    if !more || empty {
                        // The table may have changed between two pages.
                        all.sort_unstable();
                        all.dedup();
                        return Ok(all);
                    }
                }
                _ => return Err(senseless()),
            }
        }
    }

    /// Binds a socket in place of whatever socket has its name, and listens.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM` when its directory is missing or the name is taken by something else;
    /// `KW_CONFIG_INVALID` when it is not configured.
    pub fn listen(&self, socket: Socket) -> Result<Listening> {
        let what = match socket {
            Socket::Csi => "bind the CSI socket",
            Socket::Registration => "bind the registration socket",
        };
        let (reply, descriptors) = self.ask(&Request::Listen(socket), what)?;
        let mut descriptors = descriptors.into_iter();
        match (reply, descriptors.next(), descriptors.next(), descriptors.next()) {
            (Reply::Opened, Some(listener), Some(file), watch) => {
                Ok(Listening { listener: UnixListener::from(listener), file, watch })
            }
            _ => Err(senseless()),
        }
    }

    /// Whether a socket that was bound still has its name.
    ///
    /// # Errors
    /// When the mounter is gone.
    pub fn is_named(&self, socket: Socket) -> Result<bool> {
        match self.ask(&Request::Named(socket), "look for a socket")? {
            (Reply::Done(named), _) => Ok(named),
            _ => Err(senseless()),
        }
    }

    /// Gives a regular file on a tmpfs of ours an owner. The file must have been opened for writing.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM` when it is anything else.
    pub fn own(&self, file: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<()> {
        let (reply, _) = self.channel.call(&Request::Own { uid, gid }, Some(file))?;
        refused(reply, "change the owner of a file").map(drop)
    }

    /// Whether the mounter is gone: every call fails from now on, and the process should end.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.channel.is_gone()
    }

    /// The number of the socket to the mounter, which is the same as long as this lives.
    #[must_use]
    pub fn socket_number(&self) -> RawFd {
        self.channel.number()
    }

    /// A descriptor that reports a hang-up (`POLLHUP`) when the mounter ends; not to be read from.
    ///
    /// # Errors
    /// `KW_INTERNAL` when there is no descriptor left.
    pub fn hangup(&self) -> Result<OwnedFd> {
        self.channel.duplicate()
    }

    fn ask(&self, request: &Request, what: &str) -> Result<(Reply, Vec<OwnedFd>)> {
        let (reply, descriptors) = self.channel.call(request, None)?;
        Ok((refused(reply, what)?, descriptors))
    }
}

impl Detached {
    /// Its root, writable.
    ///
    /// # Panics
    /// Never: the root is there until the commit, which takes the whole.
    #[must_use]
    #[expect(clippy::expect_used, reason = "the root is there until the commit, which takes the whole")]
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_ref().expect("kept until the commit").as_fd()
    }

    /// Another descriptor of its root.
    ///
    /// # Errors
    /// `KW_INTERNAL` when there is no descriptor left.
    pub fn directory(&self) -> Result<OwnedFd> {
        self.root()
            .try_clone_to_owned()
            .map_err(|error| Error::new(Code::Internal, "there is no file descriptor left").detail(error))
    }

    /// Whether it cannot be swapped out.
    #[must_use]
    pub fn noswap(&self) -> bool {
        self.noswap
    }

    /// Lets it grow to `bytes`.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM` when the kernel refuses.
    pub fn resize(&self, bytes: u64) -> Result<()> {
        self.mounts.ask(&Request::Resize(Which::Detached(self.id), bytes), "let the tmpfs grow").map(drop)
    }

    /// Shows it, read-only, at a volume's target. Returns its root for later writes: that view stays writable, and is
    /// mounted nowhere. It keeps the tmpfs alive: close it before or soon after [`Mounts::unmount`].
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM` when the volume's directory is missing or something is mounted there. Nothing is mounted then,
    /// and the tmpfs is gone.
    ///
    /// # Panics
    /// Never: see [`Self::root`].
    #[expect(clippy::expect_used, reason = "only this takes the root, and the whole with it")]
    pub fn commit(mut self, place: &Place) -> Result<OwnedFd> {
        self.mounts.ask(&Request::Commit(self.id, place.clone()), "mount the volume")?;
        // Taking the root tells `drop` that there is nothing left to discard.
        Ok(self.root.take().expect("kept until the commit"))
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        if self.root.take().is_some() {
            // It may be gone already, with the mounter.
            let _ = self.mounts.channel.call(&Request::Discard(self.id), None);
        }
    }
}

fn senseless() -> Error {
    Error::new(Code::Internal, "the mounter's reply makes no sense")
}

/// The mounter that started this process; see [`Mounts::from_stdin`].
///
/// # Errors
/// `KW_INTERNAL` when standard input is not its socket.
pub fn take_channel() -> Result<Mounts> {
    Mounts::from_stdin()
}
