//! What readers of a volume were given, kept where only Keyward reads it (promise 3): what a restart serves as `stale`
//! until the provider confirms it.
//!
//! The directory must be on tmpfs, ours, and closed to everyone else. It holds one file for each volume, which is
//! replaced by rename; a reader finds the old snapshot or the new one. What was damaged is removed and counts as empty: a
//! cold start is always possible.

mod format;

use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use keyward_core::{Code, Error, Fetched, IdentityKey, ObjectKey, Result, UnixTime};
use rustix::fs::{FileType, Mode, OFlags, fchmod, fstat};
use rustix::io::{Errno, retry_on_intr};

use crate::beneath;
use crate::tmpfs::MountInfo;
pub use format::{parse, parse_all, parse_records, size};

/// The name of the snapshot where there is only one, and of the one for all volumes that earlier releases kept.
pub const ONLY: &str = "snapshot";
/// Ends the name of a file that is being written.
const NEXT: &str = ".next";
/// No snapshot is larger, in bytes.
const LARGEST: usize = 64 << 20;

/// One object as it was served.
#[derive(Clone)]
pub struct SavedObject {
    /// Whose, and what.
    pub key: ObjectKey,
    /// The last good content.
    pub fetched: Arc<Fetched>,
    /// When the provider last confirmed it, wall time.
    pub confirmed: UnixTime,
}

/// What a start finds.
#[derive(Default)]
pub struct Loaded {
    /// Objects of the identities that were asked for.
    pub objects: Vec<SavedObject>,
    /// An earlier release wrote it, perhaps after readers were given something newer.
    pub is_behind: bool,
    /// Why there is nothing although a file was there. It has been removed.
    pub damaged: Option<Error>,
}

/// Opens the directory for [`save`] and [`load`] by [`check`], making it with mode 0700 if it is not there.
///
/// # Errors
/// `KW_TMPFS_REQUIRED` when it is not on tmpfs; `KW_FILE_SYSTEM` when it belongs to another user, is a link, or cannot
/// be made.
pub fn open(path: &Path) -> Result<OwnedFd> {
    let shown = path.display();
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        beneath::failure(&format!("make {shown}"), Errno::from_io_error(&error).unwrap_or(Errno::IO))
    })?;
    let failed = |errno| beneath::failure(&format!("open {shown}"), errno);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty())).map_err(failed)?;
    check(&directory)?;
    Ok(directory)
}

/// Makes sure that an open directory may hold a snapshot: on tmpfs, ours, and closed to everyone else.
///
/// # Errors
/// As [`open`].
pub fn check(directory: &OwnedFd) -> Result<()> {
    let shown = || beneath::path_of(directory);
    let failed = |errno| beneath::failure(&format!("use {}", shown()), errno);
    let found = MountInfo::of(directory);
    if !found.is_tmpfs() {
        return Err(Error::new(
            Code::TmpfsRequired,
            format!(
                "{} would keep secrets on {}; name a directory on tmpfs that no application container mounts",
                shown(),
                found.kind
            ),
        ));
    }
    let stat = retry_on_intr(|| fstat(directory)).map_err(failed)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(Error::new(
            Code::FileSystem,
            format!(
                "{} belongs to uid {}; name a directory that Keyward can make itself",
                shown(),
                stat.st_uid
            ),
        ));
    }
    if stat.st_mode & 0o077 != 0 {
        retry_on_intr(|| fchmod(directory, Mode::from_raw_mode(0o700))).map_err(failed)?;
    }
    Ok(())
}

/// Replaces the snapshot `name`.
///
/// # Errors
/// `KW_NO_SPACE` or `KW_FILE_SYSTEM`; the earlier snapshot stays.
pub fn save(directory: &OwnedFd, name: &str, objects: &[SavedObject]) -> Result<()> {
    let bytes = format::write(objects);
    if bytes.len() > LARGEST {
        return Err(Error::new(
            Code::NoSpace,
            format!("the snapshot to keep has {} bytes, more than {LARGEST}", bytes.len()),
        ));
    }
    let next = format!("{name}{NEXT}");
    let written = beneath::remove(directory, &next)
        .and_then(|()| beneath::create_file(directory, &next))
        .and_then(|file| beneath::write_all(&file, &bytes))
        .and_then(|()| beneath::rename(directory, &next, name));
    written.map_err(|errno| {
        // Best effort: the next save removes it too.
        let _ = beneath::remove(directory, &next);
        beneath::failure(&format!("keep the snapshot in {}", beneath::path_of(directory)), errno)
    })
}

/// Reads the snapshot `name`: the objects that belong to one of `identities`, for nobody else may be served from it.
///
/// # Errors
/// `KW_FILE_SYSTEM` when the directory cannot be read. A damaged file is no error, see [`Loaded::damaged`].
pub fn load(directory: &OwnedFd, name: &str, identities: &[Arc<IdentityKey>]) -> Result<Loaded> {
    read(directory, name, |bytes| parse(bytes, identities))
}

/// Reads the objects of every identity. Whoever asks for this sees to it that each goes to its own identity only.
///
/// # Errors
/// As [`load`].
pub fn load_all(directory: &OwnedFd, name: &str) -> Result<Loaded> {
    read(directory, name, parse_all)
}

/// The names of all snapshots, sorted, each once: also of those of which only an unfinished file is there.
///
/// # Errors
/// `KW_FILE_SYSTEM` when the directory cannot be listed.
pub fn names(directory: &OwnedFd) -> Result<Vec<String>> {
    let entries = beneath::list(directory).map_err(|errno| {
        beneath::failure(&format!("list the snapshots in {}", beneath::path_of(directory)), errno)
    })?;
    let bare = |name: String| name.strip_suffix(NEXT).map(str::to_owned).unwrap_or(name);
    let mut names: Vec<_> = entries.into_iter().map(|(name, _)| bare(name)).collect();
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

fn read(
    directory: &OwnedFd,
    name: &str,
    parse: impl Fn(&[u8]) -> Result<Vec<SavedObject>>,
) -> Result<Loaded> {
    let place = || format!("{}/{name}", beneath::path_of(directory));
    let failed = |errno| beneath::failure(&format!("read {}", place()), errno);
    let mut is_behind = false;
    // A FIFO, link or directory in its place is as damaged as wrong bytes are.
    let parsed = match beneath::open_to_read(directory, name) {
        Err(Errno::NOENT) => return Ok(Loaded::default()),
        Err(Errno::LOOP | Errno::XDEV) => Err(format::bad("it is a link")),
        Err(errno) => return Err(failed(errno)),
        Ok(file) => {
            let stat = retry_on_intr(|| fstat(&file)).map_err(failed)?;
            let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || size > LARGEST {
                Err(format::bad("it is no regular file of an acceptable size"))
            } else {
                match beneath::read_at_most(&file, size).map_err(failed)? {
                    Some(bytes) => {
                        is_behind = format::is_behind(&bytes);
                        parse(&bytes)
                    }
                    None => Err(format::bad("it grew while it was read")),
                }
            }
        }
    };
    match parsed {
        Ok(objects) => Ok(Loaded { objects, is_behind, damaged: None }),
        Err(error) => {
            beneath::remove(directory, name).map_err(failed)?;
            let text = format!("{} was damaged and is removed: {}", place(), error.message());
            Ok(Loaded { damaged: Some(Error::new(Code::FileSystem, text)), ..Loaded::default() })
        }
    }
}

/// Removes the snapshot `name`, for when nothing may be served any more. One that is not there is removed already.
///
/// # Errors
/// `KW_FILE_SYSTEM` when it cannot be removed.
pub fn remove(directory: &OwnedFd, name: &str) -> Result<()> {
    let next = beneath::remove(directory, &format!("{name}{NEXT}"));
    next.and(beneath::remove(directory, name)).map_err(|errno| {
        beneath::failure(&format!("remove the snapshot in {}", beneath::path_of(directory)), errno)
    })
}
