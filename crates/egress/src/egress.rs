use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use keyward_core::observe::{Event, Observer};
use keyward_core::{Clock, Code, Error, HttpPost, Result, VaultHost};
use rustls::RootCertStore;
use rustls_pki_types::ServerName;

use crate::client::{self, Client};
use crate::dial::{Dialer, Parts};
use crate::gate::{Gate, Gates, Limits, Protocol};
use crate::handshake::Handshakes;
use crate::lookup::Lookups;
use crate::post::PostClient;
use crate::request::{Request, Response, Target, Trust};
use crate::resolve::Resolver;
use crate::roots::{self, TlsConfigs};
use crate::{EgressSettings, Handshake, ProxySettings, TlsFloor, VaultTransport, body, failure};

/// For the TCP connection with all addresses of a host, once its name is looked up.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The same for what is on this machine: where there is no metadata service, nobody should wait long to learn it.
const NEAR_CONNECT_LIMIT: Duration = Duration::from_secs(2);

const USER_AGENT: &str = concat!("keyward/", env!("CARGO_PKG_VERSION"));

/// The way out: every connection to another machine is opened here. Cheap to share, one for each process.
pub struct Egress {
    settings: Arc<EgressSettings>,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn Observer>,
    handshakes: Arc<Handshakes>,
    gates: Arc<Gates>,
    lookups: Lookups,
    /// HTTPS by the public and extra roots. Replaced as a whole when the roots change.
    public: ArcSwap<Client>,
    /// Plain HTTP to the metadata service and loopback: no proxy, no name to resolve.
    plain: Client,
}

impl Egress {
    /// Prepares the client; no connection is opened.
    ///
    /// # Errors
    /// `KW_CONFIG_INVALID` when the extra roots cannot be read.
    pub fn new(
        settings: EgressSettings,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> Result<Arc<Self>> {
        warn_of_lowered_floors(&settings);
        let roots = roots::public_roots(settings.extra_roots_pem.as_deref())?;
        let settings = Arc::new(settings);
        let (handshakes, gates) = <(Arc<Handshakes>, Arc<Gates>)>::default();
        let lookups = Lookups::default();
        let tls = TlsConfigs::new(roots, Arc::clone(&clock))?;
        let parts = |resolver, proxy| Parts {
            settings: Arc::clone(&settings),
            resolver,
            proxy,
            tls: tls.clone(),
            server_name: None,
            connect_limit: CONNECT_LIMIT,
            gates: Arc::clone(&gates),
            handshakes: Arc::clone(&handshakes),
            observer: Arc::clone(&observer),
        };
        let public = parts(Resolver::new(&settings, lookups.clone()), settings.proxy.clone());
        let mut plain = parts(Resolver::unrestricted(lookups.clone()), ProxySettings::none());
        plain.connect_limit = NEAR_CONNECT_LIMIT;
        Ok(Arc::new(Self {
            public: ArcSwap::from_pointee(client::build(Dialer::new(public), settings.max_connections_http1)),
            plain: client::build(Dialer::new(plain), 1),
            settings,
            clock,
            observer,
            handshakes,
            gates,
            lookups,
        }))
    }

    /// Trusts the compiled-in roots and those in `pem` from now on. Requests under way finish on their connections,
    /// new ones open new connections.
    ///
    /// # Errors
    /// `KW_CONFIG_INVALID` when the roots cannot be read; the old ones stay.
    pub fn reload_roots(&self, pem: Option<&[u8]>) -> Result<()> {
        let resolver = Resolver::new(&self.settings, self.lookups.clone());
        let dialer = self.dialer(roots::public_roots(pem)?, resolver, self.settings.proxy.clone(), None)?;
        self.public.store(Arc::new(client::build(dialer, self.settings.max_connections_http1)));
        Ok(())
    }

    /// Trust in one server by a CA of its own (`ca_pem`; without it, by the public and configured roots), which is sent
    /// and must prove `server_name` if given, else the URL's host. It is reached without a proxy.
    ///
    /// # Errors
    /// `KW_CONFIG_INVALID` when the CA or the name cannot be read.
    pub fn trust(&self, ca_pem: Option<&[u8]>, server_name: Option<&str>) -> Result<Trust> {
        let name = |text: &str| {
            ServerName::try_from(text.to_owned())
                .map_err(|_| Error::new(Code::ConfigInvalid, "the TLS server name is not a DNS name"))
        };
        let server_name = server_name.map(name).transpose()?;
        let roots = match ca_pem {
            Some(pem) => roots::parse_roots(pem)?,
            None => roots::public_roots(self.settings.extra_roots_pem.as_deref())?,
        };
        let resolver = Resolver::new(
            &EgressSettings { resolve: self.settings.resolve.clone(), ..EgressSettings::default() },
            self.lookups.clone(),
        );
        let dialer = self.dialer(roots, resolver, ProxySettings::none(), server_name)?;
        Ok(Trust(Arc::new(client::build(dialer, 1))))
    }

    fn dialer(
        &self,
        roots: RootCertStore,
        resolver: Resolver,
        proxy: ProxySettings,
        server_name: Option<ServerName<'static>>,
    ) -> Result<Dialer> {
        Ok(Dialer::new(Parts {
            settings: Arc::clone(&self.settings),
            resolver,
            proxy,
            tls: TlsConfigs::new(roots, Arc::clone(&self.clock))?,
            server_name,
            connect_limit: CONNECT_LIMIT,
            gates: Arc::clone(&self.gates),
            handshakes: Arc::clone(&self.handshakes),
            observer: Arc::clone(&self.observer),
        }))
    }

    /// Sends one request once and reads the answer whole, whatever its status. Redirects are answers like any other.
    ///
    /// # Errors
    /// `KW_DNS`, `KW_CONNECT`, `KW_TLS*`, `KW_ADDRESS_REFUSED`, `KW_TIMEOUT`, `KW_RESPONSE_TOO_LARGE`, or the
    /// target's protocol code when the answer is cut short or not HTTP.
    pub async fn send(&self, request: Request) -> Result<Response> {
        self.exchange(request, None).await
    }

    /// As [`Self::send`], telling `gate` what becomes of the connection.
    pub(crate) async fn exchange(&self, request: Request, gate: Option<&Arc<Gate>>) -> Result<Response> {
        let target = request.target;
        let result = self.exchange_uncounted(request, gate).await;
        let status = result.as_ref().map_or(0, |response| response.status);
        self.observer.event(&Event::Request { target: target.as_str(), status });
        result
    }

    async fn exchange_uncounted(&self, request: Request, gate: Option<&Arc<Gate>>) -> Result<Response> {
        let client = match (&request.trust, request.is_plain()?) {
            (Some(trust), _) => (*trust.0).clone(),
            (None, true) => self.plain.clone(),
            (None, false) => (**self.public.load()).clone(),
        };
        let Request { target, deadline, max_response, .. } = request;
        let host = request.url.host_str().unwrap_or_default().to_owned();
        let mut message = message(request)?;
        let mut captured = capture_connection(&mut message);
        let answered = tokio::time::timeout(deadline, async {
            let response = answer(&client, message, &mut captured, gate)
                .await
                .map_err(|error| failure::of_request(target, &host, &error))?;
            let (head, incoming) = response.into_parts();
            let body = body::read(incoming, max_response)
                .await
                .map_err(|failure| failure::of_body(target, &host, max_response, failure))?;
            Ok(Response { status: head.status.as_u16(), headers: head.headers, body })
        });
        match answered.await {
            Ok(result) => {
                if let (Err(error), Some(gate)) = (&result, gate)
                    && captured.connection_metadata().is_none()
                {
                    gate.unconnected(error);
                }
                result
            }
            Err(_) => {
                let error = failure::deadline(&host, deadline);
                give_up(&captured, gate, &error);
                Err(error)
            }
        }
    }

    /// The transport for one vault, to be plugged into the Azure SDK. All transports of a vault share one gate.
    #[must_use]
    pub fn vault_transport(self: &Arc<Self>, host: &VaultHost) -> Arc<VaultTransport> {
        let limits = Limits {
            http1: self.settings.max_connections_http1,
            http2: self.settings.max_streams_http2,
            rate: self.settings.vault_rate,
        };
        let gate = self.gates.of(host.as_str(), limits, &self.observer);
        Arc::new(VaultTransport::new(Arc::clone(self), host.clone(), gate))
    }

    /// The client for change notifications: plain HTTP to loopback, HTTPS elsewhere.
    #[must_use]
    pub fn post_client(self: &Arc<Self>) -> Arc<dyn HttpPost> {
        self.post_client_for(Target::Notify)
    }

    /// As [`Self::post_client`], counted under `target`.
    #[must_use]
    pub fn post_client_for(self: &Arc<Self>, target: Target) -> Arc<dyn HttpPost> {
        Arc::new(PostClient::new(Arc::clone(self), target))
    }

    /// What the last TLS handshake with `host` (without a port) agreed on.
    #[must_use]
    pub fn handshake(&self, host: &str) -> Option<Handshake> {
        self.handshakes.last(host)
    }

    /// The proxy, as `host:port`, that a request to `host` goes through.
    #[must_use]
    pub fn proxy_for(&self, host: &str) -> Option<String> {
        self.settings.proxy.for_host(host)
    }

    /// The clock that deadlines in headers are read by.
    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }
}

/// The answer's head; tells `gate` as soon as the request has its connection, which is before it is answered.
async fn answer(
    client: &Client,
    message: http::Request<Full<Bytes>>,
    captured: &mut CaptureConnection,
    gate: Option<&Arc<Gate>>,
) -> std::result::Result<http::Response<Incoming>, hyper_util::client::legacy::Error> {
    let Some(gate) = gate else { return client.request(message).await };
    let mut answer = std::pin::pin!(client.request(message));
    let protocol = tokio::select! {
        biased;
        connected = captured.wait_for_connection_metadata() => connected.as_ref().map(|connected| {
            if connected.is_negotiated_h2() { Protocol::Http2 } else { Protocol::Http1 }
        }),
        result = &mut answer => return result,
    };
    if let Some(protocol) = protocol {
        gate.connected(protocol);
    }
    answer.await
}

/// A connection that missed a deadline is not used again: an HTTP/2 one could be dead and take every request with it.
fn give_up(captured: &CaptureConnection, gate: Option<&Arc<Gate>>, error: &Error) {
    match &*captured.connection_metadata() {
        Some(connected) => {
            connected.poison();
            if let Some(gate) = gate {
                gate.cool();
            }
        }
        None => {
            if let Some(gate) = gate {
                gate.unconnected(error);
            }
        }
    }
}

fn message(request: Request) -> Result<http::Request<Full<Bytes>>> {
    let mut url = request.url;
    url.set_fragment(None);
    let uri: Uri = url
        .as_str()
        .parse()
        .map_err(|_| Error::new(Code::AddressRefused, "the URL cannot be sent over HTTP"))?;
    let mut message = http::Request::new(Full::new(request.body.into_bytes()));
    *message.method_mut() = request.method;
    *message.uri_mut() = uri;
    *message.headers_mut() = request.headers;
    message.headers_mut().remove(header::HOST);
    message.headers_mut().entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
    Ok(message)
}

fn warn_of_lowered_floors(settings: &EgressSettings) {
    if settings.minimum_tls == TlsFloor::Tls12 {
        tracing::warn!(
            "the TLS floor of every outbound connection is lowered to 1.2 by `tls.minimumVersion`"
        );
    }
    for (host, floor) in &settings.host_floors {
        if *floor == TlsFloor::Tls12 {
            tracing::warn!(host, "the TLS floor of this host is lowered to 1.2 by `tls.hosts`");
        }
    }
}

/// Longest time that one try of a vault request may take.
pub(crate) const VAULT_DEADLINE: Duration = Duration::from_secs(10);
