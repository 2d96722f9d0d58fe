//! What nobody may use up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::rig::{Rig, get, reason, refresh, version};
use keyward_core::audit::Actor;
use keyward_core::observe::Event;
use keyward_core::{Code as KeywardCode, Error, State};
use keyward_local_api::{ApiSettings, Crowd, Peer, PeerCheck, Pod, probe, probe_within};
use keyward_proto::secrets::v1::*;
use keyward_test_support::limits::limit;
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower::ServiceExt;

#[tokio::test]
async fn a_caller_who_is_not_listed_hears_why_and_is_recorded_and_its_probe_still_works() {
    // The process's own user is not listed: it may ask for health and for nothing else.
    let rig = Rig::with(|settings| settings.allow_uids = Some(vec![nix::unistd::geteuid().as_raw() + 1]));
    rig.view.set("db", b"canary-5f1e");
    let mut client = rig.client().await;
    let status = get(&mut client, "db").await.err().unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "KW_CALLER_REFUSED"));
    let watch = client.watch_secrets(WatchSecretsRequest::default()).await.err().unwrap();
    assert_eq!(watch.code(), Code::PermissionDenied);
    assert_eq!(rig.kept.audit.lock()[0].error, Some(KeywardCode::CallerRefused));
    probe(&rig.socket).await.unwrap();
}

/// Admits nobody or everybody, and remembers how often it was asked.
struct Gatekeeper(bool, AtomicUsize);

impl PeerCheck for Gatekeeper {
    fn check(&self, peer: &Peer) -> keyward_core::Result<()> {
        assert_eq!((peer.uid, peer.pid), (nix::unistd::geteuid().as_raw(), std::process::id() as i32));
        self.1.fetch_add(1, Ordering::Relaxed);
        let refused = || keyward_core::Error::new(KeywardCode::CallerRefused, "another pod's process");
        if self.0 { Ok(()) } else { Err(refused()) }
    }
}

#[tokio::test]
async fn a_peer_that_the_check_refuses_gets_nothing_not_even_health_and_is_recorded_with_its_pod() {
    let pod = Pod { namespace: "shop".to_owned(), name: "web-0".to_owned(), uid: "u-1".to_owned() };
    for admitted in [false, true] {
        let gatekeeper = Arc::new(Gatekeeper(admitted, AtomicUsize::new(0)));
        let adjust = |settings: &mut ApiSettings| {
            settings.pod = Some(pod.clone());
            settings.shown = Some("keyward.sock of shop/web-0".to_owned());
        };
        let rig = Rig::with_check(adjust, Some(gatekeeper.clone()));
        rig.view.set("db", b"value");
        let mut client = rig.client().await;
        let got = get(&mut client, "db").await;
        if admitted {
            assert_eq!(got.unwrap().value.as_ref(), b"value");
            get(&mut client, "db").await.unwrap();
            assert_eq!(gatekeeper.1.load(Ordering::Relaxed), 1, "asked once for each connection");
        } else {
            let status = got.err().unwrap();
            assert_eq!(
                (status.code(), reason(&status).as_str()),
                (Code::PermissionDenied, "KW_CALLER_REFUSED")
            );
            assert!(probe(&rig.socket).await.is_err());
        }
        let audit = rig.kept.audit.lock();
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let expected = Actor::PodPeer {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            pod: pod.uid.clone(),
            uid,
            gid,
            pid: std::process::id() as i32,
        };
        assert_eq!(audit[0].actor, expected);
        assert_eq!(audit[0].error.is_none(), admitted);
        if !admitted {
            assert_eq!(audit[0].object, "keyward.sock of shop/web-0");
        }
    }
}

#[tokio::test]
async fn one_caller_cannot_call_without_end() {
    let rig = Rig::with(|settings| settings.lookups_per_caller = 5);
    rig.view.set("db", b"1");
    let (mut client, mut again) = (rig.client().await, rig.client().await);
    for _ in 0..5 {
        get(&mut client, "db").await.unwrap();
    }
    for client in [&mut client, &mut again] {
        let status = get(client, "db").await.err().unwrap();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "KW_RATE_LIMITED"));
        assert!(tonic_types::StatusExt::get_details_retry_info(&status).is_some());
    }
}

#[tokio::test]
async fn what_reaches_the_provider_is_limited_far_lower() {
    let rig = Rig::with(|settings| settings.upstream_per_caller = 2);
    let mut client = rig.client().await;
    for name in ["a", "b", "c"] {
        rig.view.set(name, b"1");
    }
    refresh(&mut client, "a").await.unwrap();
    version(&mut client, "b", &"f".repeat(32)).await.unwrap();
    let status = refresh(&mut client, "c").await.err().unwrap();
    assert_eq!(reason(&status), "KW_RATE_LIMITED");
    assert!(get(&mut client, "c").await.is_ok(), "lookups go on");
}

#[tokio::test]
async fn a_request_over_the_size_limit_is_refused() {
    let rig = Rig::with(|settings| settings.max_message = 1000);
    let mut client = rig.client().await;
    let status = get(&mut client, &"x".repeat(5000)).await.err().unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "KW_LIMIT_EXCEEDED"));
    let mut request = tonic::Request::new(GetSecretRequest::default());
    request.metadata_mut().insert("x-long", "y".repeat(20_000).parse().unwrap());
    assert!(client.get_secret(request).await.is_err());
}

#[tokio::test]
async fn connections_over_the_limit_hear_why_and_a_closed_one_makes_room() {
    let rig = Rig::with(|settings| settings.max_connections_per_caller = 2);
    rig.view.set("db", b"1");
    let (mut first, mut second) = (rig.client().await, rig.client().await);
    // Both are busy: an idle one would give way.
    let watch = first.watch_secrets(WatchSecretsRequest::default()).await.unwrap();
    let _other = second.watch_secrets(WatchSecretsRequest::default()).await.unwrap();
    let status = get(&mut rig.client().await, "db").await.err().unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "KW_LIMIT_EXCEEDED"));
    drop((first, watch));
    while get(&mut rig.client().await, "db").await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_and_one_that_says_something_else_are_let_go() {
    let rig = Rig::start();
    let mut silent = UnixStream::connect(&rig.socket).await.unwrap();
    silent.write_all(b"PRI * HT").await.unwrap();
    let mut http1 = UnixStream::connect(&rig.socket).await.unwrap();
    http1.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let before = tokio::time::Instant::now();
    let _ = http1.read_to_end(&mut rest).await;
    assert!(before.elapsed() < Duration::from_secs(1) && rest.is_empty());
    silent.read_to_end(&mut rest).await.unwrap();
    assert!(before.elapsed() >= Duration::from_secs(10) && rest.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_answering_is_let_go() {
    let rig = Rig::start();
    let mut peer = UnixStream::connect(&rig.socket).await.unwrap();
    // An HTTP/2 preface with empty settings, and then silence: not even pings are acknowledged.
    peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let before = tokio::time::Instant::now();
    peer.read_to_end(&mut Vec::new()).await.unwrap();
    assert!(before.elapsed() >= Duration::from_secs(80), "{:?}", before.elapsed());
    assert!(before.elapsed() < Duration::from_secs(120), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_ends_at_the_servers_deadline() {
    let rig = Rig::start();
    rig.view.set("db", b"1");
    rig.view.refresh.send_replace(None);
    let mut client = rig.client().await;
    let before = tokio::time::Instant::now();
    let status = refresh(&mut client, "db").await.err().unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(before.elapsed().as_secs(), 30);
    assert!(get(&mut client, "db").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_and_one_that_watches_is_not() {
    let rig = Rig::start();
    rig.view.set("db", b"1");
    let (mut watcher, mut idle) = (rig.client().await, rig.client().await);
    let mut stream = watcher.watch_secrets(WatchSecretsRequest::default()).await.unwrap().into_inner();
    stream.message().await.unwrap();
    get(&mut idle, "db").await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    rig.view.set("db", b"2");
    assert!(stream.message().await.unwrap().is_some(), "the watch went on for an hour");
    // The client connects again by itself.
    assert_eq!(get(&mut idle, "db").await.unwrap().value.as_ref(), b"2");
}

/// A refresh that has reached the view and waits there.
async fn hanging(rig: &Rig) -> tokio::task::JoinHandle<Result<Secret, tonic::Status>> {
    rig.view.set("db", b"1");
    rig.view.refresh.send_replace(None);
    let mut client = rig.client().await;
    let call = tokio::spawn(async move { refresh(&mut client, "db").await });
    while rig.view.refreshes.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    call
}

#[tokio::test]
async fn a_call_in_flight_ends_well_at_a_shutdown_while_new_connections_are_refused() {
    let mut rig = Rig::start();
    let call = hanging(&rig).await;
    let drained = rig.stop();
    while rig.socket.exists() {
        tokio::task::yield_now().await;
    }
    assert!(UnixStream::connect(&rig.socket).await.is_err());
    rig.view.refresh.send_replace(Some(Ok(b"in time")));
    assert_eq!(call.await.unwrap().unwrap_or_default().value.as_ref(), b"in time");
    drained.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_is_cut_at_the_end_of_the_drain_time() {
    let mut rig = Rig::start();
    let call = hanging(&rig).await;
    let before = tokio::time::Instant::now();
    rig.stop().await.unwrap().unwrap();
    assert_eq!(before.elapsed().as_secs(), 5);
    assert!(call.await.unwrap().is_err());
}

#[tokio::test]
async fn health_follows_readiness_for_the_server_and_the_service_and_ends_at_a_shutdown() {
    let mut rig = Rig::start();
    let channel = keyward_local_api::connect(&rig.socket).await.unwrap();
    let mut health = HealthClient::new(channel);
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    for service in ["", "keyward.secrets.v1.SecretService"] {
        let answer = health.check(ask(service)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
    assert_eq!(health.check(ask("other")).await.unwrap_err().code(), Code::NotFound);
    let mut stream = health.watch(ask("")).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    rig.ready.send(false).unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(probe(&rig.socket).await.unwrap_err().code(), KeywardCode::ShuttingDown);
    rig.ready.send(true).unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let drained = rig.stop();
    while stream.message().await.unwrap().is_some() {}
    drained.await.unwrap().unwrap();
    assert_eq!(probe(&rig.socket).await.unwrap_err().code(), KeywardCode::Connect);
}

#[tokio::test]
async fn a_probe_that_waits_names_what_is_missing_and_asks_for_it_once() {
    let rig = Rig::start();
    rig.view.set("here", b"1");
    rig.view.stand("missing", State::Pending, Some(Error::new(KeywardCode::VaultForbidden, "no")));
    rig.ready.send(false).unwrap();
    let error = probe_within(&rig.socket, Duration::from_millis(300)).await.unwrap_err();
    assert!(error.message().contains("waiting for missing (KW_VAULT_FORBIDDEN, vault);"), "{error}");
    let calls = |wanted: &str| {
        let events = rig.kept.events.lock();
        let of = |event: &Event| matches!(event, Event::Rpc { method, .. } if method.ends_with(wanted));
        events.iter().filter(|event| of(event)).count()
    };
    assert_eq!(calls("SecretService/ListSecrets"), 1);
    // It asks again until the answer is another, and nobody for reasons then.
    let before = calls("Health/Check");
    let waiting = probe_within(&rig.socket, Duration::from_secs(20));
    let becomes_ready = async {
        while calls("Health/Check") < before + 2 {
            tokio::task::yield_now().await;
        }
        rig.ready.send(true).unwrap();
    };
    let (answer, asked) = tokio::join!(waiting, tokio::time::timeout(Duration::from_secs(20), becomes_ready));
    asked.expect("it asked again");
    answer.unwrap();
    assert_eq!(calls("SecretService/ListSecrets"), 1);
}

#[tokio::test]
async fn unknown_methods_and_other_content_types_are_told_so() {
    let rig = Rig::start();
    let mut channel = keyward_local_api::connect(&rig.socket).await.unwrap();
    let mut call = async |path: &str, content_type: &str| {
        let request = http::Request::post(format!("http://localhost{path}"))
            .header("content-type", content_type)
            .body(tonic::body::Body::empty())
            .unwrap();
        tower_service::Service::call(channel.ready().await.unwrap(), request).await.unwrap()
    };
    let response = call("/keyward.secrets.v1.SecretService/Nothing", "application/grpc").await;
    assert_eq!(response.headers()["grpc-status"], "12");
    let response = call("/keyward.secrets.v1.SecretService/GetSecret", "application/json").await;
    assert_eq!(response.status(), 415);
    let response = call("/keyward.secrets.v1.SecretService/GetSecret", "application/grpc").await;
    assert_eq!(response.headers()["grpc-status"], "3");
}

/// A pod that has used more of the thread than its share.
async fn in_debt(crowd: &Crowd, pod: &str) {
    for _ in 0..2 {
        crowd.pace(pod).measured(tokio::time::advance(Duration::from_secs(1))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_used_more_than_its_share_waits_and_others_do_not() {
    let crowd = Crowd::new();
    let (greedy, quiet) = (Rig::paced(crowd.pace("greedy")), Rig::paced(crowd.pace("quiet")));
    greedy.view.set("db", b"1");
    quiet.view.set("db", b"2");
    let (mut open, mut other) = (greedy.client().await, quiet.client().await);
    get(&mut open, "db").await.unwrap();
    in_debt(&crowd, "greedy").await;
    let began = tokio::time::Instant::now();
    get(&mut other, "db").await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    get(&mut open, "db").await.unwrap();
    // Two seconds of the four that the first of them costs have passed.
    assert!(began.elapsed() > Duration::from_millis(1900), "{:?}", began.elapsed());
    assert!(crowd.put_off() > Duration::from_millis(1900));
}

#[tokio::test(start_paused = true)]
async fn a_pod_in_debt_stops_as_soon_as_any_other() {
    let crowd = Crowd::new();
    let mut rig = Rig::paced(crowd.pace("greedy"));
    rig.view.set("db", b"1");
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = rig.client().await;
        get(&mut client, "db").await.unwrap();
        clients.push(client);
    }
    in_debt(&crowd, "greedy").await;
    let began = tokio::time::Instant::now();
    rig.stop().await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    drop(clients);
}

/// Names that a view knows, each with a byte.
fn declare(rig: &Rig, count: usize) -> Vec<String> {
    let names: Vec<_> = (0..count).map(|n| format!("n{n}")).collect();
    names.iter().for_each(|name| {
        rig.view.set(name, b"1");
    });
    names
}

#[tokio::test]
async fn requests_and_batches_are_bounded_as_the_table_says() {
    let rig = Rig::start();
    let mut client = rig.client().await;
    let row = limit("API: request");
    let named = |length: usize| {
        let mut request = GetSecretRequest { name: "x".repeat(length), version: String::new() };
        let over = request.encoded_len() - length;
        request.name.truncate(length - over);
        assert_eq!(request.encoded_len(), length);
        request.name
    };
    let at = get(&mut client, &named(row.number())).await.err().unwrap();
    assert_eq!(reason(&at), "KW_UNKNOWN_NAME");
    let beyond = get(&mut client, &named(row.number() + 1)).await.err().unwrap();
    assert_eq!(reason(&beyond), "KW_LIMIT_EXCEEDED");
    row.refuses(Err::<(), _>(beyond));

    let row = limit("API: names of a batch");
    let mut names = declare(&rig, row.number());
    let at = client.batch_get_secrets(BatchGetSecretsRequest { names: names.clone() }).await;
    names.push("n0".to_owned());
    row.holds(at, client.batch_get_secrets(BatchGetSecretsRequest { names }).await);

    let row = limit("API: values of a batch");
    rig.view.set("first", &vec![1; row.number() - 1]);
    for (name, size) in [("at", 1), ("beyond", 2)] {
        rig.view.set(name, &vec![2; size]);
        let request = BatchGetSecretsRequest { names: vec!["first".to_owned(), name.to_owned()] };
        let answer = client.batch_get_secrets(request).await.unwrap().into_inner();
        let failed: Vec<_> = answer.failures.iter().map(|failure| failure.reason.as_str()).collect();
        assert_eq!(
            (answer.secrets.len(), failed),
            match name {
                "at" => (2, vec![]),
                _ => (1, vec!["KW_LIMIT_EXCEEDED"]),
            }
        );
    }
}

#[tokio::test]
async fn watches_and_calls_are_bounded_as_the_table_says() {
    let rig = Rig::start();
    let row = limit("API: names of a watch");
    let mut names = declare(&rig, row.number());
    let mut client = rig.client().await;
    let at = client.watch_secrets(WatchSecretsRequest { names: names.clone() }).await.map(drop);
    names.push("n0".to_owned());
    row.holds(at, client.watch_secrets(WatchSecretsRequest { names }).await.map(drop));
    drop(client);

    let of_connection = limit("API: watches of a connection");
    let of_socket = limit("API: watches of a socket");
    let one = WatchSecretsRequest { names: vec!["n0".to_owned()] };
    let mut watches = Vec::new();
    let mut clients = Vec::new();
    let rig = Rig::start();
    declare(&rig, 1);
    while watches.len() < of_socket.number() {
        let mut client = rig.client().await;
        for _ in 0..of_connection.number() {
            watches.push(client.watch_secrets(one.clone()).await.unwrap());
        }
        of_connection.refuses(client.watch_secrets(one.clone()).await);
        clients.push(client);
    }
    of_socket.refuses(rig.client().await.watch_secrets(one.clone()).await);
    watches.pop();
    while rig.client().await.watch_secrets(one.clone()).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn calls_that_wait_for_a_vault_are_bounded_as_the_table_says() {
    let row = limit("API: calls that wait for a vault");
    let rig = Rig::with(|settings| settings.upstream_per_caller = 10_000);
    rig.view.refresh.send_replace(None);
    let names = declare(&rig, row.number() + 1);
    let client = rig.client().await;
    let calls: Vec<_> = names[..row.number()]
        .iter()
        .map(|name| {
            let (mut client, name) = (client.clone(), name.clone());
            tokio::spawn(async move { refresh(&mut client, &name).await })
        })
        .collect();
    while rig.view.refreshes.load(Ordering::Relaxed) < row.number() {
        tokio::task::yield_now().await;
    }
    let beyond = refresh(&mut client.clone(), &names[row.number()]).await.err().unwrap();
    assert_eq!(reason(&beyond), "KW_RATE_LIMITED");
    rig.view.refresh.send_replace(Some(Ok(b"2")));
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_caller_reaches_a_vault_as_often_as_the_table_says() {
    let rig = Rig::start();
    let row = limit("API: calls that reach a vault");
    declare(&rig, 1);
    let mut client = rig.client().await;
    for _ in 0..row.number() {
        version(&mut client, "n0", &"f".repeat(32)).await.unwrap();
    }
    // On a slow machine some more are possible meanwhile.
    let mut beyond = Ok(Secret::default());
    for _ in 0..1000 {
        beyond = version(&mut client, "n0", &"f".repeat(32)).await;
        if beyond.is_err() {
            break;
        }
    }
    assert_eq!(reason(&beyond.err().unwrap()), "KW_RATE_LIMITED");
}
