//! One generation: a directory of real files, written once and never changed.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use keyward_core::spec::FilePath;
use keyward_core::{Code, Error, Result, SecretBytes};
use rustix::fs::{FileType, Mode, fchmod, fstat};
use rustix::io::{Errno, retry_on_intr};

use super::Owner;
use crate::beneath;
use crate::tree::{File, Tree};

const PREFIX: &str = "..kw_";
/// No number of ours comes near it; a larger one was put there by somebody else.
const LARGEST: u64 = 1_000_000_000_000_000;
/// No file that we wrote is larger, in bytes.
const LARGEST_FILE: usize = 64 << 20;

/// The directory's name.
pub(super) fn name(sequence: u64) -> String {
    format!("{PREFIX}{sequence:016}")
}

/// The number in a name that [`name`] made.
pub(super) fn sequence(text: &str) -> Option<u64> {
    let sequence = text.strip_prefix(PREFIX)?.parse().ok()?;
    (name(sequence) == text && sequence < LARGEST).then_some(sequence)
}

/// First elements of the paths of a generation.
pub(super) fn names(directory: &OwnedFd, sequence: u64) -> rustix::io::Result<BTreeSet<String>> {
    let root = beneath::open_directory(directory, &name(sequence))?;
    Ok(beneath::list(root)?.into_iter().map(|(name, _)| name).collect())
}

/// Writes a generation. Nobody but the owner may enter it until all of it is there.
pub(super) fn write(
    directory: &OwnedFd,
    sequence: u64,
    tree: &Tree,
    setgid: u32,
    owner: &dyn Owner,
) -> Result<()> {
    let root_name = name(sequence);
    let failed_on = |errno| beneath::failure(&format!("make {root_name}"), errno);
    let root = match beneath::create_directory(directory, &root_name) {
        Err(Errno::EXIST) => {
            beneath::remove(directory, &root_name).map_err(failed_on)?;
            beneath::create_directory(directory, &root_name)
        }
        made => made,
    }
    .map_err(failed_on)?;

    // Paths come sorted, so all that share a directory follow each other, and a stack of the directories on the way
    // to the last file is enough to make and open each of them once. A directory gets its mode when all of it is there:
    // a process without capabilities that is not in the group loses the setgid bit by that, and with it what the files
    // inside inherit.
    let mut open: Vec<(&str, OwnedFd)> = Vec::new();
    for (path, file) in &tree.files {
        let failed = |errno| beneath::failure(&format!("write {path}"), errno);
        let mut elements: Vec<&str> = path.elements().collect();
        let Some(file_name) = elements.pop() else { continue };
        let shared = open.iter().zip(&elements).take_while(|((have, _), want)| have == *want).count();
        for (_, left) in open.drain(shared..).rev() {
            set_mode(&left, 0o755 | setgid).map_err(failed)?;
        }
        for element in elements.iter().skip(shared) {
            let parent = open.last().map_or(root.as_fd(), |(_, fd)| fd.as_fd());
            let made = beneath::create_directory(parent, element).map_err(failed)?;
            open.push((element, made));
        }
        let parent = open.last().map_or(root.as_fd(), |(_, fd)| fd.as_fd());
        let made = beneath::create_file(parent, file_name).map_err(failed)?;
        // Mode and owner first, so that no byte is ever in a file that the wrong one may read. The mode before the
        // owner, because it takes a capability to change the mode of another's file.
        set_mode(&made, file.mode).map_err(failed)?;
        set_owner(&made, file, owner).map_err(|errno| owner_refused(path.as_str(), file, errno))?;
        beneath::write_all(&made, file.content.expose()).map_err(failed)?;
    }
    for (_, left) in open.iter().rev() {
        set_mode(left, 0o755 | setgid).map_err(failed_on)?;
    }
    set_mode(&root, 0o755 | setgid).map_err(failed_on)
}

/// Whether a generation holds exactly the files of `tree`: bytes, modes and owners.
pub(super) fn holds(directory: &OwnedFd, sequence: u64, tree: &Tree) -> rustix::io::Result<bool> {
    let root = beneath::open_directory(directory, &name(sequence))?;
    for (path, file) in &tree.files {
        let found = match beneath::open_to_read(&root, path.as_str()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Ok(false),
            found => found?,
        };
        let stat = retry_on_intr(|| fstat(&found))?;
        let expected = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_mode & 0o7777 == file.mode & 0o777
            && file.uid.is_none_or(|uid| uid == stat.st_uid)
            && file.gid.is_none_or(|gid| gid == stat.st_gid)
            && u64::try_from(stat.st_size) == Ok(file.content.len() as u64);
        if !expected {
            return Ok(false);
        }
        let content = beneath::read_at_most(&found, file.content.len())?;
        if content.is_none_or(|content| content.as_slice() != file.content.expose()) {
            return Ok(false);
        }
    }
    Ok(count_files(&root, tree.files.len())? == tree.files.len())
}

/// One file of a generation; `None` when there is no regular file of an acceptable size.
pub(super) fn read(directory: &OwnedFd, sequence: u64, path: &FilePath) -> rustix::io::Result<Option<File>> {
    let root = beneath::open_directory(directory, &name(sequence))?;
    let found = match beneath::open_to_read(&root, path.as_str()) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Ok(None),
        found => found?,
    };
    let stat = retry_on_intr(|| fstat(&found))?;
    let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || size > LARGEST_FILE {
        return Ok(None);
    }
    let content = beneath::read_at_most(&found, size)?;
    Ok(content.map(|content| File {
        content: SecretBytes::copy_from(&content),
        mode: stat.st_mode & 0o777,
        uid: Some(stat.st_uid),
        gid: Some(stat.st_gid),
    }))
}

/// Files below `directory`, counted to just beyond `most`.
fn count_files(directory: &OwnedFd, most: usize) -> rustix::io::Result<usize> {
    let mut count = 0;
    for (name, kind) in beneath::list(directory)? {
        let more = match kind {
            FileType::Directory => {
                count_files(&beneath::open_directory(directory, &name)?, most.saturating_sub(count))?
            }
            _ => 1,
        };
        count = count.saturating_add(more);
        if count > most {
            break;
        }
    }
    Ok(count)
}

fn set_mode(file: &OwnedFd, mode: u32) -> rustix::io::Result<()> {
    retry_on_intr(|| fchmod(file, Mode::from_raw_mode(mode & 0o2777)))
}

/// Nobody is asked for an owner that the file has already: by the process, or by the directory's setgid bit.
fn set_owner(made: &OwnedFd, want: &File, owner: &dyn Owner) -> rustix::io::Result<()> {
    if want.uid.is_none() && want.gid.is_none() {
        return Ok(());
    }
    let stat = retry_on_intr(|| fstat(made))?;
    let uid = want.uid.filter(|uid| *uid != stat.st_uid);
    let gid = want.gid.filter(|gid| *gid != stat.st_gid);
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    owner.own(made.as_fd(), uid, gid).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn owner_refused(path: &str, want: &File, errno: Errno) -> Error {
    if errno != Errno::PERM {
        return beneath::failure(&format!("write {path}"), errno);
    }
    let owner = match (want.uid, want.gid) {
        (Some(uid), Some(gid)) => format!("uid {uid} and gid {gid}"),
        (Some(uid), None) => format!("uid {uid}"),
        (None, gid) => format!("gid {}", gid.unwrap_or_default()),
    };
    Error::new(
        Code::FileSystem,
        format!(
            "cannot give {path} to {owner}: Keyward runs as uid {} without the capability CHOWN; run it with the \
             application's uid, use the pod's fsGroup, or add the capability",
            rustix::process::geteuid().as_raw()
        ),
    )
}
