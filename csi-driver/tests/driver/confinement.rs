//! Promise 14 on the shipped binary while it serves volumes; what hostile code could try is in `two_processes.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use keyward_test_support::node::{DRIVER, Node, VAULT};
use serde_json::json;

use crate::BINARY;

const NONE: &str = "0000000000000000";
/// CAP_SYS_ADMIN and CAP_CHOWN.
const MOUNTING: &str = "0000000000200001";

fn status(pid: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    line.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
}

fn namespace(pid: u32, kind: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string()
}

/// The kinds of descriptors that a process holds, and how many of each.
fn descriptors(pid: u32) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let Ok(link) = fs::read_link(entry.unwrap().path()) else { continue };
        let text = link.display().to_string();
        let kind = text.split_once(":[").map_or(text.as_str(), |(kind, _)| kind);
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    kinds
}

/// Inodes of the sockets that a process holds.
fn sockets(pid: u32) -> BTreeSet<String> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = links.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links
        .filter_map(|link| {
            Some(link.display().to_string().strip_prefix("socket:[")?.trim_end_matches(']').to_owned())
        })
        .collect()
}

/// Inodes in the column of a table of the process's own network namespace.
fn inodes(pid: u32, table: &str, column: usize) -> BTreeSet<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
    let rows = text.lines().skip(1);
    rows.filter_map(|row| row.split_whitespace().nth(column).map(str::to_owned)).collect()
}

/// All processes that a command line with this word started, the shipped binary each, with their names.
fn processes(word: &str) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let of_binary = fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe == Path::new(BINARY));
        if of_binary && String::from_utf8_lossy(&line).contains(word) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let double = found.insert(name.trim().to_owned(), pid);
            assert_eq!(double, None, "two processes with the name {name}");
        }
    }
    found
}

/// Promise 14 for the container as a whole: whatever runs in it, a probe that is under way included.
#[tokio::test(flavor = "multi_thread")]
async fn every_process_of_the_container_is_confined_the_probe_included() {
    let Some(node) = Node::start(BINARY).await else { return };
    let driver = node.drive().await;
    let home = node.kubelet.dir().display().to_string();
    // Takes the connection and never says a word.
    let socket = node.kubelet.dir().join("silent.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let probe = Command::new(BINARY)
        .arg("--probe")
        .arg(format!("--endpoint=unix://{}", socket.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut asked, _) = listener.accept().unwrap();
    // Its first byte comes when it has nothing left to give up. Then it is held, so that it is there while it is read.
    let mut preface = [0; 24];
    std::io::Read::read_exact(&mut asked, &mut preface).unwrap();
    assert_eq!(&preface[..14], b"PRI * HTTP/2.0");
    let process = rustix::process::Pid::from_child(&probe);
    rustix::process::kill_process(process, rustix::process::Signal::STOP).unwrap();
    // Its word is one of the directory that only this test has: those of other tests do not count.
    let found = processes(&home);
    let names: Vec<_> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["keyward-broker", "keyward-mounter", "keyward-probe"]);
    assert_eq!(found["keyward-mounter"], driver.mounter());
    assert_eq!(found["keyward-broker"], driver.broker().unwrap());
    assert_eq!(found["keyward-probe"], probe.id());
    let own = namespace(std::process::id(), "net");
    for (name, pid) in &found {
        let capabilities = if name == "keyward-mounter" { MOUNTING } else { NONE };
        for (set, expected) in [
            ("CapEff", capabilities),
            ("CapPrm", capabilities),
            ("CapBnd", capabilities),
            ("CapInh", NONE),
            ("CapAmb", NONE),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ] {
            assert_eq!(status(*pid, set), expected, "{set} of {name}");
        }
        let has_network = namespace(*pid, "net") == own;
        assert!(!has_network || capabilities == NONE, "{name} has both network and privilege");
    }
    assert_eq!(status(probe.id(), "Threads"), "1");
    assert_eq!(sockets(probe.id()).len(), 1, "{:?}", descriptors(probe.id()));
    let held: Vec<_> = descriptors(probe.id()).into_keys().collect();
    assert_eq!(held, ["/dev/null", "pipe", "socket"]);
    let line = fs::read(format!("/proc/{}/cmdline", found["keyward-broker"])).unwrap();
    assert!(line.starts_with(b"keyward-broker\0broker\0"), "{}", String::from_utf8_lossy(&line));

    rustix::process::kill_process(process, rustix::process::Signal::CONT).unwrap();
    let ended = tokio::task::spawn_blocking(move || probe.wait_with_output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(69), "{said}");
    assert!(said.contains("KW_TIMEOUT"), "{said}");
}

/// Confined, it still does its work: it says that the driver lives, that nobody answers, and that something else does.
#[tokio::test(flavor = "multi_thread")]
async fn the_confined_probe_tells_a_driver_that_lives_from_one_that_does_not() {
    let Some(node) = Node::start(BINARY).await else { return };
    let mut driver = node.drive().await;
    let probe = |socket: std::path::PathBuf| async move {
        let endpoint = format!("--endpoint=unix://{}", socket.display());
        let ask = move || Command::new(BINARY).args(["--probe", &endpoint]).output().unwrap();
        let output = tokio::task::spawn_blocking(ask).await.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let socket = node.kubelet.socket(DRIVER);
    for _ in 0..3 {
        assert_eq!(probe(socket.clone()).await, (Some(0), String::new()));
    }
    let other = node.kubelet.dir().join("other.sock");
    let listener = std::os::unix::net::UnixListener::bind(&other).unwrap();
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        stream
    });
    let (code, said) = probe(other).await;
    assert!(code == Some(69) || code == Some(1), "{code:?} {said}");
    assert!(said.starts_with("keyward-csi-driver: KW_"), "{said}");
    drop(answers.join().unwrap());
    driver.stop().await;
    let (code, said) = probe(socket).await;
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("KW_CONNECT"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_volumes_are_served_neither_process_has_both_network_and_privilege() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.configure("admin: {listen: '127.0.0.1:0'}\n");
    node.vault().set_secret("a", "1");
    let driver = node.drive().await;
    let objects = json!([format!("https://{VAULT}/secrets/a")]).to_string();
    let volumes: Vec<_> = (0..4)
        .map(|n| node.volume_of(&node.pod(&format!("web-{n}")), &objects, &[("grpc", "true")]))
        .collect();
    for volume in &volumes {
        node.publish(volume).await.unwrap();
    }
    node.vault().rotate_secret("a", "2");
    for volume in &volumes {
        node.until_file(volume, "a", b"2").await;
    }
    let (mounter, broker) = (driver.mounter(), driver.broker().expect("a broker"));
    for (pid, capabilities) in [(mounter, MOUNTING), (broker, NONE)] {
        for (set, expected) in [
            ("CapEff", capabilities),
            ("CapPrm", capabilities),
            ("CapBnd", capabilities),
            ("CapInh", NONE),
            ("CapAmb", NONE),
        ] {
            assert_eq!(status(pid, set), expected, "{set}");
        }
        assert_eq!(status(pid, "NoNewPrivs"), "1");
        assert_eq!(status(pid, "Seccomp"), "2");
        // Each thread, as each has its own.
        for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let path = task.unwrap().path().join("status");
            let text = fs::read_to_string(path).unwrap_or_default();
            assert!(
                text.is_empty()
                    || (text.contains("Seccomp:\t2") && text.contains(&format!("CapEff:\t{capabilities}")))
            );
        }
    }
    assert_eq!(status(mounter, "Threads"), "1");
    let own = std::process::id();
    assert_eq!(namespace(broker, "net"), namespace(own, "net"));
    assert_ne!(namespace(mounter, "net"), namespace(own, "net"));
    assert_ne!(namespace(broker, "mnt"), namespace(mounter, "mnt"));
    assert_ne!(namespace(broker, "mnt"), namespace(own, "mnt"));

    // The mounter holds one socket, that to the broker, and the network it could use has nothing.
    assert_eq!(sockets(mounter).len(), 1, "{:?}", descriptors(mounter));
    for table in ["tcp", "tcp6", "udp", "udp6", "raw", "packet", "route"] {
        assert!(inodes(mounter, table, 0).is_empty(), "{table}");
    }
    // The broker speaks TCP and Unix sockets and nothing else; it listens for the admin port alone, on loopback.
    let held = sockets(broker);
    let (tcp, unix) = (inodes(broker, "tcp", 9), inodes(broker, "unix", 6));
    // What the mounter bound for it, or pairs with it, is a Unix socket of the mounter's own namespace.
    let from_mounter = inodes(mounter, "unix", 6);
    let others: Vec<_> = held
        .iter()
        .filter(|inode| ![&tcp, &unix, &from_mounter].iter().any(|known| known.contains(*inode)))
        .collect();
    assert!(others.is_empty(), "{others:?}");
    let table = fs::read_to_string(format!("/proc/{broker}/net/tcp")).unwrap();
    let listening: Vec<_> = table
        .lines()
        .map(|row| row.split_whitespace().collect::<Vec<_>>())
        .filter(|row| row.get(3) == Some(&"0A") && row.get(9).is_some_and(|inode| held.contains(*inode)))
        .map(|row| row[1].to_owned())
        .collect();
    assert!(listening.len() == 1 && listening[0].starts_with("0100007F:"), "{listening:?}");
    // Nothing that is held is a device, a process or, by the broker, a way to the pods' directories: what it has of
    // kubelet's plugins is the two sockets, which lead nowhere else. Roots of volumes show as `/`.
    let home = node.kubelet.dir().display().to_string();
    let plain = ["socket", "pipe", "anon_inode", "/dev/null", "/"];
    for (pid, paths) in [
        (
            mounter,
            [format!("{home}/"), format!("/proc/{mounter}/mountinfo"), "/proc/self/mountinfo".to_owned()],
        ),
        (broker, [format!("{home}/audit/"), format!("{home}/state/"), format!("{home}/plugins")]),
    ] {
        let held = descriptors(pid);
        let known = |kind: &&String| {
            plain.contains(&kind.as_str())
                || kind.starts_with("anon_inode:")
                || paths.iter().any(|path| kind.starts_with(path))
        };
        let unknown: Vec<_> = held.keys().filter(|kind| !known(kind)).collect();
        assert!(unknown.is_empty(), "{pid} holds {unknown:?}");
    }
    // What the broker sees of the node's files: no pod, no socket of kubelet, nothing that can be executed.
    let mounts = fs::read_to_string(format!("/proc/{broker}/mountinfo")).unwrap();
    for row in mounts.lines() {
        let words: Vec<_> = row.split(' ').collect();
        assert!(!words[4].contains("/pods") && !words[4].contains("/plugins"), "{row}");
        assert!(
            words[5].contains("nosuid") && words[5].contains("nodev") && words[5].contains("noexec"),
            "{row}"
        );
        assert!(!row.contains("shared:") && !row.contains("master:"), "{row}");
    }
    for volume in &volumes {
        node.kubelet.unpublish(volume).await.unwrap();
    }
    assert_eq!(sockets(mounter).len(), 1);
}
