use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use keyward_proto::csi::v1::ProbeRequest;
use tokio::time::{Instant, sleep};

use super::{DRIVER, Node, PATIENCE};

/// One that has ended may wait for a while until whoever adopted it takes notice; a process whose first thread has
/// ended still holds its files while others are on their way.
fn is_running(pid: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    let ended = |state: &str| state.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X']));
    let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    state.is_ok_and(|state| !ended(&state) || threads() > 1)
}

/// How the driver is started.
#[derive(Debug, Clone)]
pub struct CommandLine {
    /// The binary.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// `KUBECONFIG`
    pub kubeconfig: PathBuf,
    /// Variables beside the test's own.
    pub variables: Vec<(String, String)>,
    /// Where its log goes, appended.
    pub log: PathBuf,
}

/// A running driver: the mounter, and the broker that it started. Killed when dropped.
pub struct Driver {
    child: Child,
    log: PathBuf,
}

impl Driver {
    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(line: &CommandLine) -> Self {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&line.log).expect("a log");
        let child = Command::new(&line.program)
            .args(&line.arguments)
            .env("KUBECONFIG", &line.kubeconfig)
            .env_remove("HTTPS_PROXY")
            .env_remove("https_proxy")
            .envs(line.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("the driver starts");
        Self { child, log: line.log.clone() }
    }

    /// The mounter's process id.
    #[must_use]
    pub fn mounter(&self) -> u32 {
        self.child.id()
    }

    /// The broker's process id, once there is one.
    #[must_use]
    pub fn broker(&self) -> Option<u32> {
        let children = format!("/proc/{0}/task/{0}/children", self.mounter());
        std::fs::read_to_string(children).ok()?.split_whitespace().next()?.parse().ok()
    }

    /// Waits until it answers that it is ready.
    pub async fn until_ready(&self, node: &Node) {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Ok(mut client) = node.kubelet.identity(DRIVER).await
                && let Ok(answer) = client.probe(ProbeRequest {}).await
                && answer.into_inner().ready == Some(true)
            {
                return;
            }
            assert!(Instant::now() < end, "the driver is not ready:\n{}", self.log());
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends SIGTERM and waits.
    pub async fn stop(&mut self) -> ExitStatus {
        let pid =
            rustix::process::Pid::from_raw(i32::try_from(self.mounter()).expect("a pid")).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        self.ended().await
    }

    /// Kills one of its processes and waits until both are gone.
    pub async fn kill(&mut self, pid: u32) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
        let broker = self.broker();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
        self.ended().await;
        let end = Instant::now() + PATIENCE;
        while broker.is_some_and(is_running) {
            assert!(Instant::now() < end, "the broker outlives the mounter");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// How the mounter has ended, if it has.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it was started here")
    }

    /// Waits until the mounter has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it was started here") {
                return status;
            }
            assert!(Instant::now() < end, "the driver does not end:\n{}", self.log());
            sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Ended already, as a rule. The broker ends with the mounter.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
