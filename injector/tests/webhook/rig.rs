//! The program beside a Kubernetes API of our own making, and clients as an API server is one.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use keyward_test_support::fake_api::{ACCOUNTS, FakeApi, LEASES, SECRETS, WEBHOOKS};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub(super) const NAMESPACE: &str = "keyward-system";

/// A cluster as the chart leaves it, and one service account that says who it is.
pub(super) fn cluster() -> (FakeApi, tempfile::TempDir) {
    let api = FakeApi::start();
    let named = |name: &str| json!({"metadata": {"name": name, "namespace": NAMESPACE}});
    api.put(SECRETS, named("keyward-injector-tls"));
    api.put(LEASES, named("keyward-injector"));
    let service = json!({"name": "keyward-injector", "namespace": NAMESPACE, "port": 443});
    let hook = |name: &str| json!({"name": name, "clientConfig": {"service": service}});
    api.put(
        WEBHOOKS,
        json!({
            "metadata": {"name": "keyward-injector"},
            "webhooks": [hook("inject.keyward.dev"), hook("inject-by-annotation.keyward.dev")],
        }),
    );
    api.put_account(
        "shop",
        "web",
        &[
            ("azure.workload.identity/client-id", "11111111-1111-1111-1111-111111111111"),
            ("azure.workload.identity/tenant-id", "22222222-2222-2222-2222-222222222222"),
        ],
    );
    assert!(api.object(ACCOUNTS, "shop", "web").is_some());
    let directory = tempfile::tempdir().unwrap();
    api.write_kubeconfig(&directory.path().join("kubeconfig"));
    (api, directory)
}

pub(super) struct Injector {
    pub(super) child: Child,
    pub(super) address: SocketAddr,
}

impl Injector {
    pub(super) fn start(directory: &tempfile::TempDir) -> Self {
        Self::start_with(directory, &[])
    }

    pub(super) fn start_with(directory: &tempfile::TempDir, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_keyward-injector"))
            .args(["--listen", "127.0.0.1:0", "--image", "keyward:1", "--certificates-namespace", NAMESPACE])
            .args(more)
            .env("KUBECONFIG", directory.path().join("kubeconfig"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line: String = lines.next().expect("it says where it listens").unwrap();
            let line: Value = serde_json::from_str(&line).expect(&line);
            if line["message"] == "listening" {
                break line["address"].as_str().unwrap().parse().unwrap();
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    /// What `--probe` says of it.
    pub(super) fn probe(&self) -> std::process::Output {
        let address = self.address.to_string();
        let words = ["--probe", "--listen", &address, "--image", "k", "--certificates-namespace", NAMESPACE];
        Command::new(env!("CARGO_BIN_EXE_keyward-injector")).args(words).output().unwrap()
    }

    pub(super) fn terminate(&self) {
        let id = i32::try_from(self.child.id()).unwrap();
        assert!(Command::new("kill").args(["-TERM", &id.to_string()]).status().unwrap().success());
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the API server is told to trust, once it is the same for both entries.
pub(super) fn bundle(api: &FakeApi) -> Option<Vec<u8>> {
    let configuration = api.object(WEBHOOKS, "", "keyward-injector")?;
    let told = |index: usize| configuration["webhooks"][index]["clientConfig"]["caBundle"].as_str();
    assert_eq!(told(0), told(1));
    STANDARD.decode(told(0)?).ok()
}

/// Where the API server is told to ask, once it is the same for both entries.
pub(super) fn path(api: &FakeApi) -> Option<String> {
    let configuration = api.object(WEBHOOKS, "", "keyward-injector")?;
    let told = |index: usize| configuration["webhooks"][index]["clientConfig"]["service"]["path"].as_str();
    assert_eq!(told(0), told(1));
    told(0).map(str::to_owned)
}

pub(super) async fn trusted(api: &FakeApi) -> Vec<u8> {
    api.until("a bundle", |api| bundle(api).is_some()).await;
    bundle(api).unwrap()
}

pub(super) fn tls(bundle: &[u8], version: &'static rustls::SupportedProtocolVersion) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

pub(super) type Connection = tokio_rustls::client::TlsStream<TcpStream>;

pub(super) async fn connect(address: SocketAddr, config: ClientConfig) -> std::io::Result<Connection> {
    let name = ServerName::try_from(format!("keyward-injector.{NAMESPACE}.svc")).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(address).await?).await
}

/// As the API server: it asks where it is told to, on one connection after the other.
pub(super) struct Sender {
    pub(super) address: SocketAddr,
    pub(super) tls: ClientConfig,
    pub(super) path: String,
    pub(super) connection: http1::SendRequest<Full<bytes::Bytes>>,
}

pub(super) async fn client(injector: &Injector, api: &FakeApi) -> Sender {
    let bundle = trusted(api).await;
    client_that_trusts(injector, api, &bundle).await
}

pub(super) async fn client_that_trusts(injector: &Injector, api: &FakeApi, bundle: &[u8]) -> Sender {
    let path = path(api).expect("a path comes with the bundle");
    let tls = tls(bundle, &rustls::version::TLS13);
    let connection = connection(injector.address, tls.clone()).await;
    Sender { address: injector.address, tls, path, connection }
}

pub(super) async fn connection(
    address: SocketAddr,
    tls: ClientConfig,
) -> http1::SendRequest<Full<bytes::Bytes>> {
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        match connect(address, tls.clone()).await {
            Ok(stream) => {
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection);
                return sender;
            }
            // The bundle is written before the certificate is shown.
            Err(error) if tokio::time::Instant::now() > end => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// All that comes for `bytes` until the connection is closed.
pub(super) async fn raw(sender: &Sender, bytes: &[u8]) -> String {
    let mut stream = connect(sender.address, sender.tls.clone()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut said = Vec::new();
    let read = stream.read_to_end(&mut said);
    let _ = tokio::time::timeout(Duration::from_secs(30), read).await.expect("it is closed");
    String::from_utf8_lossy(&said).into_owned()
}

/// Sends `body` to `path`; what the API server's own path is, is said by the sender.
pub(super) async fn post(sender: &mut Sender, path: &str, body: impl Into<bytes::Bytes>) -> (u16, Vec<u8>) {
    let body = body.into();
    let request = || {
        let request = http::Request::post(path).header("host", "keyward-injector");
        request.body(Full::from(body.clone())).unwrap()
    };
    let response = match sender.connection.send_request(request()).await {
        Ok(response) => response,
        // It was closed after the last answer.
        Err(_) => {
            sender.connection = connection(sender.address, sender.tls.clone()).await;
            sender.connection.send_request(request()).await.unwrap()
        }
    };
    (response.status().as_u16(), response.into_body().collect().await.unwrap().to_bytes().to_vec())
}

pub(super) fn pod(annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "web-", "labels": {"keyward.dev/inject": "true"}, "annotations": annotations},
        "spec": {"serviceAccountName": "web", "containers": [{"name": "web", "image": "web:1"}]},
    })
}

/// The question whether `pod` may be created in `namespace`.
pub(super) fn question(pod: &Value, namespace: &str) -> Vec<u8> {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "7", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": namespace,
            "operation": "CREATE", "object": pod, "dryRun": false,
        },
    });
    review.to_string().into_bytes()
}

pub(super) async fn ask(sender: &mut Sender, pod: &Value) -> Value {
    ask_in(sender, "shop", pod).await
}

pub(super) async fn ask_in(sender: &mut Sender, namespace: &str, pod: &Value) -> Value {
    let path = format!("{}?timeout=10s", sender.path);
    let (status, body) = post(sender, &path, question(pod, namespace)).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["response"]["uid"], "7");
    answer["response"].clone()
}

pub(super) fn good() -> Value {
    pod(&json!({"keyward.dev/secret-db": "kv://shop/secrets/db"}))
}

/// The pod of an answer.
pub(super) fn patched(pod: &Value, answer: &Value) -> Value {
    let patch = STANDARD.decode(answer["patch"].as_str().unwrap()).unwrap();
    let mut patched = pod.clone();
    json_patch::patch(&mut patched, &serde_json::from_slice::<json_patch::Patch>(&patch).unwrap()).unwrap();
    patched
}
