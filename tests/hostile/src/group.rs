//! A memory limit as kubelet sets it: a control group of either version. Without the right to make one, memory is measured
//! and not limited.

use std::fs::{read_to_string, write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Outcome;

/// Groups made so far, for their names.
static MADE: AtomicUsize = AtomicUsize::new(0);

/// One program's memory. The group is removed when this is dropped, once its processes have ended.
pub(crate) struct Group {
    kind: Kind,
    /// Bytes.
    pub(crate) limit: u64,
}

enum Kind {
    /// Control groups, version 2.
    Unified(PathBuf),
    /// The memory controller of version 1.
    Legacy(PathBuf),
    /// None can be made.
    Absent,
}

impl Group {
    /// A group with a limit in bytes, swap included.
    pub(crate) fn with_limit(limit: u64) -> Self {
        let name = format!("keyward-hostile-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let kind = unified(&name, limit).or_else(|_| legacy(&name, limit)).unwrap_or(Kind::Absent);
        Self { kind, limit }
    }

    /// What to print when memory is not limited.
    pub(crate) fn caveat(&self) -> Option<&'static str> {
        matches!(self.kind, Kind::Absent).then_some(
            "no memory control group can be made here: memory is resident memory and tmpfs of all processes together, measured and not limited",
        )
    }

    /// What a shell does first so that it, and what it becomes, is in the group.
    pub(crate) fn entering(&self) -> String {
        match &self.kind {
            Kind::Unified(path) | Kind::Legacy(path) => format!("echo $$ >'{}/cgroup.procs'", path.display()),
            Kind::Absent => "true".to_owned(),
        }
    }

    /// Anonymous memory and tmpfs pages in bytes: what cannot be taken back.
    pub(crate) fn used(&self, pids: &[u32], mounts: impl Fn() -> Vec<PathBuf>) -> u64 {
        match &self.kind {
            Kind::Unified(path) => fields(&path.join("memory.stat"), &["anon", "shmem"]),
            Kind::Legacy(path) => fields(&path.join("memory.stat"), &["total_rss", "total_shmem"]),
            Kind::Absent => pids.iter().map(|pid| resident(*pid)).sum::<u64>() + tmpfs(&mounts()),
        }
    }

    /// How often the kernel killed a process of the group for want of memory.
    pub(crate) fn kills(&self) -> u64 {
        match &self.kind {
            Kind::Unified(path) => fields(&path.join("memory.events"), &["oom_kill"]),
            Kind::Legacy(path) => fields(&path.join("memory.oom_control"), &["oom_kill"]),
            Kind::Absent => 0,
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Kind::Unified(path) | Kind::Legacy(path) = &self.kind {
            // Processes that still run keep it; the machine's owner sees its name.
            let _ = std::fs::remove_dir(path);
        }
    }
}

fn unified(name: &str, limit: u64) -> Outcome<Kind> {
    let root = Path::new("/sys/fs/cgroup");
    if !read_to_string(root.join("cgroup.controllers"))?.split_whitespace().any(|one| one == "memory") {
        return Err("no memory controller".into());
    }
    // It may be handed down already, or this may be a container whose own processes are in the way.
    let _ = write(root.join("cgroup.subtree_control"), "+memory");
    make(root.join(name), |path| {
        write(path.join("memory.max"), limit.to_string())?;
        // Absent without swap.
        let _ = write(path.join("memory.swap.max"), "0");
        Ok(Kind::Unified(path.to_owned()))
    })
}

fn legacy(name: &str, limit: u64) -> Outcome<Kind> {
    make(Path::new("/sys/fs/cgroup/memory").join(name), |path| {
        write(path.join("memory.limit_in_bytes"), limit.to_string())?;
        let _ = write(path.join("memory.memsw.limit_in_bytes"), limit.to_string());
        Ok(Kind::Legacy(path.to_owned()))
    })
}

fn make(path: PathBuf, set: impl FnOnce(&Path) -> Outcome<Kind>) -> Outcome<Kind> {
    std::fs::create_dir(&path)?;
    set(&path).inspect_err(|_| drop(std::fs::remove_dir(&path)))
}

fn fields(path: &Path, names: &[&str]) -> u64 {
    let text = read_to_string(path).unwrap_or_default();
    let of = |line: &str| {
        let (name, number) = line.split_once(' ')?;
        names.contains(&name).then(|| number.trim().parse::<u64>().ok()).flatten()
    };
    text.lines().filter_map(of).sum()
}

fn resident(pid: u32) -> u64 {
    let text = read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn tmpfs(mounts: &[PathBuf]) -> u64 {
    let used = |path: &PathBuf| {
        let found = rustix::fs::statvfs(path).ok()?;
        Some((found.f_blocks - found.f_bfree) * found.f_frsize)
    };
    mounts.iter().filter_map(used).sum()
}
