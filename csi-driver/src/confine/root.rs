//! A root directory that holds what the broker needs and nothing else.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use keyward_core::{Code, Error, Result};
use keyward_mount::{Reach, set_attributes};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
    unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};

use super::{Needs, failed};

const PLAIN: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;

/// Moves the process into a mount namespace of its own, whose root is a read-only tmpfs with copies of the mounts of
/// what it needs. The host's tree is not below it and not beside it.
pub(super) fn enter(needs: &Needs) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed("leave the mount namespace"))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(failed("part with the other mount namespaces"))?;
    let mut views = vec![View { path: PathBuf::from("/proc"), mount: processes()? }];
    views.extend(copies(&needs.read, PLAIN | READ_ONLY)?);
    views.extend(copies(&needs.write, PLAIN)?);
    // A directory comes before what is in it, which then hides the directory's own.
    views.sort_by(|a, b| a.path.cmp(&b.path));

    let root = empty()?;
    move_mount(&root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed("mount a new root"))?;
    let inside = openat(&root, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open the new root"))?;
    for view in &views {
        view.attach(&inside).map_err(failed(&format!("show {} to the broker", view.path.display())))?;
    }
    set_attributes(root.as_fd(), Reach::Mount, READ_ONLY, MountAttrFlags::empty())
        .map_err(failed("make the new root read-only"))?;

    fchdir(&inside).map_err(failed("enter the new root"))?;
    // With both arguments the same, the old root ends up above the new one, from where it is taken away.
    pivot_root(".", ".").map_err(failed("change the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(failed("let go of the old root"))?;
    chdir("/").map_err(failed("enter the new root"))
}

/// A copy of a mount, attached nowhere yet, and where it belongs.
struct View {
    path: PathBuf,
    mount: OwnedFd,
}

impl View {
    fn attach(&self, root: &OwnedFd) -> rustix::io::Result<()> {
        let path = self.path.strip_prefix("/").map_err(|_| Errno::INVAL)?;
        let is_directory = FileType::from_raw_mode(fstat(&self.mount)?.st_mode).is_dir();
        let mut parents: Vec<_> =
            path.ancestors().skip(1).filter(|parent| *parent != Path::new("")).collect();
        parents.reverse();
        for parent in parents {
            existing(mkdirat(root, parent, Mode::from_raw_mode(0o755)))?;
        }
        if is_directory {
            existing(mkdirat(root, path, Mode::from_raw_mode(0o755)))?;
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            existing(openat(root, path, flags, Mode::from_raw_mode(0o444)).map(drop))?;
        }
        move_mount(&self.mount, "", root, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    }
}

fn existing(made: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match made {
        Err(Errno::EXIST) => Ok(()),
        made => made,
    }
}

/// Copies of the mounts at `paths` with what is mounted below them; of files too.
fn copies(paths: &[PathBuf], attributes: MountAttrFlags) -> Result<Vec<View>> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let mut views = Vec::new();
    for path in paths {
        let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if !path.is_absolute() || !plain || path == Path::new("/") {
            return Err(Error::new(
                Code::ConfigInvalid,
                format!("{} is no absolute path of a file or directory without `..`", path.display()),
            ));
        }
        let mount = match open_tree(CWD, path, flags) {
            Err(Errno::NOENT) => continue,
            mount => mount.map_err(failed(&format!("copy the mount of {}", path.display())))?,
        };
        set_attributes(mount.as_fd(), Reach::Tree, attributes, MountAttrFlags::empty())
            .map_err(failed(&format!("take rights away from the mount of {}", path.display())))?;
        views.push(View { path: path.clone(), mount });
    }
    Ok(views)
}

/// /proc with processes only, read-only. Other processes of the container are seen, which peer identity needs, and
/// what the kernel shows of them to a process without capabilities.
fn processes() -> Result<OwnedFd> {
    let failed = failed("mount /proc");
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC).map_err(&failed)?;
    fsconfig_set_string(&context, "subset", "pid").map_err(&failed)?;
    fsconfig_create(&context).map_err(&failed)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, PLAIN | READ_ONLY).map_err(&failed)
}

fn empty() -> Result<OwnedFd> {
    let failed = failed("make a new root");
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(&failed)?;
    for (key, value) in [("source", "keyward-root"), ("size", "64k"), ("mode", "755")] {
        fsconfig_set_string(&context, key, value).map_err(&failed)?;
    }
    fsconfig_create(&context).map_err(&failed)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, PLAIN).map_err(&failed)
}
