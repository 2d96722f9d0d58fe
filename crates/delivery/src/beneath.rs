//! File system calls that cannot leave the directory they start from.
//!
//! Every name is resolved with openat2's `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV`, or is a single
//! element handed to a call that never follows a link in it (mkdirat, symlinkat, renameat, unlinkat, readlinkat).
//! Interrupted calls are repeated.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use keyward_core::{Code, Error};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, mkdirat, openat2, readlinkat, renameat,
    renameat_with, statat, symlinkat, unlinkat,
};
use rustix::io::{Errno, Result, retry_on_intr};
use zeroize::Zeroizing;

const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

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
            written => bytes = bytes.get(written..).unwrap_or_default(),
        }
    }
    Ok(())
}

/// Reads `file` to its end, wiped after use; `None` when it is longer than `limit` bytes.
pub(crate) fn read_at_most(file: &OwnedFd, limit: usize) -> Result<Option<Zeroizing<Vec<u8>>>> {
    // One byte more than allowed tells a longer file, and the buffer never grows, which would leave copies behind.
    let mut buffer = Zeroizing::new(vec![0; limit.saturating_add(1)]);
    let mut filled = 0;
    while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
        match retry_on_intr(|| rustix::io::read(file, &mut *room))? {
            0 => {
                buffer.truncate(filled);
                return Ok(Some(buffer));
            }
            count => filled = filled.saturating_add(count),
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

/// Device and inode of the real directory `name` in `parent`; `None` for a link to one, and for anything else.
pub(crate) fn directory_id(parent: impl AsFd, name: &str) -> Option<(u64, u64)> {
    let stat = retry_on_intr(|| statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::Directory).then_some((stat.st_dev, stat.st_ino))
}

/// Exchanges two names of one directory.
pub(crate) fn exchange(parent: impl AsFd, one: &str, other: &str) -> Result<()> {
    retry_on_intr(|| renameat_with(&parent, one, &parent, other, RenameFlags::EXCHANGE))
}

/// Removes whatever has the name `name` in `parent`: a link itself and never its target, a directory with all below.
/// However deep that goes, it takes few descriptors and little stack: what is too deep is first moved up to `parent`.
pub(crate) fn remove(parent: impl AsFd, name: &str) -> Result<()> {
    let mut removal = Removal { top: parent.as_fd(), moved: Vec::new(), made: 0, left: MOST_REMOVED };
    let mut done = removal.remove(parent.as_fd(), name, 0);
    while let Some(name) = removal.moved.pop() {
        let top = removal.top;
        done = done.and(removal.remove(top, &name, 0));
    }
    done
}

/// Whether `name` was given to a directory on its way out; a killed process may have left one.
pub(crate) fn is_on_its_way_out(name: &str) -> bool {
    name.starts_with(MOVED)
}

/// What is below a directory that is being removed, moved up.
const MOVED: &str = "..kw_out_";
/// Levels that are open at a time.
const DEEPEST: usize = 24;
/// More entries than any tree of ours has: whoever keeps adding while we remove does not keep us for ever.
const MOST_REMOVED: usize = 1 << 20;

struct Removal<'a> {
    top: BorrowedFd<'a>,
    moved: Vec<String>,
    made: usize,
    left: usize,
}

impl Removal<'_> {
    fn remove(&mut self, parent: BorrowedFd<'_>, name: &str, depth: usize) -> Result<()> {
        self.left = self.left.checked_sub(1).ok_or(Errno::LOOP)?;
        match retry_on_intr(|| unlinkat(parent, name, AtFlags::empty())) {
            Err(Errno::ISDIR) => {}
            Err(Errno::NOENT) => return Ok(()),
            done => return done,
        }
        if depth == DEEPEST {
            return self.move_up(parent, name);
        }
        let directory = open_directory(parent, name)?;
        for (name, _) in list(&directory)? {
            self.remove(directory.as_fd(), &name, depth.saturating_add(1))?;
        }
        retry_on_intr(|| unlinkat(parent, name, AtFlags::REMOVEDIR))
    }

    fn move_up(&mut self, parent: BorrowedFd<'_>, name: &str) -> Result<()> {
        loop {
            let place = format!("{MOVED}{}", self.made);
            self.made = self.made.saturating_add(1);
            let flags = RenameFlags::NOREPLACE;
            match retry_on_intr(|| renameat_with(parent, name, self.top, &place, flags)) {
                Err(Errno::EXIST) if self.made < MOST_REMOVED => {}
                done => {
                    self.moved.push(place);
                    return done;
                }
            }
        }
    }
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
