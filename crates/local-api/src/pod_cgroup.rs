//! Whether a process belongs to a pod, by its control group: the one word about it that the kernel gives and the pod
//! cannot choose.
//!
//! A pod may make groups of its own below its containers' and name them as it likes, so what counts is the one pod that
//! all of a path agrees on, and a path that names two belongs to nobody.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use keyward_core::{Code, Error};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::peer::{Peer, PeerCheck};

/// More than any `/proc/<pid>/cgroup` has: a dozen hierarchies with paths of 4 KiB.
const LONGEST: u64 = 64 << 10;

/// Admits the processes of one pod. The driver must see their pids (hostPID) and run in the host's cgroup namespace.
#[derive(Debug, Clone)]
pub struct PodCgroup {
    uid: String,
    proc: PathBuf,
}

impl PodCgroup {
    /// Admits the pod with this UID.
    #[must_use]
    pub fn new(pod_uid: impl Into<String>) -> Self {
        Self { uid: pod_uid.into(), proc: PathBuf::from("/proc") }
    }

    /// The text of the peer's `cgroup` file, from the very process that connected where the kernel lets us know it, and
    /// from one process in any case.
    fn cgroup(&self, peer: &Peer) -> io::Result<Vec<u8>> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "the process has ended");
        let pid = match &peer.pidfd {
            Some(pidfd) => self.pid_of(pidfd)?,
            None => peer.pid,
        };
        if pid <= 0 {
            return Err(io::Error::new(io::ErrorKind::NotFound, "its process id is not visible here"));
        }
        // A descriptor of the directory stays with its process: what is read below fails when that has ended, even if
        // another has the number.
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let process = open(&self.proc.join(pid.to_string()), flags, Mode::empty())?;
        let path = format!("/proc/self/fd/{}/cgroup", process.as_raw_fd());
        let mut text = Vec::new();
        fs::File::open(path)?.take(LONGEST + 1).read_to_end(&mut text)?;
        if text.len() as u64 > LONGEST {
            return Err(io::Error::other("its cgroup file is too long"));
        }
        if let Some(pidfd) = &peer.pidfd
            && self.pid_of(pidfd)? != pid
        {
            return Err(gone());
        }
        Ok(text)
    }

    /// The process id behind a pidfd: not positive once the process has ended, or where it is not visible.
    fn pid_of(&self, pidfd: &OwnedFd) -> io::Result<i32> {
        let text = fs::read_to_string(self.proc.join(format!("self/fdinfo/{}", pidfd.as_raw_fd())))?;
        text.lines()
            .find_map(|line| line.strip_prefix("Pid:"))
            .and_then(|pid| pid.trim().parse().ok())
            .ok_or_else(|| io::Error::other("its pidfd says nothing of a process"))
    }
}

impl PeerCheck for PodCgroup {
    fn check(&self, peer: &Peer) -> Result<(), Error> {
        let refused = |why: String| Err(Error::new(Code::CallerRefused, why));
        let text = match self.cgroup(peer) {
            Ok(text) => text,
            Err(error) => {
                return refused(format!(
                    "the caller's pod cannot be told: {error}; grpc.hostPid needs the driver to run with hostPID"
                ));
            }
        };
        match pod_of(&text) {
            Found::Pod(uid) if uid == normal(&self.uid) => Ok(()),
            Found::Pod(_) => refused("the caller belongs to another pod".to_owned()),
            Found::Several => refused("the caller's cgroup names more than one pod".to_owned()),
            Found::Nothing => refused(
                "the caller's cgroup names no pod; it is no container, or the driver does not run in the host's cgroup \
                 namespace"
                    .to_owned(),
            ),
        }
    }
}

/// What a `cgroup` file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The UID of the one pod that it names, with dashes as the API has it.
    Pod(String),
    /// It names several.
    Several,
    /// It names none.
    Nothing,
}

/// Reads `/proc/<pid>/cgroup`: every line of every hierarchy that is in a pod must be in the same.
#[must_use]
pub fn pod_of(text: &[u8]) -> Found {
    let mut found: Option<String> = None;
    let Ok(text) = std::str::from_utf8(text) else { return Found::Nothing };
    for path in text.lines().filter_map(|line| line.splitn(3, ':').nth(2)) {
        // containerd's colon form puts slice, runtime and id into one element.
        for element in path.split(['/', ':']) {
            if element.starts_with("crio-conmon-") {
                // The monitor beside a container is none of the pod's own processes.
                return Found::Nothing;
            }
            let Some(uid) = pod_uid(element) else { continue };
            match &found {
                Some(known) if *known != uid => return Found::Several,
                Some(_) => {}
                None => found = Some(uid),
            }
        }
    }
    found.map_or(Found::Nothing, Found::Pod)
}

/// The UID in `pod<uid>`, `kubepods[-<class>]-pod<uid>.slice` or the same below another prefix such as `kubelet-`.
fn pod_uid(element: &str) -> Option<String> {
    let text = match element.strip_suffix(".slice") {
        None => element.strip_prefix("pod")?,
        Some(slice) => {
            let (parents, uid) = slice.rsplit_once("-pod")?;
            let is_kubepods = |parents: &str| parents == "kubepods" || parents.ends_with("-kubepods");
            let class = ["-burstable", "-besteffort"].iter().find_map(|class| parents.strip_suffix(class));
            if !is_kubepods(class.unwrap_or(parents)) {
                return None;
            }
            uid
        }
    };
    is_uid(text).then(|| normal(text))
}

/// A UUID with dashes, or with the underscores that systemd's driver writes for them; or the 32 digits that kubelet
/// gives to a pod from a file.
fn is_uid(text: &str) -> bool {
    let groups: Vec<&str> = text.split(['-', '_']).collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    matches!(lengths[..], [8, 4, 4, 4, 12] | [32])
        && groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn normal(uid: &str) -> String {
    uid.replace('_', "-").to_ascii_lowercase()
}

#[cfg(test)]
mod tests;
