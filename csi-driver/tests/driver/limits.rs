//! Every limit of the node plugin that a pod can reach, at the limit and one beyond, as kubelet and containers reach it.

use keyward_emulator::{Effect, Fault, Permission, Registration, TOKEN_EXCHANGE_AUDIENCE};
use keyward_proto::csi::v1::NodePublishVolumeRequest;
use keyward_test_support::kubelet::{Pod, PodVolume};
use keyward_test_support::limits::limit;
use keyward_test_support::node::{DRIVER, Node, VAULT};
use prost::Message as _;
use serde_json::json;
use tonic::{Code, Status};

use crate::BINARY;
use crate::application::Client;
use crate::class::{of_class, put_objects};
use crate::hands::{door, secret};

/// Nothing is read again by itself.
const QUIET: &str = "rotation: {interval: 1h}\n";

/// A node with these limits and the secrets `a` to `d`, whose driver is not started yet.
async fn node(limits: &str) -> Option<Node> {
    let node = Node::start(BINARY).await?;
    node.configure(&format!("{QUIET}limits: {{{limits}}}\n"));
    for name in ["a", "b", "c", "d"] {
        node.vault().set_secret(name, name);
    }
    Some(node)
}

/// One more volume of a pod.
fn named(mut volume: PodVolume, name: &str) -> PodVolume {
    name.clone_into(&mut volume.name);
    volume
}

/// A volume with a socket.
fn open(node: &Node, pod: &str) -> PodVolume {
    node.volume_of(&node.pod(pod), &json!([secret("a")]).to_string(), &[("grpc", "true")])
}

async fn client(node: &Node, volume: &PodVolume) -> Client {
    Client::connect(door(&node.kubelet, volume).join("keyward.sock")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_and_descriptors_have_a_share_for_each_pod_and_a_sum() {
    let Some(node) = node("volumes: 3, volumesPerPod: 2").await else { return };
    let mut driver = node.drive().await;
    let first = node.volume("web-0", &["a"]);
    node.publish(&first).await.unwrap();
    let at = node.publish(&named(first.clone(), "second")).await;
    limit("limits.volumesPerPod").holds(at, node.publish(&named(first.clone(), "third")).await);
    let at = node.publish(&node.volume("web-1", &["a"])).await;
    limit("limits.volumes").holds(at, node.publish(&node.volume("web-2", &["a"])).await);
    // A place that is given back is free.
    node.kubelet.unpublish(&node.volume("web-1", &["a"])).await.unwrap();
    node.publish(&node.volume("web-2", &["a"])).await.unwrap();
    driver.stop().await;

    node.configure(&format!("{QUIET}limits: {{descriptorsPerPod: 12}}\n"));
    let driver = node.drive().await;
    let first = node.volume("web-3", &["a"]);
    node.publish(&first).await.unwrap();
    let at = node.publish(&named(first.clone(), "second")).await;
    limit("limits.descriptorsPerPod").holds(at, node.publish(&named(first, "third")).await);
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_and_bytes_of_a_volume_are_counted() {
    let Some(node) = node("objectsPerVolume: 3, bytesPerVolume: 4096").await else { return };
    node.vault().set_secret("page", "x".repeat(4096));
    node.vault().set_secret("more", "x".repeat(4097));
    let driver = node.drive().await;
    let at = node.publish(&node.volume("web-0", &["a", "b", "c"])).await;
    limit("limits.objectsPerVolume")
        .holds(at, node.publish(&node.volume("web-1", &["a", "b", "c", "d"])).await);
    let at = node.publish(&node.volume("web-2", &["page"])).await;
    limit("limits.bytesPerVolume").holds(at, node.publish(&node.volume("web-3", &["more"])).await);
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_charged_before_anything_is_read() {
    // Three values of the largest size that a vault gives, and what else a volume of three needs.
    let Some(node) = node("bytesPerPod: 100000").await else { return };
    let mut driver = node.drive().await;
    let at = node.publish(&node.volume("web-0", &["a", "b", "c"])).await;
    let read = node.emulator.counters().requests("secrets.get");
    let beyond = node.publish(&node.volume("web-1", &["a", "b", "c", "d"])).await;
    assert_eq!(node.emulator.counters().requests("secrets.get"), read, "nothing is read for it");
    limit("limits.bytesPerPod").holds(at, beyond);
    // How a volume is declared is held in memory and in the state directory.
    let long = |bytes: usize| format!("- {} #{}", secret("a"), "x".repeat(bytes));
    let at = node.publish(&node.volume_of(&node.pod("web-14"), &long(20_000), &[])).await;
    let volume = node.volume_of(&node.pod("web-15"), &long(50_000), &[]);
    limit("limits.bytesPerPod").holds(at, node.publish(&volume).await);
    assert!(!node.kubelet.mounts().contains(&node.kubelet.target(&volume)));
    driver.stop().await;

    // Of 1 MiB a half is for all, and 2 KiB are each pod's own, which is less than one value.
    let own = "{bytesPerNode: 1048576, bytesPerPod: 500000}";
    node.configure(&format!("{QUIET}limits: {own}\n"));
    node.vault().set_secret("large", "x".repeat(25_000));
    let driver = node.drive().await;
    let mut answers = Vec::new();
    for pod in 2..14 {
        answers.push(node.publish(&node.volume(&format!("web-{pod}"), &["large"])).await);
    }
    let refused = answers.iter().position(Result::is_err).expect("the budget is used up");
    let beyond = answers.swap_remove(refused);
    limit("limits.bytesPerNode").holds(answers.swap_remove(0), beyond);
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_takes_as_long_as_it_may() {
    let Some(node) = node("publishDeadline: 3s, conversionDeadline: 1s").await else { return };
    let driver = node.drive().await;
    let at = node.publish(&node.volume("web-0", &["a"])).await;
    node.emulator.faults().set(Fault::on("token.*", Effect::Hang));
    limit("limits.publishDeadline").holds(at, node.publish(&node.volume("web-1", &["b"])).await);
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_asks_as_many_vaults_as_it_may() {
    let Some(node) = Node::with(BINARY, |builder| builder.vault("bank").vault("lab")).await else { return };
    node.configure(&format!("{QUIET}limits: {{hostsPerPod: 2}}\n"));
    let path = node.etc().join("config.yaml");
    let mut config = std::fs::read_to_string(&path).unwrap();
    for vault in ["bank", "lab"] {
        node.emulator.vault(vault).assign(&node.identity, Permission::READ_ALL);
        node.emulator.vault(vault).set_secret("a", "1");
        let entry = format!("{{host: {vault}.vault.azure.net, address: '{}'}}", node.emulator.vault_addr());
        config = config.replace("vaults: [", &format!("vaults: [{entry}, "));
    }
    std::fs::write(&path, config).unwrap();
    node.vault().set_secret("a", "1");
    let driver = node.drive().await;
    let objects = |hosts: &[&str]| {
        let object = |host: &&str| json!({"from": format!("https://{host}/secrets/a"), "name": host});
        json!(hosts.iter().map(object).collect::<Vec<_>>()).to_string()
    };
    let (bank, lab) = ("bank.vault.azure.net", "lab.vault.azure.net");
    let at = node.publish(&node.volume_of(&node.pod("web-0"), &objects(&[VAULT, bank]), &[])).await;
    let beyond = node.volume_of(&node.pod("web-0"), &objects(&[lab]), &[]);
    limit("limits.hostsPerPod").holds(at, node.publish(&named(beyond, "second")).await);
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_calls_have_a_share_for_each_pod_and_a_sum() {
    let limits = "connections: 3, connectionsPerPod: 2, streams: 4, streamsPerPod: 3";
    let Some(node) = node(limits).await else { return };
    let driver = node.drive().await;
    let volumes = [open(&node, "web-0"), open(&node, "web-1")];
    for volume in &volumes {
        node.publish(volume).await.unwrap();
    }
    // Each has a call under way: an idle connection gives way.
    let (first, second) = (client(&node, &volumes[0]).await, client(&node, &volumes[0]).await);
    let mut watches = vec![first.watch(&["a"]).await, second.watch(&["a"]).await];
    let at = watches[1].value().await.ok_or_else(|| Status::unknown("the watch ended"));
    let beyond = client(&node, &volumes[0]).await.get("a").await;
    limit("limits.connectionsPerPod").holds(at, beyond);
    let third = client(&node, &volumes[1]).await;
    watches.push(third.watch(&["a"]).await);
    let at = watches[2].value().await.ok_or_else(|| Status::unknown("the watch ended"));
    limit("limits.connections").holds(at, client(&node, &volumes[1]).await.get("a").await);

    let at = first.try_watch(&["a"]).await;
    let beyond = first.try_watch(&["a"]).await.map(drop);
    limit("limits.streamsPerPod").holds(at.map(|watch| watches.push(watch)), beyond);
    limit("limits.streams").refuses(third.try_watch(&["a"]).await);
    // Another one is possible as soon as one has ended.
    drop(watches.pop());
    while let Err(status) = third.try_watch(&["a"]).await.map(|watch| watches.push(watch)) {
        assert_eq!(status.code(), Code::ResourceExhausted);
    }
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn older_versions_that_pods_ask_for_are_charged_as_long_as_they_are_kept() {
    let Some(node) = node("pinnedVersions: 3, pinnedVersionsPerPod: 2").await else { return };
    let mut versions = Vec::new();
    for value in ["1", "2", "3", "4"] {
        node.vault().rotate_secret("a", value);
        versions.push(node.vault().secret_version("a").unwrap());
    }
    let driver = node.drive().await;
    let volumes = [open(&node, "web-0"), open(&node, "web-1")];
    for volume in &volumes {
        node.publish(volume).await.unwrap();
    }
    let clients = [client(&node, &volumes[0]).await, client(&node, &volumes[1]).await];
    // What is declared is paid for already.
    assert_eq!(&clients[0].version("a", &versions[3]).await.unwrap().value[..], b"4");
    assert_eq!(&clients[0].version("a", &versions[0]).await.unwrap().value[..], b"1");
    let at = clients[0].version("a", &versions[1]).await;
    let read = node.emulator.counters().requests("secrets.get");
    let beyond = clients[0].version("a", &versions[2]).await;
    assert_eq!(node.emulator.counters().requests("secrets.get"), read, "nothing is read for it");
    limit("limits.pinnedVersionsPerPod").holds(at, beyond);
    // One of those that are kept costs no more, and a pod pays for it though another one does.
    assert_eq!(&clients[0].version("a", &versions[0]).await.unwrap().value[..], b"1");
    let at = clients[1].version("a", &versions[0]).await;
    limit("limits.pinnedVersions").holds(at, clients[1].version("a", &versions[1]).await);
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_calls_as_often_as_it_may() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.configure(&format!("{QUIET}grpc: {{ratePerCaller: 1}}\n"));
    node.vault().set_secret("a", "1");
    let driver = node.drive().await;
    let volume = open(&node, "web-0");
    node.publish(&volume).await.unwrap();
    let client = client(&node, &volume).await;
    let at = client.get("a").await;
    let mut beyond = client.get("a").await;
    // On a machine that is very slow a second has passed.
    for _ in 0..100 {
        if beyond.is_ok() {
            beyond = client.get("a").await;
        }
    }
    limit("grpc.ratePerCaller").holds(at, beyond);
    drop(driver);
}

/// Fills a volume, and then another one, until nothing more is possible.
async fn take_all(node: &Node, pod: &Pod, client_id: &str) -> usize {
    let mut volumes = 0;
    for objects in [150, 50, 20, 5, 2, 1, 1, 1] {
        let object = |n: usize| json!({"from": secret("large"), "name": format!("n{n}")});
        let objects = json!((0..objects).map(object).collect::<Vec<_>>()).to_string();
        let volume = node.volume_of(pod, &objects, &[("clientID", client_id)]);
        volumes += usize::from(node.publish(&named(volume, &format!("v{volumes}"))).await.is_ok());
    }
    volumes
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_act_together_in_one_namespace_or_in_several_keep_no_other_pod_from_starting() {
    let bytes = 64 << 20;
    let Some(node) = node(&format!("bytesPerNode: {bytes}")).await else { return };
    node.configure(&format!("limits: {{bytesPerNode: {bytes}}}\n"));
    node.vault().set_secret("large", "x".repeat(25_000));
    let other = node.emulator.identities().register(Registration::application().federated(
        node.emulator.issuer().url(),
        "system:serviceaccount:bank:web",
        TOKEN_EXCHANGE_AUDIENCE,
    ));
    node.vault().assign(&other, Permission::READ_ALL);
    let driver = node.drive().await;
    for pod in 0..6 {
        let (namespace, identity) = [("shop", &node.identity), ("bank", &other)][pod % 2];
        let pod = Pod::new(namespace, &format!("greedy-{pod}"), "web");
        let volumes = take_all(&node, &pod, &identity.client_id).await;
        assert!(volumes > 0, "each gets something");
    }
    let more =
        json!((0..20).map(|n| json!({"from": secret("large"), "name": format!("n{n}")})).collect::<Vec<_>>());
    let more = node.volume_of(&Pod::new("shop", "greedy-6", "web"), &more.to_string(), &[]);
    let refused = node.publish(&more).await.unwrap_err();
    let peaceful: Vec<_> = (0..20).map(|n| open(&node, &format!("peaceful-{n}"))).collect();
    for volume in &peaceful {
        node.publish(volume).await.unwrap();
        assert_eq!(&client(&node, volume).await.get("a").await.unwrap().value[..], b"a");
    }
    // What they hold goes on to change.
    node.vault().rotate_secret("a", "new");
    for volume in &peaceful {
        node.until_file(volume, "a", b"new").await;
    }
    assert!(refused.message().contains("kept back for each pod"), "{refused:?}");
    // As the table says it for the defaults.
    assert_eq!(limit("kept back: bytes").number(), 512 << 10);
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pod_declares_is_bounded() {
    let Some(node) = node("").await else { return };
    let driver = node.drive().await;
    let count = std::cell::Cell::new(0);
    let publish = async |objects: String| {
        count.set(count.get() + 1);
        node.publish(&node.volume_of(&node.pod(&format!("web-{}", count.get())), &objects, &[])).await
    };
    let file = |path: String| json!([{"from": secret("a"), "file": path}]).to_string();
    let row = limit("file path: one element");
    let element = |length| "x".repeat(length);
    let at = publish(file(element(row.number()))).await;
    row.holds(at, publish(file(element(row.number() + 1))).await);
    let row = limit("file path");
    let long = |length: usize| {
        format!("{}{}", "x/".repeat(length / 2 - 1), if length.is_multiple_of(2) { "xx" } else { "xxx" })
    };
    assert_eq!(long(row.number() + 1).len(), row.number() + 1);
    let at = publish(file(long(row.number()))).await;
    row.holds(at, publish(file(long(row.number() + 1))).await);

    let template = |text: String| json!([secret("a"), {"name": "t", "template": text}]).to_string();
    let row = limit("template");
    let at = publish(template("x".repeat(row.number()))).await;
    let beyond = publish(template("x".repeat(row.number() + 1))).await;
    assert!(beyond.as_ref().unwrap_err().message().contains("64 KiB"), "{beyond:?}");
    assert!(at.is_ok(), "{at:?}");
    let row = limit("output of a template");
    let times = row.number() / (32 << 10);
    let output = |more: &str| {
        let list = vec!["1"; times].join(",");
        template(format!("{{% for n in [{list}] %}}{}{{% endfor %}}{more}", "x".repeat(32 << 10)))
    };
    let at = publish(output("")).await;
    let beyond = publish(output("y")).await;
    assert!(beyond.as_ref().unwrap_err().message().contains("1 MiB"), "{beyond:?}");
    assert!(at.is_ok(), "{at:?}");

    let row = limit("document");
    let document = |length: usize| {
        let text = format!("- {} #", secret("a"));
        text.clone() + &"x".repeat(length - text.len())
    };
    let at = publish(document(row.number())).await;
    row.holds(at, publish(document(row.number() + 1)).await);

    let row = limit("objects of a class");
    let class = |count: usize| {
        let entry = |n| format!("- |\n  objectName: a\n  objectType: secret\n  objectAlias: n{n}\n");
        format!("array:\n{}", (0..count).map(entry).collect::<String>())
    };
    let mut answers = Vec::new();
    for (name, count) in [("at", row.number()), ("beyond", row.number() + 1)] {
        put_objects(&node, name, &class(count), &[]);
        answers.push(node.publish(&of_class(&node, &format!("class-{name}"), name)).await);
    }
    let beyond = answers.remove(1);
    row.holds(answers.remove(0), beyond);
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kubelet_passes_on_is_bounded() {
    let Some(node) = node("").await else { return };
    let driver = node.drive().await;
    let volume = node.volume("web-0", &["a"]);
    node.kubelet.prepare(&volume);
    let usual = || node.kubelet.request(&volume, &node.context(&volume.pod));
    let send = async |request: NodePublishVolumeRequest| {
        node.kubelet.node(DRIVER).await?.node_publish_volume(request).await.map(drop)
    };
    // A comment of YAML makes it as large as it should be.
    let padded = |bytes: usize, size: &dyn Fn(&NodePublishVolumeRequest) -> usize| {
        let mut request = usual();
        let objects = request.volume_context.get_mut("objects").unwrap();
        objects.push_str(" #");
        let missing = bytes - size(&request);
        request.volume_context.get_mut("objects").unwrap().push_str(&"x".repeat(missing));
        // The length of a length may have grown.
        let over = size(&request) - bytes;
        let objects = request.volume_context.get_mut("objects").unwrap();
        objects.truncate(objects.len() - over);
        assert_eq!(size(&request), bytes);
        request
    };
    let context = |request: &NodePublishVolumeRequest| -> usize {
        request.volume_context.iter().map(|(key, value)| key.len() + value.len()).sum()
    };
    // Within it the document is too large; it is looked at, all the same.
    let row = limit("volume context");
    let at = send(padded(row.number(), &context)).await.unwrap_err();
    assert!(at.message().starts_with("KW_OBJECT_INVALID"), "{at:?}");
    let beyond = send(padded(row.number() + 1, &context)).await.unwrap_err();
    assert!(beyond.message().contains("1.5 MiB"), "{beyond:?}");
    let row = limit("CSI message");
    let encoded = |request: &NodePublishVolumeRequest| request.encoded_len();
    let at = send(padded(row.number(), &encoded)).await.unwrap_err();
    assert_eq!(at.code(), Code::InvalidArgument, "{at:?}");
    let beyond = send(padded(row.number() + 1, &encoded)).await.unwrap_err();
    assert!(matches!(beyond.code(), Code::OutOfRange | Code::ResourceExhausted), "{beyond:?}");

    let row = limit("name in a request");
    let named = |length: usize| {
        let mut request = usual();
        request.volume_context.insert("csi.storage.k8s.io/pod.name".to_owned(), "x".repeat(length));
        request
    };
    let at = send(named(row.number())).await;
    assert!(!format!("{at:?}").contains("no Kubernetes name"), "{at:?}");
    let beyond = send(named(row.number() + 1)).await.unwrap_err();
    assert!(beyond.message().contains("pod.name is no Kubernetes name"), "{beyond:?}");
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_made_of_as_many_versions_as_the_table_says() {
    let Some(node) = node("").await else { return };
    let most = limit("versions looked at for a history").number();
    for value in 0..most {
        node.vault().rotate_secret("a", value.to_string());
    }
    let driver = node.drive().await;
    // One more than are looked at: the first was there before.
    let objects = "array:\n- |\n  objectName: a\n  objectType: secret\n  objectVersionHistory: 900\n";
    put_objects(&node, "history", objects, &[]);
    let volume = of_class(&node, "web-0", "history");
    node.publish(&volume).await.unwrap();
    assert_eq!(std::fs::read_dir(node.kubelet.target(&volume).join("a")).unwrap().count(), most);
    drop(driver);
}
