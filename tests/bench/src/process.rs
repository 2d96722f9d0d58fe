use std::ffi::OsStr;
use std::fs::read_to_string;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::Outcome;

/// A child that ends with its owner.
pub(crate) struct Process {
    child: Child,
    pid: i32,
}

impl Process {
    pub(crate) fn start(program: &Path, arguments: &[impl AsRef<OsStr>]) -> Outcome<Self> {
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{} cannot be started: {error}", program.display()))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).ok_or("the child has no pid")?;
        Ok(Self { child, pid })
    }

    pub(crate) async fn stop(mut self) -> Outcome<()> {
        kill(Pid::from_raw(self.pid), Signal::SIGTERM)?;
        tokio::time::timeout(Duration::from_secs(15), self.child.wait()).await??;
        Ok(())
    }

    /// A line of `/proc/<pid>/status` such as `VmRSS`, in KiB.
    pub(crate) fn status_kib(&self, field: &str) -> Outcome<u64> {
        number_after(&read_to_string(format!("/proc/{}/status", self.pid))?, field)
    }

    /// Anonymous resident memory, in KiB.
    pub(crate) fn anonymous_kib(&self) -> Outcome<u64> {
        rollup_kib(self.pid.unsigned_abs(), "Anonymous")
    }

    /// User and system time used so far.
    pub(crate) fn cpu(&self) -> Outcome<Duration> {
        let stat = read_to_string(format!("/proc/{}/stat", self.pid))?;
        let after_name = stat.rsplit_once(')').ok_or("stat has no name")?.1;
        let ticks: u64 = after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100) as f64;
        Ok(Duration::from_secs_f64(ticks as f64 / per_second))
    }
}

/// A line of `/proc/<pid>/smaps_rollup`, in KiB.
pub(crate) fn rollup_kib(pid: u32, field: &str) -> Outcome<u64> {
    number_after(&read_to_string(format!("/proc/{pid}/smaps_rollup"))?, field)
}

fn number_after(text: &str, field: &str) -> Outcome<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number =
        line.and_then(|rest| rest.split_whitespace().next()).ok_or_else(|| format!("{field} is missing"))?;
    Ok(number.parse()?)
}
