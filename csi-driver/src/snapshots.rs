//! Where the values of volumes outlive a restart: one file for each volume, on a tmpfs that only the driver enters.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use keyward_core::Result;
use keyward_core::ledger::Account;
use keyward_delivery::saved;
use keyward_volume::{Found, Kept};

use crate::mounts::Place;

/// The directory with one snapshot for each volume.
#[derive(Clone)]
pub(crate) struct Snapshots {
    directory: Arc<OwnedFd>,
}

impl Snapshots {
    /// Takes over the directory that the mounter made ready.
    ///
    /// # Errors
    /// `KW_TMPFS_REQUIRED` or `KW_FILE_SYSTEM` when it is not one that may hold values.
    pub(crate) fn new(directory: OwnedFd) -> Result<Self> {
        saved::check(&directory)?;
        Ok(Self { directory: Arc::new(directory) })
    }

    /// Where the values of a volume are kept, at the expense of its pod's account.
    pub(crate) fn of(&self, place: &Place, account: Account) -> Kept {
        Kept::new(Arc::clone(&self.directory), place.volume_id(), account)
    }

    /// What an earlier process kept of a volume. May block.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM`.
    pub(crate) fn find(&self, volume_id: &str) -> Result<Found> {
        saved::load_all(&self.directory, volume_id).map(Found::of)
    }

    /// What a release kept for all volumes in one file. May block.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM`.
    pub(crate) fn find_shared(&self) -> Result<Found> {
        self.find(saved::ONLY)
    }

    /// Removes the file that was kept for all volumes: each has one of its own now. May block.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM`.
    pub(crate) fn forget_shared(&self) -> Result<()> {
        self.forget(saved::ONLY)
    }

    /// Removes what is kept of a volume, if anything is. May block.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM`.
    pub(crate) fn forget(&self, volume_id: &str) -> Result<()> {
        saved::remove(&self.directory, volume_id)
    }

    /// Removes whatever is kept of volumes other than `here`. May block.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM`.
    pub(crate) fn sweep(&self, here: &HashSet<String>) -> Result<()> {
        for name in saved::names(&self.directory)? {
            if name != saved::ONLY && !here.contains(&name) {
                self.forget(&name)?;
            }
        }
        Ok(())
    }
}
