//! File system calls that cannot leave the directory they start from.
//!
//! Every name is resolved with openat2's `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV`, or is a single
//! element handed to a call that never follows a link in it (mkdirat, symlinkat, renameat, unlinkat, readlinkat).
//! Interrupted calls are repeated.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use keyward_core::{Code, Error};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat2, readlinkat, renameat, symlinkat,
    unlinkat,
};
use rustix::io::{Errno, Result, retry_on_intr};
use zeroize::Zeroizing;

const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

/// More levels than a legal path can have, so that a hostile tree cannot exhaust stack or descriptors.
const DEEPEST: usize = 600;

/// Opens the directory at `path` below `parent`.
pub(crate) fn open_directory(parent: impl AsFd, path: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    retry_on_intr(|| openat2(&parent, path, flags, Mode::empty(), RESOLVE))
}

/// Opens what is at `path` for reading; a FIFO in its place does not block.
pub(crate) fn open_to_read(parent: impl AsFd, path: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    retry_on_intr(|| openat2(&parent, path, flags, Mode::empty(), RESOLVE))
}

/// Makes a new file that only its owner may read; whatever has the name already is an error.
pub(crate) fn create_file(parent: impl AsFd, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    retry_on_intr(|| openat2(&parent, name, flags, Mode::from_raw_mode(0o600), RESOLVE))
}

/// Makes a directory that only its owner may enter, and opens it.
pub(crate) fn create_directory(parent: impl AsFd, name: &str) -> Result<OwnedFd> {
    retry_on_intr(|| mkdirat(&parent, name, Mode::from_raw_mode(0o700)))?;
    open_directory(parent, name)
}

/// Writes all of `bytes`.
pub(crate) fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match retry_on_intr(|| rustix::io::write(file, bytes))? {
            0 => return Err(Errno::IO),
            written => bytes = &bytes[written..],
        }
    }
    Ok(())
}

/// Reads `file` to its end, wiped after use; `None` when it is longer than `limit` bytes.
pub(crate) fn read_at_most(file: &OwnedFd, limit: usize) -> Result<Option<Zeroizing<Vec<u8>>>> {
    // One byte more than allowed tells a longer file, and the buffer never grows, which would leave copies behind.
    let mut buffer = Zeroizing::new(vec![0; limit + 1]);
    let mut filled = 0;
    while filled < buffer.len() {
        match retry_on_intr(|| rustix::io::read(file, &mut buffer[filled..]))? {
            0 => {
                buffer.truncate(filled);
                return Ok(Some(buffer));
            }
            count => filled += count,
        }
    }
    Ok(None)
}

/// Makes a symbolic link.
pub(crate) fn link(parent: impl AsFd, name: &str, target: &str) -> Result<()> {
    retry_on_intr(|| symlinkat(target, &parent, name))
}

/// Where a symbolic link points: `None` when nothing has that name, or what is there is no link in UTF-8.
pub(crate) fn link_target(parent: impl AsFd, name: &str) -> Result<Option<String>> {
    match retry_on_intr(|| readlinkat(&parent, name, Vec::new())) {
        Ok(target) => Ok(target.into_string().ok()),
        Err(Errno::NOENT | Errno::INVAL) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Renames within one directory.
pub(crate) fn rename(parent: impl AsFd, from: &str, to: &str) -> Result<()> {
    retry_on_intr(|| renameat(&parent, from, &parent, to))
}

/// Names in a directory with their types, without `.` and `..`. Names that are not UTF-8 are never ours: left out.
pub(crate) fn list(directory: impl AsFd) -> Result<Vec<(String, FileType)>> {
    let mut names = Vec::new();
    let mut entries = retry_on_intr(|| Dir::read_from(&directory))?;
    while let Some(entry) = entries.read() {
        let entry = match entry {
            Err(Errno::INTR) => continue,
            entry => entry?,
        };
        if let Ok(name) = entry.file_name().to_str()
            && name != "."
            && name != ".."
        {
            names.push((name.to_owned(), entry.file_type()));
        }
    }
    Ok(names)
}

/// Whether `name` is a real directory in `parent`, on the same file system.
pub(crate) fn is_directory(parent: impl AsFd, name: &str) -> bool {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    retry_on_intr(|| openat2(&parent, name, flags, Mode::empty(), RESOLVE)).is_ok()
}

/// Removes whatever has the name `name` in `parent`: a link itself and never its target, a directory with all below.
pub(crate) fn remove(parent: impl AsFd, name: &str) -> Result<()> {
    remove_at_depth(parent, name, 0)
}

fn remove_at_depth(parent: impl AsFd, name: &str, depth: usize) -> Result<()> {
    match retry_on_intr(|| unlinkat(&parent, name, AtFlags::empty())) {
        Err(Errno::ISDIR) => {}
        Err(Errno::NOENT) => return Ok(()),
        done => return done,
    }
    if depth == DEEPEST {
        return Err(Errno::LOOP);
    }
    let directory = open_directory(&parent, name)?;
    for (name, _) in list(&directory)? {
        remove_at_depth(&directory, &name, depth + 1)?;
    }
    retry_on_intr(|| unlinkat(&parent, name, AtFlags::REMOVEDIR))
}

/// The error for a failed call: `what` continues "cannot".
pub(crate) fn failure(what: &str, errno: Errno) -> Error {
    let code = match errno {
        Errno::NOSPC | Errno::DQUOT => Code::NoSpace,
        _ => Code::FileSystem,
    };
    Error::new(code, format!("cannot {what}: {}", std::io::Error::from(errno)))
}

/// The path of an open directory, for messages.
pub(crate) fn path_of(directory: &OwnedFd) -> String {
    std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))
        .map_or_else(|_| "the directory".to_owned(), |path| path.display().to_string())
}
