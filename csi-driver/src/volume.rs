//! A published volume: what calls see of it, and the keeper that keeps it current.

mod credentials;
mod history;
mod keeper;
mod pending;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use keyward_volume::Kept;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, FileType, fstat, readlinkat, statat};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub(crate) use credentials::{Presented, credential};
pub(crate) use history::Histories;
pub(crate) use keeper::{Keeper, versions};

use crate::mounts::{Found, Place};
use crate::request::Pod;
use crate::shares::Shares;

/// A published volume.
pub(crate) struct Volume {
    pub(crate) place: Place,
    /// Its target as kubelet wrote it.
    pub(crate) target: String,
    pub(crate) pod: Pod,
    /// The root of a writable view that is mounted nowhere.
    pub(crate) root: OwnedFd,
    /// Where its values outlive a restart.
    pub(crate) kept: Kept,
    /// What it is charged for as long as it is mounted.
    pub(crate) shares: Arc<Shares>,
    presented: Mutex<Presented>,
    face: Mutex<Vec<(&'static str, String)>>,
    orders: mpsc::Sender<Order>,
    /// A fresh credential was presented.
    fresh: Notify,
    /// The volume is to be unmounted.
    stopping: CancellationToken,
    /// Nothing of the keeper holds the volume any more.
    stopped: CancellationToken,
}

/// What calls ask of a keeper.
pub(crate) enum Order {
    /// The volume's files are not as they were committed.
    Repair(oneshot::Sender<()>),
}

/// Orders that wait.
const WAITING: usize = 8;

impl Volume {
    /// A volume with a writable view, and where its keeper takes orders from.
    pub(crate) fn new(
        place: Place,
        target: String,
        pod: Pod,
        root: OwnedFd,
        kept: Kept,
        shares: Arc<Shares>,
        presented: Presented,
    ) -> (Arc<Self>, mpsc::Receiver<Order>) {
        let (orders, taken) = mpsc::channel(WAITING);
        let volume = Self {
            place,
            target,
            pod,
            root,
            kept,
            shares,
            presented: Mutex::new(presented),
            face: Mutex::default(),
            orders,
            fresh: Notify::new(),
            stopping: CancellationToken::new(),
            stopped: CancellationToken::new(),
        };
        (Arc::new(volume), taken)
    }

    /// Whether `found` at the target is this volume, with a whole generation in place: what a republish is answered
    /// by. The kernel is asked each time; of the files only the marker is looked at.
    pub(crate) fn is_intact(&self, found: &Found) -> Intact {
        let Found::Ours(mount) = found else { return Intact::Gone };
        // The same tmpfs that is written to, and not another that was mounted over it.
        let same =
            fstat(&self.root).is_ok_and(|root| root.st_dev == mount.device && root.st_ino == mount.inode);
        if !same || !mount.read_only {
            return Intact::Gone;
        }
        if marker(&self.root) { Intact::Whole } else { Intact::Damaged }
    }

    /// Takes a fresh credential along.
    pub(crate) fn present(&self, presented: Presented) {
        *self.presented.lock() = presented;
        self.fresh.notify_one();
    }

    pub(crate) fn presented(&self) -> Presented {
        self.presented.lock().clone()
    }

    /// Writes the files anew.
    pub(crate) async fn repair(&self) {
        let (done, is_done) = oneshot::channel();
        if self.orders.send(Order::Repair(done)).await.is_ok() {
            // A keeper that ended has nothing to repair any more.
            let _ = is_done.await;
        }
    }

    /// Ends the keeper, and with it every descriptor but `root`, whatever it is doing: of what is under way only system
    /// calls on the volume's own files are waited for.
    pub(crate) async fn stop(&self) {
        self.stopping.cancel();
        self.stopped.cancelled().await;
    }

    pub(crate) fn complaints(&self) -> Vec<(&'static str, String)> {
        self.face.lock().clone()
    }

    fn show(&self, complaints: Vec<(&'static str, String)>) {
        *self.face.lock() = complaints;
    }
}

/// What a republish finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intact {
    /// Mounted, and committed.
    Whole,
    /// Mounted, but the files were tampered with.
    Damaged,
    /// Not mounted there, or not this volume, or writable.
    Gone,
}

/// Whether `..data` names a generation that is there: it is renamed into place only after all of a generation was
/// written, so this is the mark of a commit.
pub(crate) fn marker(root: &OwnedFd) -> bool {
    let Ok(target) = readlinkat(root, "..data", Vec::new()) else { return false };
    let name = target.to_bytes();
    let ours = name.starts_with(b"..kw_") && !name.contains(&b'/');
    ours && statat(root, &*target, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}
