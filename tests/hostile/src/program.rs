//! The system under test: one shipped program in its control group, on its core.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use crate::Outcome;
use crate::cores;
use crate::group::Group;

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A running program. Killed when dropped.
pub(crate) struct Program {
    child: Child,
    group: Arc<Group>,
    peak: Arc<AtomicU64>,
    watching: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

/// How to start one.
pub(crate) struct Line<'a> {
    pub(crate) program: &'a Path,
    pub(crate) arguments: &'a [String],
    pub(crate) kubeconfig: &'a Path,
    /// Where its output goes.
    pub(crate) log: &'a Path,
    /// Shell commands before it, in a mount namespace of its own.
    pub(crate) mounts_first: Option<String>,
}

impl Program {
    /// Starts it; `volumes` names its tmpfs mounts, for where memory can only be measured.
    pub(crate) fn start(
        line: &Line<'_>,
        group: Group,
        volumes: impl Fn() -> Vec<PathBuf> + Send + 'static,
    ) -> Outcome<Self> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(line.log)?;
        let script = format!("{} && {} && exec setpriv --pdeathsig KILL \"$@\"", group.entering(), {
            line.mounts_first.as_deref().unwrap_or("true")
        });
        let mut command = if line.mounts_first.is_some() {
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "unchanged", "sh"]);
            command
        } else {
            Command::new("sh")
        };
        cores::bind(cores::TESTED)?;
        let child = command
            .args(["-c", &script, "sh"])
            .arg(line.program)
            .args(line.arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("KUBECONFIG", line.kubeconfig)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn();
        cores::bind(cores::OTHERS)?;
        let group = Arc::new(group);
        let (peak, watching) = (Arc::<AtomicU64>::default(), Arc::new(AtomicBool::new(true)));
        let mut program = Self { child: child?, group, peak, watching, watcher: None };
        program.watcher = Some(program.watch(volumes));
        Ok(program)
    }

    fn watch(&self, volumes: impl Fn() -> Vec<PathBuf> + Send + 'static) -> JoinHandle<()> {
        let (group, peak) = (Arc::clone(&self.group), Arc::clone(&self.peak));
        let (watching, first) = (Arc::clone(&self.watching), self.child.id());
        let watch = move || {
            while watching.load(Ordering::Relaxed) {
                let mut pids = children(first);
                pids.push(first);
                peak.fetch_max(group.used(&pids, &volumes), Ordering::Relaxed);
                std::thread::park_timeout(LOOK);
            }
        };
        std::thread::spawn(watch)
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Most bytes at a time so far that could not be taken back.
    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    pub(crate) fn limit(&self) -> u64 {
        self.group.limit
    }

    /// Processes killed for want of memory.
    pub(crate) fn kills(&self) -> u64 {
        self.group.kills()
    }

    /// Sends SIGTERM and waits; false when it does not end by itself.
    pub(crate) async fn stop(&mut self) -> bool {
        if !self.is_alive() {
            return false;
        }
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let end = Instant::now() + Duration::from_secs(20);
        while self.is_alive() {
            if Instant::now() > end {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return false;
            }
            sleep(Duration::from_millis(10)).await;
        }
        true
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.watching.store(false, Ordering::Relaxed);
        let rest = children(self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in rest {
            // They end with the first; one that does not must not stay.
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        // It holds the group, which goes when nobody does any more.
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}

fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}
