//! Promises 8 and 10, and whatever a pod's author or a broken kubelet could ask for.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::future::join_all;
use keyward_proto::csi::v1::volume_capability::{AccessType, BlockVolume};
use keyward_proto::csi::v1::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability};
use keyward_test_support::kubelet::PodVolume;
use keyward_test_support::node::{DRIVER, Driver, Node, PATIENCE};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tonic::{Code, Status};

use crate::BINARY;
use crate::hands::{listing, records, secret, until};

/// Nothing is read again by itself.
const QUIET: &str = "rotation: {interval: 1h}\n";

async fn raw(node: &Node, request: NodePublishVolumeRequest) -> Result<(), Status> {
    node.kubelet.node(DRIVER).await?.node_publish_volume(request).await.map(drop)
}

/// Nothing is mounted, remembered or left below the pods' directories but what kubelet itself made.
fn nothing_is_left(node: &Node) {
    assert!(node.kubelet.mounts().is_empty(), "{:?}", node.kubelet.mounts());
    assert!(records(&node.kubelet).is_empty());
    for pod in listing(&node.kubelet.dir().join("pods")) {
        let volume = node.kubelet.dir().join("pods").join(pod).join("volumes/kubernetes.io~csi/secrets");
        assert!(listing(&volume).iter().all(|name| name == "vol_data.json"), "{:?}", listing(&volume));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn declarations_that_are_wrong_or_hostile_are_refused_before_anybody_is_asked() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.configure(QUIET);
    let driver = node.drive().await;
    let a = secret("a");
    let file = |path: &str| json!([{"from": a, "file": path}]).to_string();
    let two = |one: &str, other: &str| {
        json!([{"from": a, "file": one}, {"from": secret("b"), "file": other}]).to_string()
    };
    let from = |from: &str| json!([from]).to_string();
    let many: Vec<_> = (0..2000).map(|n| secret(&format!("s{n}"))).collect();
    let cases: Vec<(&str, String, &str)> = vec![
        ("up", file("../escape"), "KW_OBJECT_INVALID"),
        ("up inside", file("a/../../escape"), "KW_OBJECT_INVALID"),
        ("dots", file(".."), "KW_OBJECT_INVALID"),
        ("dot", file("."), "KW_OBJECT_INVALID"),
        ("absolute", file("/etc/shadow"), "KW_OBJECT_INVALID"),
        ("the data link", file("..data"), "KW_OBJECT_INVALID"),
        ("a generation", file("..kw_1/x"), "KW_OBJECT_INVALID"),
        ("empty", file(""), "KW_OBJECT_INVALID"),
        ("an empty part", file("a//b"), "KW_OBJECT_INVALID"),
        ("a zero byte", json!([{"from": a, "file": "a\0b"}]).to_string(), "KW_OBJECT_INVALID"),
        ("an overlong part", file(&"x".repeat(256)), "KW_OBJECT_INVALID"),
        ("an overlong path", file(&"x/".repeat(3000)), "KW_OBJECT_INVALID"),
        ("one file twice", two("same", "same"), "KW_OBJECT_INVALID"),
        ("a file where a directory is", two("db", "db/password"), "KW_OBJECT_INVALID"),
        ("a directory where a file is", two("db/password", "db"), "KW_OBJECT_INVALID"),
        ("one name twice", json!([a, {"from": a, "file": "other"}]).to_string(), "KW_OBJECT_INVALID"),
        (
            "notify",
            json!([{"from": a, "notify": {"signal": "HUP", "process": "web"}}]).to_string(),
            "KW_NOTIFY_NOT_HERE",
        ),
        (
            "notify by http",
            json!([{"from": a, "notify": {"http": "http://169.254.169.254/"}}]).to_string(),
            "KW_NOTIFY_NOT_HERE",
        ),
        (
            "notify by exec",
            json!([{"from": a, "notify": {"exec": ["sh", "-c", "id"]}}]).to_string(),
            "KW_NOTIFY_NOT_HERE",
        ),
        (
            "an unknown key",
            json!([{"from": a, "authorityHost": "https://evil.example"}]).to_string(),
            "KW_OBJECT_INVALID",
        ),
        ("setuid", json!([{"from": a, "mode": "4755"}]).to_string(), "KW_OBJECT_INVALID"),
        ("anchors", format!("- &a {{from: '{a}'}}\n- *a\n"), "KW_OBJECT_INVALID"),
        ("a billion laughs", "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n".to_owned(), "KW_OBJECT_INVALID"),
        ("deep nesting", "[".repeat(20_000), "KW_OBJECT_INVALID"),
        ("1 MiB of YAML", format!("- {a} # {}", "x".repeat(1 << 20)), "KW_OBJECT_INVALID"),
        ("more objects than allowed", json!(many).to_string(), "KW_"),
        ("not a list", format!("from: {a}"), "KW_OBJECT_INVALID"),
        ("not YAML", "- [".to_owned(), "KW_OBJECT_INVALID"),
        ("an empty list", "[]".to_owned(), "KW_VOLUME_INVALID"),
        // Promise 8: where the node connects is not the pod's to choose.
        ("a foreign host", from("https://evil.example/secrets/a"), "KW_OBJECT_INVALID"),
        (
            "a suffix that goes on",
            from("https://shop.vault.azure.net.evil.example/secrets/a"),
            "KW_OBJECT_INVALID",
        ),
        ("a suffix without its dot", from("https://evilvault.azure.net/secrets/a"), "KW_OBJECT_INVALID"),
        ("the suffix itself", from("https://vault.azure.net/secrets/a"), "KW_OBJECT_INVALID"),
        ("a user in front", from("https://shop.vault.azure.net@evil.example/secrets/a"), "KW_OBJECT_INVALID"),
        ("the metadata service", from("https://169.254.169.254/secrets/a"), "KW_OBJECT_INVALID"),
        ("loopback", from("https://127.0.0.1/secrets/a"), "KW_OBJECT_INVALID"),
        ("loopback by number", from("https://2130706433/secrets/a"), "KW_OBJECT_INVALID"),
        ("loopback of IPv6", from("https://[::1]/secrets/a"), "KW_OBJECT_INVALID"),
        ("localhost", from("https://localhost/secrets/a"), "KW_OBJECT_INVALID"),
        ("plain HTTP", from("http://shop.vault.azure.net/secrets/a"), "KW_OBJECT_INVALID"),
        ("a file", from("file:///etc/shadow"), "KW_OBJECT_INVALID"),
        ("another port", from("https://shop.vault.azure.net:22/secrets/a"), "KW_OBJECT_INVALID"),
        ("another cloud's host", from("https://shop.vault.azure.cn/secrets/a"), "KW_OBJECT_INVALID"),
        ("a vault with dots", from("kv://evil.example/secrets/a"), "KW_OBJECT_INVALID"),
        ("a name that climbs", from("https://shop.vault.azure.net/secrets/../keys/a"), "KW_OBJECT_INVALID"),
    ];
    let attempts = cases.iter().enumerate().map(|(index, (what, objects, code))| {
        let volume = node.volume_of(&node.pod(&format!("web-{index}")), objects, &[]);
        let node = &node;
        async move {
            let Err(status) = node.publish(&volume).await else { return Some(format!("{what} is accepted")) };
            let text = status.message();
            let fine = status.code() == Code::InvalidArgument && text.starts_with(code) && text.len() < 4096;
            (!fine).then(|| format!("{what}: {:?} {}", status.code(), &text[..text.len().min(300)]))
        }
    });
    let wrong: Vec<_> = join_all(attempts).await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(node.emulator.counters().requests("*"), 0, "nobody is asked");
    nothing_is_left(&node);
    // And the driver is none the worse for it.
    node.vault().set_secret("a", "1");
    node.publish(&node.volume("well-0", &["a"])).await.unwrap();
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_that_choose_clouds_or_authorities_are_refused_and_a_class_has_no_notify() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.configure(QUIET);
    let driver = node.drive().await;
    let objects = json!([secret("a")]).to_string();
    for (index, (key, value)) in [
        ("cloud", "https://login.evil.example"),
        ("cloud", "Nowhere"),
        ("authorityHost", "https://login.evil.example"),
        ("tls", "{minimumVersion: '1.2'}"),
        ("verifyChallengeResource", "false"),
        ("vaults", "[{host: evil.example}]"),
        ("grpc", "yes"),
        ("secretProviderClass", "shop"),
        ("tenantID", "../../evil"),
        ("clientID", "a b"),
    ]
    .into_iter()
    .enumerate()
    {
        let volume = node.volume_of(&node.pod(&format!("web-{index}")), &objects, &[(key, value)]);
        let status = node.publish(&volume).await.expect_err(key);
        assert_eq!(status.code(), Code::InvalidArgument, "{key}={value}: {status:?}");
        assert!(status.message().starts_with("KW_"), "{status:?}");
    }
    for (name, more) in [
        (
            "notify",
            ("objects", "array:\n- |\n  objectName: a\n  objectType: secret\n  notify: {signal: HUP}\n"),
        ),
        ("host", ("keyvaultName", "evil.example/x")),
        ("dots", ("keyvaultName", "shop.vault.azure.net.evil")),
        ("cloud", ("cloudName", "https://login.evil.example")),
        ("climb", ("objects", "array:\n- |\n  objectName: a\n  objectType: secret\n  objectAlias: ../a\n")),
        ("anchor", ("objects", "array:\n- &a |\n  objectName: a\n  objectType: secret\n- *a\n")),
    ] {
        let usual = "array:\n- |\n  objectName: a\n  objectType: secret\n";
        let mut parameters = vec![
            ("keyvaultName", "shop"),
            ("tenantId", node.emulator.tenant_id()),
            ("clientID", node.identity.client_id.as_str()),
            ("objects", usual),
        ];
        parameters.retain(|(key, _)| *key != more.0);
        parameters.push(more);
        node.api.put_class("shop", name, "azure", &parameters);
        let volume = node.pod(&format!("class-{name}")).volume(DRIVER, &[("secretProviderClass", name)]);
        let status = node.publish(&volume).await.expect_err(name);
        assert_eq!(status.code(), Code::InvalidArgument, "{name}: {status:?}");
        assert!(name != "notify" || status.message().contains("KW_NOTIFY_NOT_HERE"), "{status:?}");
    }
    assert_eq!(node.emulator.counters().requests("*"), 0, "nobody is asked");
    nothing_is_left(&node);
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_kubelet_does_not_make_are_invalid_arguments_over_the_wire() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.configure(QUIET);
    node.vault().set_secret("a", "1");
    let driver = node.drive().await;
    let volume = node.volume("web-0", &["a"]);
    let context = node.context(&volume.pod);
    let usual = || node.kubelet.request(&volume, &context);
    let other = node.kubelet.request(&node.volume("web-1", &["a"]), &context);
    type Change<'a> = Box<dyn Fn(&mut NodePublishVolumeRequest) + 'a>;
    let target = usual().target_path;
    let mut cases: Vec<(&str, &str, Change<'_>)> = vec![
        ("no target", "KW_REQUEST_INVALID", Box::new(|r| r.target_path.clear())),
        ("no id", "KW_REQUEST_INVALID", Box::new(|r| r.volume_id.clear())),
        ("no capability", "KW_REQUEST_INVALID", Box::new(|r| r.volume_capability = None)),
        (
            "no access type",
            "KW_REQUEST_INVALID",
            Box::new(|r| r.volume_capability = Some(VolumeCapability::default())),
        ),
        (
            "block",
            "KW_REQUEST_INVALID",
            Box::new(|r| {
                r.volume_capability = Some(VolumeCapability {
                    access_type: Some(AccessType::Block(BlockVolume {})),
                    access_mode: None,
                });
            }),
        ),
        ("writable", "readOnly: true", Box::new(|r| r.readonly = false)),
        ("another's id", "KW_REQUEST_INVALID", Box::new(|r| r.volume_id.clone_from(&other.volume_id))),
        (
            "another's target",
            "KW_REQUEST_INVALID",
            Box::new(|r| r.target_path.clone_from(&other.target_path)),
        ),
        (
            "another's both",
            "KW_REQUEST_INVALID",
            Box::new(|r| {
                r.target_path.clone_from(&other.target_path);
                r.volume_id.clone_from(&other.volume_id);
            }),
        ),
        ("outside", "KW_REQUEST_INVALID", Box::new(|r| r.target_path = "/etc".to_owned())),
        (
            "up",
            "KW_REQUEST_INVALID",
            Box::new(|r| r.target_path = r.target_path.replace("/secrets/", "/x/../secrets/")),
        ),
        ("below", "KW_REQUEST_INVALID", Box::new(|r| r.target_path.push_str("/mount"))),
    ];
    for lacking in 1..8 {
        cases.push((
            "some of three fields",
            "KW_REQUEST_INVALID",
            Box::new(move |r| {
                if lacking & 1 != 0 {
                    r.volume_id.clear();
                }
                if lacking & 2 != 0 {
                    r.target_path.clear();
                }
                if lacking & 4 != 0 {
                    r.volume_capability = None;
                }
            }),
        ));
    }
    for (what, reason, change) in &cases {
        let mut request = usual();
        change(&mut request);
        let status = raw(&node, request).await.expect_err(what);
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
        assert!(status.message().contains(reason), "{what}: {}", status.message());
    }
    // More than kubelet can have, and more than a message may be.
    for (size, expected) in
        [(2 << 20, &[Code::InvalidArgument][..]), (5 << 20, &[Code::OutOfRange, Code::ResourceExhausted])]
    {
        let mut request = usual();
        request.volume_context.insert("objects".to_owned(), "#".repeat(size));
        let code = raw(&node, request).await.unwrap_err().code();
        assert!(expected.contains(&code), "{size} bytes: {code:?}");
    }
    for (volume_id, target_path) in [
        ("", target.as_str()),
        (&usual().volume_id, ""),
        ("", ""),
        (&usual().volume_id, "/etc"),
        ("csi-0", &target),
    ] {
        let request = NodeUnpublishVolumeRequest {
            volume_id: volume_id.to_owned(),
            target_path: target_path.to_owned(),
        };
        let status =
            node.kubelet.node(DRIVER).await.unwrap().node_unpublish_volume(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{volume_id:?} {target_path:?}");
    }
    assert_eq!(node.emulator.counters().requests("*"), 0, "nobody is asked");
    nothing_is_left(&node);
    node.publish(&volume).await.unwrap();
    drop(driver);
}

fn directory(node: &Node, volume: &PodVolume) -> std::path::PathBuf {
    node.kubelet.target(volume).parent().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_kubelet_did_not_make_is_not_mounted_on_and_not_touched() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.configure(QUIET);
    node.vault().set_secret("a", "canary");
    let driver = node.drive().await;
    let publish =
        async |volume: &PodVolume| raw(&node, node.kubelet.request(volume, &node.context(&volume.pod))).await;
    let elsewhere = node.kubelet.dir().join("elsewhere");
    std::fs::create_dir_all(elsewhere.join("mount")).unwrap();
    let untouched = |what: &str| {
        assert_eq!(listing(&elsewhere), ["mount"], "{what}");
        assert!(listing(&elsewhere.join("mount")).is_empty(), "{what}");
    };

    // The volume's directory, or one above it, leads elsewhere.
    let linked = node.volume("linked-0", &["a"]);
    std::fs::create_dir_all(directory(&node, &linked).parent().unwrap()).unwrap();
    symlink(&elsewhere, directory(&node, &linked)).unwrap();
    assert!(publish(&linked).await.is_err());
    untouched("a linked volume");
    let above = node.volume("above-0", &["a"]);
    let pod = node.kubelet.dir().join("pods").join(&above.pod.uid);
    std::fs::create_dir_all(elsewhere.parent().unwrap().join("forged/volumes/kubernetes.io~csi/secrets"))
        .unwrap();
    symlink(node.kubelet.dir().join("forged"), &pod).unwrap();
    assert!(publish(&above).await.is_err());
    assert!(!Path::new(&node.kubelet.target(&above)).join("a").exists());

    // The target is a link, a file, or somebody else's mount.
    for (name, make) in [
        (
            "link-0",
            (|target: &Path, elsewhere: &Path| symlink(elsewhere.join("mount"), target).unwrap())
                as fn(&Path, &Path),
        ),
        ("file-0", |target, _| std::fs::write(target, "mine").unwrap()),
        ("foreign-0", |target, _| {
            std::fs::create_dir(target).unwrap();
            mount("tmpfs", target, "tmpfs", MountFlags::empty(), Some(c"size=64k")).unwrap();
            std::fs::write(target.join("mine"), "mine").unwrap();
        }),
    ] {
        let volume = node.volume(name, &["a"]);
        std::fs::create_dir_all(directory(&node, &volume)).unwrap();
        let target = node.kubelet.target(&volume);
        make(&target, &elsewhere);
        let before = std::fs::symlink_metadata(&target).unwrap().file_type();
        let status = publish(&volume).await.expect_err(name);
        assert!(status.message().starts_with("KW_"), "{status:?}");
        assert_eq!(std::fs::symlink_metadata(&target).unwrap().file_type(), before, "{name}");
        assert!(!target.join("a").exists(), "{name}");
        untouched(name);
        if name == "foreign-0" {
            assert_eq!(std::fs::read(target.join("mine")).unwrap(), b"mine");
            unmount(&target, UnmountFlags::DETACH).unwrap();
        }
    }
    // No directory of kubelet's at all: nothing is made up.
    let absent = node.volume("absent-0", &["a"]);
    assert!(publish(&absent).await.is_err());
    assert!(!directory(&node, &absent).exists());
    assert!(node.kubelet.mounts().is_empty(), "{:?}", node.kubelet.mounts());
    assert!(records(&node.kubelet).is_empty());
    drop(driver);
}

/// Starts the driver where a file of /etc says what `text` says.
async fn drive_with_file(node: &Node, name: &str, text: &str) -> Driver {
    let file = node.etc().join(name);
    std::fs::write(&file, text).unwrap();
    let mut line = node.command();
    let script = format!(
        "mount --make-private / && (mount --make-private /etc/{name} 2>/dev/null || true) && mount --bind {} \"$(readlink -f /etc/{name})\" && exec \"$0\" \"$@\"",
        file.display()
    );
    let program = line.program.display().to_string();
    let mut arguments: Vec<_> =
        ["--mount", "--propagation", "unchanged", "sh", "-c", &script, &program].map(str::to_owned).into();
    arguments.append(&mut line.arguments);
    line.arguments = arguments;
    line.program = "unshare".into();
    let driver = Driver::spawn(&line);
    assert!(node.kubelet.register(DRIVER, PATIENCE).await.is_some(), "{}", driver.log());
    driver.until_ready(node).await;
    driver
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_resolve_to_the_node_itself_are_refused_unless_an_administrator_lists_them() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.configure(QUIET);
    // One more vault that is listed, and where nobody listens.
    let config = std::fs::read_to_string(node.etc().join("config.yaml")).unwrap();
    let config = config.replace("vaults: [", "vaults: [{host: listed.vault.azure.net}, ");
    std::fs::write(node.etc().join("config.yaml"), config).unwrap();
    let mut hosts = "127.0.0.1 localhost\n127.0.0.1 listed.vault.azure.net\n".to_owned();
    let local = [
        ("loop", "127.0.0.1"),
        ("loop-net", "127.9.9.9"),
        ("metadata", "169.254.169.254"),
        ("loop6", "::1"),
        ("link6", "fe80::1"),
        ("mapped", "::ffff:127.0.0.1"),
        ("any", "0.0.0.0"),
    ];
    for (name, address) in local {
        hosts.push_str(&format!("{address} {name}.vault.azure.net\n"));
    }
    let driver = drive_with_file(&node, "hosts", &hosts).await;
    let publish = async |name: &str| {
        let objects = json!([format!("https://{name}.vault.azure.net/secrets/a")]).to_string();
        let volume = node.volume_of(&node.pod(&format!("web-{name}")), &objects, &[]);
        node.publish(&volume).await.unwrap_err().message().to_owned()
    };
    let answers = join_all(local.map(|(name, _)| publish(name))).await;
    for ((name, _), text) in local.iter().zip(answers) {
        assert!(text.contains("KW_ADDRESS_REFUSED"), "{name}: {text}");
    }
    let listed = publish("listed").await;
    assert!(!listed.contains("KW_ADDRESS_REFUSED") && listed.contains("KW_CONNECT"), "{listed}");
    assert!(node.kubelet.mounts().is_empty());
    drop(driver);
}

/// The answer of a name server to a question for any name: over UDP that it is too long, over TCP sixty addresses of this
/// host, or none of IPv6.
fn dns_answer(question: &[u8], tcp: bool) -> Vec<u8> {
    let name = question[12..].iter().position(|byte| *byte == 0).unwrap();
    let end = 12 + name + 5;
    let ipv4 = question[end - 4..end - 2] == [0, 1];
    let count: u16 = if tcp && ipv4 { 60 } else { 0 };
    let mut answer = question[..2].to_vec();
    answer.extend(if tcp { [0x81, 0x80] } else { [0x83, 0x80] });
    answer.extend([0, 1]);
    answer.extend(count.to_be_bytes());
    answer.extend([0; 4]);
    answer.extend(&question[12..end]);
    for n in 1..=count {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, u8::try_from(n).unwrap()]);
    }
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_whose_answer_is_too_long_for_udp_resolves_under_the_filter_of_system_calls() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.configure(QUIET);
    let (udp, tcp) =
        (UdpSocket::bind("127.53.7.1:53").await.unwrap(), TcpListener::bind("127.53.7.1:53").await.unwrap());
    let datagrams = tokio::spawn(async move {
        let mut buffer = [0; 1024];
        while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
            udp.send_to(&dns_answer(&buffer[..length], false), from).await.unwrap();
        }
    });
    let over_tcp = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&over_tcp);
    let streams = tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                while let Ok(length) = stream.read_u16().await {
                    let mut question = vec![0; length.into()];
                    stream.read_exact(&mut question).await.unwrap();
                    counted.fetch_add(1, Ordering::Relaxed);
                    let answer = dns_answer(&question, true);
                    stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            });
        }
    });
    let driver = drive_with_file(&node, "resolv.conf", "nameserver 127.53.7.1\n").await;
    let objects = json!(["https://far.vault.azure.net/secrets/a"]).to_string();
    let volume = node.volume_of(&node.pod("web"), &objects, &[]);
    // That its addresses are refused shows that they are known.
    let text = node.publish(&volume).await.unwrap_err().message().to_owned();
    assert!(text.contains("KW_ADDRESS_REFUSED") && text.contains("127.0.0."), "{text}");
    assert!(over_tcp.load(Ordering::Relaxed) > 0);
    drop(driver);
    datagrams.abort();
    streams.abort();
}

/// A key store whose checksum takes a million iterations to refuse.
const COSTLY: &str = "MEoCAQMwEQYJKoZIhvcNAQcBoAQEAjAAMDIwITAJBgUrDgMCGgUABBQAAAAAAAAAAAAAAAAAAAAAAAAAAAQIc2FsdHNhbHQCAw9CQA==";

/// As many different ones as are asked for: what is the same is converted once.
fn costly(number: usize) -> String {
    let mut der = BASE64.decode(COSTLY).unwrap();
    let salt = der.windows(8).position(|window| window == b"saltsalt").unwrap();
    der[salt..salt + 8].copy_from_slice(format!("{number:08}").as_bytes());
    BASE64.encode(der)
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_whose_conversions_take_too_long_are_refused_while_others_are_published() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.configure(&format!("{QUIET}limits: {{conversionDeadline: 1s}}\n"));
    node.vault().set_secret("a", "1");
    for number in 0..40 {
        node.vault().set_secret(&format!("costly-{number}"), costly(number));
    }
    let driver = node.drive().await;
    let object = |n: usize| json!({"from": secret(&format!("costly-{n}")), "format": "pem"});
    let objects = json!((0..40).map(object).collect::<Vec<_>>()).to_string();
    let hostile: Vec<_> =
        (0..12).map(|n| node.volume_of(&node.pod(&format!("hostile-{n}")), &objects, &[])).collect();
    // More of them than there are threads, and each tried again as kubelet does.
    let refused = join_all(hostile.iter().map(|volume| async {
        for _ in 0..2 {
            let status = node.publish(volume).await.expect_err("it takes too long");
            assert!(status.message().contains("KW_CONTENT_INVALID"), "{status:?}");
        }
    }));
    let published = async {
        for n in 0..10 {
            node.publish(&node.volume(&format!("web-{n}"), &["a"])).await.unwrap();
        }
    };
    tokio::join!(refused, published);
    // What was given up ends soon, and goes on in nobody's way: neither a mount nor a sign of life waits for it.
    assert!(conversions(&driver) <= 4, "{} conversions are under way", conversions(&driver));
    let start = tokio::time::Instant::now();
    node.publish(&node.volume("web-10", &["a"])).await.unwrap();
    driver.until_ready(&node).await;
    assert!(start.elapsed() < std::time::Duration::from_secs(5), "{:?}", start.elapsed());
    until("no conversion goes on", || conversions(&driver) == 0).await;
    assert_eq!(node.kubelet.mounts().len(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_converts_is_given_up_when_its_pod_goes() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.configure(QUIET);
    for number in 0..40 {
        node.vault().set_secret(&format!("costly-{number}"), costly(number));
    }
    let driver = node.drive().await;
    let object = |n: usize| json!({"from": secret(&format!("costly-{n}")), "format": "pem"});
    let objects = json!((0..40).map(object).collect::<Vec<_>>()).to_string();
    let volume = node.volume_of(&node.pod("hostile"), &objects, &[]);
    let publish = node.publish(&volume);
    let unpublish = async {
        until("a conversion is under way", || conversions(&driver) > 0).await;
        node.kubelet.unpublish(&volume).await.unwrap();
    };
    let (published, ()) = tokio::join!(publish, unpublish);
    let status = published.unwrap_err();
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    until("no conversion goes on", || conversions(&driver) == 0).await;
}

/// Threads of the broker that convert.
fn conversions(driver: &Driver) -> usize {
    let threads = std::fs::read_dir(format!("/proc/{}/task", driver.broker().unwrap())).unwrap();
    let names = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "conversion").count()
}
