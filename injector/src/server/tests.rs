//! Time limits of a connection, through the TLS server itself, with time in the test's hand.

use std::net::IpAddr;

use keyward_core::config::injector;
use keyward_core::{Clock, SystemClock};
use keyward_kubernetes::{Cluster, ClusterSettings};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::*;
use crate::counts::Counts;
use crate::lookups::Lookups;
use crate::paths::{Paths, Written, path};
use crate::places::FIRST;

const NAME: &str = "keyward-injector.ks.svc";

struct Rig {
    acceptor: TlsAcceptor,
    webhook: Arc<Webhook>,
    places: Arc<Places>,
    graceful: GracefulShutdown,
    client: TlsConnector,
    path: String,
}

/// A server whose connections are pipes. The API server is away: nothing here needs it.
async fn rig(protocols: &[&str]) -> Rig {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let serving = Arc::new(Serving::default());
    serving.exchange(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = directory.path().join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    let settings = ClusterSettings { kubeconfig: Some(kubeconfig), ..ClusterSettings::default() };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let cluster = Cluster::connect(&settings, clock).await.unwrap();
    let injection = injector::parse(b"via: csi\ncertificates: {namespace: ks}\n").unwrap().injection;
    let paths = Arc::new(Paths::default());
    let token = "7".repeat(64);
    paths.exchange(&Written { tokens: vec![Zeroizing::new(token.clone())], since: None });
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(made.cert.der().to_vec())).unwrap();
    let mut client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Rig {
        acceptor: acceptor(serving).unwrap(),
        webhook: Arc::new(Webhook::new(injection, Lookups::new(cluster), Arc::new(Counts::default()), paths)),
        places: Places::new(4),
        graceful: GracefulShutdown::new(),
        client: TlsConnector::from(Arc::new(client)),
        path: path(&token),
    }
}

impl Rig {
    /// The other end of a connection that was just accepted.
    fn connect(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let place = self.places.take(IpAddr::from([10, 0, 0, 1])).unwrap();
        let (acceptor, webhook) = (self.acceptor.clone(), Arc::clone(&self.webhook));
        tokio::spawn(connection::serve(far, acceptor, webhook, place, self.graceful.watcher()));
        near
    }

    async fn shake_hands(&self) -> tokio_rustls::client::TlsStream<DuplexStream> {
        self.client.connect(ServerName::try_from(NAME).unwrap(), self.connect()).await.unwrap()
    }
}

/// Whatever comes until the connection ends.
async fn rest(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await;
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test(start_paused = true)]
async fn a_connection_has_ten_seconds_for_handshake_and_head_whatever_it_does_with_them() {
    let rig = rig(&["http/1.1"]).await;
    // Nothing at all.
    let began = Instant::now();
    rest(&mut rig.connect()).await;
    assert_eq!(began.elapsed().as_secs(), FIRST.as_secs());
    // A handshake that stops, and one that is dripped.
    let began = Instant::now();
    let mut half = rig.connect();
    half.write_all(&[22, 3, 1, 2, 0, 1, 0, 1]).await.unwrap();
    rest(&mut half).await;
    assert_eq!(began.elapsed().as_secs(), FIRST.as_secs());
    // A handshake, then nothing.
    let began = Instant::now();
    rest(&mut rig.shake_hands().await).await;
    assert_eq!(began.elapsed().as_secs(), FIRST.as_secs());
    // A head that never ends, one byte a second.
    let began = Instant::now();
    let mut slow = rig.shake_hands().await;
    slow.write_all(format!("POST {} HTTP/1.1\r\nx: ", rig.path).as_bytes()).await.unwrap();
    while slow.write_all(b"a").await.is_ok() && slow.flush().await.is_ok() && began.elapsed() < 3 * FIRST {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(began.elapsed() <= FIRST + Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_costs_its_connection_after_five_seconds() {
    let rig = rig(&["http/1.1"]).await;
    let began = Instant::now();
    let mut slow = rig.shake_hands().await;
    let head = format!("POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: 3000000\r\n\r\n{{", rig.path);
    slow.write_all(head.as_bytes()).await.unwrap();
    let said = rest(&mut slow).await;
    assert!(said.starts_with("HTTP/1.1 408"), "{said}");
    assert_eq!(began.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn the_api_servers_connection_stays_open_between_questions() {
    let rig = rig(&["http/1.1"]).await;
    let mut stream = rig.shake_hands().await;
    let body = r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "1", "kind": {"kind": "Node"}}}"#;
    let head = format!("POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", rig.path, body.len());
    for _ in 0..3 {
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let mut said = [0; 15];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"HTTP/1.1 200 OK");
        let mut rest = vec![0; 4096];
        while !String::from_utf8_lossy(&rest).contains("AdmissionReview") {
            let _ = stream.read(&mut rest).await.unwrap();
        }
        // As long as an API server keeps an idle connection.
        tokio::time::sleep(Duration::from_secs(90)).await;
    }
    let began = Instant::now();
    rest(&mut stream).await;
    assert_eq!(began.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn over_http_2_a_stranger_is_closed_within_a_second_and_the_api_server_is_answered() {
    use http_body_util::{BodyExt as _, Full};
    let rig = rig(&["h2"]).await;
    for (path, status, open) in
        [("/mutate", 404, crate::places::REFUSED), (&rig.path, 400, crate::places::NEXT)]
    {
        let stream = hyper_util::rt::TokioIo::new(rig.shake_hands().await);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), stream)
                .await
                .unwrap();
        let connection = tokio::spawn(connection);
        let began = Instant::now();
        let request = http::Request::post(format!("https://{NAME}{path}"))
            .body(Full::new(bytes::Bytes::from("{}")))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), status);
        response.into_body().collect().await.unwrap();
        let _ = connection.await.unwrap();
        assert_eq!(began.elapsed().as_secs(), open.as_secs());
    }
}

#[tokio::test(start_paused = true)]
async fn over_http_2_the_peer_is_told_how_many_questions_it_may_ask_at_a_time() {
    let rig = rig(&["h2"]).await;
    let mut stream = rig.shake_hands().await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    // The first frame is the server's settings (RFC 9113, 3.4 and 6.5.1): a head of nine bytes, then number and value each.
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    let mut settings = vec![0; usize::from(head[2])];
    stream.read_exact(&mut settings).await.unwrap();
    let most = settings.chunks(6).find(|setting| setting[..2] == [0, 3]).map(|setting| &setting[2..]);
    assert_eq!(most, Some(&connection::STREAMS.to_be_bytes()[..]));
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_its_turn_to_be_looked_up_and_is_then_refused_for_now() {
    use crate::webhook::{LOOKUPS, TURN};
    let rig = rig(&["http/1.1"]).await;
    let pod = json!({
        "metadata": {
            "labels": {"keyward.dev/inject": "true"},
            "annotations": {"keyward.dev/secret-db": "kv://shop/secrets/db", "keyward.dev/via": "sidecar"},
        },
        "spec": {"serviceAccountName": "web", "containers": [{"name": "web", "image": "i"}]},
    });
    let question = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {"uid": "1", "kind": {"kind": "Pod"}, "namespace": "shop", "operation": "CREATE", "object": pod},
    })
    .to_string();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        rig.path,
        question.len()
    );
    for (others, waits) in [(LOOKUPS, true), (LOOKUPS - 1, false)] {
        let _others = rig.webhook.turns.acquire_many(u32::try_from(others).unwrap()).await.unwrap();
        let mut stream = rig.shake_hands().await;
        let began = Instant::now();
        stream.write_all(format!("{head}{question}").as_bytes()).await.unwrap();
        let said = rest(&mut stream).await;
        assert!(said.contains("KW_KUBERNETES_UNAVAILABLE"), "{said}");
        assert_eq!(said.contains("too many pods are waiting"), waits, "{said}");
        assert_eq!(began.elapsed() >= TURN, waits, "{:?}", began.elapsed());
    }
}
