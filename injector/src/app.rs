//! The composition root: the only file that names concrete types.

use std::sync::Arc;
use std::time::Duration;

use keyward_core::config::injector::{Certificates, InjectorConfig};
use keyward_core::{Clock, Code, Error, Result, SystemClock};
use keyward_kubernetes::{Cluster, ClusterSettings};
use keyward_telemetry::health::{Condition, Health};
use keyward_telemetry::signals::{Arrived, Signals};
use keyward_telemetry::stall::Stalls;
use keyward_telemetry::{Metrics, admin, setup as telemetry};
use tokio_util::sync::CancellationToken;

use crate::certificates::{FileKeeper, Keeper, Names, Serving};
use crate::counts::Counts;
use crate::lookups::{self, Lookups};
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
    let keeping = keep(&config.certificates, &cluster, &serving, &clock, &health)?;
    let lookups = Lookups::new(cluster);
    let webhook = Arc::new(Webhook { injection: config.injection, lookups, counts });
    let server = Server::bind(config.listen, serving, webhook).await?;
    tracing::info!(address = %server.address()?, "listening");
    let stop = CancellationToken::new();
    if let Some(address) = config.admin {
        let admin = admin::Admin::bind(address, health.clone(), metrics).await?;
        tracing::info!(address = %admin.address(), "the admin port is listening");
        tokio::spawn(admin.serve(stop.clone().cancelled_owned()));
    }
    let begins = CancellationToken::new();
    let ending = Ending { begins: begins.clone(), linger: LINGER, finish: FINISH };
    let serving = tokio::spawn(server.serve(ending));

    let heartbeat = health.watch("supervisor", 3 * BEAT);
    let mut tick = tokio::time::interval(BEAT);
    loop {
        tokio::select! {
            arrived = signals.next() => match arrived {
                Arrived::Stop => break,
                Arrived::Reload => tracing::info!("settings are read at start; the chart starts new pods when they change"),
            },
            _ = tick.tick() => heartbeat.beat(3 * BEAT),
        }
    }
    tracing::info!("stopping once every question is answered");
    health.drain();
    begins.cancel();
    let ended = serving.await;
    keeping.abort();
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

fn keep(
    certificates: &Certificates,
    cluster: &Cluster,
    serving: &Arc<Serving>,
    clock: &Arc<dyn Clock>,
    health: &Health,
) -> Result<tokio::task::JoinHandle<()>> {
    let serving = Arc::clone(serving);
    let health = health.clone();
    let is_well = move |well| health.set(Condition::Certificate, well);
    Ok(match certificates {
        Certificates::Files { directory } => {
            tokio::spawn(FileKeeper { directory: directory.clone(), serving }.run(is_well))
        }
        Certificates::OwnCa { namespace, secret, service, webhook, lease } => {
            let names = Names {
                secret: secret.clone(),
                webhook: webhook.clone(),
                lease: lease.clone(),
                dns: vec![format!("{service}.{namespace}.svc")],
                replica: replica(),
            };
            let objects = cluster.own_objects(namespace)?;
            tokio::spawn(Keeper { objects, names, serving, clock: Arc::clone(clock) }.run(is_well))
        }
    })
}

/// A pod's name is its host name; a suffix keeps a restarted container apart from its former self.
fn replica() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{:08x}", host.trim(), fastrand::u32(..))
}
