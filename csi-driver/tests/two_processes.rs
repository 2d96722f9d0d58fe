//! Promise 14: no process has both network and privilege. Both processes are looked at from outside, in /proc, and
//! hostile code in the confined broker tries what it must not be able to do.

#![expect(clippy::unwrap_used, reason = "a helper of a test panics as the test does")]

mod node;
#[cfg(target_arch = "x86_64")]
#[path = "node/puppet.rs"]
mod puppet;

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
    let refused = ["Operation not permitted"].as_slice();
    let hidden =
        ["No such file or directory", "Permission denied", "Read-only file system", "Not a directory"];
    let hidden = hidden.as_slice();
    let attempts: Vec<(String, &[&str])> = [
        ("mount", refused),
        ("fsopen", refused),
        ("open_tree", refused),
        ("umount", refused),
        ("pivot_root", refused),
        ("chroot", refused),
        ("execve", refused),
        ("fork", refused),
        (&format!("ptrace {mounter}"), refused),
        (&format!("ptrace {own}"), refused),
        (&format!("kill {mounter}"), refused),
        (&format!("kill {own}"), refused),
        (&format!("kill-0 {mounter}"), refused),
        (&format!("pidfd {mounter}"), refused),
        ("setns", refused),
        ("unshare", refused),
        ("packet", refused),
        ("netlink", refused),
        ("dumpable", refused),
        ("setuid", refused),
        ("capabilities", refused),
        ("pass-on", refused),
        ("own", &["not a regular file on a tmpfs of this driver"]),
        ("read /etc/shadow", hidden),
        ("read /etc/passwd", hidden),
        ("list /dev", hidden),
        (&format!("list {home}/kubelet/pods"), hidden),
        (&format!("list {home}/plugin"), hidden),
        (&format!("list {}", node.target(&place).display()), hidden),
        (&format!("list /proc/{mounter}/root"), hidden),
        (&format!("read /proc/{mounter}/fd/0"), hidden),
        (&format!("read /proc/{mounter}/fd/3"), hidden),
        (&format!("list /proc/{mounter}/cwd/"), hidden),
        (&format!("read /proc/{mounter}/environ"), hidden),
        (&format!("read /proc/{mounter}/mem"), hidden),
        (&format!("write /proc/{mounter}/oom_score_adj"), hidden),
        (&format!("list /proc/{own}/root/etc/ssl"), hidden),
        ("list /proc/sys", hidden),
        ("write /proc/sysrq-trigger", hidden),
        ("write /etc/hosts", hidden),
        ("write /new", hidden),
        (&format!("write {home}/config/keyward.yaml"), hidden),
        ("commit .. secrets", &["nothing waits", "pod"]),
        ("unmount-volume a/../.. x", &["pod"]),
    ]
    .map(|(attempt, expected): (&str, &[&str])| (attempt.to_owned(), expected))
    .into();
    for (attempt, expected) in attempts {
        let answer = node.tell(&attempt);
        let fails = expected.iter().any(|text| answer.contains(text));
        assert!(fails && !answer.starts_with("ok"), "{attempt}: {answer}");
    }
    // What nobody has written is no failed attempt.
    assert_eq!(node.tell("no-such-attempt"), "unknown attempt no-such-attempt");
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

/// The filters at work, argument by argument, in processes that run.
#[cfg(target_arch = "x86_64")]
mod calls {
    use std::collections::BTreeSet;

    use nix::libc;

    use super::puppet::Puppet;
    use super::{Node, POD, broker};

    const EPERM: i64 = -(libc::EPERM as i64);
    const ENOSYS: i64 = -(libc::ENOSYS as i64);
    const EFAULT: i64 = -(libc::EFAULT as i64);
    const EBADF: i64 = -(libc::EBADF as i64);
    /// Beyond the calls that any kernel has, and those of the x32 ABI.
    const HIGHEST: i64 = 1024;
    const X32: i64 = 0x4000_0000;
    /// `uretprobe` and `uprobe` pass by all filters since Linux 6.14, and end a process that was not led to them by a
    /// probe of the kernel's.
    const PROBES: [i64; 2] = [335, 336];

    fn number(value: i32) -> u64 {
        i64::from(value).cast_unsigned()
    }

    /// Every call by number that the list does not name, with arguments that mean nothing.
    fn all_others_are_refused(puppet: &mut Puppet, named: &[i64]) {
        let named: BTreeSet<_> = named.iter().copied().collect();
        let mut tried = 0;
        let others = (0..HIGHEST).filter(|call| !named.contains(call) && !PROBES.contains(call));
        for call in others.chain((0..HIGHEST).map(|call| X32 | call)) {
            let expected = if call == libc::SYS_clone3 { ENOSYS } else { EPERM };
            assert_eq!(puppet.call(call, &[u64::MAX; 6]), expected, "system call {call}");
            tried += 1;
        }
        assert!(tried > 1200, "{tried}");
        // The way to try works: this one is named.
        assert!(puppet.call(libc::SYS_getpid, &[]) > 0);
    }

    type Try<'a> = (&'a str, i64, &'a [u64], i64);

    fn attempt(puppet: &mut Puppet, tries: &[Try<'_>]) {
        for (what, call, arguments, expected) in tries {
            assert_eq!(puppet.call(*call, arguments), *expected, "{what}");
        }
    }

    /// Commands of `fcntl` that make the kernel send signals or tell of others' files.
    fn descriptors_send_no_signals(puppet: &mut Puppet, descriptor: u64, other: u64) {
        const F_SETSIG: u64 = 10;
        const F_GETSIG: u64 = 11;
        const F_SETOWN_EX: u64 = 15;
        const F_NOTIFY: u64 = 1026;
        let flags = puppet.call(libc::SYS_fcntl, &[descriptor, number(libc::F_GETFL)]);
        assert!(flags >= 0, "{flags}");
        let flags = flags.cast_unsigned();
        let fcntl = libc::SYS_fcntl;
        let set = number(libc::F_SETFL);
        attempt(
            puppet,
            &[
                ("F_SETOWN", fcntl, &[descriptor, number(libc::F_SETOWN), other], EPERM),
                ("F_SETOWN with high bits", fcntl, &[descriptor, 1 << 32 | 8, other], EPERM),
                (
                    "F_SETOWN to a group",
                    fcntl,
                    &[descriptor, number(libc::F_SETOWN), 1_u64.wrapping_neg()],
                    EPERM,
                ),
                ("F_GETOWN", fcntl, &[descriptor, number(libc::F_GETOWN)], EPERM),
                ("F_SETOWN_EX", fcntl, &[descriptor, F_SETOWN_EX, 0], EPERM),
                ("F_SETSIG", fcntl, &[descriptor, F_SETSIG, 9], EPERM),
                ("F_GETSIG", fcntl, &[descriptor, F_GETSIG], EPERM),
                ("F_SETFL with O_ASYNC", fcntl, &[descriptor, set, flags | number(libc::O_ASYNC)], EPERM),
                ("F_SETLEASE", fcntl, &[descriptor, number(libc::F_SETLEASE), 0], EPERM),
                ("F_NOTIFY", fcntl, &[descriptor, F_NOTIFY, u64::MAX], EPERM),
                ("F_SETPIPE_SZ", fcntl, &[descriptor, number(libc::F_SETPIPE_SZ), 1 << 20], EPERM),
                ("F_SETFL as it is", fcntl, &[descriptor, set, flags], 0),
            ],
        );
    }

    /// Descriptors leave over one socket, whose number nothing else can get.
    fn descriptors_leave_over_the_channel_alone(puppet: &mut Puppet, channel: u64) {
        // Calls that the list leaves out are refused by their number, with any argument.
        attempt(
            puppet,
            &[
                ("sendmsg to the other process", libc::SYS_sendmsg, &[channel, 0, 0], EFAULT),
                ("sendmsg with high bits", libc::SYS_sendmsg, &[1 << 32 | 1, 0, 0], EPERM),
                ("sendmmsg", libc::SYS_sendmmsg, &[channel, 0, 1, 0], EPERM),
                ("close of the channel", libc::SYS_close, &[channel], EPERM),
                ("close of another one", libc::SYS_close, &[999_999], EBADF),
                ("close_range", libc::SYS_close_range, &[channel, channel, 0], EPERM),
                ("dup2 to the channel", libc::SYS_dup2, &[1, channel], EPERM),
                ("dup3 to the channel", libc::SYS_dup3, &[1, channel, 0], EPERM),
                ("pidfd_getfd", libc::SYS_pidfd_getfd, &[1, channel, 0], EPERM),
            ],
        );
        for descriptor in (0..64).filter(|descriptor| *descriptor != channel) {
            assert_eq!(puppet.call(libc::SYS_sendmsg, &[descriptor, 0, 0]), EPERM, "sendmsg on {descriptor}");
        }
    }

    #[test]
    fn every_call_and_argument_that_the_broker_does_not_need_is_refused_in_it() {
        let Some(mut node) = Node::start("hostile") else { return };
        let (mounter, own) = (u64::from(node.mounter.id()), u64::from(std::process::id()));
        let (pid, channel) = (broker(&mut node), node.tell("channel"));
        let channel: i32 = channel.strip_prefix("ok ").unwrap().parse().unwrap();
        let mut puppet = Puppet::of(pid);
        all_others_are_refused(&mut puppet, &keyward_csi_driver::confine::broker_calls(channel));
        let channel = number(channel);
        descriptors_leave_over_the_channel_alone(&mut puppet, channel);
        descriptors_send_no_signals(&mut puppet, channel, mounter);

        let limit = libc::SYS_prlimit64;
        let files = u64::from(libc::RLIMIT_NOFILE);
        let control = libc::SYS_ioctl;
        let process = libc::SYS_prctl;
        attempt(
            &mut puppet,
            &[
                ("limits of the mounter", limit, &[mounter, files, 0, 0], EPERM),
                ("limits of the test", limit, &[own, files, 0, 0], EPERM),
                ("limits of the first process", limit, &[1, files, 0, 0], EPERM),
                ("own limits", limit, &[0, files, 0, 0], 0),
                ("TIOCSTI", control, &[1, 0x5412, 0], EPERM),
                ("TIOCLINUX", control, &[1, 0x541c, 0], EPERM),
                ("FIOASYNC", control, &[channel, 0x5452, 0], EPERM),
                ("FIOSETOWN", control, &[channel, 0x8901, 0], EPERM),
                ("SIOCSPGRP", control, &[channel, 0x8902, 0], EPERM),
                ("SIOCGIFCONF", control, &[channel, 0x8912, 0], EPERM),
                ("FS_IOC_SETFLAGS", control, &[1, 0x4008_6602, 0], EPERM),
                ("PR_SET_DUMPABLE", process, &[number(libc::PR_SET_DUMPABLE), 1], EPERM),
                ("PR_SET_PTRACER", process, &[0x5961_6d61, u64::MAX], EPERM),
                ("PR_SET_PDEATHSIG", process, &[number(libc::PR_SET_PDEATHSIG), 0], EPERM),
                ("PR_SET_SECCOMP", process, &[number(libc::PR_SET_SECCOMP), 2, 0], EPERM),
                ("PR_SET_MM", process, &[number(libc::PR_SET_MM), 1, 0], EPERM),
                ("PR_SET_SECUREBITS", process, &[number(libc::PR_SET_SECUREBITS), 0], EPERM),
                ("PR_CAPBSET_READ", process, &[number(libc::PR_CAPBSET_READ), 0], EPERM),
                ("PR_GET_DUMPABLE", process, &[number(libc::PR_GET_DUMPABLE)], 0),
                ("memory that is code", libc::SYS_mmap, &[0, 4096, 7, 0x22, u64::MAX, 0], EPERM),
                ("memory that becomes code", libc::SYS_mprotect, &[0, 4096, 4], EPERM),
                ("a signal to the mounter", libc::SYS_tgkill, &[mounter, mounter, 0], EPERM),
                ("a signal to itself", libc::SYS_tgkill, &[pid.into(), pid.into(), 0], 0),
                ("priority of the mounter", libc::SYS_setpriority, &[0, mounter, 19], EPERM),
                ("priority of a user", libc::SYS_setpriority, &[2, 0, 19], EPERM),
            ],
        );
        // What the processes of a thread library share, and one bit more or less.
        let thread = 0x3d_0f00;
        for (what, flags) in [
            ("fork", number(libc::SIGCHLD)),
            ("vfork", number(libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD)),
            ("a traced thread", thread | number(libc::CLONE_PTRACE)),
            ("a thread with descriptors of its own", thread & !number(libc::CLONE_FILES)),
            ("a thread with directories of its own", thread & !number(libc::CLONE_FS)),
            ("a sibling", number(libc::CLONE_PARENT | libc::SIGCHLD)),
            ("a descriptor of the thread", thread | number(libc::CLONE_PIDFD)),
            ("users", thread | number(libc::CLONE_NEWUSER)),
            ("a network", thread | number(libc::CLONE_NEWNET)),
            ("mounts", thread | number(libc::CLONE_NEWNS)),
            ("processes", thread | number(libc::CLONE_NEWPID)),
            ("a clock", thread | 0x80),
        ] {
            assert_eq!(puppet.call(libc::SYS_clone, &[flags, 0, 0, 0, 0]), EPERM, "clone: {what}");
        }
        for (what, family, kind, protocol) in [
            ("AF_NETLINK", libc::AF_NETLINK, libc::SOCK_RAW, 0),
            ("AF_PACKET", libc::AF_PACKET, libc::SOCK_RAW, 0x300),
            ("AF_ALG", libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
            ("AF_VSOCK", libc::AF_VSOCK, libc::SOCK_STREAM, 0),
            ("AF_XDP", libc::AF_XDP, libc::SOCK_RAW, 0),
            ("AF_KEY", libc::AF_KEY, libc::SOCK_RAW, 2),
            ("AF_TIPC", libc::AF_TIPC, libc::SOCK_STREAM, 0),
            ("datagrams between processes", libc::AF_UNIX, libc::SOCK_DGRAM, 0),
            ("ping", libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
            ("raw", libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW),
            ("raw of IPv6", libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6),
            ("MPTCP", libc::AF_INET, libc::SOCK_STREAM, 262),
            ("SCTP", libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP),
        ] {
            let arguments = [number(family), number(kind), number(protocol)];
            assert_eq!(puppet.call(libc::SYS_socket, &arguments), EPERM, "socket: {what}");
        }
        assert_eq!(puppet.call(libc::SYS_socketpair, &[number(libc::AF_TIPC), 1, 0, 0]), EPERM);
        let socket = puppet.call(libc::SYS_socket, &[number(libc::AF_INET), number(libc::SOCK_STREAM), 0]);
        assert!(socket >= 0, "{socket}");
        let (socket, any) = (socket.cast_unsigned(), number(libc::SOL_SOCKET));
        for (what, level, option, expected) in [
            ("SO_ATTACH_FILTER", any, 26, EPERM),
            ("SO_ATTACH_BPF", any, 50, EPERM),
            ("SO_ATTACH_REUSEPORT_CBPF", any, 51, EPERM),
            ("SO_ATTACH_REUSEPORT_EBPF", any, 52, EPERM),
            ("SOL_NETLINK", 270, 1, EPERM),
            ("SOL_ALG", 279, 1, EPERM),
            ("SOL_RAW", 255, 1, EPERM),
            ("SO_KEEPALIVE", any, 9, EFAULT),
            ("TCP_NODELAY", number(libc::IPPROTO_TCP), 1, EFAULT),
        ] {
            assert_eq!(puppet.call(libc::SYS_setsockopt, &[socket, level, option, 0, 4]), expected, "{what}");
        }
        assert_eq!(puppet.call(libc::SYS_close, &[socket]), 0);
        drop(puppet);
        // It goes on with its work.
        assert_eq!(node.tell("create"), "ok");
        assert_eq!(node.tell("threads"), "ok");
    }

    #[test]
    fn every_call_and_argument_that_the_mounter_does_not_need_is_refused_in_it() {
        let Some(mut node) = Node::start("hostile") else { return };
        let place = node.place("secrets");
        assert_eq!(node.tell("create"), "ok");
        let (mounter, own) = (node.mounter.id(), u64::from(std::process::id()));
        let broker = u64::from(broker(&mut node));
        let channel = std::fs::read_dir(format!("/proc/{mounter}/fd")).unwrap().find_map(|entry| {
            let entry = entry.unwrap();
            let is_socket =
                std::fs::read_link(entry.path()).unwrap().to_string_lossy().starts_with("socket:");
            is_socket.then(|| entry.file_name().to_string_lossy().parse().unwrap())
        });
        let channel: u64 = channel.unwrap();
        let mut puppet = Puppet::of(mounter);
        all_others_are_refused(&mut puppet, &keyward_csi_driver::mounter::mounter_calls());
        descriptors_leave_over_the_channel_alone(&mut puppet, channel);
        descriptors_send_no_signals(&mut puppet, channel, broker);
        let socket = libc::SYS_socket;
        let stream = number(libc::SOCK_STREAM);
        attempt(
            &mut puppet,
            &[
                ("a network", socket, &[number(libc::AF_INET), stream, 0], EPERM),
                ("netlink", socket, &[number(libc::AF_NETLINK), number(libc::SOCK_RAW), 0], EPERM),
                ("datagrams", socket, &[number(libc::AF_UNIX), number(libc::SOCK_DGRAM), 0], EPERM),
                ("a signal to the test", libc::SYS_kill, &[own, 0], EPERM),
                ("a signal to all", libc::SYS_kill, &[u64::MAX, 0], EPERM),
                ("a signal to the broker", libc::SYS_kill, &[broker, 0], 0),
                ("a signal to a thread of the broker", libc::SYS_tgkill, &[broker, broker, 0], EPERM),
                (
                    "a stop by descriptor",
                    libc::SYS_pidfd_send_signal,
                    &[0, number(libc::SIGSTOP), 0, 0],
                    EPERM,
                ),
                ("memory that is code", libc::SYS_mmap, &[0, 4096, 7, 0x22, u64::MAX, 0], EPERM),
                ("memory that becomes code", libc::SYS_mprotect, &[0, 4096, 4], EPERM),
            ],
        );
        drop(puppet);
        assert_eq!(node.tell(&format!("commit {POD} secrets")), "ok");
        assert!(node.target(&place).exists());
    }
}
