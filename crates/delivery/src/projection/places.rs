use std::collections::HashSet;

use keyward_core::spec::FilePath;
use keyward_core::{Code, Error, Result};

/// Paths that are taken: no two entries write one file, and no file is a directory on the way of another. The object
/// grammar refuses such declarations; this holds for declarations that came another way.
#[derive(Default)]
pub(super) struct Places {
    files: HashSet<String>,
    directories: HashSet<String>,
}

impl Places {
    /// Takes all of `paths` for `contents`, or none.
    pub(super) fn claim<C>(&mut self, paths: Vec<FilePath>, contents: Vec<C>) -> Result<Vec<(FilePath, C)>> {
        if !paths.is_empty() && paths.len() != contents.len() {
            return Err(Error::new(Code::ObjectInvalid, "the file's path is too long for its suffixes"));
        }
        for path in &paths {
            let text = path.as_str();
            if self.files.contains(text)
                || self.directories.contains(text)
                || ways(text).any(|way| self.files.contains(way))
            {
                return Err(Error::new(
                    Code::ObjectInvalid,
                    format!("the file {path} clashes with the file of another entry"),
                ));
            }
        }
        for path in &paths {
            self.files.insert(path.as_str().to_owned());
            self.directories.extend(ways(path.as_str()).map(str::to_owned));
        }
        Ok(paths.into_iter().zip(contents).collect())
    }
}

/// Every directory on the way to `path`.
fn ways(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').filter_map(|(at, _)| path.get(..at))
}
