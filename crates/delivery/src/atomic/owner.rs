use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{Gid, Uid, fchown};
use rustix::io::retry_on_intr;

/// Gives files to their owners. Called only for a file that has another owner than its declaration wants.
pub trait Owner: Send + Sync {
    /// Gives `file` to `uid` and `gid`; `None` leaves what it has.
    ///
    /// # Errors
    /// What the kernel says: `EPERM` becomes advice for the user.
    fn own(&self, file: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> io::Result<()>;
}

/// Asks the kernel itself, which takes the capability CHOWN for anything but the process's own groups.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fchown;

impl Owner for Fchown {
    fn own(&self, file: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        Ok(retry_on_intr(|| fchown(file, uid, gid))?)
    }
}
