//! What pods of different identities share, which is nothing, and what pods of one identity do, which is every read.

use std::collections::BTreeSet;

use futures::future::join_all;
use keyward_emulator::{Identity, Registration, TOKEN_EXCHANGE_AUDIENCE};
use keyward_test_support::kubelet::{Pod, PodVolume};
use keyward_test_support::node::{Driver, Node, VAULT};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::BINARY;
use crate::hands::until;

/// Nothing is read again by itself.
const QUIET: &str = "rotation: {interval: 1h}\n";

/// What a volume of one secret declares.
fn only(name: &str) -> String {
    json!([format!("https://{VAULT}/secrets/{name}")]).to_string()
}

/// An identity that pods of `shop/guest` prove, and that may read nothing.
fn guest(node: &Node) -> Identity {
    node.emulator.identities().register(Registration::application().federated(
        node.emulator.issuer().url(),
        "system:serviceaccount:shop:guest",
        TOKEN_EXCHANGE_AUDIENCE,
    ))
}

fn guests(node: &Node, guest: &Identity, name: &str, secret: &str) -> PodVolume {
    node.volume_of(&Pod::new("shop", name, "guest"), &only(secret), &[("clientID", &guest.client_id)])
}

async fn is_forbidden(node: &Node, volume: &PodVolume) {
    let status = node.publish(volume).await.expect_err("the vault forbids it");
    assert!(status.message().contains("KW_VAULT_FORBIDDEN"), "{}", status.message());
    assert_eq!(status.code(), tonic::Code::PermissionDenied);
    assert!(!node.kubelet.mounts().contains(&node.kubelet.target(volume)));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_read_an_object_does_and_who_may_not_does_not_in_whatever_order_they_come() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.configure(QUIET);
    let guest = guest(&node);
    for order in ["first", "second", "at-once"] {
        node.vault().set_secret(order, format!("canary-{order}"));
    }
    let driver = node.drive().await;
    let allowed = |order: &str| node.volume(&format!("web-{order}"), &[order]);
    let forbidden = |order: &str| guests(&node, &guest, &format!("guest-{order}"), order);

    node.publish(&allowed("first")).await.unwrap();
    is_forbidden(&node, &forbidden("first")).await;

    is_forbidden(&node, &forbidden("second")).await;
    node.publish(&allowed("second")).await.unwrap();
    is_forbidden(&node, &forbidden("second")).await;

    let (both, neither) = (allowed("at-once"), forbidden("at-once"));
    let (published, ()) = tokio::join!(node.publish(&both), is_forbidden(&node, &neither));
    published.unwrap();
    for order in ["first", "second", "at-once"] {
        assert_eq!(node.read(&allowed(order), order).unwrap(), format!("canary-{order}").as_bytes());
    }
    assert_eq!(node.kubelet.mounts().len(), 3);
    assert_eq!(
        node.emulator.counters().with_status("secrets.get", 200),
        3,
        "one read for the identity that may"
    );
    // A right that is given counts from then on, and the reads of the two identities stay apart.
    node.vault().assign(&guest, keyward_emulator::Permission::READ_ALL);
    let late = guests(&node, &guest, "guest-late", "first");
    until_published(&node, &late).await;
    assert_eq!(node.emulator.counters().with_status("secrets.get", 200), 4);
    drop(driver);
}

/// A refusal is remembered for some seconds.
async fn until_published(node: &Node, volume: &PodVolume) {
    let end = tokio::time::Instant::now() + keyward_test_support::node::PATIENCE;
    while let Err(status) = node.publish(volume).await {
        assert!(tokio::time::Instant::now() < end, "{status:?}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_one_identity_prove_it_each_and_share_one_read_of_each_object() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.configure(QUIET);
    for name in ["a", "b", "c"] {
        node.vault().set_secret(name, name);
    }
    let driver = node.drive().await;
    let volumes: Vec<_> = (0..8).map(|n| node.volume(&format!("web-{n}"), &["a", "b", "c"])).collect();
    for published in join_all(volumes.iter().map(|volume| node.publish(volume))).await {
        published.unwrap();
    }
    let counters = node.emulator.counters();
    assert_eq!(counters.with_status("secrets.get", 200), 3);
    assert_eq!(counters.with_status("token.federated", 200), 8, "a proof each");
    for volume in &volumes {
        assert_eq!(node.read(volume, "c").unwrap(), b"c");
    }
    drop(driver);
}

/// The driver's own figures.
struct Figures(String);

impl Figures {
    async fn of(driver: &Driver) -> Self {
        let log = driver.log();
        let line =
            log.lines().find(|line| line.contains("the admin port is listening")).expect("an admin port");
        let at = line.find("127.0.0.1:").expect("an address");
        let address: String =
            line[at..].chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        Self(answer)
    }

    fn gauge(&self, name: &str) -> i64 {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {}", self.0)).parse().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_departure_frees_what_only_it_used_and_ends_the_reads_in_its_name() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.configure("admin: {listen: '127.0.0.1:0'}\nlimits: {cacheBytes: 1048576}\n");
    node.vault().set_secret("shared", "1");
    let own: Vec<_> = (0..60).map(|n| format!("own-{n}")).collect();
    for name in &own {
        node.vault().set_secret(name, "x".repeat(20_000));
    }
    let driver = node.drive().await;
    let stays = node.volume("stays-0", &["shared"]);
    let mut names: Vec<_> = own.iter().map(String::as_str).collect();
    names.push("shared");
    let goes = node.volume("goes-0", &names);
    node.publish(&stays).await.unwrap();
    let before = Figures::of(&driver).await;
    node.publish(&goes).await.unwrap();
    let with = Figures::of(&driver).await;
    assert_eq!((before.gauge("keyward_volumes"), with.gauge("keyward_volumes")), (1, 2));
    let held = with.gauge("keyward_memory_locked_bytes") + with.gauge("keyward_memory_overflow_bytes");
    node.kubelet.unpublish(&goes).await.unwrap();
    // A read makes the cache look at its bounds.
    node.vault().set_secret("later", "1");
    node.publish(&node.volume("later-0", &["later"])).await.unwrap();
    let after = Figures::of(&driver).await;
    assert_eq!(after.gauge("keyward_volumes"), 2);
    let left = after.gauge("keyward_memory_locked_bytes") + after.gauge("keyward_memory_overflow_bytes");
    assert!(left <= held - 200_000, "{held} bytes, and {left} after the pod went");
    // What is shared is kept current, and nothing else is asked for.
    let ended = audit(&node).len();
    for value in ["2", "3"] {
        node.vault().rotate_secret("shared", value);
        node.until_file(&stays, "shared", value.as_bytes()).await;
    }
    until("records of the reads", || {
        read_since(&node, ended).iter().any(|object| object.contains("/shared"))
    })
    .await;
    let read = read_since(&node, ended);
    assert!(!read.iter().any(|object| object.contains("/own-")), "{read:?}");
}

fn audit(node: &Node) -> Vec<Value> {
    let text = std::fs::read_to_string(node.kubelet.dir().join("audit/audit.jsonl")).unwrap();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn read_since(node: &Node, since: usize) -> BTreeSet<String> {
    let records = audit(node).into_iter().skip(since);
    records
        .filter(|record| record["action"] == "fetch")
        .map(|record| record["object"].as_str().unwrap_or_default().to_owned())
        .collect()
}
