//! What a peer costs that does not read, does not speak, or holds places.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use keyward_core::ledger::{Account, Held, Kind, Ledger, Limit, Limits};
use keyward_proto::secrets::v1::*;
use keyward_test_support::limits::limit;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use crate::rig::{Rig, get, reason, refresh, version};

const GET: &str = "GetSecret";
const BATCH: &str = "BatchGetSecrets";
const WATCH: &str = "WatchSecrets";

/// A client that decides itself how much it reads.
struct Peer {
    send: SendRequest<Bytes>,
    connection: JoinHandle<()>,
}

impl Peer {
    /// One that takes `window` bytes of each answer until it says more.
    async fn with_window(rig: &Rig, window: u32) -> Self {
        let stream = UnixStream::connect(&rig.socket).await.unwrap();
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(window)
            .initial_connection_window_size(1 << 24)
            .initial_max_send_streams(1000)
            .handshake(stream)
            .await
            .unwrap();
        Self { send, connection: tokio::spawn(async move { drop(connection.await) }) }
    }

    async fn ask(&mut self, method: &str, message: &impl Message) -> ResponseFuture {
        self.send = self.send.clone().ready().await.unwrap();
        let (answer, mut stream) = self.send.send_request(request(method), false).unwrap();
        stream.send_data(framed(message), true).unwrap();
        answer
    }

    /// Goes away without a word.
    async fn leave(self) {
        drop(self.send);
        self.connection.abort();
        let _ = self.connection.await;
    }
}

fn request(method: &str) -> http::Request<()> {
    http::Request::post(format!("http://localhost/keyward.secrets.v1.SecretService/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

fn framed(message: &impl Message) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(&message.encode_to_vec());
    bytes.into()
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("secret-{number:03}")).collect()
}

fn secret(name: &str) -> GetSecretRequest {
    GetSecretRequest { name: name.to_owned(), version: String::new() }
}

/// An account of a pod with these shares; the node has twice as much.
fn account(bytes: usize, kinds: &[(Kind, usize)]) -> Account {
    let limit =
        |pod| Limit { pod, node: 2 * pod, own: 0, pod_setting: "limits.pod", node_setting: "limits.node" };
    let limits = Limits::default().with_bytes(limit(bytes));
    Ledger::new(kinds.iter().fold(limits, |limits, (kind, pod)| limits.with(*kind, limit(*pod))))
        .account("pod")
}

/// Waits until `done`; what a server does about a peer needs some turns of its tasks.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..5_000 {
        if done() {
            return;
        }
        sleep(Duration::from_millis(2)).await;
    }
    panic!("{what}");
}

#[tokio::test]
async fn answers_that_are_not_read_stay_within_the_pods_share_and_are_given_back_when_the_peer_leaves() {
    const SHARE: usize = 6 << 20;
    let account = account(SHARE, &[]);
    let rig = Rig::with_account(|_| {}, account.clone());
    for name in names(100) {
        rig.view.set(&name, &[7; 24 << 10]);
    }
    let batch = BatchGetSecretsRequest { names: names(100) };
    let (mut given, mut refused) = (Vec::new(), 0);
    let mut peers = Vec::new();
    for _ in 0..2 {
        let mut peer = Peer::with_window(&rig, 0).await;
        for _ in 0..200 {
            let answer = peer.ask(BATCH, &batch).await.await.unwrap();
            assert!(account.held().bytes() <= SHARE);
            match answer.headers().get("grpc-status") {
                None => given.push(answer),
                Some(status) => {
                    assert_eq!(status, "8", "RESOURCE_EXHAUSTED");
                    refused += 1;
                }
            }
        }
        peers.push(peer);
    }
    // Both happen: many may wait, because they share the values, and not all of them.
    assert!(given.len() >= 50 && refused >= 50, "{} {refused}", given.len());
    drop(given);
    for peer in peers {
        peer.leave().await;
    }
    until("everything is given back", || account.held() == Held::default()).await;
    assert!(get(&mut rig.client().await, "secret-000").await.is_ok());
}

#[tokio::test]
async fn one_connection_cannot_take_what_all_of_a_server_may_hold() {
    let rig = Rig::with(|settings| settings.max_unread_per_connection = 200 << 10);
    rig.view.set("db", &[1; 4 << 10]);
    let mut peer = Peer::with_window(&rig, 0).await;
    let mut last = None;
    let mut answers = Vec::new();
    for _ in 0..60 {
        let answer = peer.ask(GET, &secret("db")).await.await.unwrap();
        last = answer.headers().get("grpc-message").cloned();
        answers.push(answer);
    }
    let last = String::from_utf8(last.expect("the last one is refused").as_bytes().to_vec()).unwrap();
    assert!(last.contains("204800%20bytes") || last.contains("204800 bytes"), "{last}");
    let given = answers.iter().filter(|answer| !answer.headers().contains_key("grpc-status")).count();
    // Each holds its message and what a call needs.
    assert!((20..=25).contains(&given), "{given}");
    assert!(get(&mut rig.client().await, "db").await.is_ok(), "another connection is served");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_its_answer_in_time_is_closed() {
    let account = account(1 << 20, &[]);
    let rig = Rig::with_account(|_| {}, account.clone());
    rig.view.set("db", b"1");
    let mut peer = Peer::with_window(&rig, 0).await;
    let answer = peer.ask(GET, &secret("db")).await;
    let mut body = answer.await.unwrap().into_body();
    let before = Instant::now();
    assert!(body.data().await.unwrap().is_err());
    peer.connection.await.unwrap();
    assert_eq!(before.elapsed().as_secs(), 30);
    until("everything is given back", || account.held() == Held::default()).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_not_read_in_time_is_reset_and_the_connection_goes_on() {
    let rig = Rig::start();
    rig.view.set("big", &[1; 200_000]);
    rig.view.set("db", b"1");
    let mut peer = Peer::with_window(&rig, 65_535).await;
    let watched = WatchSecretsRequest { names: vec!["big".to_owned()] };
    let mut body = peer.ask(WATCH, &watched).await.await.unwrap().into_body();
    let before = Instant::now();
    // It takes what fits into the window and asks for no more.
    let ended = loop {
        match body.data().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("the stream ended well"),
        }
    };
    assert_eq!((ended.reason(), before.elapsed().as_secs()), (Some(h2::Reason::CANCEL), 30));
    let answer = peer.ask(GET, &secret("db")).await.await.unwrap();
    assert_eq!(answer.status(), 200);
    // One that reads keeps its watch, however long nothing happens.
    let watched = WatchSecretsRequest { names: vec!["db".to_owned()] };
    let mut body = peer.ask(WATCH, &watched).await.await.unwrap().into_body();
    let first = body.data().await.unwrap().unwrap();
    body.flow_control().release_capacity(first.len()).unwrap();
    sleep(Duration::from_secs(600)).await;
    rig.view.set("db", b"2");
    assert!(body.data().await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_its_socket_is_closed_and_leaves_nothing() {
    let account = account(64 << 20, &[]);
    let rig = Rig::with_account(|_| {}, account.clone());
    for name in names(100) {
        rig.view.set(&name, &[7; 24 << 10]);
    }
    let stream = UnixStream::connect(&rig.socket).await.unwrap();
    let (mut send, mut connection) = h2::client::Builder::new()
        .initial_window_size(1 << 30)
        .initial_connection_window_size(1 << 30)
        .handshake::<_, Bytes>(stream)
        .await
        .unwrap();
    let batch = BatchGetSecretsRequest { names: names(100) };
    let mut answers = Vec::new();
    for _ in 0..20 {
        let (answer, mut body) = send.send_request(request(BATCH), false).unwrap();
        body.send_data(framed(&batch), true).unwrap();
        answers.push(answer);
    }
    // Driven until everything is asked for, and then no more.
    for _ in 0..50 {
        let _ = futures::poll!(&mut connection);
        tokio::task::yield_now().await;
    }
    let before = Instant::now();
    for _ in 0..1_000 {
        sleep(Duration::from_millis(100)).await;
        if account.held() == Held::default() {
            break;
        }
    }
    let elapsed = before.elapsed().as_secs();
    assert!((29..=62).contains(&elapsed), "{elapsed}");
    drop((answers, connection));
}

#[tokio::test]
async fn a_replaced_value_counts_while_an_answer_holds_it() {
    let account = account(1 << 20, &[]);
    let rig = Rig::with_account(|_| {}, account.clone());
    let mut peer = Peer::with_window(&rig, 0).await;
    let mut answers = Vec::new();
    let mut refused = None;
    // Each turn another value, of which an answer that is not read holds the last copy.
    for turn in 0..40u8 {
        rig.view.set("cert", &[turn; 100_000]);
        let answer = peer.ask(GET, &secret("cert")).await.await.unwrap();
        if answer.headers().contains_key("grpc-status") {
            refused = Some(turn);
            break;
        }
        answers.push(answer);
    }
    let refused = refused.expect("old values do not pile up");
    assert!((8..=10).contains(&refused), "{refused}");
    peer.leave().await;
    drop(answers);
    until("everything is given back", || account.held() == Held::default()).await;
}

#[tokio::test]
async fn idle_and_half_open_connections_give_way_to_new_ones_oldest_first() {
    let rig = Rig::with(|settings| {
        settings.max_connections = 8;
        settings.max_connections_per_caller = 8;
    });
    rig.view.set("db", b"1");
    let mut old_client = rig.client().await;
    get(&mut old_client, "db").await.unwrap();
    let mut flood = Vec::new();
    for number in 0..200 {
        let mut stream = UnixStream::connect(&rig.socket).await.unwrap();
        // Silent ones, ones with half a preface, and ones that stop after it.
        let says: &[u8] = match number % 3 {
            0 => b"",
            1 => b"PRI * HTTP/2",
            _ => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        };
        // One that was evicted already cannot be written to.
        let _ = stream.write_all(says).await;
        flood.push(stream);
        if number % 50 == 49 {
            let mut client = rig.client().await;
            let answer = timeout(Duration::from_secs(20), get(&mut client, "db")).await;
            assert!(answer.expect("in time").is_ok(), "a new caller is served");
        }
    }
    // The oldest are closed, the newest are not.
    for stream in flood.iter_mut().take(150) {
        let _ = timeout(Duration::from_secs(20), stream.read_to_end(&mut Vec::new())).await.expect("closed");
    }
    // One of the newest says the rest, and is served.
    let newest = &mut flood[196];
    newest.write_all(b".0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut settings = [0; 9];
    timeout(Duration::from_secs(20), newest.read_exact(&mut settings)).await.expect("in time").unwrap();
    assert_eq!(settings[3], 4, "the server's settings");
    // Who was closed as idle connects again by itself.
    assert!(get(&mut old_client, "db").await.is_ok());
}

#[tokio::test]
async fn connections_and_calls_have_a_share_each_and_not_one_more() {
    let account = account(64 << 20, &[(Kind::Connections, 3), (Kind::Streams, 5)]);
    let rig = Rig::with_account(|_| {}, account.clone());
    rig.view.set("db", b"1");
    let watched = WatchSecretsRequest { names: vec!["db".to_owned()] };
    let mut clients = Vec::new();
    let mut watches = Vec::new();
    // Three connections, each busy.
    for _ in 0..3 {
        let mut client = rig.client().await;
        let mut watch = client.watch_secrets(watched.clone()).await.unwrap().into_inner();
        watch.message().await.unwrap();
        watches.push(watch);
        clients.push(client);
    }
    assert_eq!(account.held().of(Kind::Connections), 3);
    let refused = get(&mut rig.client().await, "db").await.err().unwrap();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "KW_LIMIT_EXCEEDED"));
    assert!(refused.message().contains("limits.pod"), "{refused}");
    // Five calls: three watches and two more.
    for _ in 0..2 {
        let mut watch = clients[0].watch_secrets(watched.clone()).await.unwrap().into_inner();
        watch.message().await.unwrap();
        watches.push(watch);
    }
    assert_eq!(account.held().of(Kind::Streams), 5);
    let refused = clients[1].watch_secrets(watched.clone()).await.err().unwrap();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "KW_LIMIT_EXCEEDED"));
    assert!(get(&mut clients[2], "db").await.is_err());
    watches.pop();
    until("its place is free again", || account.held().of(Kind::Streams) < 5).await;
    assert!(get(&mut clients[2], "db").await.is_ok());
    drop((watches, clients));
    until("everything is given back", || account.held() == Held::default()).await;
}

#[tokio::test]
async fn a_servers_own_limit_of_calls_holds_without_an_account_and_health_is_answered_all_the_same() {
    let rig = Rig::with(|settings| settings.max_calls = 2);
    rig.view.set("db", b"1");
    let mut client = rig.client().await;
    let mut watches = Vec::new();
    for _ in 0..2 {
        let mut watch = client.watch_secrets(WatchSecretsRequest::default()).await.unwrap().into_inner();
        watch.message().await.unwrap();
        watches.push(watch);
    }
    assert_eq!(reason(&get(&mut client, "db").await.err().unwrap()), "KW_LIMIT_EXCEEDED");
    keyward_local_api::probe(&rig.socket).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn many_watches_of_much_that_changes_often_look_seldom_and_still_see_the_newest() {
    let rig = Rig::with(|settings| settings.looks = 1_000);
    for name in names(100) {
        rig.view.set(&name, b"0");
    }
    let mut client = rig.client().await;
    let mut watches = Vec::new();
    for _ in 0..20 {
        let mut watch = client.watch_secrets(WatchSecretsRequest::default()).await.unwrap().into_inner();
        for _ in 0..100 {
            watch.message().await.unwrap().unwrap();
        }
        watches.push(watch);
    }
    let (looked, began) = (rig.view.lists.load(Ordering::Relaxed), Instant::now());
    for turn in 1..=1_000 {
        rig.view.set("secret-050", format!("{turn}").as_bytes());
        sleep(Duration::from_millis(10)).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    let looked = rig.view.lists.load(Ordering::Relaxed) - looked;
    // Ten looks of a hundred names a second, and those of one second ahead; without a limit twenty thousand.
    assert!((looked as f64) < 10.0 * seconds + 20.0, "{looked} looks in {seconds} s");
    for watch in &mut watches {
        loop {
            let event = watch.message().await.unwrap().unwrap().event.unwrap();
            let watch_secrets_response::Event::Current(secret) = event else { panic!("a value") };
            if secret.value.as_ref() == b"1000" {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_request_that_comes_in_pieces_is_charged_before_it_is_put_together() {
    let account = account(40 << 10, &[]);
    let rig = Rig::with_account(|_| {}, account.clone());
    rig.view.set("db", b"1");
    let mut peer = Peer::with_window(&rig, 65_535).await;
    let whole = framed(&secret("db"));
    let (answer, mut stream) = peer.send.send_request(request(GET), false).unwrap();
    stream.send_data(whole.slice(..4), false).unwrap();
    stream.send_data(whole.slice(4..), true).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "8");
    drop(answer);
    // In one piece it needs nothing.
    let answer = peer.ask(GET, &secret("db")).await.await.unwrap();
    assert!(!answer.headers().contains_key("grpc-status"));
}

#[tokio::test]
async fn values_of_every_size_arrive_byte_for_byte_by_every_method() {
    let rig = Rig::with(|settings| settings.upstream_per_caller = 100);
    let sizes = [0, 1, 4095, 4096, 4097, 16_383, 16_384, 16_385, 25_000, 65_536, 200_000, 700_001];
    let value = |size: usize| -> Vec<u8> {
        (0..size).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ size) as u8).collect()
    };
    let expected: BTreeMap<String, Vec<u8>> =
        sizes.iter().map(|&size| (format!("v{size}"), value(size))).collect();
    for (name, value) in &expected {
        rig.view.set(name, value);
    }
    let mut clients = [rig.client().await, rig.small_client().await];
    for client in &mut clients {
        for (name, value) in &expected {
            assert!(get(client, name).await.unwrap().value == value, "{name}");
        }
        let names: Vec<String> = expected.keys().cloned().collect();
        let batch = client.batch_get_secrets(BatchGetSecretsRequest { names: names.clone() }).await.unwrap();
        let batch = batch.into_inner();
        assert!(batch.failures.is_empty());
        assert_eq!(batch.secrets.iter().map(|secret| secret.name.clone()).collect::<Vec<_>>(), names);
        assert!(batch.secrets.iter().all(|secret| secret.value == expected[&secret.name]));
        let watched = WatchSecretsRequest { names: names.clone() };
        let mut watch = client.watch_secrets(watched).await.unwrap().into_inner();
        for _ in &names {
            let event = watch.message().await.unwrap().unwrap().event.unwrap();
            let watch_secrets_response::Event::Current(secret) = event else { panic!("a value") };
            assert!(secret.value == expected[&secret.name], "{}", secret.name);
        }
        let listed = client.list_secrets(ListSecretsRequest::default()).await.unwrap().into_inner().secrets;
        let mut listed: Vec<_> = listed.into_iter().map(|secret| secret.name).collect();
        listed.sort_unstable();
        assert_eq!(listed, names);
        let older = version(client, "v25000", &"a".repeat(32)).await.unwrap();
        assert_eq!(older.value.as_ref(), b"an older value");
    }
    assert_eq!(refresh(&mut clients[0], "v1").await.unwrap().value.as_ref(), b"refreshed");
}

#[tokio::test]
async fn a_long_list_comes_whole_in_pieces() {
    let rig = Rig::start();
    for name in names(900) {
        rig.view.set(&name, b"1");
    }
    let listed = rig.client().await.list_secrets(ListSecretsRequest::default()).await.unwrap().into_inner();
    let listed: Vec<_> = listed.secrets.into_iter().map(|secret| secret.name).collect();
    assert_eq!(listed, names(900));
}

/// What HTTP/2 counts for the head of a request (RFC 9113, 6.5.2): each field, and 32 for each.
fn head(request: &http::Request<()>) -> usize {
    let uri = request.uri();
    let pseudo = [
        (":method", request.method().as_str()),
        (":scheme", uri.scheme_str().unwrap()),
        (":authority", uri.authority().unwrap().as_str()),
        (":path", uri.path()),
    ];
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32);
    fields.chain(pseudo.map(|(name, value)| name.len() + value.len() + 32)).sum()
}

#[tokio::test]
async fn heads_and_calls_of_a_connection_are_bounded_as_the_table_says() {
    let rig = Rig::start();
    rig.view.set("db", b"1");
    let mut peer = Peer::with_window(&rig, 65_535).await;
    assert!(!peer.ask(GET, &secret("db")).await.await.unwrap().headers().contains_key("grpc-status"));
    assert_eq!(peer.send.current_max_send_streams(), limit("API: calls of a connection").number());

    let row = limit("API: headers");
    for (bytes, answered) in [(row.number() - 1, true), (row.number(), false)] {
        let mut request = request(GET);
        request.headers_mut().insert("x-long", http::HeaderValue::from_static(""));
        let long = "y".repeat(bytes - head(&request));
        request.headers_mut().insert("x-long", long.parse().unwrap());
        assert_eq!(head(&request), bytes);
        let mut peer = Peer::with_window(&rig, 65_535).await;
        let (answer, mut stream) = peer.send.send_request(request, false).unwrap();
        let _ = stream.send_data(framed(&secret("db")), true);
        let answer = answer.await;
        assert_eq!(answer.is_ok_and(|answer| answer.status() == 200), answered, "{bytes}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_calls_is_closed_after_the_time_in_the_table() {
    let account = account(1 << 20, &[]);
    let rig = Rig::with_account(|_| {}, account.clone());
    rig.view.set("db", b"1");
    let idle = limit("API: idle time of a connection").number() as u64;
    let mut peer = Peer::with_window(&rig, 65_535).await;
    let answer = peer.ask(GET, &secret("db")).await.await.unwrap();
    drop(answer);
    let began = Instant::now();
    peer.connection.await.unwrap();
    let open = began.elapsed().as_secs();
    assert!((idle..idle + 2).contains(&open), "{open} s");
}
