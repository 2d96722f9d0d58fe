//! The kernel's side: which mount a directory is on, making one, growing one.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode as FileMode, OFlags, StatxAttributes, StatxFlags, fstatfs, openat, statx};
use rustix::io::{Errno, retry_on_intr};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick, move_mount,
};

use super::{NoSwap, Options};

/// The source name that tells a mount of ours.
const SOURCE: &str = "keyward";

/// What is known of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// File system type: `tmpfs`, `ext4`, …
    pub kind: String,
    /// What was given as its device.
    pub source: String,
    /// Whether it cannot be swapped out.
    pub noswap: bool,
    /// Whether the directory looked at is the root of the mount.
    pub is_root: bool,
}

impl MountInfo {
    /// The mount that `directory` is on, from `/proc/self/mountinfo`; without /proc only its type is known.
    pub(crate) fn of(directory: &OwnedFd) -> Self {
        let known = retry_on_intr(|| statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID))
            .ok()
            .filter(|known| known.stx_mask & StatxFlags::MNT_ID.bits() != 0);
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let info = known.as_ref().and_then(|known| parse_mount_info(&table, known.stx_mnt_id));
        let is_root = known.is_some_and(|known| known.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
        match info {
            Some(info) => Self { is_root, ..info },
            None => Self { kind: kind_of(directory), source: String::new(), noswap: false, is_root },
        }
    }

    pub(crate) fn is_tmpfs(&self) -> bool {
        self.kind == "tmpfs"
    }

    pub(super) fn is_ours(&self) -> bool {
        self.is_tmpfs() && self.is_root && self.source == SOURCE
    }
}

/// The line of mount `id` in a mountinfo table (proc_pid_mountinfo(5)).
#[must_use]
pub fn parse_mount_info(table: &str, id: u64) -> Option<MountInfo> {
    table.lines().find_map(|line| {
        let (place, device) = line.split_once(" - ")?;
        if place.split(' ').next()?.parse() != Ok(id) {
            return None;
        }
        let mut device = device.split(' ');
        let (kind, source) = (device.next()?.to_owned(), device.next()?.to_owned());
        let noswap = device.next().is_some_and(|options| options.split(',').any(|option| option == "noswap"));
        Some(MountInfo { kind, source, noswap, is_root: false })
    })
}

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

/// Mounts a new tmpfs over `target` and opens it. It is whole before `move_mount` shows it; killed before that,
/// nothing is left.
pub(super) fn make(
    target: &OwnedFd,
    size: u64,
    options: &Options,
    swap_on: bool,
) -> Result<(OwnedFd, NoSwap), Failed> {
    let context = retry_on_intr(|| fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC))?;
    let set = |key: &str, value: &str| retry_on_intr(|| fsconfig_set_string(&context, key, value));
    set("source", SOURCE)?;
    // tmpfs takes 0 for "no limit", which is never what is meant here.
    set("size", &size.max(super::PAGE as u64).to_string())?;
    let setgid = if options.gid.is_some() { 0o2000 } else { 0 };
    set("mode", &format!("{:o}", options.directory_mode & 0o777 | setgid))?;
    if let Some(gid) = options.gid {
        set("gid", &gid.to_string())?;
    }
    let noswap = match retry_on_intr(|| fsconfig_set_flag(&context, "noswap")) {
        Ok(()) => NoSwap::Yes,
        // Unknown to the kernel, or not for a user namespace.
        Err(Errno::INVAL | Errno::PERM) if swap_on && !options.allow_swap => return Err(Failed::Swap),
        Err(Errno::INVAL | Errno::PERM) => NoSwap::Unsupported,
        Err(errno) => return Err(errno.into()),
    };
    retry_on_intr(|| fsconfig_create(&context))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NOATIME;
    let mount = retry_on_intr(|| fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = retry_on_intr(|| openat(&mount, ".", flags, FileMode::empty()))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    retry_on_intr(|| move_mount(&mount, "", target, "", flags))?;
    Ok((root, noswap))
}

/// Gives the tmpfs under `root` another size. The flags of the mount stay, unlike with a classic remount.
pub(super) fn grow(root: &OwnedFd, size: u64) -> rustix::io::Result<()> {
    let flags = FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC;
    let context = retry_on_intr(|| fspick(root, "", flags))?;
    retry_on_intr(|| fsconfig_set_string(&context, "size", size.to_string().as_str()))?;
    retry_on_intr(|| fsconfig_reconfigure(&context))
}

/// The type by its magic number, for want of a mount table.
fn kind_of(directory: &OwnedFd) -> String {
    const TMPFS: u64 = 0x0102_1994;
    match retry_on_intr(|| fstatfs(directory)) {
        Ok(stat) if stat.f_type as u64 == TMPFS => "tmpfs".to_owned(),
        Ok(stat) => format!("a file system of type {:#x}", stat.f_type),
        Err(_) => "an unknown file system".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_mount_is_found_by_its_id_with_type_source_and_noswap() {
        let table = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            42 27 0:39 / /run/a\\040b rw,nosuid master:3 - tmpfs keyward rw,size=1024k,noswap\n";
        let info = parse_mount_info(table, 42).unwrap();
        assert_eq!((info.kind.as_str(), info.source.as_str(), info.noswap), ("tmpfs", "keyward", true));
        assert!(!parse_mount_info(table, 27).unwrap().noswap);
        assert_eq!(parse_mount_info(table, 2), None);
    }

    proptest! {
        #[test]
        fn any_table_is_read_or_not_without_a_panic(table in "[0-9 a-z/:,=\n-]{0,200}", id in 0u64..50) {
            let _ = parse_mount_info(&table, id);
        }
    }
}
