//! Many pods at once: each distinct object is read once for each identity (promise 15), and no publish fails.

#![expect(clippy::unwrap_used, reason = "a helper of a test panics as the test does")]

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use futures::future::join_all;
use keyward_emulator::{
    Effect, Fault, Identity, Permission, RateLimits, Registration, TOKEN_EXCHANGE_AUDIENCE,
};
use keyward_test_support::kubelet::{Pod, PodVolume};
use keyward_test_support::node::{DRIVER, Driver, Node, PATIENCE, VAULT};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_keyward-csi-driver");
/// As many as kubelet allows on a node.
const PODS: usize = 110;
const OBJECTS: usize = 50;
/// The round trip to a vault in the same region.
const LATENCY: u64 = 20;

/// One pod's part of the load.
struct Want {
    account: &'static str,
    objects: Vec<String>,
}

/// What a load cost.
struct Cost {
    gets: u64,
    throttled: u64,
    exchanges: u64,
    took: Duration,
    slowest: Duration,
}

/// The emulator with Azure's limits, and secrets of these names whose values are their names.
async fn rig(
    names: &BTreeSet<String>,
    accounts: &[&'static str],
    interval: &str,
) -> Option<(Node, Vec<Identity>, Driver)> {
    let node = Node::with(BINARY, |builder| builder.rate_limits(Some(RateLimits::AZURE))).await?;
    for name in names {
        node.vault().set_secret(name, name);
    }
    let identities = accounts.iter().map(|account| register(&node, account)).collect();
    node.configure(&format!("rotation: {{interval: {interval}, jitter: 0}}\n"));
    let latency = Effect::Latency { millis: LATENCY, jitter_millis: 0 };
    node.emulator.faults().set(Fault::on("*", latency));
    let driver = node.drive().await;
    node.emulator.counters().reset();
    Some((node, identities, driver))
}

/// An identity of a service account of its own.
fn register(node: &Node, account: &str) -> Identity {
    let identity = node.emulator.identities().register(Registration::application().federated(
        node.emulator.issuer().url(),
        &format!("system:serviceaccount:shop:{account}"),
        TOKEN_EXCHANGE_AUDIENCE,
    ));
    node.vault().assign(&identity, Permission::READ_ALL);
    identity
}

fn volume(node: &Node, number: usize, want: &Want, identity: &Identity) -> PodVolume {
    let pod = Pod::new("shop", &format!("{}-{number}", want.account), want.account);
    let objects: Vec<_> = want.objects.iter().map(|name| format!("https://{VAULT}/secrets/{name}")).collect();
    let attributes = [
        ("objects", json!(objects).to_string()),
        ("clientID", identity.client_id.clone()),
        ("tenantID", node.emulator.tenant_id().to_owned()),
    ];
    let attributes: Vec<_> = attributes.iter().map(|(key, value)| (*key, value.as_str())).collect();
    pod.volume(DRIVER, &attributes)
}

/// Publishes all at once; each must succeed at the first try.
async fn publish_all(node: &Node, volumes: &[PodVolume]) -> Cost {
    let start = Instant::now();
    let published = join_all(volumes.iter().map(|volume| async move {
        let answer = node.publish(volume).await;
        answer.unwrap_or_else(|status| panic!("{}: {status:?}", volume.pod.name));
        start.elapsed()
    }))
    .await;
    let counters = node.emulator.counters();
    Cost {
        gets: counters.with_status("secrets.get", 200),
        throttled: counters.with_status("*", 429),
        exchanges: counters.with_status("token.federated", 200),
        took: start.elapsed(),
        slowest: published.into_iter().max().unwrap_or_default(),
    }
}

/// One full node at a time: two of them would be measured against each other's processor.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Publishes what is wanted and checks every file. Returns the cost and how many (identity, object) pairs there were.
async fn load(wants: &[Want], accounts: &[&'static str]) -> Option<(Cost, u64)> {
    let names = wants.iter().flat_map(|want| want.objects.iter().cloned()).collect();
    let _alone = ALONE.lock().await;
    let (node, identities, _driver) = rig(&names, accounts, "1h").await?;
    let of = |want: &Want| accounts.iter().position(|account| *account == want.account).unwrap();
    let volumes: Vec<_> = wants
        .iter()
        .enumerate()
        .map(|(number, want)| volume(&node, number, want, &identities[of(want)]))
        .collect();
    let cost = publish_all(&node, &volumes).await;
    for (volume, want) in volumes.iter().zip(wants) {
        for name in &want.objects {
            assert_eq!(node.read(volume, name).as_deref(), Some(name.as_bytes()), "{}", volume.pod.name);
        }
    }
    assert_eq!(node.kubelet.mounts().len(), wants.len());
    let pairs: BTreeSet<_> =
        wants.iter().flat_map(|want| want.objects.iter().map(move |name| (want.account, name))).collect();
    Some((cost, pairs.len() as u64))
}

fn shared(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("shared-{number}"))
}

fn own(pod: usize, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |number| format!("own-{pod}-{number}"))
}

/// 30 objects that all pods share and 20 of the pod's own.
fn mixed(accounts: &[&'static str]) -> Vec<Want> {
    let want = |pod: usize| Want {
        account: accounts[pod % accounts.len()],
        objects: shared(OBJECTS - 20).chain(own(pod, 20)).collect(),
    };
    (0..PODS).map(want).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_node_of_pods_at_once_reads_each_object_once_within_the_vaults_limits() {
    let accounts = ["web"];
    let Some((cost, pairs)) = load(&mixed(&accounts), &accounts).await else { return };
    tell(&format!("{PODS} pods, 20 of {OBJECTS} objects their own: {pairs} pairs"), &cost);
    assert_eq!(cost.gets, pairs);
    assert_eq!(pairs, 30 + 20 * PODS as u64);
    assert_eq!(cost.throttled, 0);
    assert!(cost.exchanges <= PODS as u64, "each pod proves its identity once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_node_of_pods_with_the_same_objects_reads_as_many_objects_as_one_pod() {
    let accounts = ["web"];
    let wants: Vec<_> =
        (0..PODS).map(|_| Want { account: "web", objects: shared(OBJECTS).collect() }).collect();
    let Some((cost, pairs)) = load(&wants, &accounts).await else { return };
    tell(&format!("{PODS} pods, the same {OBJECTS} objects: {pairs} pairs"), &cost);
    assert_eq!((cost.gets, pairs), (OBJECTS as u64, OBJECTS as u64));
    assert_eq!(cost.throttled, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_identities_read_each_for_itself_and_never_for_another() {
    let accounts = ["web", "api", "jobs", "mail", "shop"];
    let Some((cost, pairs)) = load(&mixed(&accounts), &accounts).await else { return };
    tell(&format!("{PODS} pods of 5 identities, 20 of {OBJECTS} objects their own: {pairs} pairs"), &cost);
    assert_eq!(cost.gets, pairs);
    assert_eq!(pairs, 5 * 30 + 20 * PODS as u64);
    assert_eq!(cost.throttled, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_check_asks_once_for_25_objects_and_once_for_each_that_changed_whatever_the_number_of_pods()
 {
    const CHANGED: usize = 7;
    const INTERVAL: u64 = 5;
    let names = shared(OBJECTS).collect();
    let Some((node, identities, driver)) = rig(&names, &["web"], &format!("{INTERVAL}s")).await else {
        return;
    };
    let want = Want { account: "web", objects: shared(OBJECTS).collect() };
    let volumes: Vec<_> = (0..20).map(|number| volume(&node, number, &want, &identities[0])).collect();
    publish_all(&node, &volumes).await;
    // Between two checks: what is counted begins and ends at rest.
    next_check(&node).await;
    let counters = node.emulator.counters();
    counters.reset();
    for name in shared(CHANGED) {
        node.vault().rotate_secret(&name, "next");
    }
    let rotated = || {
        volumes
            .iter()
            .all(|volume| shared(CHANGED).all(|name| node.read(volume, &name).as_deref() == Some(b"next")))
    };
    let end = Instant::now() + PATIENCE;
    while !rotated() {
        assert!(Instant::now() < end, "not every volume is rotated\n{}", driver.log());
        sleep(Duration::from_millis(10)).await;
    }
    let asked = counters.requests("secrets.*");
    tell_text(&format!(
        "a check of {OBJECTS} objects for {} pods, {CHANGED} changed: {asked} requests",
        volumes.len()
    ));
    assert!(asked <= (OBJECTS / 25 + CHANGED) as u64, "{asked} requests: {:?}", counters.rows());
}

/// Waits until the vault was asked again and is left alone.
async fn next_check(node: &Node) {
    let counters = node.emulator.counters();
    counters.reset();
    let end = Instant::now() + PATIENCE;
    while counters.requests("secrets.*") == 0 {
        assert!(Instant::now() < end, "no check");
        sleep(Duration::from_millis(5)).await;
    }
    loop {
        let before = counters.requests("secrets.*");
        sleep(Duration::from_secs(1)).await;
        if counters.requests("secrets.*") == before && counters.in_flight() == 0 {
            return;
        }
    }
}

fn tell(what: &str, cost: &Cost) {
    let Cost { gets, throttled, exchanges, took, slowest } = cost;
    tell_text(&format!(
        "{what}, {gets} gets, {exchanges} token exchanges, {throttled} throttled, all in {took:.2?} (slowest {slowest:.2?})"
    ));
}

/// Past the test harness, which keeps what a passing test prints.
fn tell_text(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
