//! A client of a few lines: one connection per request, TLS by rustls, HTTP by hyper, nothing of Keyward.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keyward_emulator::{Builder, Emulator, Identity, ListenerKind, Permission, Registration};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A response, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// `error.code` and `error.innererror.code`.
    pub(crate) fn codes(&self) -> (String, String) {
        let error = &self.json()["error"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&error["code"]), text(&error["innererror"]["code"]))
    }
}

pub(crate) fn trusting(pem: &str, versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")).expect("certificate");
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

pub(crate) async fn connect(
    address: SocketAddr,
    name: &str,
    config: ClientConfig,
) -> Result<TlsStream<TcpStream>, std::io::Error> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Sends over HTTP/1.1 or HTTP/2, as `http2` says; the body is left unread.
pub(crate) async fn send_tls(
    address: SocketAddr,
    pem: &str,
    name: &str,
    http2: bool,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, Failure> {
    let mut config = trusting(pem, &[&rustls::version::TLS13, &rustls::version::TLS12]);
    config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    let io = TokioIo::new(connect(address, name, config).await?);
    if http2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        Ok(sender.send_request(request).await?)
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(connection);
        Ok(sender.send_request(request).await?)
    }
}

pub(crate) async fn send_plain(url: &str, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
    let authority = url.strip_prefix("http://").expect("plain").split('/').next().expect("authority");
    let io = TokioIo::new(TcpStream::connect(authority).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    tokio::spawn(connection);
    read(sender.send_request(request).await?).await
}

pub(crate) async fn read(response: Response<Incoming>) -> Result<Answer, Failure> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
}

/// An emulator with the vault `shop` and an identity that may do everything in it.
pub(crate) struct World {
    pub(crate) emulator: Emulator,
    pub(crate) identity: Identity,
    pub(crate) token: String,
    pub(crate) http2: bool,
}

pub(crate) async fn world() -> World {
    World::start(Emulator::builder().vault("shop")).await
}

/// The same without sockets.
pub(crate) fn in_process(builder: Builder) -> World {
    World::of(builder.vault("shop").build())
}

impl World {
    pub(crate) async fn start(builder: Builder) -> Self {
        Self::of(builder.start().await.expect("starts"))
    }

    fn of(emulator: Emulator) -> Self {
        let identity = emulator.identities().register(Registration::application().client_secret("right"));
        emulator.assign(&identity, "shop", Permission::ALL);
        let token =
            emulator.mint_access_token(&identity, "https://vault.azure.net", Duration::from_secs(3600));
        Self { emulator, identity, token, http2: false }
    }

    fn request(&self, method: Method, path: &str, body: Bytes, authenticated: bool) -> Request<Full<Bytes>> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}api-version=7.4");
        let uri = if self.http2 { format!("https://shop.vault.azure.net{path}") } else { path };
        let mut request = Request::builder().method(method).uri(uri);
        if !self.http2 {
            request = request.header("host", "shop.vault.azure.net");
        }
        if authenticated {
            request = request.header("authorization", format!("Bearer {}", self.token));
        }
        request.body(Full::new(body)).expect("request")
    }

    /// Asks the vault over TLS without reading the body.
    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        body: Value,
        authenticated: bool,
    ) -> Result<Response<Incoming>, Failure> {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let request = self.request(method, path, body, authenticated);
        let (address, pem) = (self.emulator.vault_addr(), self.emulator.ca_pem());
        send_tls(address, &pem, "shop.vault.azure.net", self.http2, request).await
    }

    pub(crate) async fn try_get(&self, path: &str) -> Result<Answer, Failure> {
        read(self.open(Method::GET, path, Value::Null, true).await?).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.try_get(path).await.expect("an answer")
    }

    pub(crate) async fn get_without_token(&self, path: &str) -> Answer {
        let response = self.open(Method::GET, path, Value::Null, false).await.expect("an answer");
        read(response).await.expect("a body")
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: Value) -> Answer {
        read(self.open(method, path, body, true).await.expect("an answer")).await.expect("a body")
    }

    /// Asks in process.
    pub(crate) async fn handle(&self, path: &str) -> keyward_emulator::HandlerOutcome {
        let (parts, _) = self.request(Method::GET, path, Bytes::new(), true).into_parts();
        self.emulator.handle(ListenerKind::Https, Request::from_parts(parts, Bytes::new())).await
    }

    /// Asks in process; the status.
    pub(crate) async fn status(&self, path: &str) -> u16 {
        self.handle(path).await.reply().expect("an answer").status.as_u16()
    }
}
