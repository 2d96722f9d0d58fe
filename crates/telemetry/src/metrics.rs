//! Metrics in the OpenMetrics text format. Every label value comes from a closed set: names of secrets, pods, versions
//! and callers are in the audit log, never here, so ten thousand objects cost as many series as one.

mod hooks;
mod labels;

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use keyward_core::ledger::Ledger;
use keyward_core::observe::{Event, Lookup, Observer};
use keyward_core::{Code, ErrorKind};
use parking_lot::RwLock;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use hooks::Hook;
use labels::{closed, code, kind, position, status};

/// The media type of [`Metrics::encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Local answers take microseconds, so the buckets begin below those that OpenTelemetry advises for RPC.
const RPC_BUCKETS: [f64; 14] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 10.0];
const CALL_BUCKETS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
const LAG_BUCKETS: [f64; 10] = [1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0];

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Histograms<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;
type SecondsGauge = Gauge<f64, AtomicU64>;

/// All metrics of a process, fed by [`Event`]s.
pub struct Metrics {
    registry: RwLock<Registry>,
    lookups: [Counter; 4],
    rpc: Histograms<2>,
    /// The histograms of `rpc` by method and code, so that a call costs no hashing.
    rpc_grid: Vec<OnceLock<Histogram>>,
    fetches: Counters<3>,
    fetch_duration: Histograms<2>,
    requests: Counters<2>,
    tokens: Counters<2>,
    token_expiry: Family<Labels<1>, Gauge<i64, AtomicI64>>,
    handshakes: Counters<2>,
    throttled: Counter,
    throttled_wait: Counter<f64, AtomicU64>,
    rotations: Counter,
    rotation_lag: Histogram,
    checks: Counters<1>,
    checked_objects: Counter,
    check_requests: Counter,
    objects: [Gauge; 4],
    storm: Gauge,
    writes: Counters<1>,
    write_duration: Histogram,
    files: Gauge,
    kept: Counters<1>,
    notifications: Counters<2>,
    audit_records: Counter,
    audit_lost: Counter,
    started: SecondsGauge,
}

impl Metrics {
    /// Metrics for `binary` (`keyward-sidecar`, …) of `version`.
    #[must_use]
    pub fn new(binary: &'static str, version: &'static str) -> Self {
        let mut registry = Registry::with_prefix("keyward");
        registry.register("build", "What is running", Info::new([("binary", binary), ("version", version)]));
        let lookups: Counters<1> = Family::default();
        let objects: Family<Labels<1>, Gauge> = Family::default();
        let metrics = Self {
            lookups: ["hit", "stale", "miss", "refused"]
                .map(|outcome| lookups.get_or_create_owned(&[("outcome", outcome)])),
            objects: ["fresh", "stale", "refused", "pending"]
                .map(|state| objects.get_or_create_owned(&[("state", state)])),
            rpc: Family::new_with_constructor(|| Histogram::new(RPC_BUCKETS)),
            rpc_grid: vec![OnceLock::new(); const { (labels::RPCS.len() + 1) * (labels::GRPC.len() + 1) }],
            fetches: Family::default(),
            fetch_duration: Family::new_with_constructor(|| Histogram::new(CALL_BUCKETS)),
            requests: Family::default(),
            tokens: Family::default(),
            token_expiry: Family::default(),
            handshakes: Family::default(),
            throttled: Counter::default(),
            throttled_wait: Counter::default(),
            rotations: Counter::default(),
            rotation_lag: Histogram::new(LAG_BUCKETS),
            checks: Family::default(),
            checked_objects: Counter::default(),
            check_requests: Counter::default(),
            storm: Gauge::default(),
            writes: Family::default(),
            write_duration: Histogram::new(CALL_BUCKETS),
            files: Gauge::default(),
            kept: Family::default(),
            notifications: Family::default(),
            audit_records: Counter::default(),
            audit_lost: Counter::default(),
            started: SecondsGauge::default(),
            registry: RwLock::default(),
        };
        metrics.register(&mut registry, lookups, objects);
        *metrics.registry.write() = registry;
        metrics
    }

    fn register(&self, r: &mut Registry, lookups: Counters<1>, objects: Family<Labels<1>, Gauge>) {
        let seconds = || Unit::Seconds;
        r.register("lookups", "Local reads of objects, by how they were answered", lookups);
        r.register_with_unit("rpc_duration", "Calls of the local API", seconds(), self.rpc.clone());
        r.register("fetches", "Calls to a provider", self.fetches.clone());
        r.register_with_unit(
            "fetch_duration",
            "Calls to a provider, retries included",
            seconds(),
            self.fetch_duration.clone(),
        );
        r.register("http_requests", "HTTP requests that left the process", self.requests.clone());
        r.register("token_exchanges", "Token exchanges", self.tokens.clone());
        let expiry = self.token_expiry.clone();
        r.register_with_unit(
            "token_expiry_timestamp",
            "When the token in hand ends, Unix time",
            seconds(),
            expiry,
        );
        r.register("tls_handshakes", "Outbound TLS handshakes", self.handshakes.clone());
        r.register("throttled", "Times that a vault asked to slow down", self.throttled.clone());
        r.register_with_unit(
            "throttled_wait",
            "How long vaults asked to wait, in all",
            seconds(),
            self.throttled_wait.clone(),
        );
        r.register("rotations", "Changes that reached readers", self.rotations.clone());
        let lag = self.rotation_lag.clone();
        r.register_with_unit(
            "rotation_lag",
            "From the change at the provider until readers saw it",
            seconds(),
            lag,
        );
        r.register("rotation_checks", "Rotation checks of one vault", self.checks.clone());
        r.register(
            "rotation_checked_objects",
            "Objects looked at by rotation checks",
            self.checked_objects.clone(),
        );
        r.register(
            "rotation_check_requests",
            "Requests that rotation checks cost",
            self.check_requests.clone(),
        );
        r.register("objects", "Objects by state", objects);
        r.register("storm_active", "1 while a storm of refusals is on", self.storm.clone());
        r.register("file_writes", "Writes of the file tree", self.writes.clone());
        r.register_with_unit(
            "file_write_duration",
            "Writes of the file tree",
            seconds(),
            self.write_duration.clone(),
        );
        r.register("files", "Files in the tree", self.files.clone());
        r.register(
            "snapshot_writes",
            "Times that what a restart must find of a volume was written down",
            self.kept.clone(),
        );
        r.register("notifications", "Change notifications to applications", self.notifications.clone());
        r.register("audit_records", "Audit records written", self.audit_records.clone());
        r.register("audit_lost_records", "Audit records lost", self.audit_lost.clone());
        r.register_with_unit(
            "start_timestamp",
            "When the process started, Unix time",
            seconds(),
            self.started.clone(),
        );
    }

    /// Tells when the process started, wall time.
    pub fn started(&self, at: Duration) {
        self.started.set(at.as_secs_f64());
    }

    /// Adds a gauge that is read at every scrape, such as the arena's bytes or the oldest secret's age. `name` ends
    /// in its unit; the prefix `keyward_` is added when it lacks.
    pub fn register_gauge(
        &self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> i64 + Send + Sync + 'static,
    ) {
        self.registry.write().register_collector(Box::new(Hook::gauge(bare(name), help, read)));
    }

    /// Adds a gauge of seconds that is read at every scrape; see [`Self::register_gauge`].
    pub fn register_seconds(
        &self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> Duration + Send + Sync + 'static,
    ) {
        self.registry.write().register_collector(Box::new(Hook::seconds(bare(name), help, read)));
    }

    /// Adds a counter that is read at every scrape. `name` is without `_total`.
    pub fn register_counter(
        &self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        self.registry.write().register_collector(Box::new(Hook::counter(bare(name), help, read)));
    }

    /// Adds a counter of seconds that is read at every scrape. `name` is without `_total`.
    pub fn register_seconds_counter(
        &self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> Duration + Send + Sync + 'static,
    ) {
        self.registry.write().register_collector(Box::new(Hook::seconds_in_all(bare(name), help, read)));
    }

    /// Adds gauges of what `ledger` holds for all pods together, in bytes or as a count, by kind.
    pub fn register_held(&self, ledger: Arc<Ledger>) {
        let help = "What is held for all pods together, bytes or a count";
        self.registry.write().register_collector(Box::new(Hook::held("held", help, ledger)));
    }

    /// Counts an answered call of the local API; see [`Event::Rpc`].
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "the place of two words in lists of the program"
    )]
    pub fn rpc(&self, method: &'static str, code: &'static str, duration: Duration) {
        let (row, column) = (position(method, labels::RPCS), position(code, labels::GRPC));
        let histogram = self.rpc_grid[row * (labels::GRPC.len() + 1) + column].get_or_init(|| {
            let labels = [("method", closed(method, labels::RPCS)), ("code", closed(code, labels::GRPC))];
            self.rpc.get_or_create_owned(&labels)
        });
        histogram.observe(duration.as_secs_f64());
    }

    /// Everything as text; see [`CONTENT_TYPE`].
    #[must_use]
    #[expect(clippy::expect_used, reason = "a String takes all text")]
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        encode(&mut text, &self.registry.read()).expect("a String takes all text");
        text
    }

    fn upstream(
        &self,
        provider: &'static str,
        operation: &'static str,
        error: Option<Code>,
        duration: Duration,
    ) {
        let (provider, operation) =
            (closed(provider, labels::PROVIDERS), closed(operation, labels::OPERATIONS));
        let labels = [("provider", provider), ("operation", operation), ("result", code(error))];
        self.fetches.get_or_create(&labels).inc();
        let labels = [("provider", provider), ("operation", operation)];
        self.fetch_duration.get_or_create(&labels).observe(duration.as_secs_f64());
    }

    fn token(&self, method: &'static str, error: Option<Code>, expires: Option<Duration>) {
        let method = closed(method, labels::METHODS);
        self.tokens.get_or_create(&[("method", method), ("result", code(error))]).inc();
        if let Some(expires) = expires {
            let seconds = i64::try_from(expires.as_secs()).unwrap_or(i64::MAX);
            self.token_expiry.get_or_create(&[("method", method)]).set(seconds);
        }
    }

    fn check(&self, objects: usize, requests: usize, error: Option<ErrorKind>) {
        self.checks.get_or_create(&[("result", error.map_or("OK", kind))]).inc();
        self.checked_objects.inc_by(objects as u64);
        self.check_requests.inc_by(requests as u64);
    }
}

/// The registry adds the prefix to every name.
fn bare(name: &'static str) -> &'static str {
    name.strip_prefix("keyward_").unwrap_or(name)
}

impl Observer for Metrics {
    fn event(&self, event: &Event) {
        match *event {
            Event::Lookup { outcome } => {
                let [hit, stale, miss, refused] = &self.lookups;
                match outcome {
                    Lookup::Hit => hit.inc(),
                    Lookup::Stale => stale.inc(),
                    Lookup::Miss => miss.inc(),
                    Lookup::Refused => refused.inc(),
                };
            }
            Event::Rpc { method, code, duration } => self.rpc(method, code, duration),
            Event::Upstream { provider, operation, error, duration } => {
                self.upstream(provider, operation, error, duration);
            }
            Event::Request { target, status: number } => {
                let labels = [("target", closed(target, labels::TARGETS)), ("status", status(number))];
                self.requests.get_or_create(&labels).inc();
            }
            Event::Token { method, error, expires_wall } => self.token(method, error, expires_wall),
            Event::Handshake { version, group } => {
                let (version, group) = (closed(version, labels::TLS), closed(group, labels::GROUPS));
                self.handshakes.get_or_create(&[("version", version), ("group", group)]).inc();
            }
            Event::Throttled { wait } => {
                self.throttled.inc();
                self.throttled_wait.inc_by(wait.as_secs_f64());
            }
            Event::Rotated { lag } => {
                self.rotations.inc();
                if let Some(lag) = lag {
                    self.rotation_lag.observe(lag.as_secs_f64());
                }
            }
            Event::Check { objects, requests, error } => self.check(objects, requests, error),
            Event::States { fresh, stale, refused, pending } => {
                for (gauge, count) in self.objects.iter().zip([fresh, stale, refused, pending]) {
                    gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
                }
            }
            Event::Storm { active } => {
                self.storm.set(i64::from(active));
            }
            Event::Written { files, duration, error } => {
                self.writes.get_or_create(&[("result", code(error))]).inc();
                self.write_duration.observe(duration.as_secs_f64());
                if error.is_none() {
                    self.files.set(i64::try_from(files).unwrap_or(i64::MAX));
                }
            }
            Event::Kept { error } => {
                self.kept.get_or_create(&[("result", code(error))]).inc();
            }
            Event::Notified { kind, error } => {
                let labels = [("kind", closed(kind, labels::NOTIFICATIONS)), ("result", code(error))];
                self.notifications.get_or_create(&labels).inc();
            }
            Event::Audit { lost: false } => {
                self.audit_records.inc();
            }
            Event::Audit { lost: true } => {
                self.audit_lost.inc();
            }
        }
    }
}

#[cfg(test)]
mod tests;
