use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::*;
use crate::health::Condition;

struct Port {
    address: SocketAddr,
    health: Health,
    _stop: oneshot::Sender<()>,
}

async fn port() -> Port {
    let health = Health::new(&[Condition::Identity, Condition::Objects]);
    let metrics = Arc::new(Metrics::new("keyward-sidecar", "0.1.0"));
    let admin = Admin::bind((Ipv4Addr::LOCALHOST, 0).into(), health.clone(), metrics).await.unwrap();
    let address = admin.address();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(admin.serve(async move {
        let _ = stopped.await;
    }));
    Port { address, health, _stop: stop }
}

async fn ask(port: &Port, request: &str) -> String {
    let mut stream = TcpStream::connect(port.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

async fn get(port: &Port, path: &str) -> String {
    ask(port, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
}

#[tokio::test]
async fn readiness_follows_its_conditions_and_names_kinds_only() {
    let port = port().await;
    port.health.progress(Condition::Objects, 1, 3);
    let answer = get(&port, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let body = r#"{"ready":false,"draining":false,"conditions":{"identity":{"done":0,"needed":1},"objects":{"done":1,"needed":3}}}"#;
    assert!(answer.contains(body), "{answer}");
    port.health.set(Condition::Identity, true);
    port.health.progress(Condition::Objects, 3, 3);
    assert!(get(&port, "/readyz").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn liveness_fails_when_a_loop_falls_silent() {
    let port = port().await;
    assert!(get(&port, "/livez").await.starts_with("HTTP/1.1 200 "));
    let _silent = port.health.watch("rotation", Duration::ZERO);
    let answer = get(&port, "/livez").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("rotation"), "{answer}");
}

#[tokio::test]
async fn metrics_are_served_in_the_open_metrics_format() {
    let port = port().await;
    let answer = get(&port, "/metrics").await.to_lowercase();
    assert!(answer.contains("content-type: application/openmetrics-text"), "{answer}");
    assert!(answer.contains("keyward_build_info{binary=\"keyward-sidecar\""), "{answer}");
    assert!(answer.ends_with("# eof\n"));
}

#[tokio::test]
async fn anything_else_is_refused() {
    let port = port().await;
    assert!(get(&port, "/").await.starts_with("HTTP/1.1 404 "));
    assert!(get(&port, "/debug/pprof").await.starts_with("HTTP/1.1 404 "));
    let post = ask(&port, "POST /readyz HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await;
    assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
    let huge = format!("GET /livez HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(64 * 1024));
    assert!(!ask(&port, &huge).await.starts_with("HTTP/1.1 200 "));
    for (fields, answer) in [(MAX_HEADERS, "HTTP/1.1 200 "), (MAX_HEADERS + 1, "HTTP/1.1 431 ")] {
        let many = "X: y\r\n".repeat(fields);
        let said = ask(&port, &format!("GET /livez HTTP/1.1\r\n{many}\r\n")).await;
        assert!(said.starts_with(answer), "{fields}: {said}");
    }
    for (bytes, answer) in [(MAX_HEADER_BYTES, "HTTP/1.1 200 "), (MAX_HEADER_BYTES + 1, "HTTP/1.1 431 ")] {
        let head = "GET /livez HTTP/1.1\r\nX: \r\n\r\n";
        let head = head.replace("X: ", &format!("X: {}", "y".repeat(bytes - head.len())));
        let said = ask(&port, &head).await;
        assert!(said.starts_with(answer), "{bytes}: {said}");
    }
}

#[tokio::test]
async fn connections_that_say_nothing_do_not_keep_a_probe_out() {
    let port = port().await;
    let mut idle = Vec::new();
    for number in 0..3 * MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(port.address).await.unwrap();
        if number % 2 == 0 {
            // Half a question; it may be closed already.
            let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x").await;
        }
        idle.push(stream);
        if number % 16 == 15 {
            let answer = get(&port, "/livez").await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{number}: {answer}");
        }
    }
    // The oldest gave up their places.
    for stream in idle.iter_mut().take(MAX_CONNECTIONS) {
        assert!(!matches!(stream.read(&mut [0]).await, Ok(1..)));
    }
}

#[tokio::test]
async fn the_address_with_the_most_connections_gives_up_its_oldest_and_first_one_that_did_not_ask() {
    let address = |last| IpAddr::from(Ipv4Addr::new(10, 0, 0, last));
    let mut tasks = tokio::task::JoinSet::new();
    let mut places = Places::default();
    // Kubelet came first, one stranger twice, another three times; its oldest was asked and is being answered.
    for (last, asked) in [(1, false), (2, false), (2, false), (3, true), (3, false), (3, false)] {
        let task = tasks.spawn(std::future::pending::<()>());
        places.0.push_back(Place { address: address(last), asked: Arc::new(AtomicBool::new(asked)), task });
    }
    let mut left = || {
        places.evict();
        places.0.iter().map(|place| (place.address, place.asked.load(Ordering::Relaxed))).collect::<Vec<_>>()
    };
    let of =
        |all: &[(u8, bool)]| all.iter().map(|(last, asked)| (address(*last), *asked)).collect::<Vec<_>>();
    assert_eq!(left(), of(&[(1, false), (2, false), (2, false), (3, true), (3, false)]));
    assert_eq!(left(), of(&[(1, false), (2, false), (3, true), (3, false)]));
    assert_eq!(left(), of(&[(1, false), (2, false), (3, true)]));
}

#[tokio::test(start_paused = true)]
async fn a_connection_has_a_limited_time_for_its_question() {
    let port = port().await;
    let began = tokio::time::Instant::now();
    let mut stream = TcpStream::connect(port.address).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    assert_eq!(began.elapsed(), HEADER_LIMIT);
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_of_the_configuration() {
    let port = port().await;
    let metrics = Arc::new(Metrics::new("keyward-sidecar", "0.1.0"));
    let error = Admin::bind(port.address, Health::default(), metrics).await.err().unwrap();
    assert_eq!(error.code(), Code::ConfigInvalid);
}
