//! Promises 9 and 13: values and credentials are nowhere but where they belong, and what was done with them is on record.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use keyward_emulator::{Registration, TOKEN_EXCHANGE_AUDIENCE};
use keyward_telemetry::audit::{VerifyOptions, verify};
use keyward_test_support::kubelet::{Context, Pod, PodVolume};
use keyward_test_support::node::{DRIVER, Driver, Node, VAULT};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::BINARY;
use crate::application::Client;
use crate::hands::until;

const VALUE: &str = "canary-value-7Qm2vX9pL4";
const NEXT: &str = "canary-value-Zr81kPq0Wd";
const UNREAD: &str = "canary-value-Hs55yTn3Bc";
const CLIENT_SECRET: &str = "canary-client-secret-Fe6Ua2";
const WRONG_SECRET: &str = "canary-client-secret-Jo9Ni7";
/// The user part of the proxy's address, with an `@` as it is, and what of it must show nowhere.
const PROXY_USER: &str = "canary-user-Vd3:canary-proxy-Kt5@canary-proxy-Wm2";
const PROXY_PARTS: [&str; 3] = ["canary-user-Vd3", "canary-proxy-Kt5", "canary-proxy-Wm2"];

/// A node that has done everything that a driver does, well and badly, at the most talkative level.
struct Talkative {
    node: Node,
    driver: Driver,
    web: PodVolume,
    legacy: PodVolume,
    canaries: Vec<String>,
    messages: Vec<String>,
}

impl Talkative {
    async fn start() -> Option<Self> {
        let node = Node::start(BINARY).await?;
        node.configure("log: {format: text, level: trace}\nadmin: {listen: '127.0.0.1:0'}\n");
        node.vault().set_secret("value", VALUE);
        node.vault().set_secret("document", format!("{{\"password\": \"{VALUE}\", \"rest\": 1}}"));
        node.vault().set_secret("unread", UNREAD);
        let principal =
            node.emulator.identities().register(Registration::application().client_secret(CLIENT_SECRET));
        node.vault().assign(&principal, keyward_emulator::Permission::READ_ALL);
        let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut line = node.command();
        line.variables
            .push(("HTTPS_PROXY".to_owned(), format!("http://{PROXY_USER}@{}", proxy.local_addr().unwrap())));
        let asked = tokio::spawn(refuse_once(proxy));
        let driver = node.drive_with(&line).await;
        let (mut canaries, mut messages) = (Vec::new(), Vec::new());
        for text in [VALUE, NEXT, UNREAD, CLIENT_SECRET, WRONG_SECRET] {
            canaries.push(text.to_owned());
            canaries.push(base64::Engine::encode(&base64::engine::general_purpose::STANDARD_NO_PAD, text));
        }

        // With a token, a socket, a document's member and a template.
        let objects = json!([
            format!("https://{VAULT}/secrets/value"),
            {"from": format!("https://{VAULT}/secrets/document"), "key": "/password", "file": "db/password"},
        ]);
        let web = node.volume_of(&node.pod("web-0"), &objects.to_string(), &[("grpc", "true")]);
        for volume in [&web, &web] {
            let context = node.context(&volume.pod);
            canaries.extend(signatures(&context));
            node.kubelet.publish(volume, &context).await.unwrap();
        }
        // A republish with what is no token says so only to those who ask for details.
        let empty = Context {
            tokens: vec![(TOKEN_EXCHANGE_AUDIENCE.to_owned(), String::new())],
            ..node.context(&web.pod)
        };
        node.kubelet.publish(&web, &empty).await.unwrap();
        // With a client secret, through a class; then with a wrong one.
        node.api.put_class(
            "shop",
            "legacy",
            "azure",
            &[
                ("keyvaultName", "shop"),
                ("tenantId", node.emulator.tenant_id()),
                ("objects", "array:\n- |\n  objectName: value\n  objectType: secret\n"),
            ],
        );
        let legacy = |name: &str, secret: &str| {
            let mut volume =
                Pod::new("shop", name, "legacy").volume(DRIVER, &[("secretProviderClass", "legacy")]);
            volume.secrets = [("clientid", principal.client_id.as_str()), ("clientsecret", secret)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into();
            volume
        };
        let with_secret = legacy("legacy-0", CLIENT_SECRET);
        node.kubelet.publish(&with_secret, &Context::default()).await.unwrap();
        let wrong = node.kubelet.publish(&legacy("legacy-1", WRONG_SECRET), &Context::default()).await;
        messages.push(wrong.unwrap_err().message().to_owned());
        // A value that is not what the declaration says, a token of somebody else, and one that is none.
        let content =
            json!([{"from": format!("https://{VAULT}/secrets/unread"), "key": "/password"}]).to_string();
        let bad = node.volume_of(&node.pod("bad-0"), &content, &[]);
        messages.push(node.publish(&bad).await.unwrap_err().message().to_owned());
        for token in [node.token(&web.pod), format!("{}x", node.token(&node.pod("bad-1"))), UNREAD.to_owned()]
        {
            let volume = node.volume("bad-1", &["value"]);
            let context = Context {
                tokens: vec![(TOKEN_EXCHANGE_AUDIENCE.to_owned(), token)],
                ..node.context(&volume.pod)
            };
            canaries.extend(signatures(&context));
            messages.push(node.kubelet.publish(&volume, &context).await.unwrap_err().message().to_owned());
        }
        // A vault behind the proxy, which refuses.
        let beyond = json!(["https://beyond.vault.azure.net/secrets/value"]).to_string();
        let beyond = node.volume_of(&node.pod("beyond-0"), &beyond, &[]);
        messages.push(node.publish(&beyond).await.unwrap_err().message().to_owned());
        assert!(messages.last().unwrap().contains("HTTPS_PROXY"), "{messages:?}");
        let sent = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, PROXY_USER);
        assert!(asked.await.unwrap().contains(&sent), "the proxy gets the whole password");
        // The way there is longer than the name of a socket may be.
        let directory = fs::File::open(node.kubelet.target(&web)).unwrap();
        let socket = format!("/proc/self/fd/{}/keyward.sock", directory.as_raw_fd());
        let client = Client::connect(socket.into()).await.unwrap();
        assert_eq!(&client.get("value").await.unwrap().value[..], VALUE.as_bytes());
        messages.push(client.get("unread").await.err().unwrap().message().to_owned());
        node.vault().rotate_secret("value", NEXT);
        for volume in [&web, &with_secret] {
            node.until_file(volume, "value", NEXT.as_bytes()).await;
        }
        assert_eq!(node.read(&web, "db/password").unwrap(), VALUE.as_bytes());
        node.api
            .until("statuses and events", |api| api.statuses().len() >= 2 && api.events().len() >= 4)
            .await;
        Some(Self { node, driver, web, legacy: with_secret, canaries, messages })
    }

    /// As [`Self::is_clean`], for what people read: there the proxy's user part is not either, which the process itself
    /// has in its environment.
    fn is_clean_to_read(&self, what: &str, text: &[u8]) {
        self.is_clean(what, text);
        let text = String::from_utf8_lossy(text);
        let sent = base64::Engine::encode(&base64::engine::general_purpose::STANDARD_NO_PAD, PROXY_USER);
        for part in PROXY_PARTS.into_iter().chain([sent.as_str()]) {
            let line = text.lines().find(|line| line.contains(part));
            assert!(line.is_none(), "{what} holds {part}: {}", line.unwrap_or_default());
        }
    }

    fn is_clean(&self, what: &str, text: &[u8]) {
        assert!(!text.is_empty(), "{what} was not found");
        for canary in &self.canaries {
            let text = String::from_utf8_lossy(text);
            let line = text.lines().find(|line| line.contains(canary.as_str()));
            assert!(line.is_none(), "{what} holds {canary}: {}", line.unwrap_or_default());
        }
    }
}

/// A proxy that refuses every tunnel; returns the head of the first request and goes on refusing.
async fn refuse_once(proxy: TcpListener) -> String {
    let (mut client, _) = proxy.accept().await.unwrap();
    let mut head = vec![0; 4096];
    let length = client.read(&mut head).await.unwrap();
    client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await.unwrap();
    head.truncate(length);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = proxy.accept().await {
            let _ = client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
        }
    });
    String::from_utf8_lossy(&head).into_owned()
}

/// The part of each token that is a secret, and that nothing else is made of.
fn signatures(context: &Context) -> Vec<String> {
    let last = |(_, token): &(String, String)| token.rsplit('.').next().unwrap_or_default().to_owned();
    context.tokens.iter().map(last).filter(|signature| signature.len() > 20).collect()
}

fn holds(text: &[u8], canary: &[u8]) -> bool {
    text.windows(canary.len()).any(|window| window == canary)
}

async fn page(driver: &Driver, path: &str) -> String {
    let log = driver.log();
    let line = log.lines().find(|line| line.contains("the admin port is listening")).expect("an admin port");
    let at = line.find("127.0.0.1:").expect("an address");
    let address: String =
        line[at..].chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
    let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// How much of a process's memory is read at once.
const CHUNK: usize = 1 << 16;

/// Whatever looks like text in what a process can write to.
fn texts_in_memory(pid: u32) -> Vec<u8> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut texts = Vec::new();
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        if !rest.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let (from, to) = (number(from), number(to));
        // The allocator reserves far more than is ever touched.
        let mut touched = Vec::new();
        for at in (from..to).step_by(CHUNK) {
            let mut bytes = vec![0; CHUNK.min(usize::try_from(to - at).unwrap())];
            // What cannot be read holds nothing that anybody wrote.
            if memory.read_exact_at(&mut bytes, at).is_ok() && bytes != [0; CHUNK][..bytes.len()] {
                touched.extend(bytes);
            }
        }
        let runs = touched.split(|byte| !(b' '..=b'~').contains(byte)).filter(|run| run.len() >= 12);
        runs.for_each(|run| texts.extend([run, b"\n"].concat()));
    }
    texts
}

#[tokio::test(flavor = "multi_thread")]
async fn no_value_token_or_client_secret_is_in_logs_metrics_messages_kubernetes_state_or_proc() {
    let Some(talkative) = Talkative::start().await else { return };
    let Talkative { node, driver, messages, .. } = &talkative;
    talkative.is_clean_to_read("the log", driver.log().as_bytes());
    assert!(driver.log().contains("DEBUG"), "the log is at its most talkative");
    for path in ["/metrics", "/readyz", "/livez"] {
        talkative.is_clean_to_read(path, page(driver, path).await.as_bytes());
    }
    talkative.is_clean_to_read("the messages", messages.join("\n").as_bytes());
    talkative.is_clean_to_read("the statuses", json!(node.api.statuses()).to_string().as_bytes());
    talkative.is_clean_to_read("the events", json!(node.api.events()).to_string().as_bytes());
    talkative.is_clean_to_read("what was asked of the API server", node.api.requests().join("\n").as_bytes());
    talkative
        .is_clean_to_read("the audit log", &fs::read(node.kubelet.dir().join("audit/audit.jsonl")).unwrap());
    let records = fs::read_dir(node.kubelet.dir().join("state/volumes")).unwrap();
    let records: Vec<_> = records.map(|record| fs::read(record.unwrap().path()).unwrap()).collect();
    assert_eq!(records.len(), 2);
    talkative.is_clean_to_read("the state", &records.concat());
    for pid in [driver.mounter(), driver.broker().unwrap()] {
        for file in ["cmdline", "environ"] {
            talkative.is_clean(file, &fs::read(format!("/proc/{pid}/{file}")).unwrap());
        }
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(
            core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(),
            ["0", "0"],
            "no core of {pid}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mounters_memory_holds_no_value_and_no_credential() {
    let Some(talkative) = Talkative::start().await else { return };
    let Talkative { node, driver, web, legacy, .. } = &talkative;
    let mounter = texts_in_memory(driver.mounter());
    // The search finds what the process does know.
    assert!(holds(&mounter, web.pod.uid.as_bytes()) || holds(&mounter, legacy.pod.uid.as_bytes()));
    talkative.is_clean("the mounter's memory", &mounter);
    for volume in [web, legacy] {
        node.kubelet.unpublish(volume).await.unwrap();
    }
    talkative.is_clean("the mounter's memory", &texts_in_memory(driver.mounter()));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_proof_fetch_delivery_and_read_is_on_record_and_the_log_verifies() {
    let Some(talkative) = Talkative::start().await else { return };
    let Talkative { node, web, .. } = &talkative;
    let path = node.kubelet.dir().join("audit/audit.jsonl");
    until("a record of the read", || acts(&path).iter().any(|act| act["action"] == "read")).await;
    // A file changes before its delivery is on record.
    until("a record of the second delivery", || {
        let delivered = |act: &&Value| {
            act["action"] == "deliver"
                && act["object"].as_str().unwrap_or_default().contains("/secrets/value")
                && act["actor"].to_string().contains(web.pod.uid.as_str())
        };
        acts(&path).iter().filter(delivered).count() >= 2
    })
    .await;
    let version = node.vault().secret_version("value").unwrap();
    let acts = acts(&path);
    let of = |action: &str, object: &str| -> Vec<&Value> {
        acts.iter()
            .filter(|act| {
                act["action"] == action && act["object"].as_str().unwrap_or_default().contains(object)
            })
            .collect()
    };
    let pod = |act: &Value| act["actor"].to_string().contains(web.pod.uid.as_str());
    // Who proved what, and who failed to.
    let proofs = of("token", "vault.azure.net");
    assert!(
        proofs.iter().any(|act| pod(act)
            && act["result"] == "OK"
            && act["identity"].as_str().unwrap().contains(&node.identity.client_id)),
        "{proofs:#?}"
    );
    assert!(
        proofs
            .iter()
            .any(|act| act["actor"].to_string().contains("legacy-1") && act["result"] == "KW_TOKEN_REFUSED"),
        "{proofs:#?}"
    );
    // What was read upstream, and as whom.
    let fetched: Vec<_> =
        of("fetch", "/secrets/value").into_iter().filter(|act| act["version"] == version).collect();
    assert_eq!(fetched.len(), 2, "one for each of the two identities: {fetched:#?}");
    assert!(fetched.iter().all(|act| act["identity"].is_string() && act["result"] == "OK"));
    // What was handed to whom.
    let delivered: Vec<_> = of("deliver", "/secrets/value").into_iter().filter(|act| pod(act)).collect();
    assert_eq!(delivered.len(), 2, "the first version and the next: {delivered:#?}");
    assert_eq!(delivered[1]["version"], version);
    let read: Vec<_> = of("read", "/secrets/value");
    assert_eq!(read.len(), 1, "{read:#?}");
    assert!(
        pod(read[0]) && read[0]["version"].is_string() && read[0]["actor"].to_string().contains("\"uid\":0"),
        "{read:#?}"
    );
    let Talkative { mut driver, .. } = talkative;
    assert!(driver.stop().await.success(), "{}", driver.log());
    let log = fs::read(&path).unwrap();
    let report = verify(log.as_slice(), &VerifyOptions::default()).unwrap();
    assert_eq!(report.unfinished, 0);
    let mut tampered = String::from_utf8(log).unwrap();
    tampered = tampered.replacen("\"action\":\"deliver\"", "\"action\":\"list\"", 1);
    assert!(verify(tampered.as_bytes(), &VerifyOptions::default()).is_err(), "a changed record shows");
}

/// Records of acts, without openings and checkpoints.
fn acts(path: &Path) -> Vec<Value> {
    let housekeeping: BTreeSet<_> = ["open", "close", "recovery", "gap", "configure"].into();
    let text = fs::read_to_string(path).unwrap();
    let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    records
        .filter(|record| record["action"].as_str().is_some_and(|action| !housekeeping.contains(action)))
        .collect()
}
