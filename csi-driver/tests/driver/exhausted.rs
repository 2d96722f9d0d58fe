//! A node that has no inotify instance, descriptor or thread left: the driver starts all the same, or says what is used
//! up and what to do.

use std::path::PathBuf;
use std::time::Duration;

use keyward_test_support::node::{CommandLine, DRIVER, Driver, Node};
use rustix::process::{Pid, Signal, kill_process};

use crate::BINARY;
use crate::hands::until;

/// The same command line behind another program.
fn behind(mut line: CommandLine, program: &str, arguments: &[&str]) -> CommandLine {
    let mut all: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    all.push(line.program.display().to_string());
    all.append(&mut line.arguments);
    CommandLine { program: PathBuf::from(program), arguments: all, ..line }
}

/// What became of a start: ready, or ended with this code.
async fn outcome(node: &Node, driver: &mut Driver) -> Option<i32> {
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(status) = driver.has_ended() {
            return Some(status.code().unwrap_or(-1));
        }
        if let Ok(mut client) = node.kubelet.identity(DRIVER).await
            && client.probe(keyward_proto::csi::v1::ProbeRequest {}).await.is_ok()
        {
            return None;
        }
        assert!(tokio::time::Instant::now() < end, "neither ready nor ended:\n{}", driver.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Ends a process with SIGTERM when dropped: one that strace holds outlives it.
struct Held(u32);

impl Drop for Held {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_inotify_instance_the_driver_starts_says_so_once_and_still_finds_its_socket_gone() {
    let Some(node) = Node::start(BINARY).await else { return };
    if !std::process::Command::new("strace").arg("-V").output().is_ok_and(|said| said.status.success()) {
        let required = std::env::var_os("KEYWARD_REQUIRE_STRACE").is_some_and(|set| set == "1");
        assert!(!required, "strace is missing");
        return;
    }
    node.vault().set_secret("value", "one");
    // As the kernel answers when uid 0 holds fs.inotify.max_user_instances of them; the machine's own stay free.
    let fault = [
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=inotify_init1",
        "-e",
        "inject=inotify_init1:error=EMFILE",
    ];
    let driver = node.drive_with(&behind(node.command(), "strace", &fault)).await;
    let mounter = driver.broker().expect("the child of strace");
    let _held = Held(mounter);
    let volume = node.volume("web-0", &["value"]);
    node.publish(&volume).await.unwrap();
    assert_eq!(driver.log().matches("inotify is used up on this node").count(), 1, "{}", driver.log());
    // The socket is bound again when its name goes, though nothing tells of it.
    let socket = node.kubelet.socket(DRIVER);
    std::fs::remove_file(&socket).unwrap();
    until("the socket again", || socket.exists()).await;
    // A change of the configuration is seen, though nothing tells of it.
    node.configure("rotation: {interval: 2s, jitter: 0}\n");
    until("the new configuration", || driver.log().contains("configuration applied")).await;
    assert_eq!(driver.log().matches("inotify is used up on this node").count(), 1, "{}", driver.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_few_descriptors_the_driver_starts_or_names_the_limit() {
    let Some(node) = Node::start(BINARY).await else { return };
    let (mut named, mut started) = (0, 0);
    for limit in [8, 16, 32, 64, 66, 68, 80, 96, 128, 1024] {
        let line = behind(node.command(), "prlimit", &[&format!("--nofile={limit}:{limit}")]);
        let before = std::fs::read_to_string(&line.log).unwrap_or_default().len();
        let mut driver = Driver::spawn(&line);
        match outcome(&node, &mut driver).await {
            None => {
                started += 1;
                driver.stop().await;
            }
            Some(code) => {
                named += 1;
                let log = driver.log();
                let said = log.get(before..).unwrap_or_default();
                assert_eq!(code, 69, "{limit}: {said}");
                assert!(said.contains("KW_EXHAUSTED") && said.contains("RLIMIT_NOFILE"), "{limit}: {said}");
            }
        }
    }
    assert!(named >= 3 && started >= 1, "{named} named, {started} started");
}

/// A group of processes whose number is limited. The machine's own rules of where one may be made are tried in turn.
struct Pids(PathBuf);

impl Pids {
    fn new() -> Option<Self> {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = |controller: &str| {
            own.lines().find_map(|line| line.split_once(':')?.1.strip_prefix(controller)?.strip_prefix(":/"))
        };
        let name = format!("keyward-test-{}", std::process::id());
        let candidates = [
            path("pids").map(|path| PathBuf::from("/sys/fs/cgroup/pids").join(path)),
            path("").map(|path| PathBuf::from("/sys/fs/cgroup").join(path)),
        ];
        for parent in candidates.into_iter().flatten() {
            let _ = std::fs::write(parent.join("cgroup.subtree_control"), "+pids");
            let group = parent.join(&name);
            if std::fs::create_dir(&group).is_ok() {
                if group.join("pids.max").exists() {
                    return Some(Self(group));
                }
                let _ = std::fs::remove_dir(&group);
            }
        }
        None
    }
}

impl Drop for Pids {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_few_threads_the_driver_starts_or_names_the_limit() {
    let Some(node) = Node::start(BINARY).await else { return };
    let Some(group) = Pids::new() else {
        let required = std::env::var_os("KEYWARD_REQUIRE_ROOT").is_some_and(|set| set == "1");
        assert!(!required, "no group of processes can be made here");
        return;
    };
    let (mut named, mut started) = (0, 0);
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", group.0.display());
    for limit in [1, 2, 3, 4, 5, 6, 8, 64] {
        std::fs::write(group.0.join("pids.max"), limit.to_string()).unwrap();
        let line = behind(node.command(), "/bin/sh", &["-c", &enter]);
        let before = std::fs::read_to_string(&line.log).unwrap_or_default().len();
        let mut driver = Driver::spawn(&line);
        match outcome(&node, &mut driver).await {
            None => {
                started += 1;
                driver.stop().await;
            }
            Some(code) => {
                named += 1;
                let log = driver.log();
                let said = log.get(before..).unwrap_or_default();
                assert_eq!(code, 69, "{limit}: {said}");
                assert!(said.contains("KW_EXHAUSTED") && said.contains("podPidsLimit"), "{limit}: {said}");
            }
        }
        until("the end of all its processes", || {
            std::fs::read_to_string(group.0.join("cgroup.procs")).is_ok_and(|all| all.is_empty())
        })
        .await;
    }
    assert!(named >= 3 && started >= 1, "{named} named, {started} started");
}
