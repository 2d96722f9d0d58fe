//! The composition root: the only file that names concrete types.

mod api;
mod upstream;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyward_broker::{Broker, BrokerSettings};
use keyward_core::audit::AuditSink;
use keyward_core::config::Config;
use keyward_core::ledger::Account;
use keyward_core::observe::Observer;
use keyward_core::{Clock, Code, Error, Result, SystemClock};
use keyward_delivery::conversions::{self, Conversions};
use keyward_delivery::notify::Notifier;
use keyward_egress::Files;
use keyward_telemetry::audit::AuditLog;
use keyward_telemetry::health::{Condition, Health};
use keyward_telemetry::signals::{Arrived, Signals};
use keyward_telemetry::stall::Stalls;
use keyward_telemetry::{Metrics, admin, setup as telemetry};
use keyward_volume::{Found, Kept, Parts, Pass};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::application;
use crate::args::{End, Setup};
use crate::engine::{ACTOR, Engine, GRACE, prepare};
use crate::supervisor;
use upstream::Upstream;

/// As metrics and traces name the process.
const NAME: &str = "keyward-sidecar";

/// Values confirmed without a change are kept with their new time this often.
const KEEP: Duration = Duration::from_secs(30);

/// What is told of a change while shutting down is told within this time.
const NOTIFY_DRAIN: Duration = Duration::from_secs(2);

/// Asks a running sidecar whether it is ready, or becomes so in time.
///
/// # Errors
/// `KW_CONNECT`, `KW_TIMEOUT` or `KW_SHUTTING_DOWN`.
pub(crate) async fn probe(socket: &Path, patience: Duration) -> Result<()> {
    keyward_local_api::probe_within(socket, patience).await
}

/// Builds everything, then serves until a signal or the end that was asked for.
///
/// # Errors
/// Configuration, identity files, tmpfs, sockets; where it ends with the files also the first object that is missing.
pub(crate) async fn run(setup: Setup, end: End, stalls: Stalls) -> Result<()> {
    let once = end == End::Written;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (log, traces) = (&setup.config.log, setup.config.traces.as_ref());
    let exporter = telemetry::start_logs(log, traces, NAME, env!("CARGO_PKG_VERSION"), &clock)?;
    let mut signals = Signals::listen()?;
    let metrics = Arc::new(Metrics::new(NAME, env!("CARGO_PKG_VERSION")));
    metrics.started(clock.wall());
    stalls.register(&metrics);
    tokio::spawn(stalls.run());
    register_memory(&metrics);
    let observer: Arc<dyn Observer> = Arc::clone(&metrics) as Arc<dyn Observer>;
    let health = Health::new(&conditions(&setup.config, once));
    health.set(Condition::Configuration, true);
    let log = telemetry::audit_log(&setup.config.audit, &clock, &observer, fastrand::u64(..))?;
    let audit: Arc<dyn AuditSink> = Arc::clone(&log) as Arc<dyn AuditSink>;
    telemetry::register_audit(&metrics, &log);
    let upstream = Upstream::build(&setup.config, &clock, &observer, &audit)?;
    telemetry::configured(&*audit, &*clock, None);
    let stop = CancellationToken::new();
    let exporting = exporter.map(|exporter| {
        metrics.register_counter("traces_dropped_spans", "Spans that were not exported", exporter.dropped());
        let client = upstream.egress.post_client_for(keyward_egress::Target::Otlp);
        tokio::spawn(exporter.run(client, stop.clone().cancelled_owned()))
    });
    if let Some(address) = setup.config.admin.filter(|_| !once) {
        let admin = admin::Admin::bind(address, health.clone(), Arc::clone(&metrics)).await?;
        tracing::info!(address = %admin.address(), "the admin port is listening");
        tokio::spawn(admin.serve(stop.clone().cancelled_owned()));
    }
    let broker = Broker::new(
        broker_settings(&setup.config),
        Arc::clone(&clock),
        Arc::clone(&observer),
        fastrand::u64(..),
    );
    broker.attach(Arc::clone(&upstream.identity), Arc::clone(&upstream.provider));
    register_age(&metrics, &broker, &clock);
    let outputs = setup.config.files.as_ref().map(prepare).transpose()?;
    let kept = match setup.config.state.as_deref().filter(|_| !once) {
        None => None,
        Some(path) => {
            let (kept, found) = Kept::open(path, &upstream.identity)?;
            if !found.objects.is_empty() {
                tracing::info!(
                    objects = found.objects.len(),
                    "serving the kept snapshot until it is confirmed"
                );
            }
            Some((kept, Found { objects: broker.restore(found.objects), ..found }))
        }
    };
    let notifier = Notifier::new(
        upstream.egress.post_client(),
        Arc::clone(&audit),
        Arc::clone(&observer),
        Arc::clone(&clock),
    );
    let account = Account::unlimited();
    // For one pod only, whose owner declares what it costs: there is no deadline.
    let conversions = Conversions::new(conversions::Settings::new(None, Arc::clone(&clock))).payer("");
    let parts = Parts {
        broker: Arc::clone(&broker),
        audit,
        observer,
        clock,
        actor: ACTOR,
        account,
        conversions,
        most_payload: usize::MAX,
    };
    let (ready, is_ready) = watch::channel(false);
    let engine = Engine::new(parts, &setup.config, Arc::clone(&upstream.identity), outputs, kept, notifier);
    let mut serving = None;
    if let Some(grpc) = setup.config.grpc.as_ref().filter(|_| !once) {
        serving = Some(api::start(grpc, &engine.volume, is_ready, stop.clone())?);
        health.set(Condition::Socket, true);
    }
    let rotation = tokio::spawn(Arc::clone(&broker).run());
    let mut sidecar = Sidecar { setup, engine, upstream, broker, health, ready, log: Arc::clone(&log) };
    let result =
        if once { sidecar.deliver_once(&mut signals).await } else { sidecar.serve(&mut signals, end).await };
    sidecar.health.drain();
    sidecar.ready.send_replace(false);
    stop.cancel();
    if let Some(serving) = serving {
        serving.await.map_err(|_| Error::new(Code::Internal, "the local API ended by a defect"))??;
    }
    sidecar.engine.notifier.drain(NOTIFY_DRAIN).await;
    rotation.abort();
    sidecar.engine.keep(Duration::ZERO).await;
    if let Some(exporting) = exporting {
        // Spans that cannot be exported in time are lost, which is what sampling does to others.
        let _ = exporting.await;
    }
    log.close().await?;
    result
}

struct Sidecar {
    setup: Setup,
    engine: Engine,
    upstream: Upstream,
    broker: Arc<Broker>,
    health: Health,
    ready: watch::Sender<bool>,
    log: Arc<AuditLog>,
}

impl Sidecar {
    /// An init container: everything required, or an error that names the first thing missing.
    async fn deliver_once(&mut self, signals: &mut Signals) -> Result<()> {
        tokio::select! {
            () = self.engine.volume.ready() => {}
            _ = signals.next() => return Err(Error::new(Code::ShuttingDown, "ended by a signal before the files were written")),
        }
        let pass = self.engine.pass().await;
        if let Some(error) = pass.failure {
            return Err(error);
        }
        match pass.missing.into_iter().next() {
            None => Ok(()),
            Some((name, error)) => Err(Error::new(error.code(), format!("{name}: {}", error.message()))
                .object(error.object_name().unwrap_or(&name))),
        }
    }

    /// Runs until a signal asks to stop, or until the application has ended where that is the end.
    async fn serve(&mut self, signals: &mut Signals, end: End) -> Result<()> {
        let mut application = std::pin::pin!(async {
            match end {
                End::WithApplication => application::ended(Path::new("/proc")).await,
                End::Never | End::Written => std::future::pending().await,
            }
        });
        let mut files = self.watch_files();
        let mut housekeeping = interval(GRACE);
        housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let heartbeat = self.health.watch("engine", GRACE.saturating_mul(3));
        // Names are known from the start; their values are pending.
        self.pass().await;
        loop {
            heartbeat.beat(GRACE.saturating_mul(3));
            tokio::select! {
                arrived = signals.next() => match arrived {
                    Arrived::Stop => break,
                    Arrived::Reload => self.reload(&mut files),
                },
                ended = &mut application => {
                    ended?;
                    tracing::info!("the application has ended");
                    break;
                }
                () = self.engine.volume.changed() => {}
                changed = files.changed() => {
                    for path in &changed {
                        if self.setup.file.as_ref() == Some(path) {
                            self.reload(&mut files);
                        } else {
                            self.upstream.file_changed(path);
                        }
                    }
                }
                _ = housekeeping.tick() => {
                    self.engine.volume.sweep().await;
                    self.engine.keep(KEEP).await;
                    keyward_memory::hand_back_code();
                    keyward_memory::hand_back_heap();
                    continue;
                }
            }
            self.pass().await;
        }
        heartbeat.end();
        supervisor::tell(supervisor::State::Stopping);
        tracing::info!("stopping");
        Ok(())
    }

    async fn pass(&mut self) {
        let Pass { missing, failure, .. } = self.engine.pass().await;
        let needed = self.engine.volume.declared().specs.iter().filter(|spec| !spec.optional).count();
        self.health.progress(Condition::Objects, needed.saturating_sub(missing.len()), needed);
        self.health.set(Condition::Audit, self.log.is_healthy());
        self.health.set(Condition::Files, failure.is_none() && self.engine.volume.is_complete());
        let ready = self.engine.volume.is_complete();
        if ready && !*self.ready.borrow() {
            let bytes = keyward_memory::hand_back_code();
            tracing::debug!(bytes, "start-up code handed back");
            supervisor::tell(supervisor::State::Ready);
        }
        self.ready.send_if_modified(|now| std::mem::replace(now, ready) != ready);
    }

    fn watch_files(&self) -> Files {
        Files::watch(self.setup.file.iter().chain(self.upstream.files()).cloned().collect())
    }

    /// Applies a new configuration, or keeps the old one whole.
    fn reload(&mut self, files: &mut Files) {
        let Parts { clock, observer, audit, .. } = &self.engine.volume.parts().clone();
        let renewed = self.setup.read_again().and_then(|config| {
            let same = same_upstream(&config, &self.setup.config);
            let upstream = if same { None } else { Some(Upstream::build(&config, clock, observer, audit)?) };
            Ok((config, upstream))
        });
        telemetry::configured(&**audit, &**clock, renewed.as_ref().err().map(Error::code));
        let (config, upstream) = match renewed {
            Ok(renewed) => renewed,
            Err(error) => {
                tracing::error!(%error, "the new configuration is not applied; the old one goes on");
                return;
            }
        };
        for setting in fixed_until_restart(&config, &self.setup.config) {
            tracing::warn!(setting, "a change of this setting takes effect at the next start");
        }
        if let Some(upstream) = upstream {
            self.broker.attach(Arc::clone(&upstream.identity), Arc::clone(&upstream.provider));
            self.upstream = upstream;
        }
        self.broker.configure(broker_settings(&config));
        self.engine.redeclare(&config, Arc::clone(&self.upstream.identity));
        tracing::info!(objects = config.objects.len(), "configuration applied");
        self.setup.config = config;
        *files = self.watch_files();
    }
}

fn same_upstream(new: &Config, old: &Config) -> bool {
    (&new.cloud, &new.identity, &new.vaults, &new.tls) == (&old.cloud, &old.identity, &old.vaults, &old.tls)
}

/// Sockets, mounts and logs are made once.
fn fixed_until_restart(new: &Config, old: &Config) -> Vec<&'static str> {
    let place =
        |config: &Config| config.files.as_ref().map(|files| (files.path.clone(), files.tmpfs, files.size));
    [
        ("files.path", place(new) != place(old)),
        ("state.path", new.state != old.state),
        ("grpc", new.grpc != old.grpc),
        ("admin.listen", new.admin != old.admin),
        ("audit", new.audit != old.audit),
        ("log", new.log != old.log),
        ("traces", new.traces != old.traces),
    ]
    .into_iter()
    .filter_map(|(setting, differs)| differs.then_some(setting))
    .collect()
}

fn conditions(config: &Config, once: bool) -> Vec<Condition> {
    let mut conditions =
        vec![Condition::Configuration, Condition::Objects, Condition::Files, Condition::Audit];
    if config.grpc.is_some() && !once {
        conditions.push(Condition::Socket);
    }
    conditions
}

fn broker_settings(config: &Config) -> BrokerSettings {
    BrokerSettings {
        interval: config.rotation.interval,
        jitter: config.rotation.jitter,
        max_stale: config.rotation.max_stale,
        ..BrokerSettings::default()
    }
}

/// How long ago the value that was confirmed longest ago was confirmed.
fn register_age(metrics: &Metrics, broker: &Arc<Broker>, clock: &Arc<dyn Clock>) {
    let (broker, clock) = (Arc::downgrade(broker), Arc::clone(clock));
    metrics.register_gauge(
        "oldest_confirmation_age_seconds",
        "Age of the confirmation of the value confirmed longest ago",
        move || {
            let oldest = broker
                .upgrade()
                .and_then(|broker| broker.export().iter().map(|saved| saved.confirmed_wall).min());
            oldest.map_or(0, |oldest| {
                i64::try_from(clock.wall().saturating_sub(oldest).as_secs()).unwrap_or(i64::MAX)
            })
        },
    );
}

/// How much of what we hold is locked in memory, and how much did not fit (promise 9).
fn register_memory(metrics: &Metrics) {
    let bytes = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
    metrics.register_gauge("keyward_memory_locked_bytes", "Secret bytes in locked memory", move || {
        bytes(keyward_memory::stats().locked)
    });
    metrics.register_gauge(
        "keyward_memory_overflow_bytes",
        "Secret bytes that did not fit into locked memory",
        move || bytes(keyward_memory::stats().overflow),
    );
}
