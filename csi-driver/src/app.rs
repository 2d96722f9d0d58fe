//! The broker's composition root: the only file that names concrete types.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyward_broker::{Broker, BrokerSettings};
use keyward_core::audit::AuditSink;
use keyward_core::config::node::{CsiDriverFacts, NodeConfig};
use keyward_core::ledger::Ledger;
use keyward_core::observe::Observer;
use keyward_core::{Clock, Code, Error, Result, SystemClock};
use keyward_delivery::conversions::{self, Conversions};
use keyward_egress::{Egress, EgressSettings, Files};
use keyward_kubernetes::{Cluster, ClusterSettings};
use keyward_telemetry::health::{Condition, Health};
use keyward_telemetry::signals::{Arrived, Signals};
use keyward_telemetry::stall::Stalls;
use keyward_telemetry::{Metrics, admin, setup as telemetry};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::args::Setup;
use crate::descriptors;
use crate::facts::Facts;
use crate::identities::{self, Identities};
use crate::mounts::{Mounts, Socket};
use crate::node::{self, Node};
use crate::registration::{self, watched};
use crate::snapshots::Snapshots;
use crate::state::State;
use crate::taint;

/// As metrics and traces name the process.
const NAME: &str = "keyward-csi-driver";
/// Values confirmed without a change are looked at this often, to be kept with their new time.
const CONFIRM: Duration = Duration::from_secs(60);

/// Builds everything, then serves until a signal or until the mounter is gone.
///
/// # Errors
/// Configuration, trust anchors, sockets, the state directory.
pub(crate) async fn run(setup: Setup, mounts: Mounts, stalls: Stalls) -> Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let config = &setup.config;
    let exporter =
        telemetry::start_logs(&config.log, config.traces.as_ref(), NAME, env!("CARGO_PKG_VERSION"), &clock)?;
    let mut signals = Signals::listen()?;
    let metrics = Arc::new(Metrics::new(NAME, env!("CARGO_PKG_VERSION")));
    metrics.started(clock.wall());
    stalls.register(&metrics);
    tokio::spawn(stalls.run());
    let observer: Arc<dyn Observer> = Arc::clone(&metrics) as Arc<dyn Observer>;
    let health = Health::new(&conditions(config));
    health.set(Condition::Configuration, true);
    let log = telemetry::audit_log(&config.audit, &clock, &observer, fastrand::u64(..))?;
    telemetry::register_audit(&metrics, &log);
    let audit: Arc<dyn AuditSink> = Arc::clone(&log) as Arc<dyn AuditSink>;
    telemetry::configured(&*audit, &*clock, None);
    let stop = CancellationToken::new();

    let vars = |name: &str| std::env::var(name).ok();
    let egress = Egress::new(
        EgressSettings {
            // A pod must not make a privileged process connect to its own node (promise 8).
            refuse_local_addresses: true,
            local_hosts: local_hosts(config),
            ..EgressSettings::from_parts(&config.tls, &config.vaults, &vars)?
        },
        Arc::clone(&clock),
        Arc::clone(&observer),
    )?;
    let exporting = exporter.map(|exporter| {
        metrics.register_counter("traces_dropped_spans", "Spans that were not exported", exporter.dropped());
        let client = egress.post_client_for(keyward_egress::Target::Otlp);
        tokio::spawn(exporter.run(client, stop.clone().cancelled_owned()))
    });
    let broker =
        Broker::new(broker_settings(config), Arc::clone(&clock), Arc::clone(&observer), fastrand::u64(..));
    let cluster = connect(&setup, &clock).await?;
    let facts = Facts::new(config.csi_driver, &setup.driver_name, || {
        cluster.as_ref().map(|cluster| cluster.driver_object())
    })?;
    let deadline = Some(config.limits.conversion_deadline);
    let settings = conversions::Settings::new(deadline, Arc::clone(&clock));
    // A volume that is refused and tried again at once would else cost its size once more each time.
    let conversions = Conversions::new(settings.prepared_by(keyward_memory::hand_back_heap));
    let node = Node::new(node::Parts {
        identities: Identities::new(identities::Parts {
            broker: Arc::clone(&broker),
            egress: Arc::clone(&egress),
            vaults: config.vaults.clone(),
            audit: Arc::clone(&audit),
            observer: Arc::clone(&observer),
            clock: Arc::clone(&clock),
        }),
        settings: node::Settings {
            node_id: setup.node_id.clone(),
            driver_name: setup.driver_name.clone(),
            kubelet_dir: setup.kubelet_dir.clone(),
            config: config.clone(),
        },
        state: State::new(directory(&setup.state_dir.join("volumes"))?),
        snapshots: Snapshots::new(directory(&setup.state_dir.join("snapshot"))?)?,
        broker: Arc::clone(&broker),
        mounts: mounts.clone(),
        cluster,
        facts,
        audit,
        observer,
        clock,
        health: health.clone(),
        crowd: keyward_local_api::Crowd::new(),
        conversions: conversions.clone(),
        ledger: Ledger::new(config.limits.ledger(descriptors::raise())),
    });
    register_node(&metrics, &node);
    if let Some(address) = config.admin {
        let admin = admin::Admin::bind(address, health.clone(), Arc::clone(&metrics)).await?;
        tracing::info!(address = %admin.address(), "the admin port is listening");
        tokio::spawn(admin.serve(stop.clone().cancelled_owned()));
    }
    node.restore().await?;
    let rotation = tokio::spawn(Arc::clone(&broker).run());
    tokio::spawn(Arc::clone(&node).sweep_abandoned());

    // Kubelet calls as soon as it finds the registration: the CSI socket is first.
    let again = Arc::new(Notify::new());
    let csi = node.blocking(|mounts| mounts.listen(Socket::Csi)).await?;
    let serving =
        tokio::spawn(registration::serve_csi(Arc::clone(&node), csi, Arc::clone(&again), stop.clone()));
    if config.registration.enabled {
        let endpoint = setup.endpoint.display().to_string();
        tokio::spawn(registration::serve_registration(Arc::clone(&node), endpoint, again, stop.clone()));
    }
    if let Some(key) = config.startup_taint.clone() {
        tokio::spawn(taint::watch(Arc::clone(&node), key));
    }
    keyward_memory::hand_back_code();

    let result = supervise(&setup, &node, &egress, &mounts, &mut signals, log.as_ref()).await;
    health.drain();
    conversions.close();
    stop.cancel();
    ended(serving).await;
    rotation.abort();
    node.renew_kept(Duration::ZERO).await;
    if let Some(exporting) = exporting {
        ended(exporting).await;
    }
    log.close().await?;
    result
}

/// Waits for what ends the process, and applies what an administrator changes meanwhile.
async fn supervise(
    setup: &Setup,
    node: &Arc<Node>,
    egress: &Egress,
    mounts: &Mounts,
    signals: &mut Signals,
    log: &keyward_telemetry::audit::AuditLog,
) -> Result<()> {
    let hangup = watched(mounts.hangup()?)?;
    let roots = setup.config.tls.extra_roots_file.clone();
    let mut files = Files::watch(setup.file.iter().chain(&roots).cloned().collect());
    let mut facts = node.facts_changed();
    let mut config = setup.config.clone();
    let heartbeat = node.health.watch("supervisor", CONFIRM.saturating_mul(3));
    let mut tick = tokio::time::interval(CONFIRM);
    loop {
        node.health.set(Condition::Driver, node.is_ready());
        node.health.set(Condition::Audit, log.is_healthy());
        tokio::select! {
            arrived = signals.next() => match arrived {
                Arrived::Stop => {
                    tracing::info!("stopping; volumes stay mounted");
                    heartbeat.end();
                    return Ok(());
                }
                Arrived::Reload => reload(setup, node, &mut config),
            },
            () = gone(&hangup) => {
                return Err(Error::new(Code::Internal, "the mounter is gone; the driver ends with it and is started anew"));
            }
            changed = files.changed() => for path in changed {
                if Some(&path) == roots.as_ref() {
                    match EgressSettings::read_roots(&path).and_then(|pem| egress.reload_roots(Some(&pem))) {
                        Ok(()) => tracing::info!(path = %path.display(), "trust anchors read again"),
                        Err(error) => tracing::warn!(%error, "the old trust anchors stay in use"),
                    }
                } else {
                    reload(setup, node, &mut config);
                }
            },
            () = facts.changed() => {}
            _ = tick.tick() => {
                keyward_memory::hand_back_code();
                keyward_memory::hand_back_heap();
                // Alive is who reaches the mounter, not who merely runs.
                match node.is_alive().await {
                    Ok(()) => heartbeat.beat(CONFIRM.saturating_mul(3)),
                    Err(error) => tracing::error!(%error, "the mounter does not answer"),
                }
                node.identities.sweep();
                // A value may seem older after a restart by a hundredth of what it may be, never younger.
                node.renew_kept(config.rotation.max_stale.checked_div(100).unwrap_or_default().max(CONFIRM)).await;
            }
        }
    }
}

/// Returns when the other end of the mounter's socket is closed. Replies make it readable too.
async fn gone(hangup: &AsyncFd<OwnedFd>) {
    while let Ok(mut readable) = hangup.readable().await {
        let mut look = [PollFd::new(hangup.get_ref(), PollFlags::RDHUP)];
        let closed = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR;
        if poll(&mut look, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok()
            && look[0].revents().intersects(closed)
        {
            return;
        }
        readable.clear_ready();
    }
}

/// Rotation applies at once; what sockets, clients and volumes were made of, at the next start.
fn reload(setup: &Setup, node: &Node, config: &mut NodeConfig) {
    let renewed = setup.read_again();
    telemetry::configured(&*node.audit, &*node.clock, renewed.as_ref().err().map(Error::code));
    match renewed {
        Ok(new) if new == *config => {}
        Ok(new) => {
            node.broker.configure(broker_settings(&new));
            let only_rotation = NodeConfig { rotation: config.rotation, ..new.clone() } == *config;
            if only_rotation {
                tracing::info!("configuration applied");
            } else {
                tracing::warn!(
                    "rotation is applied; what else has changed takes effect when the driver is started anew"
                );
            }
            *config = new;
        }
        Err(error) => tracing::error!(%error, "the new configuration is not applied; the old one goes on"),
    }
}

/// Hosts that may be local because an administrator names them: listed vaults, token endpoints of clouds of his own,
/// the cluster's token proxy.
fn local_hosts(config: &NodeConfig) -> Vec<String> {
    let origins = config.clouds.iter().map(|cloud| cloud.authority_host.as_str());
    let origins = origins.chain(config.identity_binding.as_ref().map(|binding| binding.proxy.as_str()));
    let host = |origin: &str| {
        let rest = origin.strip_prefix("https://").unwrap_or(origin);
        rest.split('/').next().unwrap_or(rest).to_owned()
    };
    config.vaults.iter().map(|vault| vault.host.as_str().to_owned()).chain(origins.map(host)).collect()
}

/// A directory that the mounter made ready.
fn directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| {
        Error::new(Code::FileSystem, format!("{} cannot be opened ({errno})", path.display()))
    })
}

async fn connect(setup: &Setup, clock: &Arc<dyn Clock>) -> Result<Option<Arc<Cluster>>> {
    let settings = ClusterSettings {
        kubeconfig: setup.kubeconfig.clone(),
        node: setup.node_id.clone(),
        driver_name: setup.driver_name.clone(),
        ..ClusterSettings::default()
    };
    match Cluster::connect(&settings, Arc::clone(clock)).await {
        Ok(cluster) => Ok(Some(Arc::new(cluster))),
        Err(error) if setup.kubeconfig.is_some() || setup.config.csi_driver == CsiDriverFacts::Check => {
            Err(error)
        }
        Err(error) => {
            tracing::warn!(%error, "there is no Kubernetes API: no classes, no status, no events");
            Ok(None)
        }
    }
}

fn broker_settings(config: &NodeConfig) -> BrokerSettings {
    let defaults = BrokerSettings::default();
    BrokerSettings {
        interval: config.rotation.interval,
        jitter: config.rotation.jitter,
        max_stale: config.rotation.max_stale,
        capacity_bytes: config
            .limits
            .cache_bytes
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(defaults.capacity_bytes),
        ..defaults
    }
}

fn conditions(config: &NodeConfig) -> Vec<Condition> {
    let mut conditions =
        vec![Condition::Configuration, Condition::Socket, Condition::Audit, Condition::Driver];
    if config.registration.enabled {
        conditions.push(Condition::Registration);
    }
    conditions
}

fn register_node(metrics: &Metrics, node: &Arc<Node>) {
    let counted = Arc::downgrade(node);
    metrics.register_gauge("keyward_volumes", "Volumes that are published", move || {
        counted.upgrade().map_or(0, |node| i64::try_from(node.volumes().len()).unwrap_or(i64::MAX))
    });
    let bytes = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
    metrics.register_held(Arc::clone(&node.ledger));
    let crowd = Arc::clone(&node.crowd);
    metrics.register_seconds_counter(
        "keyward_paced_seconds",
        "For how long pods were put off because they had used up their share of the thread that answers calls",
        move || crowd.put_off(),
    );
    metrics.register_gauge("keyward_memory_locked_bytes", "Secret bytes in locked memory", move || {
        bytes(keyward_memory::stats().locked)
    });
    metrics.register_gauge(
        "keyward_memory_overflow_bytes",
        "Secret bytes that did not fit into locked memory",
        move || bytes(keyward_memory::stats().overflow),
    );
}

/// A task that ended by a defect was reported by the panic hook.
async fn ended<T>(task: JoinHandle<T>) {
    let _ = task.await;
}
