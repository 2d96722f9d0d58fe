//! What a process gives up before it reads a byte that it does not trust (promise 14).
//!
//! The broker gives up all capabilities, the sight of the host's files, and every system call that TLS, files and
//! sockets do not need. The mounter uses the same parts with other lists.

mod privileges;
mod root;
mod seccomp;

use std::os::fd::RawFd;
use std::path::PathBuf;

use keyward_core::{Code, Error, Result};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use rustix::thread::CapabilitySet;

pub(crate) use privileges::keep_only;
pub(crate) use seccomp::{Allow, Filter, NOT_EXECUTABLE};

/// What of the file system the broker goes on needing. What is not there is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Files and directories to read, at the same absolute paths. A directory shows what changes in it later, but what
    /// a symbolic link in it points to must be named as well.
    pub read: Vec<PathBuf>,
    /// Directories to write in, at the same absolute paths, with what is mounted below them.
    pub write: Vec<PathBuf>,
}

/// Confines the process, and lets it end with the process that started it. To be called while it has one thread and
/// holds no descriptor of a directory. Descriptors can be passed on over `channel` alone from here on, and its number
/// stays taken.
///
/// # Errors
/// `KW_CONFIG_INVALID` when a path is not absolute and plain; `KW_INTERNAL` naming the step that failed.
pub fn enter(needs: &Needs, channel: RawFd) -> Result<()> {
    one_thread()?;
    let parent = getppid();
    root::enter(needs)?;
    keep_only(CapabilitySet::empty())?;
    // After the credentials have changed, which would reset it.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed("tie the process to its parent"))?;
    if getppid() != parent {
        return Err(Error::new(Code::ShuttingDown, "the mounter has ended; the container starts again"));
    }
    seccomp::broker(channel).install()
}

/// Confines a process that only has a question to ask over `socket`: no capability, no other descriptor to come.
///
/// # Errors
/// `KW_INTERNAL` naming the step that failed.
pub(crate) fn enter_probe(socket: RawFd) -> Result<()> {
    one_thread()?;
    keep_only(CapabilitySet::empty())?;
    seccomp::probe(socket).install()
}

/// The numbers of the system calls that the broker may make, with some arguments at least. For tests, which try all
/// others.
#[doc(hidden)]
#[must_use]
pub fn broker_calls(channel: RawFd) -> Vec<i64> {
    seccomp::broker(channel).calls()
}

/// Says in the process's own name what it is: where `ps` and the kernel's log show it. At most 15 bytes are kept.
pub(crate) fn name(name: &std::ffi::CStr) -> Result<()> {
    rustix::thread::set_name(name).map_err(failed("name the process"))
}

/// A filter and capabilities belong to a thread: one that exists already would keep its own.
pub(crate) fn one_thread() -> Result<()> {
    let threads = std::fs::read_dir("/proc/self/task").map_err(failed("count the threads"))?.count();
    if threads == 1 {
        return Ok(());
    }
    Err(Error::new(Code::Internal, format!("cannot confine a process that has {threads} threads")))
}

/// The error of a step that no configuration of ours can cause; `what` continues "cannot".
pub(crate) fn failed<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> Error {
    move |error| {
        Error::new(
            Code::Internal,
            format!(
                "cannot {what}: {error}; the container must be privileged and its seccomp profile unconfined"
            ),
        )
    }
}
