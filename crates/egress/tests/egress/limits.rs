use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use keyward_core::Code;
use keyward_egress::{EgressSettings, Target};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::server::{Authority, json};
use crate::{VAULT, egress, get, settings, transport, vault_get};

const CHUNK: usize = 64 * 1024;

/// 200 MiB in chunks; counts what was taken from it.
fn endless(taken: Arc<AtomicUsize>, chunks: usize) -> crate::server::Answer {
    let stream = futures::stream::iter((0..chunks).map(move |_| {
        taken.fetch_add(CHUNK, Ordering::SeqCst);
        Ok(Frame::data(Bytes::from(vec![b'x'; CHUNK])))
    }));
    let mut answer = json(200, "").map(|_| BodyExt::boxed(StreamBody::new(stream)));
    answer.headers_mut().remove("content-length");
    answer
}

async fn a_body_of_200_mib(http1_only: bool) {
    let ca = Authority::new();
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let setup = ca.server(&[VAULT]);
    let setup = if http1_only { setup.http1_only() } else { setup };
    let server = setup
        .http(move |_| {
            let taken = Arc::clone(&counted);
            async move { endless(taken, 200 * 1024 * 1024 / CHUNK) }
        })
        .await;
    let error = vault_get(&transport(&egress(settings(&ca, &server))), "/").await.err().unwrap();
    assert_eq!(error.code(), Code::ResponseTooLarge);
    let sent = taken.load(Ordering::SeqCst);
    assert!(sent < 16 * 1024 * 1024, "the server got rid of {sent} bytes before it was stopped");
}

#[tokio::test]
async fn a_body_of_200_mib_is_stopped_at_the_cap_over_http1() {
    a_body_of_200_mib(true).await;
}

#[tokio::test]
async fn a_body_of_200_mib_is_stopped_at_the_cap_over_http2() {
    a_body_of_200_mib(false).await;
}

#[tokio::test]
async fn a_body_declared_too_large_is_refused_before_its_first_byte() {
    let ca = Authority::new();
    let server = ca
        .server(&[VAULT])
        .http1_only()
        .raw(|mut stream| {
            Box::pin(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 209715200\r\n\r\n").await;
                let _ = stream.flush().await;
                // Sends nothing more: only a client that reads the head alone answers now.
                let _ = stream.read(&mut [0; 1]).await;
            })
        })
        .await;
    let error = vault_get(&transport(&egress(settings(&ca, &server))), "/").await.err().unwrap();
    assert_eq!(error.code(), Code::ResponseTooLarge);
}

#[tokio::test]
async fn a_body_that_ends_early_is_a_protocol_error() {
    let ca = Authority::new();
    let server = ca
        .server(&[VAULT])
        .http1_only()
        .raw(|mut stream| {
            Box::pin(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"value\":").await;
                let _ = stream.shutdown().await;
            })
        })
        .await;
    let error = vault_get(&transport(&egress(settings(&ca, &server))), "/").await.err().unwrap();
    assert_eq!(error.code(), Code::VaultProtocol);
}

#[tokio::test]
async fn garbage_instead_of_http_is_a_protocol_error_of_the_target() {
    let ca = Authority::new();
    let server = ca
        .server(&[VAULT])
        .http1_only()
        .raw(|mut stream| {
            Box::pin(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(b"\x00\x01\x02 not http at all\r\n\r\n").await;
                let _ = stream.shutdown().await;
            })
        })
        .await;
    let egress = egress(settings(&ca, &server));
    let mut request = get(&format!("https://{VAULT}/"));
    assert_eq!(egress.send(request.clone()).await.err().unwrap().code(), Code::TokenProtocol);
    request.target = Target::Vault;
    assert_eq!(egress.send(request).await.err().unwrap().code(), Code::VaultProtocol);
}

#[tokio::test]
async fn a_server_that_hangs_meets_the_deadline_and_its_connection_is_not_used_again() {
    let ca = Authority::new();
    let server = ca
        .server(&[VAULT])
        .http(async |request| {
            if request.uri().path() == "/hang" {
                std::future::pending::<()>().await;
            }
            json(200, "{}")
        })
        .await;
    let egress = egress(settings(&ca, &server));
    let mut request = get(&format!("https://{VAULT}/hang"));
    request.deadline = Duration::from_millis(200);
    let start = Instant::now();
    let error = egress.send(request.clone()).await.err().unwrap();
    assert_eq!(error.code(), Code::Timeout);
    assert!(start.elapsed() >= Duration::from_millis(200) && start.elapsed() < Duration::from_secs(5));
    request.url = url::Url::parse(&format!("https://{VAULT}/")).unwrap();
    request.deadline = Duration::from_secs(10);
    assert_eq!(egress.send(request).await.ok().unwrap().status, 200);
    assert_eq!(server.connections(), 2, "the silent HTTP/2 connection is left");
}

#[tokio::test]
async fn a_closed_port_is_a_connect_failure_with_its_reason() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error =
        egress(EgressSettings::default()).send(get(&format!("https://{address}/"))).await.err().unwrap();
    assert_eq!(error.code(), Code::Connect);
    assert!(error.message().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_a_dns_failure() {
    // A label of more than 63 characters is no name, so that no resolver needs to be asked.
    let url = format!("https://{}.test/", "a".repeat(64));
    let error = egress(EgressSettings::default()).send(get(&url)).await.err().unwrap();
    assert_eq!(error.code(), Code::Dns, "{error}");
}
