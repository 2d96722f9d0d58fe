//! Promise 14 on the shipped binary while it serves volumes; what hostile code could try is in `two_processes.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use keyward_test_support::node::{Node, VAULT};
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
