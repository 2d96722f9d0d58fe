use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use keyward_core::{Code, Error, Result};
use keyward_volume::Room;
use rustix::fs::{fstat, fstatvfs};

use crate::mounts::{Mounts, Place};
use crate::shares::Shares;

/// The tmpfs of a volume grows before it is written; only the mounter can let it.
pub(crate) struct Grow {
    pub(crate) mounts: Mounts,
    pub(crate) place: Place,
    /// Charged before it grows.
    pub(crate) shares: Arc<Shares>,
}

/// A file is given to its owner by the mounter: the broker has no capability to.
pub(crate) struct Owner(pub(crate) Mounts);

const PAGE: u64 = 4096;

/// Bytes of a tmpfs that holds two generations of `files` files with `payload` bytes together: the old one stays while
/// the new one is written. Never 0, which would mean without limit.
pub(crate) fn bytes_for(payload: usize, files: usize) -> u64 {
    let pages = (payload as u64).div_ceil(PAGE).saturating_add(files as u64);
    pages.max(1).saturating_mul(2 * PAGE)
}

impl Room for Grow {
    fn ensure(&self, directory: &OwnedFd, payload: usize, files: usize) -> Result<()> {
        let wanted = bytes_for(payload, files);
        let stat = fstatvfs(directory).map_err(|errno| {
            Error::new(Code::FileSystem, format!("the volume cannot be measured ({errno})"))
        })?;
        if stat.f_blocks.saturating_mul(stat.f_frsize) >= wanted {
            return Ok(());
        }
        self.shares.stage(wanted)?;
        self.mounts.resize(&self.place, wanted)
    }
}

impl keyward_delivery::atomic::Owner for Owner {
    fn own(&self, file: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        let stat = fstat(file)?;
        let (uid, gid) = (uid.unwrap_or(stat.st_uid), gid.unwrap_or(stat.st_gid));
        if (uid, gid) == (stat.st_uid, stat.st_gid) {
            return Ok(());
        }
        self.0.own(file, uid, gid).map_err(|error| io::Error::other(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_generations_fit_and_nothing_is_without_limit() {
        assert_eq!(bytes_for(0, 0), 2 * PAGE);
        assert_eq!(bytes_for(1, 1), 4 * PAGE);
        assert_eq!(bytes_for(4097, 2), 8 * PAGE);
    }
}
