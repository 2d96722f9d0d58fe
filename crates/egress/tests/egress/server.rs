//! Small TLS servers with a CA of their own, on loopback.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub(crate) type Answer = http::Response<BoxBody<Bytes, std::io::Error>>;

/// A certificate authority made for one test.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: Vec<u8>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem().into_bytes();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn server(&self, names: &[&str]) -> Setup {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Setup {
            chain: vec![certificate.der().clone()],
            key,
            versions: rustls::ALL_VERSIONS,
            alpn: &[b"h2", b"http/1.1"],
        }
    }
}

/// What a server offers.
pub(crate) struct Setup {
    chain: Vec<rustls_pki_types::CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    versions: &'static [&'static rustls::SupportedProtocolVersion],
    alpn: &'static [&'static [u8]],
}

impl Setup {
    pub(crate) fn tls12_only(mut self) -> Self {
        static TLS12_ONLY: [&rustls::SupportedProtocolVersion; 1] = [&rustls::version::TLS12];
        self.versions = &TLS12_ONLY;
        self
    }

    pub(crate) fn http1_only(mut self) -> Self {
        self.alpn = &[b"http/1.1"];
        self
    }

    fn acceptor(self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(self.chain, self.key)
            .unwrap();
        config.alpn_protocols = self.alpn.iter().map(|protocol| protocol.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Serves HTTP until the test ends.
    pub(crate) async fn http<F, R>(self, handler: F) -> Server
    where
        F: Fn(http::Request<Incoming>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        self.raw(move |stream| {
            let handler = handler.clone();
            Box::pin(async move {
                let service = service_fn(move |request| {
                    let answer = handler(request);
                    async move { Ok::<_, std::convert::Infallible>(answer.await) }
                });
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            })
        })
        .await
    }

    /// Hands each TLS connection to `each`.
    pub(crate) async fn raw<F>(self, each: F) -> Server
    where
        F: Fn(TlsStream<TcpStream>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let server_names = Arc::new(Mutex::new(Vec::new()));
        let server = Server {
            address,
            connections: Arc::clone(&connections),
            server_names: Arc::clone(&server_names),
        };
        let (acceptor, each) = (self.acceptor(), Arc::new(each));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let (acceptor, each, names) =
                    (acceptor.clone(), Arc::clone(&each), Arc::clone(&server_names));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(tcp).await else { return };
                    names.lock().extend(stream.get_ref().1.server_name().map(str::to_owned));
                    each(stream).await;
                });
            }
        });
        server
    }
}

/// A running server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    pub(crate) server_names: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

pub(crate) fn json(status: u16, body: &str) -> Answer {
    answer(status, "application/json; charset=utf-8", body)
}

pub(crate) fn answer(status: u16, content_type: &str, body: &str) -> Answer {
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes())).map_err(|never| match never {}).boxed();
    http::Response::builder().status(status).header("content-type", content_type).body(body).unwrap()
}
