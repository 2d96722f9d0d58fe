use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use keyward_core::{Code, Error, Result};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fchmodat, fstat, fstatat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};

use crate::ApiSettings;

/// A listening socket, and its place in the file system, which is cleared on drop.
pub(crate) struct Bound {
    pub(crate) listener: UnixListener,
    pub(crate) place: Place,
}

impl Bound {
    /// Binds the socket so that nobody ever sees it with other permissions than asked for: it is bound under a hidden
    /// name, for its owner only, given owner and mode, and renamed to its place, replacing a socket that nobody
    /// listens on any more. Reaching the directory by descriptor also lifts the 108 bytes that the kernel gives to a
    /// socket's path.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM`, naming the path and what to do.
    pub(crate) fn bind(settings: &ApiSettings) -> Result<Self> {
        let shown = settings.shown();
        let path = shown.as_str();
        let (parent, name) =
            split(&settings.socket).ok_or_else(|| failed(path, "this is not the path of a socket"))?;
        let dir = open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|errno| {
                failed(
                    path,
                    &format!(
                        "its directory {} cannot be opened ({}); mount or create it first",
                        parent.display(),
                        errno.desc()
                    ),
                )
            })?;
        if !settings.replace {
            refuse_taken(&dir, &name, path)?;
        }

        let hidden = OsString::from(format!(".s{}", std::process::id()));
        match unlinkat(&dir, hidden.as_os_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => {
                return Err(failed(path, &format!("its directory cannot be written ({})", errno.desc())));
            }
        }
        let fd = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )
        .map_err(|errno| failed(path, errno.desc()))?;
        // The mode of an unbound socket is the mode that bind gives to the file.
        fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|errno| failed(path, errno.desc()))?;
        let address = UnixAddr::new(&through(&dir, &hidden)).map_err(|errno| failed(path, errno.desc()))?;
        bind(fd.as_raw_fd(), &address)
            .map_err(|errno| failed(path, &format!("its directory cannot be written ({})", errno.desc())))?;

        let opened = finish(&dir, &hidden, &name, &fd, settings);
        if opened.is_err() {
            let _ = unlinkat(&dir, hidden.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
        let stat = opened?;
        Ok(Self { listener: UnixListener::from(fd), place: Place { dir, name, stat } })
    }
}

pub(crate) struct Place {
    dir: OwnedFd,
    name: OsString,
    stat: FileStat,
}

/// Removes the socket unless another has taken its place.
impl Drop for Place {
    fn drop(&mut self) {
        let now = fstatat(&self.dir, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        if now.is_ok_and(|now| (now.st_dev, now.st_ino) == (self.stat.st_dev, self.stat.st_ino)) {
            let _ = unlinkat(&self.dir, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

fn split(path: &Path) -> Option<(&Path, OsString)> {
    let (parent, name) = (path.parent()?, path.file_name()?.to_owned());
    Some((if parent == Path::new("") { Path::new(".") } else { parent }, name))
}

/// Refuses to replace anything but a socket that nobody listens on.
fn refuse_taken(dir: &OwnedFd, name: &OsStr, path: &str) -> Result<()> {
    let stat = match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(failed(path, errno.desc())),
    };
    if !is_socket(&stat) {
        return Err(failed(
            path,
            "something that is not a socket is there; remove it or choose another path",
        ));
    }
    let probe =
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
            .map_err(|errno| failed(path, errno.desc()))?;
    let address = UnixAddr::new(&through(dir, name)).map_err(|errno| failed(path, errno.desc()))?;
    match connect(probe.as_raw_fd(), &address) {
        Ok(()) | Err(Errno::EAGAIN) => {
            Err(failed(path, "another process is listening there; stop it or choose another path"))
        }
        Err(_) => Ok(()),
    }
}

/// Gives the hidden socket owner and mode, begins to listen, and puts it in its place.
fn finish(
    dir: &OwnedFd,
    hidden: &OsStr,
    name: &OsStr,
    fd: &OwnedFd,
    settings: &ApiSettings,
) -> Result<FileStat> {
    let shown = settings.shown();
    let path = shown.as_str();
    // By descriptor from here on: whoever may write the directory could swap the name for a link.
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(dir, hidden, flags, Mode::empty()).map_err(|errno| failed(path, errno.desc()))?;
    let stat = fstat(&file).map_err(|errno| failed(path, errno.desc()))?;
    if !is_socket(&stat) {
        return Err(failed(
            path,
            "the directory was changed by someone else while the socket was being bound",
        ));
    }
    if settings.uid.is_some() || settings.gid.is_some() {
        let (uid, gid) = (settings.uid.map(Uid::from_raw), settings.gid.map(Gid::from_raw));
        fchownat(&file, "", uid, gid, AtFlags::AT_EMPTY_PATH)
            .map_err(|errno| failed(path, &format!("its owner cannot be set ({})", errno.desc())))?;
    }
    let mode = Mode::from_bits_truncate(settings.mode);
    fchmodat(cwd(), &itself(&file), mode, nix::sys::stat::FchmodatFlags::FollowSymlink)
        .map_err(|errno| failed(path, &format!("its mode cannot be set ({})", errno.desc())))?;
    // As many as the kernel lets wait (net.core.somaxconn); the C libraries disagree about any number.
    listen(fd, Backlog::MAXALLOWABLE).map_err(|errno| failed(path, errno.desc()))?;
    renameat(dir, hidden, dir, name).map_err(|errno| failed(path, errno.desc()))?;
    Ok(stat)
}

fn is_socket(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK
}

fn through(dir: &OwnedFd, name: &OsStr) -> PathBuf {
    itself(dir).join(name)
}

fn itself(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn cwd() -> BorrowedFd<'static> {
    nix::fcntl::AT_FDCWD
}

fn failed(path: &str, why: &str) -> Error {
    Error::new(Code::FileSystem, format!("the socket {path} cannot be opened: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
    use std::os::unix::net::UnixStream;

    fn settings(path: PathBuf) -> ApiSettings {
        ApiSettings { mode: 0o620, ..ApiSettings::new(path) }
    }

    #[test]
    fn the_socket_has_its_mode_accepts_and_is_removed_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let bound = Bound::bind(&settings(path.clone())).unwrap();
        let metadata = path.symlink_metadata().unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o620);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "the hidden name is gone");
        UnixStream::connect(&path).unwrap();
        drop(bound);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_path_longer_than_the_kernel_takes_is_bound_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(150));
        std::fs::create_dir(&deep).unwrap();
        let _bound = Bound::bind(&settings(deep.join("s.sock"))).unwrap();
        assert!(deep.join("s.sock").symlink_metadata().unwrap().file_type().is_socket());
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        drop(UnixListener::bind(&path).unwrap());
        let old = path.symlink_metadata().unwrap().ino();
        let bound = Bound::bind(&settings(path.clone())).unwrap();
        assert_ne!(path.symlink_metadata().unwrap().ino(), old);
        let error = Bound::bind(&settings(path.clone())).err().unwrap();
        assert!(error.message().contains("another process is listening"), "{error}");
        UnixStream::connect(&path).unwrap();
        drop(bound);
    }

    #[test]
    fn below_a_directory_descriptor_it_is_bound_and_removed_and_called_as_the_caller_says() {
        let dir = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap();
        let below = |name: &str| PathBuf::from(format!("/proc/self/fd/{}/{name}", fd.as_fd().as_raw_fd()));
        let shown = Some("the socket of shop/web-0".to_owned());
        let bound = Bound::bind(&ApiSettings { shown: shown.clone(), ..settings(below("s.sock")) }).unwrap();
        UnixStream::connect(dir.path().join("s.sock")).unwrap();
        drop(bound);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let missing = ApiSettings { shown, ..settings(below("missing/s.sock")) };
        let error = Bound::bind(&missing).err().unwrap();
        assert!(error.message().starts_with("the socket the socket of shop/web-0 cannot"), "{error}");
    }

    #[test]
    fn in_a_directory_of_ours_whatever_was_planted_under_the_name_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let ours = ApiSettings { replace: true, ..settings(path.clone()) };
        std::fs::write(dir.path().join("target"), "precious").unwrap();
        std::os::unix::fs::symlink(dir.path().join("target"), &path).unwrap();
        drop(Bound::bind(&ours).unwrap());
        let _planted = UnixListener::bind(&path).unwrap();
        let bound = Bound::bind(&ours).unwrap();
        let stat = path.symlink_metadata().unwrap();
        assert!(stat.file_type().is_socket());
        assert_eq!(std::fs::read_to_string(dir.path().join("target")).unwrap(), "precious");
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_a_directory_and_a_link_are_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("file"), "precious").unwrap();
        std::fs::create_dir(path("dir")).unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        for name in ["file", "dir", "link"] {
            let error = Bound::bind(&settings(path(name))).err().unwrap();
            assert_eq!(error.code(), Code::FileSystem);
            assert!(error.message().contains("not a socket"), "{error}");
        }
        assert_eq!(std::fs::read_to_string(path("file")).unwrap(), "precious");
        let error = Bound::bind(&settings(path("missing/s.sock"))).err().unwrap();
        assert!(error.message().contains("mount or create it first"), "{error}");
    }

    #[test]
    fn a_socket_that_another_process_put_there_is_left_alone_on_drop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let bound = Bound::bind(&settings(path.clone())).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(bound);
        assert!(path.exists());
    }

    #[test]
    fn no_name_in_the_directory_ever_has_more_permissions_than_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let done = std::sync::atomic::AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut seen = std::collections::BTreeSet::new();
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    for entry in std::fs::read_dir(dir.path()).unwrap().flatten() {
                        if let Ok(metadata) = entry.path().symlink_metadata() {
                            seen.insert((entry.file_name() == "s.sock", metadata.mode() & 0o7777));
                        }
                    }
                }
                seen
            });
            for _ in 0..300 {
                drop(Bound::bind(&settings(path.clone())).unwrap());
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            watcher.join().unwrap()
        });
        for (visible, mode) in seen {
            assert!(mode == 0o620 || (!visible && mode & !0o600 == 0), "{visible} {mode:o}");
        }
    }
}
