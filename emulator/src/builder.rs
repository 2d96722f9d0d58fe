//! Setting an emulator up.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::RwLock;
use tokio_rustls::TlsAcceptor;

use crate::clock::{Clock, OffsetClock, SystemClock};
use crate::counters::Counters;
use crate::emulator::{Addresses, Emulator};
use crate::engine::{Core, ENTRA_HOSTS, ListenerKind};
use crate::faults::Faults;
use crate::identities::Identities;
use crate::issuer::Issuer;
use crate::jwt::TokenSigner;
use crate::rng::Rng;
use crate::server::{Servers, bind};
use crate::tls::{Authority, Certificates, TlsVersions};
use crate::vault::RateLimits;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Why an emulator did not start.
#[derive(Debug)]
pub struct StartError(String);

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the emulator did not start: {}", self.0)
    }
}

impl std::error::Error for StartError {}

impl From<rcgen::Error> for StartError {
    fn from(error: rcgen::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<rustls::Error> for StartError {
    fn from(error: rustls::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<std::io::Error> for StartError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// Settings of an emulator; every one has a default that suits tests.
pub struct Builder {
    clock: Arc<dyn Clock>,
    seed: Option<u64>,
    tenant_id: String,
    region: String,
    issuer_url: String,
    resources: Vec<String>,
    vaults: Vec<String>,
    aliases: Vec<(String, String)>,
    token_lifetime: i64,
    managed_token_lifetime: i64,
    settle_millis: i64,
    limits: Option<RateLimits>,
    app_service_secret: String,
    tls: TlsVersions,
    http2: bool,
    token_proxy_name: String,
    listen: BTreeMap<u8, SocketAddr>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            seed: None,
            tenant_id: "72f988bf-0000-4000-8000-2d7cd011db47".to_owned(),
            region: "westeurope".to_owned(),
            issuer_url: "https://oidc.cluster.test/".to_owned(),
            resources: [
                "https://vault.azure.net",
                "https://vault.azure.cn",
                "https://vault.usgovcloudapi.net",
            ]
            .map(str::to_owned)
            .to_vec(),
            vaults: Vec::new(),
            aliases: Vec::new(),
            token_lifetime: 3_600,
            managed_token_lifetime: 86_400,
            settle_millis: 0,
            limits: Some(RateLimits::AZURE),
            app_service_secret: "853b9a84-5bfa-4b22-a3f3-0b9a43d9ad8a".to_owned(),
            tls: TlsVersions::default(),
            http2: true,
            token_proxy_name: "token-proxy.ests.aks.test".to_owned(),
            listen: BTreeMap::new(),
        }
    }
}

impl Builder {
    /// Reads the time from `clock`; default: the machine's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes versions, ids and the draws of faults replayable.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The tenant of vaults and identities.
    #[must_use]
    pub fn tenant(mut self, tenant_id: &str) -> Self {
        tenant_id.clone_into(&mut self.tenant_id);
        self
    }

    /// The region, which some fault schedules ask for.
    #[must_use]
    pub fn region(mut self, region: &str) -> Self {
        region.clone_into(&mut self.region);
        self
    }

    /// The `iss` of the built-in issuer of service-account tokens.
    #[must_use]
    pub fn issuer_url(mut self, url: &str) -> Self {
        url.clone_into(&mut self.issuer_url);
        self
    }

    /// Adds a vault: a name such as `shop` (then `shop.vault.azure.net`), or a full host name of another cloud.
    #[must_use]
    pub fn vault(mut self, name_or_host: &str) -> Self {
        self.vaults.push(name_or_host.to_owned());
        self
    }

    /// Lets a vault answer to another host, or host and port, too.
    #[must_use]
    pub fn alias(mut self, authority: &str, vault: &str) -> Self {
        self.aliases.push((authority.to_owned(), vault.to_owned()));
        self
    }

    /// Seconds that tokens live: for applications, and for managed and federated identities.
    #[must_use]
    pub fn token_lifetimes(mut self, application: i64, managed: i64) -> Self {
        (self.token_lifetime, self.managed_token_lifetime) = (application, managed);
        self
    }

    /// How long a deletion takes to settle, in milliseconds; default: none.
    #[must_use]
    pub fn deletions_settle_after(mut self, millis: i64) -> Self {
        self.settle_millis = millis;
        self
    }

    /// Replaces Azure's rate limit per vault, or lifts it.
    #[must_use]
    pub fn rate_limits(mut self, limits: Option<RateLimits>) -> Self {
        self.limits = limits;
        self
    }

    /// The value that App Service wants in `X-IDENTITY-HEADER`.
    #[must_use]
    pub fn app_service_secret(mut self, secret: &str) -> Self {
        secret.clone_into(&mut self.app_service_secret);
        self
    }

    /// TLS versions of the vaults and Entra; default: 1.3 only.
    #[must_use]
    pub fn tls(mut self, versions: TlsVersions) -> Self {
        self.tls = versions;
        self
    }

    /// Whether HTTP/2 is offered beside HTTP/1.1; default: yes.
    #[must_use]
    pub fn http2(mut self, offered: bool) -> Self {
        self.http2 = offered;
        self
    }

    /// The only server name (SNI) that the identity-binding proxy takes.
    #[must_use]
    pub fn token_proxy_name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.token_proxy_name);
        self
    }

    /// Where a listener binds; default: a free port of 127.0.0.1.
    #[must_use]
    pub fn listen(mut self, kind: ListenerKind, address: SocketAddr) -> Self {
        self.listen.insert(kind as u8, address);
        self
    }

    /// Builds an emulator without sockets, for [`Emulator::handle`] alone.
    #[must_use]
    pub fn build(self) -> Emulator {
        let core = self.core();
        Emulator::new(Arc::new(core), None)
    }

    fn core(&self) -> Core {
        let rng = Arc::new(self.seed.map_or_else(Rng::from_system, Rng::seeded));
        let clock = Arc::new(OffsetClock::new(self.clock.clone()));
        let core = Core {
            identities: Identities::new(&self.tenant_id, rng.clone()),
            issuer: Issuer::new(&self.issuer_url, clock.clone(), rng.clone()),
            faults: Faults::new(&self.region, Rng::seeded(rng.next())),
            clock,
            rng,
            tenant_id: self.tenant_id.clone(),
            region: self.region.clone(),
            resources: self.resources.clone(),
            signer: TokenSigner::generate(),
            counters: Counters::default(),
            vaults: RwLock::default(),
            hosts: RwLock::default(),
            limits: self.limits,
            settle_millis: self.settle_millis,
            token_lifetime: self.token_lifetime,
            managed_token_lifetime: self.managed_token_lifetime,
            app_service_secret: self.app_service_secret.clone(),
            ca_pem: RwLock::default(),
        };
        for (n, vault) in self.vaults.iter().enumerate() {
            let name = add_vault(&core, vault);
            if n == 0 {
                core.alias("127.0.0.1", &name);
            }
        }
        for (authority, vault) in &self.aliases {
            core.alias(authority, vault);
        }
        core
    }

    /// Builds an emulator and starts its listeners.
    ///
    /// # Errors
    /// An address that cannot be bound, a host name that fits in no certificate.
    pub async fn start(self) -> Result<Emulator, StartError> {
        let core = Arc::new(self.core());
        let certificates =
            Certificates::new(Authority::generate("Keyward emulator CA")?, &certified_names(&core), None)?;
        let proxy_certificates = Certificates::new(
            Authority::generate("Keyward emulator token proxy CA")?,
            std::slice::from_ref(&self.token_proxy_name),
            Some(self.token_proxy_name.clone()),
        )?;
        *core.ca_pem.write() = certificates.ca_pem();
        let tls = TlsAcceptor::from(certificates.server_config(self.tls, self.http2)?);
        let proxy_tls = TlsAcceptor::from(proxy_certificates.server_config(TlsVersions::Both, self.http2)?);

        let servers = Servers::new();
        let mut bound = BTreeMap::new();
        for (kind, tls) in [
            (ListenerKind::Https, Some(tls.clone())),
            (ListenerKind::Imds, None),
            (ListenerKind::AppService, None),
            (ListenerKind::TokenProxy, Some(proxy_tls.clone())),
            (ListenerKind::Admin, None),
        ] {
            let wanted = self.listen.get(&(kind as u8)).copied().unwrap_or(LOOPBACK);
            let (listener, address) = bind(wanted).await?;
            servers.serve(&core, kind, listener, tls);
            bound.insert(kind as u8, address);
        }
        let at = |kind: ListenerKind| bound[&(kind as u8)];
        let addresses = Addresses {
            https: at(ListenerKind::Https),
            imds: at(ListenerKind::Imds),
            app_service: at(ListenerKind::AppService),
            token_proxy: at(ListenerKind::TokenProxy),
            admin: at(ListenerKind::Admin),
            certificates,
            token_proxy_ca: proxy_certificates.ca_pem(),
            token_proxy_name: self.token_proxy_name,
            servers,
            tls,
            proxy_tls,
        };
        Ok(Emulator::new(core, Some(Arc::new(addresses))))
    }
}

/// Adds a vault by name or by host; its name.
pub(crate) fn add_vault(core: &Core, name_or_host: &str) -> String {
    let (name, host) = match name_or_host.strip_suffix(".vault.azure.net") {
        Some(name) => (name, name_or_host.to_owned()),
        // A vault of another cloud goes by its full host name.
        None if name_or_host.contains('.') => (name_or_host, name_or_host.to_owned()),
        None => (name_or_host, format!("{name_or_host}.vault.azure.net")),
    };
    let suffix = host.split_once('.').map(|(_, suffix)| format!("https://{suffix}")).unwrap_or_default();
    let resource = core.resources.iter().find(|known| **known == suffix).unwrap_or(&core.resources[0]);
    core.vault(name, &host, resource);
    name.to_owned()
}

/// Every name that the TLS listener may be reached by.
pub(crate) fn certified_names(core: &Core) -> Vec<String> {
    let mut names: Vec<String> = ["127.0.0.1", "::1"].map(str::to_owned).to_vec();
    names.extend(ENTRA_HOSTS.map(str::to_owned));
    names.extend(
        core.resources
            .iter()
            .filter_map(|resource| resource.strip_prefix("https://"))
            .map(|s| format!("*.{s}")),
    );
    for host in core.hosts.read().keys() {
        let host = host.split(':').next().unwrap_or(host);
        if !host.is_empty() && !names.iter().any(|name| name == host) {
            names.push(host.to_owned());
        }
    }
    names
}
