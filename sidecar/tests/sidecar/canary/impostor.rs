use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A host that passes for a vault.
pub(super) const HOST: &str = "impostor.vault.azure.net";

/// What may be asked of it; each answer quotes the canary in another place.
pub(super) const PATHS: [&str; 7] =
    ["cut-off", "half-json", "wrong-shape", "foreign", "denied", "page", "moved"];

/// A vault that repeats a value wherever an answer has room for words.
pub(super) struct Impostor {
    pub(super) address: SocketAddr,
    pub(super) ca_pem: String,
    task: tokio::task::JoinHandle<()>,
}

impl Impostor {
    pub(super) async fn start(canary: &str) -> Self {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new([HOST.to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let tls =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![leaf.der().clone()], private)
                .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let canary = canary.to_owned();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, canary) = (acceptor.clone(), canary.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        converse(stream, &canary).await;
                    }
                });
            }
        });
        Self { address, ca_pem: ca.pem(), task }
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, canary: &str) {
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut piece).await {
            Ok(length) if length > 0 => request.extend_from_slice(&piece[..length]),
            _ => return,
        }
    }
    let request = String::from_utf8_lossy(&request).to_ascii_lowercase();
    let (status, headers, body) = answer(&request, canary);
    let echo = canary.replace(['\r', '\n'], "");
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\nx-ms-request-id: {echo}\r\n\
         x-ms-keyvault-region: {echo}\r\n{headers}\r\n\r\n{body}",
        body.len()
    );
    // A peer that hung up has seen enough.
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn answer(request: &str, canary: &str) -> (&'static str, String, String) {
    let json = "Content-Type: application/json".to_owned();
    if !request.contains("\r\nauthorization: bearer") {
        let challenge = "WWW-Authenticate: Bearer authorization=\"https://login.microsoftonline.com/t\", \
                         resource=\"https://vault.azure.net\"";
        return ("401 Unauthorized", challenge.to_owned(), String::new());
    }
    let quoted = serde_json::Value::from(canary);
    let path = request.split(' ').nth(1).unwrap_or_default();
    let asked = |name: &str| path.contains(&format!("/secrets/{name}"));
    let error =
        || format!(r#"{{"error":{{"code":{quoted},"message":{quoted},"innererror":{{"code":{quoted}}}}}}}"#);
    if asked("cut-off") {
        ("200 OK", json, format!(r#"{{"value":{quoted},"id":"https://{HOST}/secrets/cut-off/0"#))
    } else if asked("half-json") {
        ("200 OK", json, format!("{canary} {{\"value\": {canary}"))
    } else if asked("wrong-shape") {
        (
            "200 OK",
            json,
            format!(r#"{{"value":[{quoted}],"id":{quoted},"attributes":{{"enabled":{quoted}}}}}"#),
        )
    } else if asked("foreign") {
        let id = format!("https://other.vault.azure.net/secrets/{canary}/0123456789abcdef0123456789abcdef");
        let id = serde_json::Value::from(id);
        ("200 OK", json, format!(r#"{{"value":{quoted},"id":{id},"attributes":{{"enabled":true}}}}"#))
    } else if asked("denied") {
        ("403 Forbidden", json, error())
    } else if asked("page") {
        ("500 Internal Server Error", "Content-Type: text/html".to_owned(), format!("<p>{canary}</p>"))
    } else if asked("moved") {
        ("302 Found", format!("Location: https://evil.example/?q={canary}"), String::new())
    } else {
        ("404 Not Found", json, error())
    }
}
