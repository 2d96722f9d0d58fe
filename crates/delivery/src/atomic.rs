//! The atomic directory: kubelet's `..data` layout beneath a directory descriptor.
//!
//! ```text
//! ..kw_0000000000000007/         the generation that readers see: real files and directories
//! ..data -> ..kw_0000000000000007
//! password -> ..data/password    one link for each first element of a path
//! db -> ..data/db
//! ```
//!
//! A commit writes a whole generation that nobody may enter yet, makes the missing links (they dangle, so a new name
//! does not exist until the swap), and renames a new `..data` over the old one: the one step that readers see. By path,
//! every file of a tree appears, changes or goes in that instant. Links of files that went are deleted afterwards.
//! A generation that was replaced stays readable for a grace period, because a reader may hold it open as a directory.

mod generation;
mod links;
mod owner;

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use keyward_core::spec::FilePath;
use keyward_core::{Code, Error, Result};
use rustix::fs::{FileType, fstat};
use rustix::io::{Errno, retry_on_intr};

use crate::beneath;
use crate::tree::{File, Tree};
pub use owner::{Fchown, Owner};

/// The link that readers go through.
const DATA: &str = "..data";
/// The next `..data`, for the moment before it is renamed.
const DATA_NEXT: &str = "..data_tmp";
/// Replaced generations that are kept at most, whatever the grace period says.
const MOST_RETIRED: usize = 3;

/// A directory whose content changes all at once or not at all. One writer at a time.
pub struct AtomicDirectory {
    directory: OwnedFd,
    owner: Arc<dyn Owner>,
    /// `S_ISGID` when the directory has it: every directory below then gets it too, and files inherit the group.
    setgid: u32,
    current: Option<u64>,
    /// Device and inode of the current generation's directory.
    id: Option<(u64, u64)>,
    /// Set when everything in the directory is ours: the names besides that may stay.
    others: Option<&'static [&'static str]>,
    /// First elements of the paths of the current generation.
    names: BTreeSet<String>,
    /// What the current generation holds; `None` until compared with what is on disk.
    tree: Option<Tree>,
    retired: Vec<Retired>,
    next: u64,
    /// A link of ours may have been left behind.
    untidy: bool,
}

struct Retired {
    sequence: u64,
    /// A sweep has seen it already; the next one removes it.
    seen: bool,
}

/// What a commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// Readers see these very files already; nothing was written.
    Unchanged,
    /// Readers now see the new tree.
    Swapped {
        /// Files in it.
        files: usize,
        /// Its number, rising with each swap.
        generation: u64,
    },
}

impl AtomicDirectory {
    /// Takes over a directory. What an earlier process committed stays as it is; what it left half done is removed.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM` when it is no directory or cannot be listed.
    pub fn open(directory: OwnedFd) -> Result<Self> {
        Self::open_with(directory, Arc::new(Fchown))
    }

    /// The same, where files get their owners by `owner`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(directory: OwnedFd, owner: Arc<dyn Owner>) -> Result<Self> {
        let failed = |errno| beneath::failure(&format!("list {}", beneath::path_of(&directory)), errno);
        let stat = retry_on_intr(|| fstat(&directory)).map_err(failed)?;
        let entries = beneath::list(&directory).map_err(failed)?;
        let mut generations: Vec<u64> =
            entries.iter().filter_map(|(name, _)| generation::sequence(name)).collect();
        generations.sort_unstable();
        let target = beneath::link_target(&directory, DATA).map_err(failed)?;
        let current = target.and_then(|target| generation::sequence(&target));
        let (current, names) = match current {
            Some(sequence) => match generation::names(&directory, sequence) {
                Ok(names) => (Some(sequence), names),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => (None, BTreeSet::new()),
                Err(errno) => return Err(failed(errno)),
            },
            None => (None, BTreeSet::new()),
        };
        // Below the current one: replaced, perhaps still read. Above it: never finished.
        let next = generations.last().copied().max(current).unwrap_or(0).saturating_add(1);
        let mut this = Self {
            setgid: stat.st_mode & 0o2000,
            owner,
            id: current.and_then(|current| beneath::directory_id(&directory, &generation::name(current))),
            others: None,
            current,
            directory,
            names,
            tree: None,
            retired: Vec::new(),
            next,
            untidy: true,
        };
        for sequence in generations.into_iter().filter(|sequence| Some(*sequence) != current) {
            if current.is_some_and(|current| sequence < current) {
                this.retired.push(Retired { sequence, seen: false });
            } else {
                this.discard(sequence);
            }
        }
        this.tidy();
        Ok(this)
    }

    /// From now on everything in the directory is ours but `others`: what has a name that a file needs is replaced, and
    /// what nobody of ours put there is removed by each sweep. The directory is to be one that no other writer shares.
    pub fn own_all_but(&mut self, others: &'static [&'static str]) {
        self.others = Some(others);
        self.untidy = true;
        self.tidy();
    }

    /// Compares with what is on disk at the next commit, instead of remembering what was written.
    pub fn distrust(&mut self) {
        self.tree = None;
    }

    /// Makes readers see `tree`, all of it at once. Writes nothing when they do already: on the first call after a
    /// restart that is decided by reading what is on disk.
    ///
    /// # Errors
    /// Whatever the error, readers keep the tree that they had. `KW_NO_SPACE` when the file system is full even without
    /// the replaced generations; `KW_FILE_SYSTEM` naming the file otherwise, also when a name is taken by something
    /// that is not ours, or an owner cannot be given.
    pub fn commit(&mut self, tree: &Tree) -> Result<Committed> {
        if self.holds(tree) {
            links::create(&self.directory, &links::names(tree), self.others.is_some(), &mut Vec::new())?;
            return Ok(Committed::Unchanged);
        }
        let sequence = match self.stage(tree) {
            Err(error)
                if error.code() == Code::NoSpace && (self.others.is_some() || !self.retired.is_empty()) =>
            {
                // What others put there goes, and room for a new value comes before the grace of an old one.
                if self.others.is_some() {
                    self.tidy();
                }
                self.drop_retired(0);
                self.stage(tree)?
            }
            staged => staged?,
        };
        if let Some(old) = self.current.replace(sequence) {
            self.retired.push(Retired { sequence: old, seen: false });
        }
        self.id = beneath::directory_id(&self.directory, &generation::name(sequence));
        let names = links::names(tree);
        for gone in self.names.difference(&names) {
            self.untidy |= links::remove(&self.directory, gone).is_err();
        }
        self.names = names;
        self.tree = Some(tree.clone());
        self.drop_retired(MOST_RETIRED);
        Ok(Committed::Swapped { files: tree.files.len(), generation: sequence })
    }

    /// Removes the replaced generations that an earlier call has seen already. Called by a timer, it leaves each of
    /// them readable for one to two periods. Also retries what could not be removed before.
    pub fn sweep_old(&mut self) {
        for retired in std::mem::take(&mut self.retired) {
            if retired.seen {
                self.discard(retired.sequence);
            } else {
                self.retired.push(Retired { seen: true, ..retired });
            }
        }
        if self.untidy || self.others.is_some() {
            self.tidy();
        }
    }

    /// Number of the generation that readers see; `None` before the first commit.
    #[must_use]
    pub fn current(&self) -> Option<u64> {
        self.current
    }

    /// What readers see at `path` now; `None` where there is no regular file. Owners are those that the file has.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM` when it cannot be read.
    pub fn read(&self, path: &FilePath) -> Result<Option<File>> {
        let Some(current) = self.current else { return Ok(None) };
        generation::read(&self.directory, current, path)
            .map_err(|errno| beneath::failure(&format!("read {}", path.as_str()), errno))
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// Whether readers are led to the very generation that was committed last: two system calls, no content is read.
    #[must_use]
    pub fn marker_is_intact(&self) -> bool {
        self.current.is_some_and(|current| {
            let name = generation::name(current);
            let target = beneath::link_target(&self.directory, DATA).ok().flatten();
            target.as_ref() == Some(&name)
                && self.id.is_some()
                && beneath::directory_id(&self.directory, &name) == self.id
        })
    }

    /// Whether readers see `tree` now.
    fn holds(&mut self, tree: &Tree) -> bool {
        let Some(current) = self.current else { return false };
        if !self.marker_is_intact() {
            return false;
        }
        match &self.tree {
            Some(known) => known.same_as(tree),
            // What cannot be read cannot be trusted, and is written anew.
            None if generation::holds(&self.directory, current, tree).unwrap_or(false) => {
                self.tree = Some(tree.clone());
                true
            }
            None => false,
        }
    }

    /// Writes a generation and swaps it in, or leaves no trace.
    fn stage(&mut self, tree: &Tree) -> Result<u64> {
        let sequence = self.next;
        self.next = self.next.saturating_add(1);
        let mut made = Vec::new();
        let staged = generation::write(&self.directory, sequence, tree, self.setgid, &*self.owner)
            .and_then(|()| {
                links::create(&self.directory, &links::names(tree), self.others.is_some(), &mut made)
            })
            .and_then(|()| self.swap(sequence));
        if let Err(error) = staged {
            for name in made {
                self.untidy |= links::remove(&self.directory, &name).is_err();
            }
            self.discard(sequence);
            return Err(error);
        }
        Ok(sequence)
    }

    fn swap(&self, sequence: u64) -> Result<()> {
        beneath::remove(&self.directory, DATA_NEXT)
            .and_then(|()| beneath::link(&self.directory, DATA_NEXT, &generation::name(sequence)))
            .and_then(|()| match beneath::rename(&self.directory, DATA_NEXT, DATA) {
                // A directory that somebody put there: one rename cannot replace it, but can change places with it.
                Err(Errno::ISDIR) => beneath::exchange(&self.directory, DATA_NEXT, DATA).map(|()| {
                    // What cannot be removed now is by the next swap.
                    let _ = beneath::remove(&self.directory, DATA_NEXT);
                }),
                done => done,
            })
            .map_err(|errno| {
                // Best effort: a link that stays is removed by the next swap or start.
                let _ = beneath::remove(&self.directory, DATA_NEXT);
                beneath::failure(&format!("replace {}/{DATA}", beneath::path_of(&self.directory)), errno)
            })
    }

    /// Removes the oldest replaced generations until `keep` are left.
    fn drop_retired(&mut self, keep: usize) {
        let excess = self.retired.len().saturating_sub(keep);
        for retired in self.retired.drain(..excess).collect::<Vec<_>>() {
            self.discard(retired.sequence);
        }
    }

    /// Removes a generation, or remembers it for the next sweep.
    fn discard(&mut self, sequence: u64) {
        if beneath::remove(&self.directory, &generation::name(sequence)).is_err() {
            self.retired.push(Retired { sequence, seen: true });
        }
    }

    /// Removes `..data_tmp` and links of ours to files that the current generation does not hold; and everything else
    /// where all is ours.
    fn tidy(&mut self) {
        let mut clean = beneath::remove(&self.directory, DATA_NEXT).is_ok();
        match beneath::list(&self.directory) {
            Ok(entries) => {
                for (name, kind) in entries {
                    if beneath::is_on_its_way_out(&name) || self.is_foreign(&name) {
                        clean &= beneath::remove(&self.directory, &name).is_ok();
                    } else if matches!(kind, FileType::Symlink | FileType::Unknown)
                        && !self.names.contains(&name)
                    {
                        clean &= links::remove(&self.directory, &name).is_ok();
                    }
                }
            }
            Err(_) => clean = false,
        }
        self.untidy = !clean;
    }

    /// Whether `name` is neither ours nor may stay. Generations are kept and discarded by number.
    fn is_foreign(&self, name: &str) -> bool {
        let known = |sequence: u64| {
            self.current == Some(sequence) || self.retired.iter().any(|retired| retired.sequence == sequence)
        };
        self.others.is_some_and(|others| !others.contains(&name))
            && name != DATA
            && !self.names.contains(name)
            && !generation::sequence(name).is_some_and(known)
    }
}

/// A name in the directory that is not ours.
fn clash(directory: &OwnedFd, name: &str) -> Error {
    Error::new(
        Code::FileSystem,
        format!(
            "{}/{name} exists and was not made by Keyward; remove it, or write the object to another file",
            beneath::path_of(directory)
        ),
    )
}
