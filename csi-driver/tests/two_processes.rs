//! Promise 14: no process has both network and privilege. Both processes are looked at from outside, in /proc, and
//! hostile code in the confined broker tries what it must not be able to do.

#![expect(clippy::unwrap_used, reason = "a helper of a test panics as the test does")]

mod node;

use std::collections::BTreeSet;
use std::path::Path;

use node::{Node, POD};

/// A line of /proc/<pid>/status.
fn status(pid: u32, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    line.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
}

fn namespace(pid: u32, kind: &str) -> String {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string()
}

/// What a process's descriptors are, without numbers.
fn descriptors(pid: u32) -> BTreeSet<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    entries
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .map(|link| link.display().to_string().split(':').next().unwrap_or_default().to_owned())
        .collect()
}

/// How many different sockets it holds.
fn sockets(pid: u32) -> usize {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = entries.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).collect::<BTreeSet<_>>().len()
}

fn broker(node: &mut Node) -> u32 {
    let answer = node.tell("self");
    answer.strip_prefix("ok ").unwrap().parse().unwrap()
}

#[test]
fn neither_process_has_both_network_and_privilege() {
    let Some(mut node) = Node::start("hostile") else { return };
    let (mounter, broker) = (node.mounter.id(), broker(&mut node));
    // It confines itself when the broker runs, before it takes a request: here nobody makes one.
    let confined = || status(mounter, "Seccomp") == "2";
    assert!((0..200_000).any(|_| {
        std::thread::yield_now();
        confined()
    }));
    const NONE: &str = "0000000000000000";
    // CAP_SYS_ADMIN and CAP_CHOWN.
    const MOUNTING: &str = "0000000000200001";
    for (pid, capabilities) in [(mounter, MOUNTING), (broker, NONE)] {
        assert_eq!(status(pid, "CapEff"), capabilities);
        assert_eq!(status(pid, "CapPrm"), capabilities);
        assert_eq!(status(pid, "CapBnd"), capabilities);
        assert_eq!(status(pid, "CapInh"), NONE);
        assert_eq!(status(pid, "CapAmb"), NONE);
        assert_eq!(status(pid, "NoNewPrivs"), "1");
        assert_eq!(status(pid, "Seccomp"), "2");
        assert_eq!(status(pid, "Threads"), "1");
    }
    let own = std::process::id();
    assert_eq!(namespace(broker, "net"), namespace(own, "net"));
    assert_ne!(namespace(mounter, "net"), namespace(own, "net"));
    assert_ne!(namespace(broker, "mnt"), namespace(mounter, "mnt"));
    // The mounter's network: a loopback interface that is down, no address and no route.
    let interfaces = std::fs::read_to_string(format!("/proc/{mounter}/net/dev")).unwrap();
    let names: Vec<_> =
        interfaces.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim).collect();
    let ours: Vec<_> = names.iter().filter(|name| !is_fallback_tunnel(name)).collect();
    assert_eq!(ours, [&"lo"]);
    for table in ["net/route", "net/tcp", "net/udp", "net/raw", "net/packet"] {
        let text = std::fs::read_to_string(format!("/proc/{mounter}/{table}")).unwrap_or_default();
        assert!(text.lines().count() <= 1, "{table}: {text}");
    }
    // The mounter's only socket is the one to the broker, which has that and the one to the test.
    assert_eq!(sockets(mounter), 1);
    assert_eq!(sockets(broker), 2);
    // The broker holds nothing but sockets and its standard output and error.
    let held = descriptors(broker);
    let output: BTreeSet<_> = descriptors(own);
    for kind in &held {
        assert!(kind == "socket" || output.contains(kind), "the broker holds {kind}");
    }
    // What the broker sees of the file system.
    let table = std::fs::read_to_string(format!("/proc/{broker}/mountinfo")).unwrap();
    let places: BTreeSet<_> = table.lines().map(|line| line.split(' ').nth(4).unwrap().to_owned()).collect();
    let home = node.home.to_str().unwrap();
    let expected = ["/", "/proc", "/etc/hosts", &format!("{home}/config"), &format!("{home}/state")];
    let mut expected: BTreeSet<_> = expected.iter().map(|place| (*place).to_owned()).collect();
    expected.insert(format!("{home}/state/snapshot"));
    assert_eq!(places, expected);
    for line in table.lines() {
        let writable = line.contains("/state");
        assert_eq!(line.split(' ').nth(5).unwrap().starts_with("rw,"), writable, "{line}");
        assert!(line.contains("nosuid,nodev,noexec"), "{line}");
        assert!(!line.contains("shared:") && !line.contains("master:"), "{line}");
    }
}

/// Modules of tunnels put an interface of their own, which is down, into each namespace.
fn is_fallback_tunnel(name: &str) -> bool {
    ["tunl", "gre", "erspan", "ip_vti", "ip6", "sit"].iter().any(|kind| name.starts_with(kind))
}

#[test]
fn the_confined_broker_still_does_its_work() {
    let Some(mut node) = Node::start("hostile") else { return };
    let home = node.home.display().to_string();
    let place = node.place("secrets");
    assert_eq!(node.tell(&format!("read {home}/config/keyward.yaml")), "ok first");
    // As kubelet swaps what a ConfigMap holds.
    std::fs::write(node.home.join("config/next"), "second").unwrap();
    std::fs::rename(node.home.join("config/next"), node.home.join("config/keyward.yaml")).unwrap();
    assert_eq!(node.tell(&format!("read {home}/config/keyward.yaml")), "ok second");
    for path in ["volumes/file", "snapshot/file"] {
        assert_eq!(node.tell(&format!("write {home}/state/{path}")), "ok");
        assert!(node.home.join("state").join(path).exists());
    }
    for line in [
        "create",
        "fill password one",
        &format!("commit {POD} secrets"),
        "fill later two",
        "listen",
        "threads",
    ] {
        assert_eq!(node.tell(line), "ok", "{line}");
    }
    assert_eq!(std::fs::read(node.target(&place).join("password")).unwrap(), b"one");
    assert_eq!(std::fs::read(node.target(&place).join("later")).unwrap(), b"two");
    assert_eq!(node.tell(&format!("unmount-volume {POD} secrets")), "ok true");
}

#[test]
fn hostile_code_in_the_broker_fails_at_whatever_it_tries() {
    let Some(mut node) = Node::start("hostile") else { return };
    let (mounter, broker, home) = (node.mounter.id(), broker(&mut node), node.home.display().to_string());
    let place = node.place("secrets");
    assert_eq!(node.tell("create"), "ok");
    assert_eq!(node.tell(&format!("commit {POD} secrets")), "ok");
    let own = std::process::id();
    let attempts = [
        "mount".to_owned(),
        "fsopen".to_owned(),
        "open_tree".to_owned(),
        "umount".to_owned(),
        "pivot_root".to_owned(),
        "chroot".to_owned(),
        "execve".to_owned(),
        "fork".to_owned(),
        format!("ptrace {mounter}"),
        format!("ptrace {own}"),
        format!("kill {mounter}"),
        format!("kill {own}"),
        format!("kill-0 {mounter}"),
        format!("pidfd {mounter}"),
        "setns".to_owned(),
        "unshare".to_owned(),
        "packet".to_owned(),
        "netlink".to_owned(),
        "dumpable".to_owned(),
        "setuid".to_owned(),
        "capabilities".to_owned(),
        "own".to_owned(),
        "read /etc/shadow".to_owned(),
        "read /etc/passwd".to_owned(),
        "list /dev".to_owned(),
        format!("list {home}/kubelet/pods"),
        format!("list {home}/plugin"),
        format!("list {}", node.target(&place).display()),
        format!("list /proc/{mounter}/root"),
        format!("read /proc/{mounter}/fd/0"),
        format!("read /proc/{mounter}/fd/3"),
        format!("list /proc/{mounter}/cwd/"),
        format!("read /proc/{mounter}/environ"),
        format!("read /proc/{mounter}/mem"),
        format!("write /proc/{mounter}/oom_score_adj"),
        format!("list /proc/{own}/root/etc/ssl"),
        "list /proc/sys".to_owned(),
        "write /proc/sysrq-trigger".to_owned(),
        "write /etc/hosts".to_owned(),
        "write /new".to_owned(),
        format!("write {home}/config/keyward.yaml"),
        "commit .. secrets".to_owned(),
        "unmount-volume a/../.. x".to_owned(),
    ];
    for attempt in attempts {
        let answer = node.tell(&attempt);
        assert!(!answer.is_empty() && !answer.starts_with("ok"), "{attempt}: {answer}");
    }
    // Up from everything it holds, and from everything it can open: its own root at most.
    let root = node.tell("list /");
    for line in [
        "parents".to_owned(),
        "parents /".to_owned(),
        format!("parents {home}/state"),
        "parents /proc".to_owned(),
    ] {
        let answer = node.tell(&line);
        let inside = answer == root || answer == "ok";
        assert!(inside, "{line}: {answer}");
    }
    assert_eq!(
        root,
        format!("ok etc,proc,{}", Path::new(&home).components().nth(1).unwrap().as_os_str().display())
    );
    assert!(node.mounter.try_wait().unwrap().is_none());
    assert_eq!(status(broker, "CapEff"), "0000000000000000");
}

#[test]
fn the_broker_ends_with_the_mounter() {
    let Some(mut node) = Node::start("hostile") else { return };
    let broker = broker(&mut node);
    let pidfd = rustix::process::pidfd_open(
        rustix::process::Pid::from_raw(broker.cast_signed()).unwrap(),
        rustix::process::PidfdFlags::empty(),
    )
    .unwrap();
    node.mounter.kill().unwrap();
    let mut ended = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    let patience = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut ended, Some(&patience)).unwrap(), 1);
}
