use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use keyward_core::config::{Config, Tmpfs};
use keyward_core::observe::{Observer, Silent};
use keyward_core::spec::{ObjectSource, ObjectSpec, Source};
use keyward_core::{
    Clock, Code, Error, FetchRequest, Fetched, Provider, Result, SystemClock, TokenSource, VaultHost,
};
use keyward_delivery::content::{Converted, convert};
use keyward_delivery::conversions::{Conversions, Payer, Settings};
use keyward_egress::{Egress, EgressSettings};
use keyward_identity::{IdentitySettings, TokenCache, token_source};
use keyward_providers::key_vault::{KeyVault, KeyVaultSettings};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use super::report::Report;

/// Walks all hops. A hop that fails ends the way to those behind it; the file system is looked at in any case.
pub(super) async fn walk(config: &Config, report: &mut Report) {
    if let Some((egress, tokens)) = identity(config, report)
        && token(config, &tokens, report).await
    {
        objects(config, &egress, &tokens, report).await;
    }
    file_system(config, report);
}

fn identity(config: &Config, report: &mut Report) -> Option<(Arc<Egress>, Arc<TokenCache>)> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let observer: Arc<dyn Observer> = Arc::new(Silent);
    let vars = |name: &str| std::env::var(name).ok();
    let built = EgressSettings::from_config(config, &vars)
        .and_then(|settings| Egress::new(settings, Arc::clone(&clock), Arc::clone(&observer)))
        .and_then(|egress| {
            let settings = IdentitySettings::from_config(&config.identity, &config.cloud, &vars)?;
            let tokens = token_source(settings, Arc::clone(&egress), clock, observer)?;
            Ok((egress, tokens))
        });
    match built {
        Ok((egress, tokens)) => {
            report.good("identity", tokens.identity());
            Some((egress, tokens))
        }
        Err(error) => {
            report.bad("identity", &error);
            None
        }
    }
}

async fn token(config: &Config, tokens: &Arc<TokenCache>, report: &mut Report) -> bool {
    match tokens.token(&config.cloud.audience).await {
        Ok(token) => {
            let left = token.expires_wall.saturating_sub(SystemClock.wall());
            report.good(
                "token",
                format_args!("for {}, valid for {} minutes", config.cloud.audience, left.as_secs() / 60),
            );
            true
        }
        Err(error) => {
            report.bad("token", &error);
            false
        }
    }
}

async fn objects(config: &Config, egress: &Arc<Egress>, tokens: &Arc<TokenCache>, report: &mut Report) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let vault = KeyVault::new(
        KeyVaultSettings::from_config(config),
        Arc::clone(egress),
        Arc::clone(tokens) as Arc<dyn TokenSource>,
        clock,
    );
    let hosts: BTreeSet<&VaultHost> =
        config.objects.iter().filter_map(ObjectSpec::object).map(keyward_core::ObjectRef::host).collect();
    for host in hosts {
        resolve(config, egress, host, report).await;
        vault.warm_up(host).await;
        match egress.handshake(host.name()) {
            Some(shake) => report
                .good("TLS", format_args!("{host}: {} {} {}", shake.version, shake.group, shake.protocol)),
            None => report.note("TLS", format_args!("{host}: no handshake was completed")),
        }
    }
    let conversions = Conversions::new(Settings::new(None, Arc::new(SystemClock))).payer("");
    for spec in &config.objects {
        object(spec, &*vault, &conversions, report).await;
    }
}

async fn resolve(config: &Config, egress: &Egress, host: &VaultHost, report: &mut Report) {
    if host.name().contains(".privatelink.") {
        report.note(
            "DNS",
            format_args!("{host}: certificates do not name privatelink hosts; use the vault's own name"),
        );
    }
    if let Some(address) =
        config.vaults.iter().find(|vault| vault.host == *host).and_then(|vault| vault.address)
    {
        report.good("DNS", format_args!("{host}: {address}, as configured"));
        return;
    }
    if let Some(proxy) = egress.proxy_for(host.name()) {
        report.good("DNS", format_args!("{host}: resolved by the proxy {proxy}"));
        return;
    }
    match tokio::net::lookup_host((host.name(), 443)).await {
        Ok(addresses) => {
            let addresses: BTreeSet<_> = addresses.map(|address| address.ip()).collect();
            let private = addresses.iter().all(|address| match address {
                std::net::IpAddr::V4(address) => address.is_private() || address.is_loopback(),
                std::net::IpAddr::V6(address) => address.is_unique_local() || address.is_loopback(),
            });
            let shown: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            report.good(
                "DNS",
                format_args!("{host}: {} ({})", shown.join(", "), if private { "private" } else { "public" }),
            );
        }
        Err(_) => report.bad(
            "DNS",
            &Error::new(
                Code::Dns,
                format!("{host} does not resolve; a vault that does not exist has no name either"),
            ),
        ),
    }
}

async fn object(spec: &ObjectSpec, provider: &dyn Provider, conversions: &Payer, report: &mut Report) {
    let Source::Object(source) = &spec.source else {
        report.note("object", format_args!("{}: a template, made of the others", spec.name));
        return;
    };
    let request = FetchRequest { object: source.object.clone(), parts: source.parts() };
    match provider.fetch(&request).await {
        Err(error) if spec.optional && error.kind().is_definite_no() => {
            report.note("object", format_args!("{}: optional, and not there: {error}", spec.name));
        }
        Err(error) => report.bad("object", &error),
        // A password from another entry is only known while serving.
        Ok(fetched) if source.password_from.is_some() => {
            report.good("object", format_args!("{}: version {}", spec.name, fetched.version));
        }
        Ok(fetched) => match converted(source, fetched.clone(), conversions).await {
            Ok(converted) => report.good(
                "object",
                format_args!("{}: version {}, {} bytes", spec.name, fetched.version, converted.value.len()),
            ),
            Err(error) => report.bad("object", &error),
        },
    }
}

async fn converted(source: &ObjectSource, fetched: Fetched, conversions: &Payer) -> Result<Converted> {
    let (source, fetched) = (source.clone(), Arc::new(fetched));
    conversions.run(move |turn| convert(turn, &source, &fetched, None)).await?
}

fn file_system(config: &Config, report: &mut Report) {
    if let Some(files) = &config.files {
        let place = existing(&files.path);
        let tmpfs = statfs(place).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC);
        let shown = files.path.display();
        match (tmpfs, files.tmpfs) {
            (true, _) => report.good("file system", format_args!("{shown} is on tmpfs")),
            (false, Tmpfs::Auto | Tmpfs::Mount) if nix::unistd::geteuid().is_root() => {
                report.good("file system", format_args!("{shown} is not on tmpfs yet; one will be mounted"));
            }
            (false, _) => report.bad(
                "file system",
                &Error::new(
                    Code::TmpfsRequired,
                    format!("{shown} is not on tmpfs, and this user may not mount one"),
                ),
            ),
        }
    }
    if let Some(state) = &config.state {
        if statfs(existing(state)).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC) {
            report.good("file system", format_args!("{} is on tmpfs", state.display()));
        } else {
            report.bad(
                "file system",
                &Error::new(
                    Code::TmpfsRequired,
                    format!("{} would keep secrets, and is not on tmpfs", state.display()),
                ),
            );
        }
    }
    if let Some(directory) = config.grpc.as_ref().and_then(|grpc| grpc.socket.parent()) {
        if nix::unistd::access(directory, nix::unistd::AccessFlags::W_OK).is_ok() {
            report.good("file system", format_args!("{} can hold the socket", directory.display()));
        } else {
            report.bad(
                "file system",
                &Error::new(
                    Code::FileSystem,
                    format!("{} cannot be written, so it cannot hold the socket", directory.display()),
                ),
            );
        }
    }
}

/// The nearest ancestor that exists: what a missing directory would be made on.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"))
}
