//! The call against the real kernel. Most of it needs the capability to mount: without it, the tests say so and pass,
//! unless `KEYWARD_REQUIRE_ROOT` is set.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use keyward_mount::{Reach, set_attributes};
use rustix::fs::{AtFlags, Mode, OFlags, StatVfsMountFlags, fstatvfs, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

const NOTHING: MountAttrFlags = MountAttrFlags::empty();
const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;

/// A tmpfs that is mounted nowhere.
fn tmpfs() -> Option<OwnedFd> {
    let made = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).and_then(|context| {
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)
    });
    match made {
        Ok(mount) => Some(mount),
        Err(error) => {
            assert!(std::env::var_os("KEYWARD_REQUIRE_ROOT").is_none(), "mounting is not permitted: {error}");
            eprintln!("not run: mounting is not permitted ({error})");
            None
        }
    }
}

fn new_file(mount: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    openat(mount, name, OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RWXU)
}

#[test]
fn a_detached_mount_becomes_read_only_and_writable_again_and_keeps_its_other_attributes() {
    let Some(mount) = tmpfs() else { return };
    set_attributes(mount.as_fd(), Reach::Mount, READ_ONLY, NOTHING).unwrap();
    assert_eq!(new_file(&mount, "a").unwrap_err(), rustix::io::Errno::ROFS);
    let flags = fstatvfs(&mount).unwrap().f_flag;
    assert!(flags.contains(StatVfsMountFlags::RDONLY | StatVfsMountFlags::NODEV));
    set_attributes(mount.as_fd(), Reach::Tree, NOTHING, READ_ONLY).unwrap();
    new_file(&mount, "a").unwrap();
    assert!(fstatvfs(&mount).unwrap().f_flag.contains(StatVfsMountFlags::NODEV));
}

#[test]
fn a_mount_with_an_open_writer_stays_writable() {
    let Some(mount) = tmpfs() else { return };
    let writer = new_file(&mount, "a").unwrap();
    let error = set_attributes(mount.as_fd(), Reach::Mount, READ_ONLY, NOTHING).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceBusy);
    drop(writer);
    set_attributes(mount.as_fd(), Reach::Mount, READ_ONLY, NOTHING).unwrap();
}

#[test]
fn what_is_not_the_root_of_a_mount_is_refused() {
    let Some(mount) = tmpfs() else { return };
    rustix::fs::mkdirat(&mount, "below", Mode::RWXU).unwrap();
    let below = openat(&mount, "below", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let file = new_file(&mount, "file").unwrap();
    for not_root in [below, file] {
        let error = set_attributes(not_root.as_fd(), Reach::Mount, READ_ONLY, NOTHING).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn an_error_of_the_kernel_is_passed_on() {
    // Not a mount's root and, for most callers, not permitted either.
    let file = File::open("/proc/self/status").unwrap();
    assert!(file.as_raw_fd() > 0);
    let error = set_attributes(file.as_fd(), Reach::Mount, READ_ONLY, NOTHING).unwrap_err();
    assert!(error.raw_os_error().is_some());
    assert!(rustix::fs::statat(&file, "", AtFlags::EMPTY_PATH).is_ok());
}
