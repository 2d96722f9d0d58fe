//! One look-up: the hosts file, then all name servers of `resolv.conf` at once. Both files are read anew each time, as
//! `getaddrinfo` does, so that a change needs no restart.
//!
//! Not `getaddrinfo` itself: musl's asks without EDNS, so that a long answer needs TCP, for which it calls `sendmsg`. A
//! process that may pass descriptors over one socket only (docs/adr/0020) is refused that call.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::task::JoinSet;

use super::{Answer, Failure, LIMIT};

/// Name servers that are asked, as in both C libraries (`MAXNS`).
const SERVERS: usize = 3;
/// Names that a search list may lead to; Kubernetes lets a pod have as many.
const SEARCHED: usize = 32;

/// Where names come from.
pub(super) struct Dns {
    resolv_conf: PathBuf,
    hosts: PathBuf,
    /// Of the name servers, UDP and TCP.
    port: u16,
    /// Longest look-up.
    limit: Duration,
}

impl Default for Dns {
    fn default() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into(), port: 53, limit: LIMIT }
    }
}

/// What `resolv.conf` says, with the limits of this process.
struct Servers {
    servers: Vec<NameServerConfig>,
    options: ResolverOpts,
    search: Vec<Name>,
}

impl Dns {
    /// The addresses of a name, those of IPv4 first. Blocks, for no longer than the limit.
    pub(super) fn ask(&self, name: &str) -> Answer {
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, 0)]);
        }
        let known = in_hosts(&text(&self.hosts), name);
        if !known.is_empty() {
            return Ok(known);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(local)?;
        runtime.block_on(async {
            tokio::time::timeout(self.limit, self.search(name)).await.unwrap_or(Err(Failure::Silent))
        })
    }

    /// Asks for one name of the search list after the other. A name server that fails on one of them does not hide the
    /// next, but then nobody can say that there is no such name.
    async fn search(&self, name: &str) -> Answer {
        let servers = self.servers()?;
        let (mut absent, mut failed) = (None, None);
        for name in servers.names(name)? {
            match servers.first_answer(&name).await {
                Err(Failure::NoSuchName(said)) => absent = Some(Failure::NoSuchName(said)),
                Err(failure) => failed = Some(failure),
                found => return found,
            }
        }
        Err(failed.or(absent).unwrap_or_else(|| Failure::NoSuchName("no name to ask for".to_owned())))
    }

    fn servers(&self) -> Result<Servers, Failure> {
        // What cannot be read is skipped, as the C libraries do.
        let (parsed, _) = resolv_conf::Config::parse_with_errors(text(&self.resolv_conf).as_bytes());
        let servers: Vec<_> = parsed
            .nameservers
            .iter()
            .take(SERVERS)
            .map(|server| {
                let mut server = NameServerConfig::udp_and_tcp(server.into());
                for connection in &mut server.connections {
                    connection.port = self.port;
                }
                server
            })
            .collect();
        if servers.is_empty() {
            return Err(Failure::NoAnswer(format!("{} names no name server", self.resolv_conf.display())));
        }
        let search = parsed.get_last_search_or_domain().filter_map(|name| absolute(name).ok());
        let mut options = ResolverOpts::default();
        options.ndots = usize::try_from(parsed.ndots).unwrap_or(usize::MAX);
        options.timeout = Duration::from_secs(u64::from(parsed.timeout.max(1)));
        // The first is no repetition.
        options.attempts = usize::try_from(parsed.attempts.saturating_sub(1)).unwrap_or(usize::MAX);
        options.edns0 = true;
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        Ok(Servers { servers, options, search: search.take(SEARCHED).collect() })
    }
}

impl Servers {
    /// The absolute names to ask for, in their order: as it stands first if it has as many dots as `ndots` says.
    fn names(&self, name: &str) -> Result<Vec<Name>, Failure> {
        let as_it_stands = absolute(name).map_err(|error| Failure::NoSuchName(error.to_string()))?;
        if name.ends_with('.') || as_it_stands.is_localhost() {
            return Ok(vec![as_it_stands]);
        }
        let mut relative = as_it_stands.clone();
        relative.set_fqdn(false);
        let mut names: Vec<Name> =
            self.search.iter().filter_map(|domain| relative.clone().append_domain(domain).ok()).collect();
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        names.insert(if dots >= self.options.ndots { 0 } else { names.len() }, as_it_stands);
        Ok(names)
    }

    /// Asks all servers at once. The first that knows the name, or knows that there is none, is believed; those that fail
    /// are not.
    async fn first_answer(&self, name: &Name) -> Answer {
        let mut asked = JoinSet::new();
        for server in &self.servers {
            asked.spawn(from_server(server.clone(), self.options.clone(), name.clone()));
        }
        let mut failed = Failure::NoAnswer("no name server was asked".to_owned());
        while let Some(answer) = asked.join_next().await {
            match answer.map_err(local)? {
                Err(failure @ (Failure::NoAnswer(_) | Failure::Silent | Failure::Local(_))) => {
                    failed = failure;
                }
                usable => return usable,
            }
        }
        Err(failed)
    }
}

/// Asks one server for the addresses of both families. One that does not know EDNS is asked again without.
async fn from_server(server: NameServerConfig, mut options: ResolverOpts, name: Name) -> Answer {
    loop {
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server.clone()]);
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options.clone())
            .build()
            .map_err(local)?;
        let (v4, v6) = tokio::join!(
            resolver.lookup(name.clone(), RecordType::A),
            resolver.lookup(name.clone(), RecordType::AAAA)
        );
        if options.edns0 && [&v4, &v6].into_iter().any(knows_no_edns) {
            options.edns0 = false;
            continue;
        }
        let addresses: Vec<SocketAddr> = [&v4, &v6]
            .into_iter()
            .flatten()
            .flat_map(Lookup::answers)
            .filter_map(|record| record.data.ip_addr())
            .map(|address| SocketAddr::new(address, 0))
            .collect();
        if !addresses.is_empty() {
            return Ok(addresses);
        }
        // One family that failed may have had the address.
        let errors: Vec<NetError> = [v4, v6].into_iter().filter_map(Result::err).collect();
        return Err(match errors.iter().find(|error| !is_absent(error)) {
            Some(error) => Failure::NoAnswer(format!("{}: {error}", server.ip)),
            None => Failure::NoSuchName(format!("{} says that there is no address of {name}", server.ip)),
        });
    }
}

fn knows_no_edns(answer: &Result<Lookup, NetError>) -> bool {
    use ResponseCode::{BADVERS, FormErr, NotImp};
    matches!(answer, Err(NetError::Dns(DnsError::ResponseCode(FormErr | NotImp | BADVERS))))
}

/// That there is no such name, or no address of that family, and not a failure.
fn is_absent(error: &NetError) -> bool {
    use ResponseCode::{NXDomain, NoError};
    matches!(error, NetError::Dns(DnsError::NoRecordsFound(none)) if matches!(none.response_code, NXDomain | NoError))
}

/// The addresses that a hosts file gives to a name, those of IPv4 first.
fn in_hosts(hosts: &str, name: &str) -> Vec<SocketAddr> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut addresses: Vec<SocketAddr> = hosts
        .lines()
        .filter_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let address = words.next()?.parse().ok()?;
            words.any(|word| word.eq_ignore_ascii_case(name)).then(|| SocketAddr::new(address, 0))
        })
        .collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses
}

/// A name as it goes over the wire. Underscores are allowed: host names have them against all rules.
fn absolute(name: &str) -> Result<Name, hickory_resolver::proto::ProtoError> {
    let mut name = Name::from_ascii(name)?;
    name.set_fqdn(true);
    Ok(name)
}

/// A file that is missing says nothing.
fn text(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn local(error: impl Display) -> Failure {
    Failure::Local(error.to_string())
}

#[cfg(test)]
mod tests;
