use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use keyward_core::cloud::Cloud;
use keyward_core::config::{Config, Tls, TlsVersion, Vault};
use keyward_core::{Code, Error, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use url::Url;

use crate::ProxySettings;

/// The lowest TLS version that a host may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TlsFloor {
    /// TLS 1.2, which an administrator has to ask for. 1.3 is still preferred.
    Tls12,
    /// TLS 1.3, the default.
    Tls13,
}

impl TlsFloor {
    /// Reads `1.2` or `1.3`, as written in `tls.minimumVersion`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "1.2" => Some(Self::Tls12),
            "1.3" => Some(Self::Tls13),
            _ => None,
        }
    }
}

/// A token bucket for the requests to one vault. The last third of it is kept for pods that start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VaultRate {
    /// Requests that may go at once after a rest; at least 1.
    pub burst: u32,
    /// Requests a second in the long run; at least 1.
    pub per_second: u32,
}

impl Default for VaultRate {
    /// Within Key Vault's limit of 4,000 reads in 10 s, for one node at its busiest.
    fn default() -> Self {
        Self { burst: 1500, per_second: 250 }
    }
}

/// What an administrator says about outbound connections.
#[derive(Clone)]
pub struct EgressSettings {
    /// Roots to trust beside the compiled-in ones, PEM.
    pub extra_roots_pem: Option<Vec<u8>>,
    /// The floor for hosts that [`Self::host_floors`] does not name.
    pub minimum_tls: TlsFloor,
    /// Floors for single hosts, by name without a port.
    pub host_floors: Vec<(String, TlsFloor)>,
    /// Fixed addresses for named hosts, for private endpoints and emulators. Such a host is not asked for in DNS, not
    /// reached through the proxy, and may be local. The address's port stands unless the URL names one.
    pub resolve: Vec<(String, SocketAddr)>,
    /// The proxy for HTTPS, if any. Plain HTTP (metadata service, loopback) never uses one.
    pub proxy: ProxySettings,
    /// Whether names and addresses that lead to loopback, link-local or unspecified addresses are refused.
    pub refuse_local_addresses: bool,
    /// Hosts, by name without a port, that [`Self::refuse_local_addresses`] does not concern.
    pub local_hosts: Vec<String>,
    /// Connections to one vault, and so requests in flight, while it speaks HTTP/1.1; at least 1.
    pub max_connections_http1: usize,
    /// Requests in flight to one vault that speaks HTTP/2; at least 1.
    pub max_streams_http2: usize,
    /// How many requests one vault is sent in a time.
    pub vault_rate: VaultRate,
    /// Opens connections instead of the operating system: for simulations, whose time stands still while a socket
    /// waits. Addresses and proxies mean nothing then.
    pub network: Option<Arc<dyn Network>>,
}

/// A network of one's own. Below it everything stays as it is: TLS, HTTP, limits.
#[async_trait]
pub trait Network: Send + Sync {
    /// Opens a connection to a port of a host, as the URL names it.
    ///
    /// # Errors
    /// Whatever keeps a connection from being opened.
    async fn connect(&self, host: &str, port: u16) -> io::Result<Box<dyn Duplex>>;
}

/// A byte stream in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Default for EgressSettings {
    fn default() -> Self {
        Self {
            extra_roots_pem: None,
            minimum_tls: TlsFloor::Tls13,
            host_floors: Vec::new(),
            resolve: Vec::new(),
            proxy: ProxySettings::none(),
            refuse_local_addresses: false,
            local_hosts: Vec::new(),
            max_connections_http1: 16,
            max_streams_http2: 100,
            vault_rate: VaultRate::default(),
            network: None,
        }
    }
}

impl EgressSettings {
    /// What a configuration says, with proxies from the standard variables. Reads `tls.extraRootsFile`.
    ///
    /// # Errors
    /// `KW_CONFIG_INVALID` when that file cannot be read.
    pub fn from_config(config: &Config, vars: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        Self::from_parts(&config.tls, &config.vaults, vars)
    }

    /// What the parts of a configuration say that concern connections.
    ///
    /// # Errors
    /// As [`Self::from_config`].
    pub fn from_parts(tls: &Tls, vaults: &[Vault], vars: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let floor = |version| match version {
            TlsVersion::V1_2 => TlsFloor::Tls12,
            TlsVersion::V1_3 => TlsFloor::Tls13,
        };
        let fixed = |vault: &Vault| Some((vault.host.name().to_owned(), vault.address?));
        Ok(Self {
            extra_roots_pem: match &tls.extra_roots_file {
                Some(file) => Some(Self::read_roots(file)?),
                None => tls.extra_roots.as_ref().map(|pem| pem.clone().into_bytes()),
            },
            minimum_tls: floor(tls.minimum_version),
            host_floors: tls.hosts.iter().map(|(host, version)| (host.clone(), floor(*version))).collect(),
            resolve: vaults.iter().filter_map(fixed).collect(),
            proxy: ProxySettings::from_vars(vars),
            ..Self::default()
        })
    }

    /// For a process that connects where others say: local addresses are refused, but for what an administrator listed,
    /// which are `vaults` and the token endpoints of `clouds`.
    #[must_use]
    pub fn refusing_local_addresses(self, vaults: &[Vault], clouds: &[Cloud]) -> Self {
        let authority = |cloud: &Cloud| Url::parse(&cloud.authority_host).ok()?.host_str().map(str::to_owned);
        let vaults = vaults.iter().map(|vault| vault.host.name().to_owned());
        let local_hosts = vaults.chain(clouds.iter().filter_map(authority)).collect();
        Self { refuse_local_addresses: true, local_hosts, ..self }
    }

    /// Reads a file of trust anchors.
    ///
    /// # Errors
    /// `KW_CONFIG_INVALID` naming the file.
    pub fn read_roots(path: &Path) -> Result<Vec<u8>> {
        std::fs::read(path).map_err(|error| {
            Error::new(
                Code::ConfigInvalid,
                format!("tls.extraRootsFile {} cannot be read: {error}", path.display()),
            )
        })
    }

    /// The floor of one host.
    pub(crate) fn floor(&self, host: &str) -> TlsFloor {
        self.host_floors
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(host))
            .map_or(self.minimum_tls, |(_, floor)| *floor)
    }
}
