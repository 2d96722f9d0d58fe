//! Signals to processes found by name in a shared process namespace.
//!
//! A process is held by a pidfd before its name is read for good, so a number that is reused in between cannot send
//! the signal to a stranger. Of a program's processes only the topmost are told: servers such as gunicorn and nginx
//! pass a reload on from the master, and a worker of gunicorn that gets HUP itself dies with the requests in hand.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, getpid, pidfd_open, pidfd_send_signal};

use super::{Failed, failed};

/// Most bytes of a command line that are looked at.
const LONGEST_COMMAND: u64 = 4096;

/// Sends the signal called `signal` to the topmost processes whose comm or argv[0] is `process`, never to ourselves.
pub(super) fn send(signal: &str, process: &str) -> Result<(), Failed> {
    let number = number(signal)
        .ok_or_else(|| Failed::for_good(failed(format!("there is no signal called {signal}"))))?;
    let found = find(Path::new("/proc"), process)
        .map_err(|error| Failed::again(failed(format!("cannot look for {process} in /proc: {error}"))))?;
    let mut reached = false;
    let mut refused = None;
    for target in topmost(found) {
        match retry_on_intr(|| pidfd_send_signal(&target.pidfd, number)) {
            Ok(()) => reached = true,
            // Ended since it was found.
            Err(Errno::SRCH) => {}
            Err(Errno::PERM) => refused = Some(not_ours(process, target.pid, target.uid)),
            Err(errno) => {
                refused = Some(failed(format!("cannot signal {process} (pid {}): {errno}", target.pid)));
            }
        }
    }
    if let Some(refused) = refused {
        // Another try would reach those again that were reached, and no one else.
        return Err(Failed::for_good(refused));
    }
    if !reached {
        return Err(Failed::again(failed(format!(
            "no process called {process} is to be seen; the pod needs `shareProcessNamespace: true`, and the name is \
             the one in /proc/<pid>/comm or the last part of argv[0]"
        ))));
    }
    Ok(())
}

struct Found {
    pid: i32,
    parent: i32,
    uid: u32,
    pidfd: OwnedFd,
}

fn find(proc: &Path, process: &str) -> std::io::Result<Vec<Found>> {
    let ourselves = getpid().as_raw_nonzero().get();
    let mut found = Vec::new();
    for entry in fs::read_dir(proc)? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let place = entry.path();
        if pid == ourselves || !is_called(&place, process) {
            continue;
        }
        let Some(pidfd) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
            continue;
        };
        // The number may have passed to another process before the descriptor was open; not any more from here on.
        if let Some((parent, alive)) = parent_of(&place)
            && alive
            && is_called(&place, process)
            && let Ok(owner) = fs::metadata(&place)
        {
            found.push(Found { pid, parent, uid: owner.uid(), pidfd });
        }
    }
    Ok(found)
}

/// Those whose parent is not among them.
fn topmost(mut found: Vec<Found>) -> Vec<Found> {
    let pids: BTreeSet<i32> = found.iter().map(|found| found.pid).collect();
    found.retain(|found| !pids.contains(&found.parent));
    found
}

fn is_called(place: &Path, process: &str) -> bool {
    let comm = read(place.join("comm"));
    if comm.strip_suffix(b"\n").unwrap_or(&comm) == process.as_bytes() {
        return true;
    }
    let command = read(place.join("cmdline"));
    let first = command.split(|byte| *byte == 0).next().unwrap_or_default();
    first.rsplit(|byte| *byte == b'/').next() == Some(process.as_bytes())
}

/// The parent's pid, and whether the process still runs (a zombie does not).
fn parent_of(place: &Path) -> Option<(i32, bool)> {
    let stat = read(place.join("stat"));
    // The name in parentheses may hold anything, also a parenthesis.
    let after = stat.rsplit(|byte| *byte == b')').next().filter(|after| after.len() < stat.len())?;
    let mut rest = std::str::from_utf8(after).ok()?.split_ascii_whitespace();
    let state = rest.next()?;
    Some((rest.next()?.parse().ok()?, !matches!(state, "Z" | "X")))
}

/// The beginning of a file; nothing when the process has gone.
fn read(path: PathBuf) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        let _ = file.take(LONGEST_COMMAND).read_to_end(&mut bytes);
    }
    bytes
}

fn not_ours(process: &str, pid: i32, uid: u32) -> keyward_core::Error {
    failed(format!(
        "may not signal {process} (pid {pid}): it runs as uid {uid} and Keyward as uid {}; give the sidecar the \
         application's uid (`runAsUser`)",
        geteuid().as_raw()
    ))
}

fn number(signal: &str) -> Option<Signal> {
    Some(match signal {
        "HUP" => Signal::HUP,
        "USR1" => Signal::USR1,
        "USR2" => Signal::USR2,
        "TERM" => Signal::TERM,
        "INT" => Signal::INT,
        "WINCH" => Signal::WINCH,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
