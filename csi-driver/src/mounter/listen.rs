//! The sockets that kubelet calls: bound here, because the broker does not see their directories.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fchmod, openat, renameat, statat, unlinkat};
use rustix::io::{Errno, Result};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use super::Settings;
use crate::protocol::Socket;

/// kubelet opens a connection for each call.
const BACKLOG: i32 = 256;

/// Where they are, and which of them are ours.
pub(super) struct Sockets {
    csi: PathBuf,
    registration: Option<PathBuf>,
    bound: Vec<(PathBuf, (u64, u64))>,
}

/// A socket that listens.
pub(super) struct Bound {
    pub(super) listener: OwnedFd,
    /// Its file.
    pub(super) file: OwnedFd,
    /// Tells when its name or directory goes; `None` when inotify is used up, so that the broker has to ask.
    pub(super) watch: Option<OwnedFd>,
}

impl Sockets {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            csi: settings.endpoint.clone(),
            registration: settings.registration_socket.clone(),
            bound: Vec::new(),
        }
    }

    /// Binds a socket in place of the one that has its name; `None` when it is not configured.
    pub(super) fn listen(&mut self, socket: Socket) -> Result<Option<Bound>> {
        let path = match socket {
            Socket::Csi => Some(self.csi.clone()),
            Socket::Registration => self.registration.clone(),
        };
        let Some(path) = path else { return Ok(None) };
        let bound = bind_at(&path)?;
        let identity = identity(&rustix::fs::fstat(&bound.file)?);
        self.bound.retain(|(known, _)| *known != path);
        self.bound.push((path, identity));
        Ok(Some(bound))
    }

    /// Whether the name of a socket that was bound is still its own.
    pub(super) fn is_named(&self, socket: Socket) -> bool {
        let path = match socket {
            Socket::Csi => Some(&self.csi),
            Socket::Registration => self.registration.as_ref(),
        };
        self.bound.iter().any(|(bound, known)| Some(bound) == path && is_at(bound, *known))
    }

    /// Removes the names that are still those of our sockets, and not of another driver that took over.
    pub(super) fn remove(&self) {
        for (path, known) in &self.bound {
            let Ok((directory, name)) = open_parent(path) else { continue };
            if is_at(path, *known) {
                let _ = unlinkat(&directory, &name, AtFlags::empty());
            }
        }
    }
}

/// Under a hidden name first: kubelet never sees a socket that does not listen or that others may use. The directory
/// is named by its descriptor, because `sun_path` is shorter than its path may be.
fn bind_at(path: &Path) -> Result<Bound> {
    let (directory, name) = open_parent(path)?;
    match statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) if FileType::from_raw_mode(found.st_mode) != FileType::Socket => return Err(Errno::EXIST),
        Ok(_) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let hidden = ".keyward-new";
    match unlinkat(&directory, hidden, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The mode that the file gets, less the umask.
    fchmod(&listener, Mode::RUSR | Mode::WUSR)?;
    bind(&listener, &SocketAddrUnix::new(format!("/proc/self/fd/{}/{hidden}", directory.as_raw_fd()))?)?;
    let finish = || {
        listen(&listener, BACKLOG)?;
        let file =
            openat(&directory, hidden, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        renameat(&directory, hidden, &directory, &name)?;
        // A socket must be there; to be told of its end is a comfort.
        let watch = watch(&file, &directory).ok();
        Ok((file, watch))
    };
    match finish() {
        Ok((file, watch)) => Ok(Bound { listener, file, watch }),
        Err(errno) => {
            let _ = unlinkat(&directory, hidden, AtFlags::empty());
            Err(errno)
        }
    }
}

/// Watches the socket itself, whose attributes change when it loses its name, and the directory, but not what else
/// comes and goes in there.
fn watch(file: &OwnedFd, directory: &OwnedFd) -> Result<OwnedFd> {
    let watch = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let gone = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
    add_watch(&watch, format!("/proc/self/fd/{}", file.as_raw_fd()), gone | WatchFlags::ATTRIB)?;
    add_watch(&watch, format!("/proc/self/fd/{}", directory.as_raw_fd()), gone | WatchFlags::ONLYDIR)?;
    Ok(watch)
}

/// Whether the name leads to this very file.
fn is_at(path: &Path, known: (u64, u64)) -> bool {
    open_parent(path)
        .and_then(|(directory, name)| statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW))
        .is_ok_and(|found| identity(&found) == known)
}

fn open_parent(path: &Path) -> Result<(OwnedFd, OsString)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::INVAL) };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok((openat(CWD, parent, flags, Mode::empty())?, name.to_owned()))
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}
