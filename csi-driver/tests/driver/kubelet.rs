//! Kubelet's order of calls, its registry, and what it does after each kind of answer.

use std::time::Duration;

use keyward_emulator::{Effect, Fault};
use keyward_proto::csi::v1::{GetPluginInfoRequest, NodeGetVolumeHealthRequest, NodeGetVolumeStatsRequest};
use keyward_proto::registration::registration_client::RegistrationClient;
use keyward_proto::registration::{InfoRequest, RegistrationStatus};
use keyward_test_support::kubelet::{Context, Kubelet};
use keyward_test_support::node::{DRIVER, Driver, Node, PATIENCE};
use rustix::mount::{MountPropagationFlags, UnmountFlags, unmount};
use tokio::time::Instant;
use tonic::Code;

use crate::BINARY;
use crate::hands::{
    Writable, assert_refused, everything_is_down, generation, listing, names, notes, publish_until_ok,
    records, status, until,
};

/// What "within a second" is held to here, where every processor is busy.
const SOON: Duration = Duration::from_secs(5);

fn registration(node: &Node) -> std::path::PathBuf {
    node.kubelet.dir().join("plugins_registry").join(format!("{DRIVER}-reg.sock"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_csi_socket_listens_before_kubelet_finds_the_driver() {
    let Some(node) = Node::start(BINARY).await else { return };
    let started = Instant::now();
    let driver = node.spawn();
    until("the registration socket", || registration(&node).exists()).await;
    let info =
        node.kubelet.identity(DRIVER).await.unwrap().get_plugin_info(GetPluginInfoRequest {}).await.unwrap();
    assert_eq!(info.into_inner().name, DRIVER);
    let registered = node.kubelet.register(DRIVER, PATIENCE).await.unwrap();
    assert!(started.elapsed() < SOON, "registered {:?} after the start", started.elapsed());
    assert_eq!(registered.node_id, "node-0");
    assert_eq!(registered.endpoint, node.kubelet.socket(DRIVER));
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_driver_registers_again_at_once_whichever_socket_vanishes_and_when_kubelet_starts_anew() {
    let Some(node) = Node::start(BINARY).await else { return };
    let mut driver = node.drive().await;
    for gone in [registration(&node), node.kubelet.socket(DRIVER), registration(&node)] {
        let since = Instant::now();
        std::fs::remove_file(&gone).unwrap();
        assert!(
            node.kubelet.register(DRIVER, SOON).await.is_some(),
            "{} was removed:\n{}",
            gone.display(),
            driver.log()
        );
        assert!(since.elapsed() < SOON);
        driver.until_ready(&node).await;
    }
    // Kubelet empties its registry at no time, but whoever replaces the directory does.
    let registry = node.kubelet.dir().join("plugins_registry");
    std::fs::remove_dir_all(&registry).unwrap();
    std::fs::create_dir(&registry).unwrap();
    assert!(node.kubelet.register(DRIVER, SOON).await.is_some(), "{}", driver.log());
    // A kubelet that starts anew finds the same socket and asks again.
    for _ in 0..2 {
        let mut client = RegistrationClient::new(Kubelet::channel(&registration(&node)).await.unwrap());
        let info = client.get_info(InfoRequest {}).await.unwrap().into_inner();
        assert_eq!(
            (info.name.as_str(), info.endpoint),
            (DRIVER, node.kubelet.socket(DRIVER).display().to_string())
        );
        let verdict = RegistrationStatus { plugin_registered: true, error: String::new() };
        client.notify_registration_status(verdict).await.unwrap();
    }
    driver.until_ready(&node).await;
    assert!(driver.stop().await.success(), "{}", driver.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_refuses_the_driver_is_asked_again_and_health_says_so_meanwhile() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.configure("admin: {listen: '127.0.0.1:0'}\n");
    let driver = node.drive().await;
    let admin = admin(&driver);
    assert_eq!(get(&admin, "/readyz").await, 200);
    let mut client = RegistrationClient::new(Kubelet::channel(&registration(&node)).await.unwrap());
    let verdict = RegistrationStatus { plugin_registered: false, error: "no".to_owned() };
    client.notify_registration_status(verdict).await.unwrap();
    assert_eq!(get(&admin, "/readyz").await, 503, "health tells the truth");
    assert!(node.kubelet.register(DRIVER, PATIENCE).await.is_some(), "{}", driver.log());
    assert_eq!(get(&admin, "/readyz").await, 200);
}

fn admin(driver: &Driver) -> String {
    let log = driver.log();
    let line = log
        .lines()
        .find(|line| line.contains("the admin port is listening"))
        .expect("an admin port")
        .to_owned();
    let at = line.find("127.0.0.1:").expect("an address");
    line[at..].chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect()
}

/// The status of a GET, by hand.
async fn get(address: &str, path: &str) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_is_stopped_takes_its_sockets_away_and_leaves_volumes_mounted() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", "1");
    let mut driver = node.drive().await;
    let volume = node.volume("web-0", &["a"]);
    node.publish(&volume).await.unwrap();
    assert!(driver.stop().await.success(), "{}", driver.log());
    assert!(!registration(&node).exists() && !node.kubelet.socket(DRIVER).exists());
    assert_eq!(node.read(&volume, "a").unwrap(), b"1");
    assert_eq!(node.kubelet.mounts(), [node.kubelet.target(&volume)]);
}

/// The mounter's copy of the mount is all that it can see of how mounts pass on: a change there is what kubelet's
/// directory without `mountPropagation: Bidirectional` looks like.
#[tokio::test(flavor = "multi_thread")]
async fn a_publish_never_says_ok_for_a_mount_that_the_host_would_not_see() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", "1");
    let mut driver = node.drive().await;
    let (volume, seen) = (node.volume("web-0", &["a"]), node.volume("seen-0", &["a"]));
    node.publish(&seen).await.unwrap();
    let (mounter, directory) = (driver.mounter(), node.kubelet.dir().to_owned());
    let change = move |propagation| {
        let directory = directory.clone();
        let change = move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let inside = std::fs::File::open(format!("/proc/{mounter}/ns/mnt")).unwrap();
            nix::sched::setns(inside, nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            rustix::mount::mount_change(&directory, propagation).unwrap();
        };
        std::thread::spawn(change).join().unwrap();
    };
    change(MountPropagationFlags::PRIVATE);
    let refused = node.publish(&volume).await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal);
    for part in ["KW_FILE_SYSTEM", "mountPropagation: Bidirectional", "volumeMounts"] {
        assert!(refused.message().contains(part), "{}", refused.message());
    }
    assert!(records(&node.kubelet).iter().all(|record| !record.contains("web-0")));
    assert_eq!(node.kubelet.mounts(), [node.kubelet.target(&seen)]);
    // What was published before is seen still, and stays.
    node.publish(&seen).await.unwrap();
    assert_eq!(node.read(&seen, "a").unwrap(), b"1");
    until("the event", || {
        notes(&node, &volume, "SecretsMountFailed").iter().any(|note| note.contains("Bidirectional"))
    })
    .await;
    driver.kill(mounter).await;
    // A driver that is started as it should be serves it.
    let _driver = node.drive().await;
    publish_until_ok(&node, &volume).await;
    assert_eq!(node.read(&volume, "a").unwrap(), b"1");
}

/// The same before anything was published: the driver does not even start.
#[tokio::test(flavor = "multi_thread")]
async fn a_driver_whose_mounts_would_not_reach_the_host_says_at_start_what_to_add() {
    let Some(node) = Node::start(BINARY).await else { return };
    rustix::mount::mount_change(node.kubelet.dir(), MountPropagationFlags::PRIVATE).unwrap();
    let mut driver = node.spawn();
    assert_eq!(driver.ended().await.code(), Some(69));
    let log = driver.log();
    assert!(log.contains("mountPropagation: Bidirectional") && log.contains("pods"), "{log}");
    assert!(!registration(&node).exists());
    rustix::mount::mount_change(node.kubelet.dir(), MountPropagationFlags::SHARED).unwrap();
    node.drive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_concurrent_call_for_the_same_volume_is_aborted_and_other_volumes_go_on() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("slow", "1");
    node.vault().set_secret("quick", "2");
    let driver = node.drive().await;
    let latency = Effect::Latency { millis: 1500, jitter_millis: 0 };
    node.emulator.faults().set(Fault::on("secrets.get", latency).for_object("slow"));
    let (slow, quick) = (node.volume("slow-0", &["slow"]), node.volume("quick-0", &["quick"]));
    let first = async {
        let answer = node.publish(&slow).await;
        (answer, Instant::now())
    };
    let second = async {
        until("a request for the slow one", || node.emulator.counters().in_flight() > 0).await;
        let mut codes = Vec::new();
        for _ in 0..3 {
            codes.push(node.publish(&slow).await.unwrap_err());
        }
        node.publish(&quick).await.unwrap();
        (codes, Instant::now())
    };
    let ((first, ended), (codes, others)) = tokio::join!(first, second);
    first.unwrap();
    assert!(others < ended, "all this happened while the first call was under way");
    for status in &codes {
        assert_eq!(status.code(), Code::Aborted, "{status:?}");
        assert!(status.message().contains("KW_VOLUME_BUSY"));
    }
    assert_eq!(node.read(&slow, "slow").unwrap(), b"1");
    assert_eq!(node.kubelet.mounts().len(), 2);
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unpublish_ends_a_publish_that_waits_for_the_vault() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("slow", "1");
    let driver = node.drive().await;
    let latency = Effect::Latency { millis: 20_000, jitter_millis: 0 };
    node.emulator.faults().set(Fault::on("secrets.get", latency).for_object("slow"));
    let slow = node.volume("slow-0", &["slow"]);
    let unpublish = async {
        until("a request for the slow one", || node.emulator.counters().in_flight() > 0).await;
        node.kubelet.unpublish(&slow).await
    };
    let (published, unpublished) = tokio::join!(node.publish(&slow), unpublish);
    unpublished.unwrap();
    let status = published.unwrap_err();
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    assert!(status.message().contains("KW_VOLUME_BUSY"), "{status:?}");
    assert!(node.kubelet.mounts().is_empty());
    node.emulator.faults().clear_all();
    node.publish(&slow).await.unwrap();
    assert_eq!(node.read(&slow, "slow").unwrap(), b"1");
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_republishes_is_answered_without_a_request_or_a_write_by_ok_or_aborted() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.configure("rotation: {interval: 1h}\n");
    node.vault().set_secret("a", "1");
    let driver = node.drive().await;
    let volume = node.volume("web-0", &["a"]);
    node.publish(&volume).await.unwrap();
    node.api.until("the event", |_| !notes(&node, &volume, "SecretsMounted").is_empty()).await;
    let writes = node.api.writes();
    node.emulator.counters().reset();
    let burst = futures::future::join_all((0..60).map(|_| node.publish(&volume))).await;
    let (ok, aborted): (Vec<_>, Vec<_>) = burst.into_iter().partition(Result::is_ok);
    assert!(!ok.is_empty());
    for answer in aborted {
        assert_eq!(answer.unwrap_err().code(), Code::Aborted);
    }
    for _ in 0..60 {
        node.publish(&volume).await.unwrap();
    }
    assert_eq!(node.emulator.counters().requests("*"), 0);
    assert_eq!(node.api.writes(), writes);
    assert_eq!(node.kubelet.mounts().len(), 1);
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_republish_of_a_mounted_volume_needs_neither_vault_nor_entra_nor_kubernetes_nor_a_token() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.configure("rotation: {interval: 1h}\n");
    node.vault().set_secret("a", "1");
    node.api.put_class(
        "shop",
        "web",
        "azure",
        &[
            ("keyvaultName", "shop"),
            ("tenantId", node.emulator.tenant_id()),
            ("clientID", &node.identity.client_id),
            ("objects", "array:\n  - |\n    objectName: a\n    objectType: secret\n"),
        ],
    );
    let driver = node.drive().await;
    let pod = node.pod("class-0");
    let volumes = [node.volume("web-0", &["a"]), pod.volume(DRIVER, &[("secretProviderClass", "web")])];
    for volume in &volumes {
        node.publish(volume).await.unwrap();
        node.api.until("the event", |_| !notes(&node, volume, "SecretsMounted").is_empty()).await;
    }
    node.api.until("the status", |api| api.statuses().len() == 1).await;
    everything_is_down(&node);
    node.emulator.counters().reset();
    let (requests, writes) = (node.api.requests().len(), node.api.writes());
    let garbage = Context {
        tokens: vec![("api://AzureADTokenExchange".to_owned(), "not a token".to_owned())],
        tokens_in_secrets: true,
        ..Context::default()
    };
    let unreadable = Context {
        overrides: [("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), "{".to_owned())].into(),
        ..Context::default()
    };
    for down in [false, true] {
        if down {
            node.api.down();
        }
        for volume in &volumes {
            node.publish(volume).await.unwrap();
            for context in [&garbage, &unreadable, &Context::default()] {
                node.kubelet.publish(volume, context).await.unwrap();
            }
            assert_eq!(node.read(volume, "a").unwrap(), b"1");
        }
    }
    node.api.up();
    assert_eq!(node.emulator.counters().requests("*"), 0, "nobody upstream was asked");
    assert_eq!(node.api.writes(), writes, "nothing was written to Kubernetes");
    let asked = node.api.requests()[requests..].iter().filter(|line| !line.contains("watch")).count();
    assert!(asked <= 2, "only lists that open watches again: {:?}", &node.api.requests()[requests..]);
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outside_unmount_it_is_a_first_publish_again() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.configure("limits: {publishDeadline: 4s, conversionDeadline: 4s}\n");
    node.vault().set_secret("a", "1");
    let driver = node.drive().await;
    let volume = node.volume("web-0", &["a"]);
    node.publish(&volume).await.unwrap();
    unmount(node.kubelet.target(&volume), UnmountFlags::DETACH).unwrap();
    node.publish(&volume).await.unwrap();
    assert_eq!(node.read(&volume, "a").unwrap(), b"1");
    unmount(node.kubelet.target(&volume), UnmountFlags::DETACH).unwrap();
    everything_is_down(&node);
    for _ in 0..2 {
        let text = assert_refused(node.publish(&volume).await, Code::Unavailable, "KW_TOKEN_UNAVAILABLE");
        assert!(text.contains("hop: "), "{text}");
        assert!(node.kubelet.mounts().is_empty());
    }
    node.emulator.faults().clear_all();
    publish_until_ok(&node, &volume).await;
    node.vault().rotate_secret("a", "2");
    node.until_file(&volume, "a", b"2").await;
    assert_eq!(node.kubelet.mounts().len(), 1);
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_marker_is_repaired_by_the_next_republish() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.configure("rotation: {interval: 1h}\n");
    node.vault().set_secret("a", "1");
    node.vault().set_secret("b", "2");
    let driver = node.drive().await;
    let volume = node.volume("web-0", &["a", "b"]);
    node.publish(&volume).await.unwrap();
    for elsewhere in [None, Some("/etc"), Some(".."), Some("..kw_none"), Some("..kw_planted/x"), Some("a")] {
        let view = Writable::view(&node.kubelet, &volume);
        std::fs::remove_file(view.path("..data")).unwrap();
        if let Some(elsewhere) = elsewhere {
            std::os::unix::fs::symlink(elsewhere, view.path("..data")).unwrap();
        }
        drop(view);
        node.publish(&volume).await.unwrap();
        let whole = generation(&node.kubelet, &volume).unwrap();
        assert!(
            whole.to_str().unwrap().starts_with("..kw_") && whole.components().count() == 1,
            "{elsewhere:?}: {whole:?}"
        );
        assert_eq!(node.read(&volume, "a").unwrap(), b"1", "{elsewhere:?}");
        assert_eq!(node.read(&volume, "b").unwrap(), b"2", "{elsewhere:?}");
        assert_eq!(names(&node.kubelet, &volume), ["a", "b"]);
    }
    assert_eq!(node.kubelet.mounts().len(), 1);
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn unpublish_succeeds_for_what_was_never_published_is_gone_already_or_was_half_published() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.configure("limits: {publishDeadline: 3s, conversionDeadline: 3s}\n");
    node.vault().set_secret("a", "1");
    let driver = node.drive().await;
    let volume = node.volume("never-0", &["a"]);
    std::fs::create_dir_all(node.kubelet.target(&volume).parent().unwrap()).unwrap();
    node.kubelet.unpublish(&volume).await.unwrap();
    // Kubelet of old made the target itself.
    std::fs::create_dir_all(node.kubelet.target(&volume)).unwrap();
    node.kubelet.unpublish(&volume).await.unwrap();

    let volume = node.volume("twice-0", &["a"]);
    node.publish(&volume).await.unwrap();
    node.kubelet.unpublish(&volume).await.unwrap();
    std::fs::create_dir_all(node.kubelet.target(&volume).parent().unwrap()).unwrap();
    node.kubelet.unpublish(&volume).await.unwrap();

    let volume = node.volume("half-0", &["missing"]);
    node.emulator.faults().set(Fault::on("secrets.get", status(503)).for_object("missing"));
    assert_refused(node.publish(&volume).await, Code::Unavailable, "KW_");
    node.kubelet.unpublish(&volume).await.unwrap();
    assert!(node.kubelet.mounts().is_empty());
    assert!(records(&node.kubelet).is_empty(), "{:?}", records(&node.kubelet));
    assert!(listing(&node.kubelet.dir().join("pods")).is_empty());
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_in_use_is_detached_and_its_pod_goes() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", "1");
    let driver = node.drive().await;
    let volume = node.volume("busy-0", &["a"]);
    node.publish(&volume).await.unwrap();
    let held = std::fs::File::open(node.kubelet.target(&volume).join("a")).unwrap();
    node.kubelet.unpublish(&volume).await.unwrap();
    assert!(node.kubelet.mounts().is_empty());
    drop((held, driver));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_failed_for_now_is_never_answered_ok_without_a_mount() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.configure("limits: {publishDeadline: 3s, conversionDeadline: 3s}\n");
    for name in ["hangs", "fails", "first"] {
        node.vault().set_secret(name, "1");
    }
    let driver = node.drive().await;
    node.emulator.faults().set(Fault::on("secrets.get", Effect::Hang).for_object("hangs"));
    node.emulator.faults().set(Fault::on("secrets.get", status(503)).for_object("fails"));
    let volumes = [node.volume("hangs-0", &["first", "hangs"]), node.volume("fails-0", &["first", "fails"])];
    for _ in 0..2 {
        for answer in futures::future::join_all(volumes.iter().map(|volume| node.publish(volume))).await {
            assert_refused(answer, Code::Unavailable, "KW_");
        }
        assert!(node.kubelet.mounts().is_empty());
    }
    node.emulator.faults().clear_all();
    let gets = node.emulator.counters().with_status("secrets.get", 200);
    for volume in &volumes {
        publish_until_ok(&node, volume).await;
        assert_eq!(node.read(volume, "first").unwrap(), b"1");
    }
    assert_eq!(node.read(&volumes[0], "hangs").unwrap(), b"1");
    assert_eq!(node.read(&volumes[1], "fails").unwrap(), b"1");
    assert!(node.emulator.counters().with_status("secrets.get", 200) >= gets, "what was fetched was kept");
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_count_bytes_and_inodes_of_the_volume_and_health_is_asked_by_kubelets_names() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", vec![b'x'; 20_000]);
    let driver = node.drive().await;
    let volume = node.volume("web-0", &["a"]);
    node.publish(&volume).await.unwrap();
    let path = node.kubelet.target(&volume).display().to_string();
    let mut client = node.kubelet.node(DRIVER).await.unwrap();
    let stats = |id: &str, path: &str| NodeGetVolumeStatsRequest {
        volume_id: id.to_owned(),
        volume_path: path.to_owned(),
        ..NodeGetVolumeStatsRequest::default()
    };
    let usage = client.node_get_volume_stats(stats(&volume.id(), &path)).await.unwrap().into_inner().usage;
    let stat = rustix::fs::statvfs(node.kubelet.target(&volume)).unwrap();
    let [bytes, inodes] = &usage[..] else { panic!("{usage:?}") };
    assert_eq!(u64::try_from(bytes.total).unwrap(), stat.f_blocks * stat.f_frsize);
    assert!(bytes.used >= 20_000 && bytes.used + bytes.available == bytes.total, "{bytes:?}");
    assert_eq!(u64::try_from(inodes.total).unwrap(), stat.f_files);
    assert!(inodes.used >= 3, "{inodes:?}");
    let health = |id: &str, path: &str| NodeGetVolumeHealthRequest {
        volume_id: id.to_owned(),
        volume_publish_path: path.to_owned(),
        ..NodeGetVolumeHealthRequest::default()
    };
    let answer = client.node_get_volume_health(health(&volume.id(), &path)).await.unwrap().into_inner();
    assert!(answer.volume_health.unwrap().health_statuses.is_empty());
    for (id, path, code) in [
        ("unknown", path.as_str(), Code::NotFound),
        (&volume.id(), "/elsewhere", Code::NotFound),
        ("", &path, Code::InvalidArgument),
    ] {
        assert_eq!(client.node_get_volume_stats(stats(id, path)).await.unwrap_err().code(), code);
        assert_eq!(client.node_get_volume_health(health(id, path)).await.unwrap_err().code(), code);
    }
    drop(driver);
}
