//! tmpfs: mounting it, or making sure that a path is on it.
//!
//! A mount of ours carries the source name `keyward`, so that a restarted process finds it and mounts no second one
//! over it. Sizes are in bytes.

mod mount;

use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use keyward_core::{Code, Error, Result};
use rustix::fs::{Mode as FileMode, OFlags, fstatvfs, open};
use rustix::io::{Errno, retry_on_intr};
use rustix::mount::UnmountFlags;

use crate::beneath;
pub use mount::{MountInfo, parse_mount_info};

/// Whether to mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Take a tmpfs volume that is mounted at the path; else mount one when permitted; else the path must be on tmpfs.
    #[default]
    Auto,
    /// Never mount: the path must be on tmpfs.
    Require,
    /// Always have a mount of our own.
    Mount,
}

/// What rarely changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Permission bits of the root of a mount of ours.
    pub directory_mode: u32,
    /// Group of that root; adds the setgid bit, so that files inherit it.
    pub gid: Option<u32>,
    /// Accept a tmpfs that may be swapped out while swap is on.
    pub allow_swap: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { directory_mode: 0o755, gid: None, allow_swap: false }
    }
}

/// Whether pages of the tmpfs can reach a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSwap {
    /// The mount has `noswap`.
    Yes,
    /// Ours, but the kernel knows no `noswap` (it came with 6.4) or does not allow it in a user namespace.
    Unsupported,
    /// Somebody else's mount without it.
    NotOurs,
}

/// A directory on tmpfs.
#[derive(Debug)]
pub struct Prepared {
    /// Its root, open for reading.
    pub directory: OwnedFd,
    /// Whether the mount is ours.
    pub mounted: bool,
    /// Whether it was there already, from before a restart. False when it is not ours.
    pub reused: bool,
    /// Whether it can be swapped out.
    pub noswap: NoSwap,
    /// Whether swap is on now.
    pub swap_on: bool,
}

/// Makes `path` a directory on tmpfs and opens it. Missing directories are made. A mount of ours has `size`, `noswap`
/// where the kernel knows it, nosuid, nodev and noexec, and is complete before anyone can see it.
///
/// # Errors
/// `KW_TMPFS_REQUIRED` naming the path, the file system found and the fix; also while swap is on and the tmpfs is
/// without `noswap`, unless `options` allow it. `KW_FILE_SYSTEM` when the path cannot be made or opened, or is a
/// symbolic link.
pub fn prepare(path: &Path, mode: Mode, size: u64, options: &Options) -> Result<Prepared> {
    let directory = open_path(path)?;
    let found = MountInfo::of(&directory);
    if found.is_ours() && mode != Mode::Require {
        return Prepared::existing(directory, &found, path, options);
    }
    let volume = found.is_tmpfs() && found.is_root;
    let mut refused = None;
    if mode == Mode::Mount || (mode == Mode::Auto && !volume) {
        match mount::make(&directory, size, options, swap_is_on()) {
            Ok((directory, noswap)) => {
                return Ok(Prepared {
                    directory,
                    mounted: true,
                    reused: false,
                    noswap,
                    swap_on: swap_is_on(),
                });
            }
            Err(mount::Failed::Swap) => return Err(swap_refused(path)),
            Err(mount::Failed::Call(errno)) if mode == Mode::Mount || is_local(errno) => {
                return Err(required(path, &found, &format!("mounting one failed ({errno})")));
            }
            Err(mount::Failed::Call(errno)) => refused = Some(errno),
        }
    }
    if found.is_tmpfs() {
        Prepared::existing(directory, &found, path, options)
    } else {
        let why =
            if mode == Mode::Require { "mounting is switched off" } else { "mounting is not permitted" };
        let error = required(path, &found, why);
        Err(match refused {
            Some(errno) => error.detail(format_args!("mounting one failed: {errno}")),
            None => error,
        })
    }
}

/// How much room there is for a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Two generations fit.
    Enough,
    /// Ours, and was grown to this many bytes.
    Grown(u64),
    /// One more fits, but the replaced one may have to go before its grace period is over. In bytes.
    Tight {
        /// For two generations.
        wanted: u64,
        /// What the file system has in all.
        size: u64,
    },
}

/// Makes sure that the old and a new generation of `files` files with `payload` bytes together fit at once:
/// `2 × (payload in whole pages + one page a file)`.
///
/// # Errors
/// `KW_NO_SPACE` when not even one generation fits into a tmpfs that is not ours, or ours cannot be grown.
pub fn ensure_room(directory: &OwnedFd, payload: usize, files: usize) -> Result<Room> {
    let one = (payload.div_ceil(PAGE).saturating_add(files) as u64).saturating_mul(PAGE as u64);
    let wanted = one.saturating_mul(2);
    let place = || beneath::path_of(directory);
    let stat = retry_on_intr(|| fstatvfs(directory))
        .map_err(|errno| beneath::failure(&format!("ask for the room on {}", place()), errno))?;
    let (size, free) =
        (stat.f_blocks.saturating_mul(stat.f_frsize), stat.f_bavail.saturating_mul(stat.f_frsize));
    // A tmpfs without a limit says 0.
    if size == 0 || (size >= wanted && free >= one) {
        return Ok(Room::Enough);
    }
    let ours = MountInfo::of(directory).is_ours();
    if ours && size < wanted {
        return mount::grow(directory, wanted)
            .map(|()| Room::Grown(wanted))
            .map_err(|errno| beneath::failure(&format!("grow {} to {wanted} bytes", place()), errno));
    }
    if size >= one {
        return Ok(Room::Tight { wanted, size });
    }
    Err(Error::new(
        Code::NoSpace,
        format!(
            "{files} files need {wanted} bytes on {} for the old and the new version at once, and it has {size}; raise \
             the volume's sizeLimit (or the memory limit of the pod, which caps it)",
            place()
        ),
    ))
}

/// Unmounts `path` if the mount there is ours. A directory that is still in use is detached: it goes with its last
/// user. Returns whether there was something to unmount.
///
/// # Errors
/// `KW_FILE_SYSTEM` when the kernel refuses.
pub fn unmount(path: &Path) -> Result<bool> {
    let found = match open(path, OPEN, FileMode::empty()) {
        Ok(directory) => MountInfo::of(&directory),
        Err(Errno::NOENT) => return Ok(false),
        Err(errno) => return Err(beneath::failure(&format!("open {}", path.display()), errno)),
    };
    if !found.is_ours() {
        return Ok(false);
    }
    match retry_on_intr(|| rustix::mount::unmount(path, UnmountFlags::NOFOLLOW)) {
        Err(Errno::BUSY) => {
            retry_on_intr(|| rustix::mount::unmount(path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH))
        }
        done => done,
    }
    .map(|()| true)
    .map_err(|errno| beneath::failure(&format!("unmount {}", path.display()), errno))
}

const PAGE: usize = 4096;
const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Prepared {
    fn existing(directory: OwnedFd, found: &MountInfo, path: &Path, options: &Options) -> Result<Self> {
        let mounted = found.is_ours();
        let noswap = match (found.noswap, mounted) {
            (true, _) => NoSwap::Yes,
            (false, true) => NoSwap::Unsupported,
            (false, false) => NoSwap::NotOurs,
        };
        let swap_on = swap_is_on();
        if swap_on && noswap != NoSwap::Yes && !options.allow_swap {
            return Err(swap_refused(path));
        }
        Ok(Self { directory, mounted, reused: mounted, noswap, swap_on })
    }
}

fn open_path(path: &Path) -> Result<OwnedFd> {
    DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        beneath::failure(&format!("make the directory {}", path.display()), errno)
    })?;
    retry_on_intr(|| open(path, OPEN, FileMode::empty())).map_err(|errno| match errno {
        Errno::NOTDIR | Errno::LOOP => Error::new(
            Code::FileSystem,
            format!(
                "{} is not a directory, or is a symbolic link; name the directory itself",
                path.display()
            ),
        ),
        errno => beneath::failure(&format!("open {}", path.display()), errno),
    })
}

/// A failure of the moment, which falling back would hide.
fn is_local(errno: Errno) -> bool {
    matches!(errno, Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::NOSPC | Errno::IO)
}

fn required(path: &Path, found: &MountInfo, why: &str) -> Error {
    Error::new(
        Code::TmpfsRequired,
        format!(
            "{} is on {}, not tmpfs, and {why}; make the volume an emptyDir with `medium: Memory`, or give Keyward the \
             capability SYS_ADMIN so that it can mount one",
            path.display(),
            found.kind
        ),
    )
}

fn swap_refused(path: &Path) -> Error {
    Error::new(
        Code::TmpfsRequired,
        format!(
            "swap is on and the tmpfs at {} is without noswap, so that secrets could reach a disk; switch swap off, use \
             a kernel from 6.4 on, or allow it with `files.allowSwap: true`",
            path.display()
        ),
    )
}

/// Whether any swap area is in use; the first line of the file is a heading.
fn swap_is_on() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().skip(1).any(|line| !line.is_empty()))
}
