//! The tmpfs that no pod can see yet.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::{Errno, Result};
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};

use super::table::VOLUME;
use super::tmpfs::{Failed, Plan, grow, make, writable_view};
use crate::protocol::Tmpfs;

/// How many may wait at once.
const MOST: usize = 1024;
/// How large one may be. Pages are charged to the broker's cgroup, which has a limit of its own.
pub(super) const LARGEST: u64 = 1 << 30;
/// How many files and directories one may hold: two generations of the largest volume are a few thousand.
const FILES: u32 = 64 * 1024;

/// Why there is no new one.
pub(super) enum Refused {
    /// Too many wait, or it is too large.
    Limit,
    /// It cannot be made.
    Failed(Failed),
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Self::Failed(Failed::Call(errno))
    }
}

/// Read-only mounts, each on a directory of the waiting room that has its number for a name.
pub(super) struct Waiting {
    room: OwnedFd,
    /// Numbers are never used twice. With each the device, to know its files by.
    devices: BTreeMap<u64, u64>,
    last: u64,
    allow_swap: bool,
}

/// A tmpfs that was made.
pub(super) struct Made {
    pub(super) id: u64,
    pub(super) noswap: bool,
    /// The root of its writable view.
    pub(super) root: OwnedFd,
}

impl Waiting {
    pub(super) fn new(room: OwnedFd, allow_swap: bool) -> Self {
        Self { room, devices: BTreeMap::new(), last: 0, allow_swap }
    }

    pub(super) fn create(&mut self, wanted: &Tmpfs) -> std::result::Result<Made, Refused> {
        if self.devices.len() >= MOST || wanted.bytes > LARGEST {
            return Err(Refused::Limit);
        }
        let (mount, noswap) = make(&Plan {
            source: VOLUME,
            bytes: wanted.bytes,
            files: FILES,
            mode: wanted.mode,
            gid: wanted.gid,
            read_only: true,
            allow_swap: self.allow_swap,
        })
        .map_err(Refused::Failed)?;
        self.last = self.last.wrapping_add(1);
        let (id, name) = (self.last, self.last.to_string());
        mkdirat(&self.room, &name, Mode::RWXU)?;
        let ready = move_mount(&mount, "", &self.room, &name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .and_then(|()| writable_view(&self.room, &name))
            .and_then(|root| Ok((rustix::fs::fstat(&root)?.st_dev, root)));
        match ready {
            Ok((device, root)) => {
                self.devices.insert(id, device);
                Ok(Made { id, noswap, root })
            }
            Err(errno) => {
                self.clear(&name);
                Err(errno.into())
            }
        }
    }

    /// Moves one to `target`, which was checked. It waits on when that fails.
    pub(super) fn commit(&mut self, id: u64, target: impl AsFd) -> Result<()> {
        let name = id.to_string();
        move_mount(&self.room, &name, target, "", MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH)?;
        self.devices.remove(&id);
        // What is left is an empty directory.
        let _ = unlinkat(&self.room, &name, AtFlags::REMOVEDIR);
        Ok(())
    }

    pub(super) fn discard(&mut self, id: u64) -> bool {
        let known = self.devices.remove(&id).is_some();
        if known {
            self.clear(&id.to_string());
        }
        known
    }

    pub(super) fn resize(&self, id: u64, bytes: u64) -> Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        grow(openat(&self.room, id.to_string(), flags, Mode::empty())?, bytes)
    }

    pub(super) fn has(&self, id: u64) -> bool {
        self.devices.contains_key(&id)
    }

    pub(super) fn has_device(&self, device: u64) -> bool {
        self.devices.values().any(|known| *known == device)
    }

    fn clear(&self, name: &str) {
        let path = format!("/proc/self/fd/{}/{name}", self.room.as_raw_fd());
        let _ = unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        let _ = unlinkat(&self.room, name, AtFlags::REMOVEDIR);
    }
}
