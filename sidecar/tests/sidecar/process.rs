use std::fs::{File, read_to_string};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::client::Client;
use crate::rig::{in_time, until};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_keyward-sidecar");

/// A sidecar that ends with its owner. What it says goes to a file, whose end is shown when a test fails.
pub(crate) struct Sidecar {
    child: Child,
    pid: i32,
    log: PathBuf,
    socket: PathBuf,
}

impl Sidecar {
    pub(crate) fn start(arguments: &[&str], variables: &[(&str, String)], log: &Path, socket: &Path) -> Self {
        let said = File::options().create(true).append(true).open(log).unwrap();
        let child = Command::new(PROGRAM)
            .args(arguments)
            .env_clear()
            .envs(variables.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .stdout(said.try_clone().unwrap())
            .stderr(said)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id().unwrap()).unwrap();
        Self { child, pid, log: log.to_owned(), socket: socket.to_owned() }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// What it said so far.
    pub(crate) fn log(&self) -> String {
        read_to_string(&self.log).unwrap_or_default()
    }

    /// Where the admin port is, which was asked for as `127.0.0.1:0`.
    pub(crate) async fn admin(&self) -> std::net::SocketAddr {
        let told = || {
            let log = self.log();
            let line = log.lines().find(|line| line.contains("the admin port is listening"))?;
            line.split("address=").nth(1)?.split_whitespace().next()?.parse().ok()
        };
        until("the admin port", || told().is_some()).await;
        told().unwrap()
    }

    pub(crate) async fn is_ready(&self) -> bool {
        keyward_local_api::probe(&self.socket).await.is_ok()
    }

    /// Waits until the readiness probe passes.
    pub(crate) async fn ready(&self) {
        in_time("readiness", async {
            while !self.is_ready().await {
                assert!(self.is_running(), "the sidecar ended before it was ready");
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Waits until it answers at all, ready or not.
    pub(crate) async fn client(&self) -> Client {
        in_time("the socket", async {
            loop {
                if let Ok(channel) = keyward_local_api::connect(&self.socket).await {
                    return Client::new(channel);
                }
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }

    pub(crate) fn is_running(&self) -> bool {
        let stat = read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal).unwrap();
    }

    /// Asks it to end, as Kubernetes does.
    pub(crate) async fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        in_time("the end of the sidecar", self.child.wait()).await.unwrap()
    }

    /// Ends it as the kernel does when memory is short.
    pub(crate) async fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        let status = in_time("the end of the sidecar", self.child.wait()).await.unwrap();
        assert_eq!(status.signal(), Some(9));
    }

    /// Waits for it to end by itself.
    pub(crate) async fn ends_with(mut self) -> i32 {
        in_time("the end of the sidecar", self.child.wait()).await.unwrap().code().unwrap()
    }
}

impl Drop for Sidecar {
    #[expect(clippy::print_stderr, reason = "why a test failed; values are never in the log")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!(
                "the end of the sidecar's log:\n{}",
                lines[lines.len().saturating_sub(25)..].join("\n")
            );
        }
    }
}
