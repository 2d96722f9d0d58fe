use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyward_core::{Code, Result, SystemClock};
use keyward_kubernetes::{Cluster, ClusterSettings, ServiceAccountFacts};
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::PrivateKeyDer;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

#[tokio::test]
async fn the_clusters_own_authority_is_trusted_and_our_certificate_is_presented() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let address = serve(&theirs, &ours, &rustls::version::TLS13).await;
    let facts = ask(address, &theirs, &ours).await.unwrap().unwrap();
    assert_eq!(facts.client_id.as_deref(), Some("1111"));
}

#[tokio::test]
async fn another_authority_is_not_trusted() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let address = serve(&theirs, &ours, &rustls::version::TLS13).await;
    let error = ask(address, &Authority::new(), &ours).await.unwrap_err();
    assert_eq!(error.code(), Code::KubernetesUnavailable);
    assert!(
        error.internal_detail().is_some_and(|d| d.contains("invalid peer certificate")),
        "{:?}",
        error.internal_detail()
    );
}

#[tokio::test]
async fn tls_1_2_is_not_spoken() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let address = serve(&theirs, &ours, &rustls::version::TLS12).await;
    let error = ask(address, &theirs, &ours).await.unwrap_err();
    assert_eq!(error.code(), Code::KubernetesUnavailable);
}

struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, name: &str) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        (params.signed_by(&key, &self.issuer).expect("a certificate"), key)
    }

    fn roots(&self) -> RootCertStore {
        let mut store = RootCertStore::empty();
        store.add(self.certificate.der().clone()).expect("a root");
        store
    }
}

/// A server with a certificate of `own` that wants one of `clients`, and knows one service account.
async fn serve(
    own: &Authority,
    clients: &Authority,
    version: &'static SupportedProtocolVersion,
) -> SocketAddr {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let (certificate, key) = own.issue("127.0.0.1");
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(clients.roots()), Arc::clone(&provider))
            .build()
            .expect("a verifier");
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .expect("a certificate");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let body =
                json!({ "metadata": { "annotations": { "azure.workload.identity/client-id": "1111" } } });
            let body = body.to_string();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

/// Asks the server at `address`, which `trusted` vouches for, with a certificate of `own`.
async fn ask(
    address: SocketAddr,
    trusted: &Authority,
    own: &Authority,
) -> Result<Option<ServiceAccountFacts>> {
    let (certificate, key) = own.issue("node");
    let config = json!({
        "current-context": "c",
        "clusters": [{ "name": "c", "cluster": {
            "server": format!("https://{address}"),
            "certificate-authority-data": STANDARD.encode(trusted.certificate.pem()),
        } }],
        "users": [{ "name": "c", "user": {
            "client-certificate-data": STANDARD.encode(certificate.pem()),
            "client-key-data": STANDARD.encode(key.serialize_pem()),
        } }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "c" } }],
    });
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("kubeconfig");
    std::fs::write(&file, config.to_string()).expect("the file is written");
    let settings = ClusterSettings { kubeconfig: Some(file), ..ClusterSettings::default() };
    Cluster::connect(&settings, Arc::new(SystemClock)).await?.service_account("shop", "web").await
}
