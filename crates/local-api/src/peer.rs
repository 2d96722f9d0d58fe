use std::os::fd::OwnedFd;

use keyward_core::Error;
use nix::sys::socket::{getsockopt, sockopt};
use tokio::net::UnixStream;

/// Who connected, as the kernel says.
#[derive(Debug)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id in our pid namespace; 0 when the process is not visible there. By the time that anyone looks, another
    /// process may have it.
    pub pid: i32,
    /// The process itself, where the kernel gives it (6.5 and later).
    pub pidfd: Option<OwnedFd>,
}

impl Peer {
    pub(crate) fn of(stream: &UnixStream, with_pidfd: bool) -> Option<Self> {
        let peer = stream.peer_cred().ok()?;
        let pidfd = if with_pidfd { getsockopt(stream, sockopt::PeerPidfd).ok() } else { None };
        Some(Self { uid: peer.uid(), gid: peer.gid(), pid: peer.pid().unwrap_or_default(), pidfd })
    }
}

/// Decides about a peer beyond its user id, once for each connection. Must not wait.
pub trait PeerCheck: Send + Sync {
    /// Admits the peer, or says why not.
    ///
    /// # Errors
    /// `KW_CALLER_REFUSED` as a rule; the connection hears it at each call.
    fn check(&self, peer: &Peer) -> Result<(), Error>;
}
