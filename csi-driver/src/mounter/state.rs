//! The state directory: metadata on disk, and a tmpfs that only the driver sees for what must never be on disk.

use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use keyward_core::{Code, Error, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, mkdirat, openat, statx};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, mount_change, move_mount};

use super::table::{STATE, Table, WAITING};
use super::tmpfs::{Failed, Plan, make};
use super::{Settings, report};

/// More than the snapshots of a node's volumes take: 110 pods of 1 MiB twice.
const SNAPSHOT_BYTES: u64 = 256 << 20;
const SNAPSHOT_FILES: u32 = 16 * 1024;
/// Directories to mount on, and nothing else.
const WAITING_BYTES: u64 = 64 << 10;
const WAITING_FILES: u32 = 2048;

/// Makes the state directory what it should be. A tmpfs from before a restart is taken as it is.
pub(super) fn prepare(settings: &Settings) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&settings.state_dir)
        .map_err(|error| failure(settings, "make the state directory", &error))?;
    let directory =
        open(&settings.state_dir).map_err(|error| failure(settings, "open the state directory", &error))?;
    for name in ["volumes", "snapshot", "waiting"] {
        match mkdirat(&directory, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failure(settings, "make a directory", &errno)),
        }
    }
    let mut table = Table::open().map_err(|error| failure(settings, "read the mount table", &error))?;
    // What cannot be told must not be mounted over.
    let found = source_at(&mut table, &directory, "snapshot")
        .map_err(|errno| failure(settings, "look at the snapshot directory", &errno))?;
    if found.as_deref() == Some(STATE) {
        return Ok(());
    }
    let (mount, noswap) = make(&Plan {
        source: STATE,
        bytes: SNAPSHOT_BYTES,
        files: SNAPSHOT_FILES,
        mode: 0o700,
        gid: None,
        read_only: false,
        allow_swap: settings.allow_swap,
    })
    .map_err(|failed| unmade(settings, failed))?;
    if !noswap {
        report("this kernel knows no tmpfs without swap; it came with Linux 6.4");
    }
    move_mount(&mount, "", &directory, "snapshot", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| failure(settings, "mount the snapshot directory", &errno))
}

/// Makes the place where tmpfs wait for their commit, and opens it. To be called in a mount namespace of the mounter's
/// own: nobody else sees it, and it goes with the process.
pub(super) fn waiting_room(settings: &Settings, table: &Table) -> Result<OwnedFd> {
    let failed = |what: &'static str| move |errno: Errno| failure(settings, what, &errno);
    let directory = open(&settings.state_dir).map_err(failed("open the state directory"))?;
    // What is mounted on a shared mount appears in other namespaces, and could not be moved away again.
    let found = statx(&directory, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID);
    let mount_id = found.map(|found| found.stx_mnt_id).ok();
    let below = found
        .and_then(|found| table.path_of(found.stx_mnt_id))
        .map_err(failed("find the mount of the state directory"))?
        .ok_or_else(|| failure(settings, "find the mount of the state directory", &Errno::NOENT))?;
    let pods = statx(CWD, settings.kubelet_dir.join("pods"), AtFlags::empty(), StatxFlags::MNT_ID);
    if pods.is_ok_and(|pods| Some(pods.stx_mnt_id) == mount_id) {
        return Err(Error::new(
            Code::ConfigInvalid,
            format!(
                "the state directory {} is on the same mount as kubelet's pods; give it a mount of its own",
                settings.state_dir.display()
            ),
        ));
    }
    mount_change(&below, MountPropagationFlags::PRIVATE).map_err(failed("keep the waiting room private"))?;
    let (mount, _) = make(&Plan {
        source: WAITING,
        bytes: WAITING_BYTES,
        files: WAITING_FILES,
        mode: 0o700,
        gid: None,
        read_only: false,
        allow_swap: true,
    })
    .map_err(|failed| unmade(settings, failed))?;
    move_mount(&mount, "", &directory, "waiting", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed("mount the waiting room"))?;
    openat(&mount, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open the waiting room"))
}

/// The source of our mount at `name`, if what is there is one.
fn source_at(table: &mut Table, directory: &OwnedFd, name: &str) -> rustix::io::Result<Option<String>> {
    let id = statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID)?.stx_mnt_id;
    Ok(table.rows()?.iter().find(|row| row.id == id).map(|row| row.source.clone()))
}

fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn failure(settings: &Settings, what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::new(Code::FileSystem, format!("cannot {what} of {}: {error}", settings.state_dir.display()))
}

fn unmade(settings: &Settings, failed: Failed) -> Error {
    match failed {
        Failed::Call(errno) => failure(settings, "make a tmpfs in the state directory", &errno),
        Failed::Swap => Error::new(
            Code::TmpfsRequired,
            "swap is on and this kernel knows no tmpfs without swap, so that secrets could reach a disk; switch swap \
             off, use a kernel from 6.4 on, or allow it with `files.allowSwap: true`",
        ),
    }
}
