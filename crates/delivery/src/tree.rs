//! A file tree as it should be: what projection makes and the atomic directory writes.

use std::collections::BTreeMap;

use keyward_core::SecretBytes;
use keyward_core::spec::FilePath;

/// One file.
#[derive(Clone)]
pub struct File {
    /// Its bytes.
    pub content: SecretBytes,
    /// Permission bits.
    pub mode: u32,
    /// Owner; `None` leaves it to the process.
    pub uid: Option<u32>,
    /// Group; `None` leaves it to the process or the directory's setgid bit.
    pub gid: Option<u32>,
}

/// Files by path. No path is a directory on the way of another.
#[derive(Clone, Default)]
pub struct Tree {
    /// The files.
    pub files: BTreeMap<FilePath, File>,
}

impl Tree {
    /// Whether both hold the same files with the same bytes, modes and owners.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        self.files.len() == other.files.len()
            && self.files.iter().zip(&other.files).all(|((path, a), (other_path, b))| {
                path == other_path
                    && (a.mode, a.uid, a.gid) == (b.mode, b.uid, b.gid)
                    && a.content.same_as(&b.content)
            })
    }

    /// Bytes of all files together.
    #[must_use]
    pub fn payload(&self) -> usize {
        self.files.values().map(|file| file.content.len()).sum()
    }
}
