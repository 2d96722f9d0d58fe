//! Making tmpfs that are attached nowhere, and growing them.

use std::os::fd::{AsFd, OwnedFd};

use keyward_core::{Code, Error};
use keyward_mount::{Reach, set_attributes};
use rustix::fs::{CWD, Mode, OFlags, fstatvfs, openat};
use rustix::io::{Errno, Result};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick, open_tree,
};

/// What every mount of ours has.
const PLAIN: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC)
    .union(MountAttrFlags::MOUNT_ATTR_NOATIME);
const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;
const PAGE: u64 = 4096;

/// A file system to make.
pub(super) struct Plan<'a> {
    pub(super) source: &'a str,
    pub(super) bytes: u64,
    pub(super) files: u32,
    pub(super) mode: u32,
    pub(super) gid: Option<u32>,
    pub(super) read_only: bool,
    pub(super) allow_swap: bool,
}

/// Why there is none.
pub(super) enum Failed {
    /// Swap is on, `noswap` is not to be had, and that is not allowed.
    Swap,
    /// A call failed.
    Call(Errno),
}

impl From<Errno> for Failed {
    fn from(errno: Errno) -> Self {
        Self::Call(errno)
    }
}

/// Makes a tmpfs; the second value tells whether it has `noswap`.
pub(super) fn make(plan: &Plan<'_>) -> std::result::Result<(OwnedFd, bool), Failed> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key: &str, value: &str| fsconfig_set_string(&context, key, value);
    set("source", plan.source)?;
    set("size", &whole_pages(plan.bytes).to_string())?;
    set("nr_inodes", &plan.files.to_string())?;
    let setgid = if plan.gid.is_some() { 0o2000 } else { 0 };
    set("mode", &format!("{:o}", plan.mode & 0o777 | setgid))?;
    if let Some(gid) = plan.gid {
        set("gid", &gid.to_string())?;
    }
    let noswap = match fsconfig_set_flag(&context, "noswap") {
        Ok(()) => true,
        // Unknown before Linux 6.4.
        Err(Errno::INVAL) if !plan.allow_swap && swap_is_on() => return Err(Failed::Swap),
        Err(Errno::INVAL) => false,
        Err(errno) => return Err(errno.into()),
    };
    fsconfig_create(&context)?;
    let attributes = if plan.read_only { PLAIN | READ_ONLY } else { PLAIN };
    Ok((fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?, noswap))
}

/// The root of a writable view of the mount at `name` in `directory`: a mount of its own, attached nowhere.
pub(super) fn writable_view(directory: impl AsFd, name: &str) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let view = open_tree(directory, name, flags)?;
    set_attributes(view.as_fd(), Reach::Mount, MountAttrFlags::empty(), READ_ONLY).map_err(errno)?;
    openat(&view, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Lets the tmpfs whose root is at `root` grow to `bytes`. Unlike a classic remount this keeps all flags.
pub(super) fn grow(root: impl AsFd, bytes: u64) -> Result<()> {
    let stat = fstatvfs(&root)?;
    if stat.f_blocks.saturating_mul(stat.f_frsize) >= bytes {
        return Ok(());
    }
    let context = fspick(&root, "", FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC)?;
    fsconfig_set_string(&context, "size", whole_pages(bytes).to_string().as_str())?;
    fsconfig_reconfigure(&context)
}

/// Makes sure that the kernel and the container offer what all this stands on.
pub(super) fn check_kernel() -> keyward_core::Result<()> {
    let tried = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).and_then(|context| {
        fsconfig_create(&context)?;
        let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, PLAIN)?;
        set_attributes(mount.as_fd(), Reach::Mount, READ_ONLY, MountAttrFlags::empty()).map_err(errno)
    });
    let why = match tried {
        Ok(()) => return Ok(()),
        Err(Errno::NOSYS) => "this kernel is older than Linux 5.12, which the node plugin needs".to_owned(),
        Err(Errno::PERM | Errno::ACCESS) => {
            "mounting is not permitted; the container must be privileged".to_owned()
        }
        Err(errno) => format!("a tmpfs cannot be made: {}", std::io::Error::from(errno)),
    };
    Err(Error::new(Code::TmpfsRequired, why))
}

pub(super) fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// tmpfs takes 0 for "no limit", which is never what is meant.
fn whole_pages(bytes: u64) -> u64 {
    bytes.max(1).next_multiple_of(PAGE)
}

/// The first line of the file is a heading.
fn swap_is_on() -> bool {
    let swaps = openat(CWD, "/proc/swaps", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let text = swaps
        .map_err(std::io::Error::from)
        .and_then(|file| std::io::read_to_string(std::fs::File::from(file)));
    // What cannot be read is not known to be off.
    text.map_or(true, |text| text.lines().skip(1).any(|line| !line.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_whole_pages_and_never_without_limit() {
        assert_eq!(whole_pages(0), PAGE);
        assert_eq!(whole_pages(1), PAGE);
        assert_eq!(whole_pages(PAGE), PAGE);
        assert_eq!(whole_pages(PAGE + 1), 2 * PAGE);
    }
}
