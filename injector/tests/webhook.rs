//! The program itself, against a Kubernetes API of our own making: what it shows, what it answers, how it ends.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use keyward_test_support::fake_api::{ACCOUNTS, FakeApi, LEASES, SECRETS, WEBHOOKS};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const NAMESPACE: &str = "keyward-system";

/// A cluster as the chart leaves it, and one service account that says who it is.
fn cluster() -> (FakeApi, tempfile::TempDir) {
    let api = FakeApi::start();
    let named = |name: &str| json!({"metadata": {"name": name, "namespace": NAMESPACE}});
    api.put(SECRETS, named("keyward-injector-tls"));
    api.put(LEASES, named("keyward-injector"));
    let hook = |name: &str| json!({"name": name, "clientConfig": {"service": {"name": "keyward-injector"}}});
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

struct Injector {
    child: Child,
    address: SocketAddr,
}

impl Injector {
    fn start(directory: &tempfile::TempDir) -> Self {
        Self::start_with(directory, &[])
    }

    fn start_with(directory: &tempfile::TempDir, more: &[&str]) -> Self {
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

    fn terminate(&self) {
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
fn bundle(api: &FakeApi) -> Option<Vec<u8>> {
    let configuration = api.object(WEBHOOKS, "", "keyward-injector")?;
    let told = |index: usize| configuration["webhooks"][index]["clientConfig"]["caBundle"].as_str();
    assert_eq!(told(0), told(1));
    STANDARD.decode(told(0)?).ok()
}

async fn trusted(api: &FakeApi) -> Vec<u8> {
    api.until("a bundle", |api| bundle(api).is_some()).await;
    bundle(api).unwrap()
}

fn tls(bundle: &[u8], version: &'static rustls::SupportedProtocolVersion) -> ClientConfig {
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
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

type Connection = tokio_rustls::client::TlsStream<TcpStream>;

async fn connect(address: SocketAddr, config: ClientConfig) -> std::io::Result<Connection> {
    let name = ServerName::try_from(format!("keyward-injector.{NAMESPACE}.svc")).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(address).await?).await
}

type Sender = hyper::client::conn::http2::SendRequest<Full<bytes::Bytes>>;

async fn client(injector: &Injector, bundle: &[u8]) -> Sender {
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        match connect(injector.address, tls(bundle, &rustls::version::TLS13)).await {
            Ok(stream) => {
                let (sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                        .await
                        .unwrap();
                tokio::spawn(connection);
                return sender;
            }
            // The bundle is written before the certificate is shown.
            Err(error) if tokio::time::Instant::now() > end => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn post(sender: &mut Sender, path: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
    let request =
        http::Request::post(format!("https://keyward-injector{path}")).body(Full::from(body)).unwrap();
    let response = sender.send_request(request).await.unwrap();
    (response.status().as_u16(), response.into_body().collect().await.unwrap().to_bytes().to_vec())
}

fn pod(annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "web-", "labels": {"keyward.dev/inject": "true"}, "annotations": annotations},
        "spec": {"serviceAccountName": "web", "containers": [{"name": "web", "image": "web:1"}]},
    })
}

async fn ask(sender: &mut Sender, pod: &Value) -> Value {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "7", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": "shop",
            "operation": "CREATE", "object": pod, "dryRun": false,
        },
    });
    let (status, body) = post(sender, "/mutate?timeout=10s", review.to_string().into_bytes()).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["response"]["uid"], "7");
    answer["response"].clone()
}

fn good() -> Value {
    pod(&json!({"keyward.dev/secret-db": "kv://shop/secrets/db"}))
}

#[tokio::test]
async fn a_pod_is_answered_with_a_patch_under_the_certificate_that_the_api_server_is_told_to_trust() {
    let (api, directory) = cluster();
    let injector = Injector::start(&directory);
    let bundle = trusted(&api).await;
    let mut sender = client(&injector, &bundle).await;
    let answer = ask(&mut sender, &good()).await;
    assert_eq!((&answer["allowed"], &answer["patchType"]), (&json!(true), &json!("JSONPatch")));
    let args = patched(&good(), &answer)["spec"]["initContainers"][0]["args"].to_string();
    assert!(args.contains("--identity-client-id=11111111-1111-1111-1111-111111111111"), "{args}");

    let answer = ask(&mut sender, &pod(&json!({"keyward.dev/secret-db": "kv://shop/nothing/db"}))).await;
    assert_eq!((&answer["allowed"], &answer["status"]["code"]), (&json!(false), &json!(422)));
    assert!(
        answer["status"]["message"].as_str().unwrap().starts_with("KW_OBJECT_INVALID: keyward.dev/secret-db")
    );

    // Nothing was asked of the API that is not in the chart's rights.
    for request in api.requests() {
        let allowed = [
            "/version",
            "/serviceaccounts/web",
            "/secrets/keyward-injector-tls",
            "/leases/keyward-injector",
            "/mutatingwebhookconfigurations/keyward-injector",
        ];
        assert!(allowed.iter().any(|part| request.ends_with(part)), "{request}");
    }
}

/// The pod of an answer.
fn patched(pod: &Value, answer: &Value) -> Value {
    let patch = STANDARD.decode(answer["patch"].as_str().unwrap()).unwrap();
    let mut patched = pod.clone();
    json_patch::patch(&mut patched, &serde_json::from_slice::<json_patch::Patch>(&patch).unwrap()).unwrap();
    patched
}

#[tokio::test]
async fn trust_anchors_reach_every_container_of_ours_also_where_nothing_else_is_looked_up() {
    let (api, directory) = cluster();
    let roots = directory.path().join("ca.pem");
    std::fs::write(&roots, "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n").unwrap();
    let injector = Injector::start_with(&directory, &["--tls-extra-roots-file", roots.to_str().unwrap()]);
    let mut sender = client(&injector, &trusted(&api).await).await;
    for via in ["init", "sidecar"] {
        let asked = pod(&json!({
            "keyward.dev/via": via,
            "keyward.dev/secret-db": "kv://shop/secrets/db",
            "keyward.dev/client-id": "11111111-1111-1111-1111-111111111111",
            "keyward.dev/tenant-id": "22222222-2222-2222-2222-222222222222",
        }));
        let made = patched(&asked, &ask(&mut sender, &asked).await);
        let args = made["spec"]["initContainers"][0]["args"].to_string();
        assert!(args.contains("--tls-extra-roots="), "{via}: {args}");
    }
}

#[tokio::test]
async fn it_leaves_no_core_and_can_gain_no_privileges() {
    let (_api, directory) = cluster();
    let injector = Injector::start(&directory);
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", injector.child.id())).unwrap();
    let limits = read("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"]);
    assert!(read("status").lines().any(|line| line == "NoNewPrivs:\t1"));
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let (api, directory) = cluster();
    let injector = Injector::start(&directory);
    let bundle = trusted(&api).await;
    client(&injector, &bundle).await;
    assert!(connect(injector.address, tls(&bundle, &rustls::version::TLS12)).await.is_err());
}

#[tokio::test]
async fn replicas_share_one_certificate_and_take_up_a_new_authority_beside_the_old_one() {
    let (api, directory) = cluster();
    let (one, two) = (Injector::start(&directory), Injector::start(&directory));
    let bundle_before = trusted(&api).await;
    for injector in [&one, &two] {
        assert_eq!(ask(&mut client(injector, &bundle_before).await, &good()).await["allowed"], true);
    }
    // An administrator who wants a new authority takes the old one's key away.
    let mut secret = api.object(SECRETS, NAMESPACE, "keyward-injector-tls").unwrap();
    secret["data"].as_object_mut().unwrap().remove("ca.key").unwrap();
    api.put(SECRETS, secret);
    api.until("both authorities trusted", |api| {
        bundle(api).is_some_and(|pem| CertificateDer::pem_slice_iter(&pem).count() == 2)
    })
    .await;
    let both = bundle(&api).unwrap();
    assert!(String::from_utf8_lossy(&both).contains(String::from_utf8_lossy(&bundle_before).trim()));
    for injector in [&one, &two] {
        // What is shown is from the old one still, and trusted by whoever has not heard of the new one.
        assert_eq!(ask(&mut client(injector, &bundle_before).await, &good()).await["allowed"], true);
        assert_eq!(ask(&mut client(injector, &both).await, &good()).await["allowed"], true);
    }
    let lease = api.object(LEASES, NAMESPACE, "keyward-injector").unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "", "it was given back");
    assert_eq!(lease["spec"]["leaseTransitions"], 2);
}

#[tokio::test]
async fn without_the_api_server_a_pod_is_refused_for_now_and_answered_afterwards() {
    let (api, directory) = cluster();
    let injector = Injector::start(&directory);
    let mut sender = client(&injector, &trusted(&api).await).await;
    api.down();
    let answer = ask(&mut sender, &good()).await;
    assert_eq!((&answer["allowed"], &answer["status"]["code"]), (&json!(false), &json!(503)));
    let message = answer["status"]["message"].as_str().unwrap();
    assert!(message.contains("KW_KUBERNETES_UNAVAILABLE") && message.contains("tries again"), "{message}");
    // What needs nothing from it is answered all the same.
    let volume = pod(&json!({"keyward.dev/secret-db": "kv://shop/secrets/db", "keyward.dev/via": "csi"}));
    assert_eq!(ask(&mut sender, &volume).await["allowed"], true);
    api.up();
    assert_eq!(ask(&mut sender, &good()).await["allowed"], true);
}

#[tokio::test]
async fn what_is_no_question_is_refused_and_harms_nobody() {
    let (api, directory) = cluster();
    let injector = Injector::start(&directory);
    let mut sender = client(&injector, &trusted(&api).await).await;
    for (path, body, status) in [
        ("/", b"{}".to_vec(), 404),
        ("/mutate", b"not json".to_vec(), 400),
        (
            "/mutate",
            br#"{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}"#.to_vec(),
            400,
        ),
        ("/mutate", br#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}"#.to_vec(), 400),
        ("/mutate", vec![b' '; 4 << 20], 413),
    ] {
        assert_eq!(post(&mut sender, path, body).await.0, status, "{path}");
    }
    let not_a_pod = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {"uid": "1", "kind": {"group": "apps", "kind": "Deployment"}, "operation": "CREATE", "object": good()},
    });
    let (_, body) = post(&mut sender, "/mutate", not_a_pod.to_string().into_bytes()).await;
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["response"], json!({"uid": "1", "allowed": true}));
    assert_eq!(ask(&mut sender, &good()).await["allowed"], true);
}

#[tokio::test]
async fn it_ends_on_sigterm_when_every_question_is_answered_those_of_new_connections_too() {
    let (api, directory) = cluster();
    let mut injector = Injector::start(&directory);
    let bundle = trusted(&api).await;
    let mut before = client(&injector, &bundle).await;
    injector.terminate();
    assert_eq!(ask(&mut before, &good()).await["allowed"], true);
    // The API server may not have heard yet that this replica goes.
    assert_eq!(ask(&mut client(&injector, &bundle).await, &good()).await["allowed"], true);
    let status = tokio::task::spawn_blocking(move || {
        let status = injector.child.wait();
        drop(injector);
        status
    });
    let status =
        tokio::time::timeout(Duration::from_secs(30), status).await.expect("it ends").unwrap().unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_probe_tells_a_server_with_a_certificate_from_one_without() {
    let (api, directory) = cluster();
    // Without the Secret there is none.
    api.delete(SECRETS, NAMESPACE, "keyward-injector-tls");
    let injector = Injector::start(&directory);
    let port = injector.address.to_string();
    let probe = || {
        let words = ["--probe", "--listen", &port, "--image", "k", "--certificates-namespace", NAMESPACE];
        Command::new(env!("CARGO_BIN_EXE_keyward-injector")).args(words).output().unwrap()
    };
    let answer = probe();
    assert!(!answer.status.success());
    assert!(String::from_utf8_lossy(&answer.stderr).contains("shows no certificate yet"), "{answer:?}");
    api.put(SECRETS, json!({"metadata": {"name": "keyward-injector-tls", "namespace": NAMESPACE}}));
    client(&injector, &trusted(&api).await).await;
    assert!(probe().status.success());
}
