//! The one mount call that no safe library offers: `mount_setattr(2)`, on a descriptor.

// No input from outside may end the process.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::mount::MountAttrFlags;

/// How far a change reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The one mount.
    Mount,
    /// The mount and all mounts below it: all of them change or none does.
    Tree,
}

/// Sets and clears attributes of the mount that `root` is the root of, whether it is attached or not. A change is whole:
/// on an error nothing has changed.
///
/// # Errors
/// What the kernel says: `EINVAL` when `root` is not the root of a mount, `EBUSY` when a mount becomes read-only while
/// a file is open for writing through it, `EPERM` without the capability, `ENOSYS` before Linux 5.12.
#[expect(unsafe_code, reason = "no library wraps this call; see docs/adr/0009")]
pub fn set_attributes(
    root: BorrowedFd<'_>,
    reach: Reach,
    set: MountAttrFlags,
    clear: MountAttrFlags,
) -> io::Result<()> {
    /// `struct mount_attr` of linux/mount.h, in the only version there is (`MOUNT_ATTR_SIZE_VER0`).
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let attributes =
        Attributes { set: set.bits().into(), clear: clear.bits().into(), propagation: 0, user_namespace: 0 };
    let flags = match reach {
        Reach::Mount => libc::AT_EMPTY_PATH,
        Reach::Tree => libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
    };
    // SAFETY: the descriptor is borrowed, so it is open for the whole call. The path is a string of C with static life.
    // The structure lives until the call returns, has the kernel's layout, and its true size is passed along; the
    // kernel only reads it. The arguments that are not pointers are passed as the register-wide integers that
    // `syscall(2)` takes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::c_long::from(root.as_raw_fd()),
            c"".as_ptr(),
            libc::c_long::from(flags),
            std::ptr::from_ref(&attributes),
            size_of::<Attributes>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
