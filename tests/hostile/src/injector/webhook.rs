use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use keyward_test_support::fake_api::{FakeApi, LEASES, SECRETS, WEBHOOKS};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::Outcome;
use crate::group::Group;
use crate::program::{Line, Program};

const NAMESPACE: &str = "keyward-system";
/// The chart's limit.
const LIMIT: u64 = 64 << 20;
/// The address of a pod that means ill.
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 66, 0, 2);
/// What the API server waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection of a client to the webhook.
pub(crate) type Client = SendRequest<Full<Bytes>>;

/// The cluster around the injector. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Webhook {
    inner: Arc<Inner>,
    /// Whose connections these are: the API server's and kubelet's, or a stranger's.
    from: Ipv4Addr,
}

struct Inner {
    api: FakeApi,
    place: TempDir,
    /// Where it listens, and its admin port.
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Webhook {
    /// A cluster as the chart leaves it.
    pub(crate) fn lay() -> Outcome<Self> {
        let api = FakeApi::start();
        let named = |name: &str| json!({"metadata": {"name": name, "namespace": NAMESPACE}});
        api.put(SECRETS, named("keyward-injector-tls"));
        api.put(LEASES, named("keyward-injector"));
        let hook = |name: &str| {
            let service =
                json!({"namespace": NAMESPACE, "name": "keyward-injector", "path": "/mutate", "port": 443});
            json!({"name": name, "clientConfig": {"service": service}})
        };
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
        let place = tempfile::Builder::new().prefix("kwh-").tempdir()?;
        api.write_kubeconfig(&place.path().join("kubeconfig"));
        let inner = Inner { api, place, listen: free()?, admin: free()? };
        Ok(Self { inner: Arc::new(inner), from: Ipv4Addr::LOCALHOST })
    }

    /// The same as a pod on the network sees it, which has an address of its own.
    pub(crate) fn for_a_stranger(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), from: STRANGER }
    }

    fn log(&self) -> PathBuf {
        self.inner.place.path().join("log")
    }

    /// The end of the injector's log.
    pub(crate) fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(8).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Starts the injector as the chart does and waits until it answers.
    pub(crate) async fn start(&self, program: &Path) -> Outcome<Program> {
        let words = [
            "--listen",
            &self.inner.listen.to_string(),
            "--admin-listen",
            &self.inner.admin.to_string(),
            "--image",
            "keyward:1",
            "--certificates-namespace",
            NAMESPACE,
            "--log-level",
            "warn",
        ]
        .map(str::to_owned);
        let mut running = Program::start(
            &Line {
                program,
                arguments: &words,
                kubeconfig: &self.inner.place.path().join("kubeconfig"),
                log: &self.log(),
                mounts_first: None,
            },
            Group::with_limit(LIMIT),
            Vec::new,
        )?;
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Ok(mut client) = self.client().await
                && self.review(&mut client, &good()).await.is_ok()
                && self.livez().await.is_ok()
            {
                return Ok(running);
            }
            if Instant::now() > end || !running.is_alive() {
                return Err(format!("the injector does not answer:\n{}", self.last_words()).into());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// What the API server was told to trust.
    fn bundle(&self) -> Outcome<Vec<u8>> {
        let hooks = self.inner.api.object(WEBHOOKS, "", "keyward-injector").ok_or("no webhook")?;
        let text = hooks["webhooks"][0]["clientConfig"]["caBundle"].as_str().ok_or("no bundle yet")?;
        Ok(STANDARD.decode(text)?)
    }

    /// Where the API server was told to post to, which strangers cannot read.
    pub(crate) fn path(&self) -> String {
        let hooks = self.inner.api.object(WEBHOOKS, "", "keyward-injector").unwrap_or_default();
        hooks["webhooks"][0]["clientConfig"]["service"]["path"].as_str().unwrap_or("/mutate").to_owned()
    }

    pub(crate) async fn tcp(&self) -> Outcome<TcpStream> {
        self.connect(self.inner.listen).await
    }

    pub(crate) async fn admin_tcp(&self) -> Outcome<TcpStream> {
        self.connect(self.inner.admin).await
    }

    async fn connect(&self, to: SocketAddr) -> Outcome<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((self.from, 0).into())?;
        Ok(timeout(PATIENCE, socket.connect(to)).await??)
    }

    /// A TLS connection of a client that offers these protocols.
    pub(crate) async fn tls(
        &self,
        protocols: &[&[u8]],
    ) -> Outcome<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&self.bundle()?) {
            roots.add(certificate?)?;
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from(format!("keyward-injector.{NAMESPACE}.svc"))?;
        Ok(timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, self.tcp().await?)).await??)
    }

    /// A connection as the API server makes it: HTTP/1.1, one question at a time.
    pub(crate) async fn client(&self) -> Outcome<Client> {
        let (client, connection) = handshake(TokioIo::new(self.tls(&[b"http/1.1"]).await?)).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Posts a body; the status and the answer.
    pub(crate) async fn post(&self, client: &mut Client, path: &str, body: Bytes) -> Outcome<(u16, Bytes)> {
        let request = http::Request::post(format!("{path}?timeout=10s"))
            .header("host", "keyward-injector")
            .header("content-type", "application/json")
            .body(Full::from(body))?;
        let work = async {
            client.ready().await?;
            let response = client.send_request(request).await?;
            let status = response.status().as_u16();
            Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
        };
        Ok(timeout(PATIENCE, work).await.map_err(|_| "no answer within 10 s")??)
    }

    /// A review as the API server posts it; an error unless the pod was let in.
    pub(crate) async fn review(&self, client: &mut Client, pod: &Value) -> Outcome<()> {
        let (status, body) = self.post(client, &self.path(), review("shop", pod)).await?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status == 200 && answer["response"]["allowed"] == true && answer["response"]["patch"].is_string() {
            return Ok(());
        }
        Err(format!("status {status}: {}", answer["response"]["status"]["message"]).into())
    }

    /// The liveness probe, on a connection of its own as kubelet makes it.
    pub(crate) async fn livez(&self) -> Outcome<()> {
        let work = async {
            let mut stream = TcpStream::connect(self.inner.admin).await?;
            let ask =
                format!("GET /livez HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.inner.admin);
            stream.write_all(ask.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        // Kubelet's patience, as the chart sets it.
        let answer = timeout(Duration::from_secs(5), work)
            .await
            .map_err(|_| "no answer to the probe within 5 s")??;
        if answer.starts_with(b"HTTP/1.1 200") { Ok(()) } else { Err("the probe was refused".into()) }
    }
}

/// A pod that asks for one secret, as a controller makes it.
pub(crate) fn good() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": "web-", "labels": {"keyward.dev/inject": "true"},
            "annotations": {"keyward.dev/secret-db": "kv://shop/secrets/db"},
        },
        "spec": {"serviceAccountName": "web", "containers": [{"name": "web", "image": "web:1"}]},
    })
}

/// The body of a question.
pub(crate) fn review(namespace: &str, pod: &Value) -> Bytes {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "7", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": namespace,
            "operation": "CREATE", "object": pod, "dryRun": false,
        },
    })
    .to_string()
    .into()
}

/// A port that is free now.
fn free() -> Outcome<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
