//! The composition root: the only file that names concrete types.

use std::sync::Arc;
use std::time::Duration;

use keyward_core::config::injector::{CertificateSource, Certificates, InjectorConfig};
use keyward_core::{Clock, Code, Error, Result, SystemClock};
use keyward_kubernetes::{Cluster, ClusterSettings};
use keyward_telemetry::health::{Condition, Health};
use keyward_telemetry::signals::{Arrived, Signals};
use keyward_telemetry::stall::Stalls;
use keyward_telemetry::{Metrics, admin, setup as telemetry};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::certificates::{FileKeeper, Keeper, Names, Own, Serving};
use crate::counts::Counts;
use crate::lookups::{self, Lookups};
use crate::paths::Paths;
use crate::probe::Probes;
use crate::server::{Ending, Server};
use crate::webhook::Webhook;

/// As metrics name the process.
const NAME: &str = "keyward-injector";
/// Until every node's service rules have forgotten a replica that goes.
const LINGER: Duration = Duration::from_secs(4);
/// An API server waits ten seconds for an answer; the chart lets the pod live for fifteen.
const FINISH: Duration = Duration::from_secs(8);
/// How often the process shows that it is alive.
const BEAT: Duration = Duration::from_secs(15);
/// After which time without that it counts as hung.
const PATIENCE: Duration = Duration::from_secs(45);

/// Serves until a signal.
///
/// # Errors
/// Configuration, trust anchors, the address, the credentials for the API server.
pub(crate) async fn run(config: InjectorConfig, stalls: Stalls) -> Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    telemetry::start_logs(&config.log, None, NAME, env!("CARGO_PKG_VERSION"), &clock)?;
    let mut signals = Signals::listen()?;
    let metrics = Arc::new(Metrics::new(NAME, env!("CARGO_PKG_VERSION")));
    metrics.started(clock.wall());
    stalls.register(&metrics);
    tokio::spawn(stalls.run());
    let counts = Arc::new(Counts::default());
    counts.register(&metrics);
    let health = Health::new(&[Condition::Configuration, Condition::Certificate]);
    lookups::extra_roots(&config.injection.tls)?;
    health.set(Condition::Configuration, true);

    let cluster = Cluster::connect(&cluster_settings(), Arc::clone(&clock)).await?;
    let serving = Arc::new(Serving::default());
    let paths = Arc::new(Paths::default());
    let mut keeping = keep(&config.certificates, &cluster, (&serving, &paths), &clock, &health)?;
    let lookups = Lookups::new(cluster);
    let webhook = Arc::new(Webhook::new(config.injection, lookups, counts, paths));
    let server = Server::bind(config.listen, Arc::clone(&serving), webhook).await?;
    let address = server.address()?;
    keeping.spawn(Probes::bind(address.port(), serving)?.serve());
    tracing::info!(%address, "listening");
    let stop = CancellationToken::new();
    if let Some(address) = config.admin {
        let admin = admin::Admin::bind(address, health.clone(), metrics).await?;
        tracing::info!(address = %admin.address(), "the admin port is listening");
        tokio::spawn(admin.serve(stop.clone().cancelled_owned()));
    }
    let begins = CancellationToken::new();
    let ending = Ending { begins: begins.clone(), linger: LINGER, finish: FINISH };
    let serving = tokio::spawn(server.serve(ending));

    let heartbeat = health.watch("supervisor", PATIENCE);
    let mut tick = tokio::time::interval(BEAT);
    loop {
        tokio::select! {
            arrived = signals.next() => match arrived {
                Arrived::Stop => break,
                Arrived::Reload => tracing::info!("settings are read at start; the chart starts new pods when they change"),
            },
            _ = tick.tick() => heartbeat.beat(PATIENCE),
        }
    }
    tracing::info!("stopping once every question is answered");
    health.drain();
    begins.cancel();
    let ended = serving.await;
    keeping.shutdown().await;
    heartbeat.end();
    stop.cancel();
    ended.map_err(|_| Error::new(Code::Internal, "the server ended by a defect"))
}

fn cluster_settings() -> ClusterSettings {
    ClusterSettings {
        kubeconfig: std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty()).map(Into::into),
        ..ClusterSettings::default()
    }
}

/// Starts what keeps the certificate and the paths.
fn keep(
    certificates: &Certificates,
    cluster: &Cluster,
    (serving, paths): (&Arc<Serving>, &Arc<Paths>),
    clock: &Arc<dyn Clock>,
    health: &Health,
) -> Result<JoinSet<()>> {
    let look = {
        let (serving, paths, health) = (Arc::clone(serving), Arc::clone(paths), health.clone());
        move || health.set(Condition::Certificate, serving.is_there() && paths.is_there())
    };
    let mut keeping = JoinSet::new();
    let certificate = match &certificates.source {
        CertificateSource::OwnCa { service } => Some(Own {
            serving: Arc::clone(serving),
            dns: vec![format!("{service}.{}.svc", certificates.namespace)],
        }),
        CertificateSource::Files { directory } => {
            let keeper = FileKeeper { directory: directory.clone(), serving: Arc::clone(serving) };
            keeping.spawn(keeper.run(look.clone()));
            None
        }
    };
    let names = Names {
        secret: certificates.secret.clone(),
        webhook: certificates.webhook.clone(),
        lease: certificates.lease.clone(),
        replica: replica(),
    };
    let objects = cluster.own_objects(&certificates.namespace)?;
    let (paths, clock) = (Arc::clone(paths), Arc::clone(clock));
    keeping.spawn(Keeper { objects, names, certificate, paths, clock }.run(look));
    Ok(keeping)
}

/// A pod's name is its host name; a suffix keeps a restarted container apart from its former self.
fn replica() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{:08x}", host.trim(), fastrand::u32(..))
}
