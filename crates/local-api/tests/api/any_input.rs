//! Whatever a peer sends is answered, and ends at worst its own connection.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use keyward_proto::secrets::v1::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::rig::{Rig, get};

const METHODS: [&str; 9] = [
    "/keyward.secrets.v1.SecretService/GetSecret",
    "/keyward.secrets.v1.SecretService/BatchGetSecrets",
    "/keyward.secrets.v1.SecretService/ListSecrets",
    "/keyward.secrets.v1.SecretService/WatchSecrets",
    "/keyward.secrets.v1.SecretService/RefreshSecret",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/List",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

const PATIENCE: Duration = Duration::from_secs(20);

/// Panics of any task of this process since the tests began: the server would contain one, and the test must see it.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn count_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.location().is_some_and(|location| location.file().contains("local-api/src")) {
                PANICS.fetch_add(1, Ordering::Relaxed);
            }
            before(info);
        }));
    });
}

/// One call: its path, headers that it adds, and its body in pieces.
#[derive(Debug, Clone)]
struct Call {
    path: String,
    headers: Vec<(&'static str, Vec<u8>)>,
    pieces: Vec<Vec<u8>>,
}

fn runner() -> TestRunner {
    count_panics();
    TestRunner::new(Config { cases: 96, failure_persistence: None, ..Config::default() })
}

fn rig() -> Rig {
    let rig = Rig::with(|settings| {
        settings.upstream_per_caller = 100_000;
        settings.refresh_gap = Duration::ZERO;
    });
    rig.view.set("db", b"1");
    rig.view.set("big", &[7; 50_000]);
    // No test refreshes it.
    rig.view.set("checked", &[7; 50_000]);
    rig
}

async fn peer(rig: &Rig) -> SendRequest<Bytes> {
    let stream = UnixStream::connect(&rig.socket).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    send
}

/// Makes the call, and fails when it is not answered with a status.
async fn answered(rig: &Rig, call: &Call) -> Result<(), TestCaseError> {
    let failed = |what: &str, error: &dyn std::fmt::Display| TestCaseError::fail(format!("{what}: {error}"));
    let mut send = peer(rig).await.ready().await.map_err(|error| failed("connection", &error))?;
    let mut request = http::Request::post(format!("http://localhost{}", call.path));
    if !call.headers.iter().any(|(name, _)| *name == "content-type") {
        request = request.header("content-type", "application/grpc");
    }
    for (name, value) in &call.headers {
        if let Ok(value) = http::HeaderValue::from_bytes(value) {
            request = request.header(*name, value);
        }
    }
    let request = request.body(()).map_err(|error| failed("request", &error))?;
    let sent = send.send_request(request, call.pieces.is_empty());
    let (answer, mut stream) = sent.map_err(|error| failed("request", &error))?;
    for (at, piece) in call.pieces.iter().enumerate() {
        // The server may have heard enough already.
        let _ = stream.send_data(Bytes::from(piece.clone()), at + 1 == call.pieces.len());
    }
    let answer = timeout(PATIENCE, answer).await.map_err(|error| failed("no answer", &error))?;
    let answer = answer.map_err(|error| failed("answer", &error))?;
    let mut status = answer.headers().get("grpc-status").cloned();
    if answer.status() == 415 {
        return Ok(());
    }
    prop_assert_eq!(answer.status().as_u16(), 200);
    // A stream that goes on was answered; its end is not waited for.
    let streams = call.path.contains("Watch") || call.path.contains("Reflection");
    let mut body = answer.into_body();
    while status.is_none() {
        match timeout(PATIENCE, body.data()).await.map_err(|error| failed("no end", &error))? {
            Some(Ok(_)) if streams => return Ok(()),
            Some(Ok(piece)) => {
                let released = body.flow_control().release_capacity(piece.len());
                released.map_err(|error| failed("window", &error))?;
            }
            Some(Err(error)) => return Err(failed("body", &error)),
            None => {
                let trailers = body.trailers().await.map_err(|error| failed("trailers", &error))?;
                status = trailers.and_then(|trailers| trailers.get("grpc-status").cloned());
                prop_assert!(status.is_some(), "an answer without a status");
            }
        }
    }
    Ok(())
}

fn run(strategy: impl Strategy<Value = Call>) {
    let runtime = Runtime::new().unwrap();
    let rig = runtime.block_on(async { rig() });
    let outcome = runner().run(&strategy, |call| {
        runtime.block_on(async {
            answered(&rig, &call).await?;
            let value = get(&mut rig.client().await, "checked").await;
            prop_assert!(value.is_ok_and(|secret| secret.value == vec![7; 50_000]));
            prop_assert_eq!(PANICS.load(Ordering::Relaxed), 0);
            Ok(())
        })
    });
    outcome.unwrap();
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(message);
    frame
}

/// Any characters, control characters and lookalikes included, from none to longer than any limit.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        proptest::collection::vec(any::<char>(), 0..40).prop_map(String::from_iter),
        Just("db".to_owned()),
        Just("big".to_owned()),
        (any::<char>(), 0usize..30_000).prop_map(|(character, times)| String::from(character).repeat(times)),
        Just("0123456789abcdef0123456789abcdef".to_owned()),
    ]
}

#[test]
fn any_text_in_a_request_is_answered_with_a_status() {
    let texts = || proptest::collection::vec(text(), 0..6);
    let message = prop_oneof![
        (text(), text()).prop_map(|(name, version)| (0, GetSecretRequest { name, version }.encode_to_vec())),
        texts().prop_map(|names| (1, BatchGetSecretsRequest { names }.encode_to_vec())),
        text().prop_map(|prefix| (2, ListSecretsRequest { prefix }.encode_to_vec())),
        texts().prop_map(|names| (3, WatchSecretsRequest { names }.encode_to_vec())),
        text().prop_map(|name| (4, RefreshSecretRequest { name }.encode_to_vec())),
    ];
    run(message.prop_map(|(method, message)| Call {
        path: METHODS[method].to_owned(),
        headers: Vec::new(),
        pieces: vec![framed(&message)],
    }));
}

#[test]
fn any_bytes_in_a_message_cut_anywhere_are_answered_with_a_status() {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..300);
    let body = prop_oneof![
        bytes().prop_map(|message| vec![framed(&message)]),
        bytes().prop_map(|message| framed(&message).chunks(7).map(<[u8]>::to_vec).collect()),
        proptest::collection::vec(bytes(), 0..5),
        (0usize..90_000).prop_map(|length| vec![framed(&vec![0x0a; length])]),
    ];
    let methods = (0..METHODS.len()).prop_filter("reflection waits for whole messages", |method| *method < 7);
    run((methods, body).prop_map(|(method, pieces)| Call {
        path: METHODS[method].to_owned(),
        headers: Vec::new(),
        pieces,
    }));
}

#[test]
fn any_path_and_any_headers_are_answered_with_a_status() {
    let headers = proptest::collection::vec(
        (
            proptest::sample::select(vec![
                "grpc-timeout",
                "traceparent",
                "tracestate",
                "content-type",
                "grpc-encoding",
                "user-agent",
            ]),
            prop_oneof![
                proptest::collection::vec(32u8..127, 0..60),
                "[0-9]{1,9}[HMSmun]".prop_map(String::into_bytes),
                "00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]".prop_map(String::into_bytes),
                proptest::collection::vec(128u8..255, 0..60),
            ],
        ),
        0..4,
    );
    let path = prop_oneof![
        "/[a-zA-Z0-9._~!$&'()*+,;=:@/%-]{0,200}",
        (0..METHODS.len() - 2).prop_map(|method| METHODS[method].to_owned()),
    ];
    let message = GetSecretRequest { name: "db".to_owned(), version: String::new() }.encode_to_vec();
    run((path, headers).prop_map(move |(path, headers)| Call {
        path,
        headers,
        pieces: vec![framed(&message)],
    }));
}

#[test]
fn any_bytes_on_a_connection_leave_other_connections_alone() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let runtime = Runtime::new().unwrap();
    let rig = runtime.block_on(async { rig() });
    let frame = (0u8..12, any::<u8>(), 0u8..6, proptest::collection::vec(any::<u8>(), 0..100));
    let frames = proptest::collection::vec(frame, 0..8);
    let outcome = runner().run(&(0usize..3, frames), |(begins, frames)| {
        runtime.block_on(async {
            let mut stream = UnixStream::connect(&rig.socket).await.unwrap();
            let mut bytes = match begins {
                0 => Vec::new(),
                1 => PREFACE.to_vec(),
                _ => [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat(),
            };
            for (kind, flags, number, payload) in frames {
                let length = u8::try_from(payload.len()).unwrap();
                bytes.extend_from_slice(&[0, 0, length, kind, flags, 0, 0, 0, number]);
                bytes.extend_from_slice(&payload);
            }
            // It may be closed before all was written.
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            let read = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
            prop_assert!(read.is_ok(), "a connection whose peer has gone goes on");
            prop_assert!(get(&mut rig.client().await, "db").await.is_ok());
            prop_assert_eq!(PANICS.load(Ordering::Relaxed), 0);
            Ok(())
        })
    });
    outcome.unwrap();
}
