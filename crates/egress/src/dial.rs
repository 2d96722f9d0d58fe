use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use keyward_core::observe::{Event, Observer};
use keyward_core::{Code, Error, Result};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use crate::gate::{Gates, Line};
use crate::handshake::{Handshake, Handshakes};
use crate::proxy::Proxy;
use crate::resolve::{Known, Resolver};
use crate::roots::TlsConfigs;
use crate::{Duplex, EgressSettings, ProxySettings, TlsFloor, failure};

/// Opens connections: resolve, connect, tunnel through the proxy, TLS. One for each kind of trust.
#[derive(Clone)]
pub(crate) struct Dialer(Arc<Parts>);

pub(crate) struct Parts {
    pub(crate) settings: Arc<EgressSettings>,
    pub(crate) resolver: Resolver,
    pub(crate) proxy: ProxySettings,
    pub(crate) tls: TlsConfigs,
    /// Sent as SNI and verified instead of the URL's host.
    pub(crate) server_name: Option<ServerName<'static>>,
    /// For the TCP connection with all addresses of a host.
    pub(crate) connect_limit: Duration,
    pub(crate) gates: Arc<Gates>,
    pub(crate) handshakes: Arc<Handshakes>,
    pub(crate) observer: Arc<dyn Observer>,
}

impl Dialer {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    async fn dial(self, uri: Uri) -> Result<TokioIo<Stream>> {
        let host = uri.host().unwrap_or_default().to_ascii_lowercase();
        self.0.resolver.check_literal(&host)?;
        if uri.scheme_str() != Some("https") {
            let io = self.connect(uri, &host).await?;
            return Ok(TokioIo::new(Stream { io, h2: false, _line: None }));
        }
        // Taken before the connection is opened, so that a vault never sees more of them than it should.
        let line = match uri.authority().and_then(|authority| self.0.gates.find(authority.as_str())) {
            Some(gate) => Some(gate.line().await),
            None => None,
        };
        let proxy = self.0.proxy.intercept(&uri).filter(|_| !self.0.resolver.is_fixed(&host));
        let io = match proxy {
            Some(proxy) => self.tunnel(uri, &host, &proxy).await?,
            None => self.connect(uri, &host).await?,
        };
        let (io, handshake) = self.handshake(&host, self.0.server_name.clone(), io).await?;
        let line = line.map(Line::up);
        Ok(TokioIo::new(Stream { io, h2: handshake.protocol == "h2", _line: line }))
    }

    async fn connect(&self, uri: Uri, host: &str) -> Result<Boxed> {
        let limit = self.0.connect_limit;
        let Some(network) = &self.0.settings.network else {
            return tcp(uri, host, self.0.resolver.clone(), limit).await;
        };
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        match tokio::time::timeout(limit, network.connect(host, port)).await {
            Ok(opened) => opened.map_err(|error| failure::of_connect(host, &error)),
            Err(_) => Err(failure::connect_timeout(host, limit)),
        }
    }

    /// RFC 9110 §9.3.6, over TLS when the proxy's scheme is `https`.
    async fn tunnel(&self, uri: Uri, host: &str, proxy: &Proxy) -> Result<Boxed> {
        let inner = ToProxy(self.clone());
        let mut tunnel = Tunnel::new(proxy.uri.clone(), inner);
        if let Some(authorization) = &proxy.authorization {
            tunnel = tunnel.with_auth(authorization.clone());
        }
        match tunnel.call(uri).await {
            Ok(io) => Ok(Box::new(io.into_inner())),
            Err(error) => Err(failure::ours(&error).unwrap_or_else(|| {
                let name = proxy.name();
                let message = format!(
                    "the proxy {name} did not open a tunnel to {host}; check HTTPS_PROXY and NO_PROXY"
                );
                Error::new(Code::Connect, message).detail(error)
            })),
        }
    }

    async fn handshake(
        &self,
        host: &str,
        server_name: Option<ServerName<'static>>,
        io: Boxed,
    ) -> Result<(Boxed, Handshake)> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let server_name = match server_name {
            Some(name) => name,
            None => ServerName::try_from(bare.to_owned())
                .map_err(|_| Error::new(Code::Tls, format!("{host} is not a name that TLS can verify")))?,
        };
        let floor = self.0.settings.floor(bare);
        let stream = TlsConnector::from(self.0.tls.with_floor(floor))
            .connect(server_name, io)
            .await
            .map_err(|error| failure::of_handshake(host, &error))?;
        let handshake = Handshake::of(stream.get_ref().1);
        if handshake.version == "TLSv1_2" && floor == TlsFloor::Tls12 {
            tracing::warn!(host, "TLS 1.2 is in use: an administrator lowered the floor for this host");
        }
        self.0.handshakes.record(host, handshake);
        self.0.observer.event(&Event::Handshake { version: handshake.version, group: handshake.group });
        Ok((Box::new(stream), handshake))
    }
}

/// Looks the name up and connects, each under its own limit, so that it shows which of them is slow.
async fn tcp(uri: Uri, host: &str, resolver: Resolver, limit: Duration) -> Result<Boxed> {
    let addresses = resolver.resolve(host).await?;
    let mut connector = HttpConnector::new_with_resolver(Known(addresses));
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(limit));
    match tokio::time::timeout(limit, connector.call(uri)).await {
        Ok(Ok(io)) => Ok(Box::new(io.into_inner())),
        Ok(Err(error)) => Err(failure::of_connect(host, &error)),
        Err(_) => Err(failure::connect_timeout(host, limit)),
    }
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<Stream>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().dial(uri))
    }
}

/// The first leg of a tunnel. The proxy's own name is an administrator's word, so its address is not checked.
#[derive(Clone)]
struct ToProxy(Dialer);

impl Service<Uri> for ToProxy {
    type Response = TokioIo<Boxed>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = self.0.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().to_ascii_lowercase();
            let secure = uri.scheme_str() == Some("https");
            let resolver = Resolver::unrestricted(dialer.0.resolver.lookups());
            let io = tcp(uri, &host, resolver, dialer.0.connect_limit).await?;
            if secure {
                dialer.proxy_handshake(&host, io).await.map(TokioIo::new)
            } else {
                Ok(TokioIo::new(io))
            }
        })
    }
}

impl Dialer {
    /// TLS to the proxy itself, which speaks HTTP/1.1 to us.
    async fn proxy_handshake(&self, host: &str, io: Boxed) -> Result<Boxed> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let server_name = ServerName::try_from(bare.to_owned())
            .map_err(|_| Error::new(Code::Tls, format!("{host} is not a name that TLS can verify")))?;
        let mut config = (*self.0.tls.with_floor(self.0.settings.floor(bare))).clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = TlsConnector::from(Arc::new(config))
            .connect(server_name, io)
            .await
            .map_err(|error| failure::of_handshake(host, &error))?;
        Ok(Box::new(stream))
    }
}

type Boxed = Box<dyn Duplex>;

/// An open connection; its place in the vault's count ends with it.
pub(crate) struct Stream {
    io: Boxed,
    h2: bool,
    _line: Option<Line>,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        if self.h2 { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
