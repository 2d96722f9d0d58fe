//! A command of our own container: no shell, an environment of PATH alone, no input, output dropped because it may hold
//! anything, and a process group that is killed as a whole when the time is up.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use super::{Failed, failed};

/// What execvp(3) would take when there is no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs `command` to its end. Dropping the future, as a time-out does, kills the whole group.
pub(super) async fn run(command: &[String]) -> Result<(), Failed> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failed::for_good(failed("the command is empty")));
    };
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            Failed::again(failed(format!("cannot run {program}: {error}; the image must hold the command")))
        })?;
    // Dropped before `child`, so that the leader is not reaped yet and its number is still its own.
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let status = child.wait().await;
    group.0 = None;
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failed::again(failed(format!("{program} ended with {status}")))),
        Err(error) => Err(Failed::again(failed(format!("cannot wait for {program}: {error}")))),
    }
}

/// Kills the process group unless its leader has ended.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // It may have ended just now.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}
