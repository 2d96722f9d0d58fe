//! Whether a process may open and start what it will need: asked once at its start, so that a node without a free
//! descriptor or thread is told so by name, instead of by whatever call happens to come first.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};

use keyward_core::{Code, Error, Result};
use parking_lot::Mutex;
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{Resource, getrlimit};

/// Descriptors that each process must be able to open: about twice what a start without volumes takes.
const DESCRIPTORS: usize = 64;
/// Threads that the broker must be able to start: the audit log's, and a few for blocking calls. What comes later
/// waits for one of these.
const THREADS: usize = 4;

/// They do nothing.
const STACK: usize = 64 * 1024;

/// Opens and closes as many descriptors as a start takes.
///
/// # Errors
/// `KW_EXHAUSTED` naming the limit.
pub(crate) fn descriptors() -> Result<()> {
    let input = std::io::stdin();
    let held: rustix::io::Result<Vec<OwnedFd>> =
        (0..DESCRIPTORS).map(|_| fcntl_dupfd_cloexec(input.as_fd(), 0)).collect();
    match held {
        // Standard input is closed: descriptors of it say nothing.
        Ok(_) | Err(Errno::BADF) => Ok(()),
        Err(errno) => Err(explained("open the file descriptors that it needs", &errno.into())),
    }
}

/// Starts and ends as many threads as a start takes, all at one time.
///
/// # Errors
/// `KW_EXHAUSTED` naming the limit.
pub(crate) fn threads() -> Result<()> {
    // Held until all have started or one has not: none ends before.
    let gate = Mutex::new(());
    std::thread::scope(|scope| {
        let _closed = gate.lock();
        for _ in 0..THREADS {
            std::thread::Builder::new()
                .stack_size(STACK)
                .spawn_scoped(scope, || drop(gate.lock()))
                .map_err(|error| explained("start the threads that it needs", &error))?;
        }
        Ok(())
    })
}

/// The error of a start that failed, with what is used up and where to raise it; `what` continues "cannot".
pub(crate) fn explained(what: &str, error: &std::io::Error) -> Error {
    let advice = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE) => format!(
            "the process may have no more than {} file descriptors; raise its limit (RLIMIT_NOFILE) to at least 1024, \
             in the container runtime's settings",
            getrlimit(Resource::Nofile).current.map_or_else(|| "?".to_owned(), |limit| limit.to_string())
        ),
        Some(Errno::NFILE) => {
            "the node has no file descriptor left; raise fs.file-max, or end what holds them".to_owned()
        }
        Some(Errno::AGAIN) => {
            "no process or thread may be started any more; raise the limit of processes of the \
                               container or the pod (pids.max, kubelet's podPidsLimit) or of the node \
                               (kernel.threads-max, kernel.pid_max)"
                .to_owned()
        }
        _ if error.kind() == ErrorKind::OutOfMemory => {
            "the node or the container has no memory left; raise the container's memory limit".to_owned()
        }
        _ => return Error::new(Code::Internal, format!("cannot {what}: {error}")),
    };
    Error::new(Code::Exhausted, format!("cannot {what}: {advice}"))
}
