use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::Name;
use keyward_core::{Code, Error, Result};

use crate::EgressSettings;
use crate::lookup::Lookups;

/// Which addresses a name leads to, and whether we may go there.
#[derive(Clone, Default)]
pub(crate) struct Resolver {
    policy: Arc<Policy>,
    lookups: Lookups,
}

#[derive(Default)]
struct Policy {
    fixed: HashMap<String, SocketAddr>,
    refuse_local: bool,
    exempt: HashSet<String>,
}

impl Resolver {
    pub(crate) fn new(settings: &EgressSettings, lookups: Lookups) -> Self {
        let fixed =
            settings.resolve.iter().map(|(name, address)| (name.to_ascii_lowercase(), *address)).collect();
        // `local_hosts` are configured as vault hosts are, so a port may follow.
        let exempt =
            settings.local_hosts.iter().map(|host| without_port(host).to_ascii_lowercase()).collect();
        let policy = Policy { fixed, refuse_local: settings.refuse_local_addresses, exempt };
        Self { policy: Arc::new(policy), lookups }
    }

    /// Refuses nothing and knows no fixed address: for proxies and metadata services, which an administrator names.
    pub(crate) fn unrestricted(lookups: Lookups) -> Self {
        Self { policy: Arc::default(), lookups }
    }

    /// The pool that it looks names up in.
    pub(crate) fn lookups(&self) -> Lookups {
        self.lookups.clone()
    }

    pub(crate) fn is_fixed(&self, host: &str) -> bool {
        self.policy.fixed.contains_key(host)
    }

    /// Checks a host that is written as an address, which is never resolved.
    pub(crate) fn check_literal(&self, host: &str) -> Result<()> {
        match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(address) => self.check(host, address),
            Err(_) => Ok(()),
        }
    }

    /// The addresses of a host, which may be an address itself; looking it up has a limit of its own.
    ///
    /// # Errors
    /// `KW_DNS`; `KW_ADDRESS_REFUSED`.
    pub(crate) async fn resolve(&self, host: &str) -> Result<Vec<SocketAddr>> {
        let name = host.to_ascii_lowercase();
        if let Some(address) = self.policy.fixed.get(&name) {
            return Ok(vec![*address]);
        }
        if let Ok(address) = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            self.check(&name, address)?;
            return Ok(vec![SocketAddr::new(address, 0)]);
        }
        let addresses = self.lookups.of(&name).await?;
        for address in &addresses {
            self.check(&name, address.ip())?;
        }
        Ok(addresses)
    }

    fn check(&self, host: &str, address: IpAddr) -> Result<()> {
        if !self.policy.refuse_local || !is_local(address) || self.policy.exempt.contains(host) {
            return Ok(());
        }
        let message = format!(
            "{host} leads to the local address {address}, which is refused; an administrator may list the host under `vaults`"
        );
        Err(Error::new(Code::AddressRefused, message))
    }
}

fn without_port(host: &str) -> &str {
    host.rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
        .map_or(host, |(name, _)| name)
}

/// Loopback, link-local, unspecified, and their IPv4-mapped forms.
fn is_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            address.is_loopback() || address.is_link_local() || matches!(address.octets(), [0, ..])
        }
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unicast_link_local() || address.is_unspecified()
        }
    }
}

/// Addresses that are known, in the place of a resolver.
#[derive(Clone)]
pub(crate) struct Known(pub(crate) Vec<SocketAddr>);

impl tower_service::Service<Name> for Known {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Infallible;
    type Future = Ready<std::result::Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        ready(Ok(self.0.clone().into_iter()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusing(local_hosts: &[&str]) -> Resolver {
        Resolver::new(
            &EgressSettings {
                refuse_local_addresses: true,
                local_hosts: local_hosts.iter().map(|host| (*host).to_owned()).collect(),
                resolve: vec![("Shop.example".to_owned(), "127.0.0.1:8443".parse().unwrap())],
                ..EgressSettings::default()
            },
            Lookups::default(),
        )
    }

    #[test]
    fn local_address_literals_are_refused_in_every_spelling() {
        for local in [
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "0.0.0.0",
            "[::1]",
            "[fe80::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:169.254.1.1]",
        ] {
            assert_eq!(
                refusing(&[]).check_literal(local).unwrap_err().code(),
                Code::AddressRefused,
                "{local}"
            );
        }
        for fine in ["10.0.0.4", "203.0.113.1", "[2001:db8::1]", "shop.vault.azure.net"] {
            assert!(refusing(&[]).check_literal(fine).is_ok(), "{fine}");
        }
    }

    #[test]
    fn a_listed_host_may_be_local() {
        assert!(refusing(&["127.0.0.1:8443"]).check_literal("127.0.0.1").is_ok());
    }

    #[tokio::test]
    async fn a_name_that_leads_to_loopback_is_refused_unless_listed() {
        let error = refusing(&[]).resolve("localhost").await.unwrap_err();
        assert_eq!(error.code(), Code::AddressRefused);
        assert!(refusing(&["LOCALHOST"]).resolve("localhost").await.is_ok());
    }

    #[tokio::test]
    async fn a_fixed_name_is_not_looked_up() {
        let found = refusing(&[]).resolve("SHOP.example").await.unwrap();
        assert_eq!(found, ["127.0.0.1:8443".parse::<SocketAddr>().unwrap()]);
    }
}
