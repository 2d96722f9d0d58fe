//! `keyward-emulator`: the emulator as a process of its own.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use keyward_emulator::{Emulator, ListenerKind, Schedule, StateFile, TlsVersions};
use serde_json::json;

/// Key Vault, Entra, IMDS and App Service for development, with faults. Nothing it holds survives it.
#[derive(Parser)]
#[command(version)]
struct Flags {
    /// Where vaults and Entra listen (TLS).
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Where the instance metadata service listens; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    imds_listen: SocketAddr,
    /// Where the App Service identity endpoint listens.
    #[arg(long, default_value = "127.0.0.1:0")]
    app_service_listen: SocketAddr,
    /// Where the identity-binding token proxy listens (TLS with a CA of its own).
    #[arg(long, default_value = "127.0.0.1:0")]
    token_proxy_listen: SocketAddr,
    /// Where the admin API listens. It has no authentication: keep it on loopback.
    #[arg(long, default_value = "127.0.0.1:0")]
    admin_listen: SocketAddr,
    /// Vaults to create: a name such as `shop`, or a full host name. The first one also answers to 127.0.0.1.
    #[arg(long = "vault", default_value = "shop")]
    vaults: Vec<String>,
    /// Vaults, secrets, identities and assignments to start with (JSON; see the README).
    #[arg(long)]
    state_file: Option<PathBuf>,
    /// Write the CA certificate here; clients must trust it.
    #[arg(long, default_value = "keyward-emulator-ca.pem")]
    ca_file: PathBuf,
    /// Write the token proxy's CA certificate here.
    #[arg(long)]
    token_proxy_ca_file: Option<PathBuf>,
    /// Write all addresses here as JSON once everything listens.
    #[arg(long)]
    ready_file: Option<PathBuf>,
    /// TLS version to offer: 1.3, 1.2 or both.
    #[arg(long, default_value = "1.3", value_parser = ["1.3", "1.2", "both"])]
    tls: String,
    /// Offer HTTP/1.1 only.
    #[arg(long)]
    no_http2: bool,
    /// Seed of versions, ids and the draws of faults.
    #[arg(long)]
    seed: Option<u64>,
    /// Replay a fault schedule: a file, or the name of a shipped one.
    #[arg(long)]
    schedule: Option<String>,
    /// How many times faster than it was to replay the schedule.
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match Box::pin(run(Flags::parse())).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: Flags) -> Result<(), Box<dyn std::error::Error>> {
    let schedule = flags.schedule.as_deref().map(read_schedule).transpose()?;
    let emulator = start(&flags).await?;
    if let Some(schedule) = schedule {
        emulator.play(schedule, flags.speed);
    }
    std::fs::write(&flags.ca_file, emulator.ca_pem())?;
    if let Some(path) = &flags.token_proxy_ca_file {
        std::fs::write(path, emulator.token_proxy_ca_pem())?;
    }
    announce(&flags, &emulator)?;
    stopped().await?;
    emulator.shutdown().await;
    Ok(())
}

async fn start(flags: &Flags) -> Result<Emulator, Box<dyn std::error::Error>> {
    let state = match &flags.state_file {
        Some(path) => Some(StateFile::parse(&std::fs::read(path)?)?),
        None => None,
    };
    let mut builder = Emulator::builder()
        .tls(match flags.tls.as_str() {
            "1.2" => TlsVersions::Tls12,
            "both" => TlsVersions::Both,
            _ => TlsVersions::Tls13,
        })
        .http2(!flags.no_http2)
        .listen(ListenerKind::Https, flags.listen)
        .listen(ListenerKind::Imds, flags.imds_listen)
        .listen(ListenerKind::AppService, flags.app_service_listen)
        .listen(ListenerKind::TokenProxy, flags.token_proxy_listen)
        .listen(ListenerKind::Admin, flags.admin_listen);
    if let Some(seed) = flags.seed {
        builder = builder.seed(seed);
    }
    for vault in &flags.vaults {
        builder = builder.vault(vault);
    }
    if let Some(state) = &state {
        if let Some(tenant_id) = &state.tenant_id {
            builder = builder.tenant(tenant_id);
        }
        if let Some(region) = &state.region {
            builder = builder.region(region);
        }
        if let Some(url) = &state.issuer_url {
            builder = builder.issuer_url(url);
        }
    }
    let emulator = builder.start().await?;
    if let Some(state) = &state {
        state.apply(&emulator)?;
    }
    Ok(emulator)
}

fn read_schedule(name_or_path: &str) -> Result<Schedule, Box<dyn std::error::Error>> {
    match Schedule::named(name_or_path) {
        Some(schedule) => Ok(schedule),
        None => Ok(Schedule::parse(&std::fs::read(name_or_path)?)?),
    }
}

/// Says where everything is: for people on standard output, for scripts in the ready file.
fn announce(flags: &Flags, emulator: &Emulator) -> std::io::Result<()> {
    let ready = json!({
        "vaults": emulator.vault_addr().to_string(),
        "authority": emulator.authority_url(),
        "imds": emulator.imds_url(),
        "appService": emulator.app_service_url(),
        "appServiceHeader": emulator.app_service_secret(),
        "tokenProxy": emulator.token_proxy_url(),
        "tokenProxyName": emulator.token_proxy_name(),
        "admin": emulator.admin_url(),
        "tenantId": emulator.tenant_id(),
        "issuer": emulator.issuer().url(),
        "caFile": flags.ca_file,
    });
    let mut out = std::io::stdout().lock();
    writeln!(out, "vaults       https://{}", emulator.vault_addr())?;
    writeln!(out, "authority    {}  (tenant {})", emulator.authority_url(), emulator.tenant_id())?;
    writeln!(out, "IMDS         {}", emulator.imds_url())?;
    writeln!(out, "App Service  {}", emulator.app_service_url())?;
    writeln!(out, "token proxy  {}  (SNI {})", emulator.token_proxy_url(), emulator.token_proxy_name())?;
    writeln!(out, "admin        {}", emulator.admin_url())?;
    writeln!(out, "CA           {}", flags.ca_file.display())?;
    out.flush()?;
    if let Some(path) = &flags.ready_file {
        // Renamed into place, so that a script that sees the file sees all of it.
        let part = path.with_extension("part");
        std::fs::write(&part, ready.to_string())?;
        std::fs::rename(&part, path)?;
    }
    Ok(())
}

async fn stopped() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}
