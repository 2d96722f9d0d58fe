//! A running (or socketless) emulator in the hands of a test.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::io::DuplexStream;
use tokio_rustls::TlsAcceptor;

use crate::access::Permission;
use crate::builder::{Builder, add_vault, certified_names};
use crate::counters::Counters;
use crate::engine::{Core, ListenerKind};
use crate::faults::{Faults, Schedule};
use crate::identities::{Identities, Identity};
use crate::issuer::Issuer;
use crate::reply::HandlerOutcome;
use crate::server::Servers;
use crate::tls::Certificates;
use crate::vault::VaultHandle;

/// An emulated cloud. Cheap to clone; the listeners stop when the last clone is dropped.
#[derive(Clone)]
pub struct Emulator {
    core: Arc<Core>,
    running: Option<Arc<Addresses>>,
}

/// Where the listeners are.
pub(crate) struct Addresses {
    pub(crate) https: SocketAddr,
    pub(crate) imds: SocketAddr,
    pub(crate) app_service: SocketAddr,
    pub(crate) token_proxy: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) token_proxy_ca: String,
    pub(crate) token_proxy_name: String,
    pub(crate) servers: Servers,
    pub(crate) tls: TlsAcceptor,
    pub(crate) proxy_tls: TlsAcceptor,
}

impl Emulator {
    /// Starts to set one up.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn new(core: Arc<Core>, running: Option<Arc<Addresses>>) -> Self {
        Self { core, running }
    }

    /// Answers one request without any socket: the way for simulations, which bring their own network. Latency passes
    /// in tokio's time.
    pub async fn handle(&self, kind: ListenerKind, request: Request<Bytes>) -> HandlerOutcome {
        self.core.handle(kind, request).await
    }

    /// The client's end of a new connection to a listener, TLS and HTTP included but without a socket: for clients
    /// that live in paused time, where waiting for the kernel would count as idling.
    ///
    /// # Panics
    /// When the emulator was built and not started.
    #[must_use]
    pub fn connect(&self, kind: ListenerKind) -> DuplexStream {
        let running = self.running();
        let tls = match kind {
            ListenerKind::Https => Some(running.tls.clone()),
            ListenerKind::TokenProxy => Some(running.proxy_tls.clone()),
            ListenerKind::Imds | ListenerKind::AppService | ListenerKind::Admin => None,
        };
        running.servers.connect(&self.core, kind, tls)
    }

    /// A vault by its name, created if there is none: `shop`, or a full host name.
    #[must_use]
    pub fn vault(&self, name_or_host: &str) -> VaultHandle {
        let before = self.core.vaults.read().len();
        let name = add_vault(&self.core, name_or_host);
        if self.core.vaults.read().len() > before {
            self.recertify();
        }
        let vault = self.core.vaults.read()[&name].clone();
        VaultHandle::new(self.core.clone(), vault)
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Lets a vault answer to another host, or host and port, too.
    ///
    /// # Panics
    /// When the host fits in no certificate.
    pub fn alias(&self, authority: &str, vault: &str) {
        self.core.alias(authority, vault);
        self.recertify();
    }

    fn recertify(&self) {
        if let Some(running) = &self.running {
            let renamed = running.certificates.rename(&certified_names(&self.core));
            renamed.expect("a vault's host name fits in a certificate");
        }
    }

    /// The directory.
    #[must_use]
    pub fn identities(&self) -> &Identities {
        &self.core.identities
    }

    /// Gives an identity rights in a vault.
    pub fn assign(
        &self,
        identity: &Identity,
        vault: &str,
        permissions: impl IntoIterator<Item = Permission>,
    ) {
        self.vault(vault).assign(identity, permissions);
    }

    /// The built-in issuer of service-account tokens, and the keys of others.
    #[must_use]
    pub fn issuer(&self) -> &Issuer {
        &self.core.issuer
    }

    /// The faults in force.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.core.faults
    }

    /// Replays an incident from now on, `speed` times faster than it was.
    pub fn play(&self, schedule: Schedule, speed: f64) {
        self.core.faults.play(Arc::new(schedule), speed, self.core.clock.unix_millis());
    }

    /// The names of schedules still under way.
    #[must_use]
    pub fn playing(&self) -> Vec<String> {
        self.core.faults.playing(self.core.clock.unix_millis())
    }

    /// Counts of requests and connections.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.core.counters
    }

    /// Moves the emulator's clock on, on top of whatever clock it was given.
    pub fn advance_clock(&self, by: Duration) {
        self.core.clock.advance(by);
    }

    /// What the emulator takes for the time, in Unix seconds.
    #[must_use]
    pub fn now(&self) -> i64 {
        self.core.clock.unix_millis() / 1000
    }

    /// The tenant's id.
    #[must_use]
    pub fn tenant_id(&self) -> &str {
        &self.core.tenant_id
    }

    /// The value that App Service wants in `X-IDENTITY-HEADER`.
    #[must_use]
    pub fn app_service_secret(&self) -> &str {
        &self.core.app_service_secret
    }

    /// An access token for an identity, as Entra would issue it now.
    #[must_use]
    pub fn mint_access_token(&self, identity: &Identity, resource: &str, lifetime: Duration) -> String {
        let lifetime = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX / 4);
        self.core.access_token(identity, resource, self.now(), lifetime)
    }

    /// Stops the listeners; requests under way get half a second.
    pub async fn shutdown(self) {
        if let Some(running) = &self.running {
            running.servers.shutdown().await;
        }
    }

    /// The certificate authority of vaults and Entra, as PEM.
    #[must_use]
    pub fn ca_pem(&self) -> String {
        self.running().certificates.ca_pem()
    }

    /// The TLS listener that serves all vaults by host name, and Entra.
    #[must_use]
    pub fn vault_addr(&self) -> SocketAddr {
        self.running().https
    }

    /// Entra, reachable without overriding name resolution: `https://localhost:PORT`.
    #[must_use]
    pub fn authority_url(&self) -> String {
        format!("https://localhost:{}", self.running().https.port())
    }

    /// The instance metadata service: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn imds_url(&self) -> String {
        format!("http://{}", self.running().imds)
    }

    /// The App Service identity endpoint, as `IDENTITY_ENDPOINT` holds it.
    #[must_use]
    pub fn app_service_url(&self) -> String {
        format!("http://{}/msi/token", self.running().app_service)
    }

    /// The identity-binding token proxy, as `AZURE_KUBERNETES_TOKEN_PROXY` holds it.
    #[must_use]
    pub fn token_proxy_url(&self) -> String {
        format!("https://{}", self.running().token_proxy)
    }

    /// The token proxy's certificate authority, as PEM.
    #[must_use]
    pub fn token_proxy_ca_pem(&self) -> String {
        self.running().token_proxy_ca.clone()
    }

    /// The token proxy's server name, as `AZURE_KUBERNETES_SNI_NAME` holds it.
    #[must_use]
    pub fn token_proxy_name(&self) -> String {
        self.running().token_proxy_name.clone()
    }

    /// The admin API: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.running().admin)
    }

    fn running(&self) -> &Addresses {
        self.running.as_ref().expect("listeners exist after Builder::start, not after Builder::build")
    }
}
