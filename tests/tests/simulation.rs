//! The broker, its cache and its rotation on one thread, with time, network and vault simulated from a seed: outages,
//! losses, rotations (also two within a second), denials, lagging listings, restarts and new watches in random order.
//! A year of it passes in each run. `KEYWARD_SEED=n` replays the month that failed.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use keyward_broker::{Broker, BrokerSettings, Watch, WatchItem, schedule};
use keyward_core::observe::Silent;
use keyward_core::{Clock, Code, Content, ErrorKind, IdentityKey, ObjectKey, Snapshot, State, UnixTime};
use keyward_test_support::{Fault, ModelVault, TokioClock};
use tokio::task::JoinHandle;

const DAYS: u64 = 31;
const SEEDS: u64 = 12;
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Latency of a listing and a read, and a deadline that passed, all together.
const SLACK: Duration = Duration::from_secs(60);
const CAPACITY: usize = 16 << 10;

#[test]
fn a_simulated_year_of_faults_and_rotations_breaks_no_promise() {
    let seeds = match std::env::var("KEYWARD_SEED").ok().and_then(|text| text.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 1..SEEDS + 1,
    };
    assert!(SEEDS * DAYS >= 365);
    for seed in seeds {
        let run = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .expect("a runtime without I/O needs nothing from the system")
                .block_on(month(seed));
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            let text = panic.downcast_ref::<String>().map_or("see above", String::as_str);
            panic!("replay with KEYWARD_SEED={seed}: {text}");
        }
    }
}

async fn month(seed: u64) {
    let mut world = World::new(seed);
    world.watch_all().await;
    while world.elapsed() < DAY * DAYS as u32 {
        world.end_what_is_over();
        world.act().await;
        let pause = world.random.f64() * 20.0;
        world.pass(MINUTE.mul_f64(pause)).await;
        world.observe().await;
    }
    world.calm_down();
    world.pass(world.recovery() + world.bound()).await;
    world.observe().await;
    for name in world.names.clone() {
        let value = world.value(&name).await;
        assert!(world.vault.held_since(&name, &value, world.clock.wall()), "{name} was missed for ever");
    }
    world.check_rate();
}

struct World {
    random: fastrand::Rng,
    clock: Arc<TokioClock>,
    vault: Arc<ModelVault>,
    identity: Arc<IdentityKey>,
    settings: BrokerSettings,
    broker: Arc<Broker>,
    run: JoinHandle<()>,
    watch: Option<Watch>,
    names: Vec<String>,
    objects: BTreeMap<String, Truth>,
    fault: Option<(Trouble, UnixTime)>,
    healthy_since: UnixTime,
    lag: Duration,
    written: u64,
    /// Requests that the supervisor is not to answer for, or only in part.
    extra: f64,
}

/// What the simulation knows about one object.
#[derive(Default, Clone)]
struct Truth {
    denied: Option<(Denial, UnixTime, UnixTime)>,
    calm_since: UnixTime,
    /// Whether this process was given a value, read or restored.
    given: bool,
    /// How it was denied for so long, since it was last fresh, that the no may be believed.
    denied_long: Vec<ErrorKind>,
    fresh: UnixTime,
    sequence: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    Down(Fault),
    Loss(f64),
    Listing(Fault),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Denial {
    Disabled,
    Deleted,
    Forbidden,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let clock = Arc::new(TokioClock::new());
        let vault = ModelVault::new("shop", clock.clone(), random.u64(..));
        vault.delay(Duration::from_millis(5), Duration::from_millis(random.u64(5..3_000)));
        let interval = MINUTE * [10, 20, 30][random.usize(..3)];
        let settings = BrokerSettings { interval, capacity_bytes: CAPACITY, ..BrokerSettings::default() };
        let names: Vec<_> = (0..random.usize(3..9)).map(|index| format!("object-{index}")).collect();
        for name in &names {
            vault.set(name, "0");
        }
        let identity = ModelVault::identity("client");
        let (broker, run) = start(&settings, &clock, &vault, &identity, random.u64(..));
        let now = clock.wall();
        let truth = Truth { calm_since: now, fresh: now, ..Truth::default() };
        let objects = names.iter().map(|name| (name.clone(), truth.clone())).collect();
        Self {
            random,
            clock,
            vault,
            identity,
            settings,
            broker,
            run,
            watch: None,
            names,
            objects,
            fault: None,
            healthy_since: now,
            lag: Duration::ZERO,
            written: 0,
            extra: 0.0,
        }
    }

    fn elapsed(&self) -> Duration {
        self.clock.wall() - TokioClock::EPOCH
    }

    /// Within this time after the last trouble, each object was checked with success.
    fn recovery(&self) -> Duration {
        schedule::slowest(self.settings.interval).max(self.settings.interval.mul_f64(1.1)) + SLACK
    }

    /// Within this time a rotation is visible when nothing is wrong.
    fn bound(&self) -> Duration {
        self.settings.interval.mul_f64(1.0 + self.settings.jitter) + self.lag + SLACK
    }

    fn key(&self, name: &str) -> ObjectKey {
        self.vault.key(&self.identity, name)
    }

    async fn watch_all(&mut self) {
        let mut items = Vec::new();
        for name in self.names.clone() {
            let often = self.random.u8(..4) == 0;
            let refresh = often.then(|| self.settings.interval.mul_f64(0.5 + 0.5 * self.random.f64()));
            items.push(WatchItem { key: self.key(&name), refresh });
        }
        let watch = self.broker.watch(items);
        watch.ready().await;
        self.extra += 2.0 * self.names.len() as f64;
        self.watch = Some(watch);
    }

    async fn act(&mut self) {
        let name = self.names[self.random.usize(..self.names.len())].clone();
        match self.random.u8(..100) {
            0..20 => self.rotate(&name),
            20..25 => {
                self.rotate(&name);
                let within = Duration::from_millis(self.random.u64(1..900));
                self.pass(within).await;
                self.rotate(&name);
            }
            25..28 => self.begin_trouble(),
            28..31 => self.deny(&name),
            31..45 => self.look_up_something_else().await,
            45..48 => {
                self.extra += 2.0;
                let _ = self.broker.refresh(&self.key(&name)).await;
            }
            48..50 => self.restart().await,
            50..52 => self.watch_all().await,
            52..54 => {
                self.settings.jitter = self.random.f64() * 0.2;
                self.broker.configure(self.settings.clone());
            }
            54..56 => {
                self.lag = self.lag.max(Duration::from_secs(self.random.u64(..300)));
                self.vault.lag(self.lag);
            }
            _ => {}
        }
    }

    fn rotate(&mut self, name: &str) {
        // A write would undo a denial of the current version.
        if self.objects[name].denied.is_none() {
            self.written += 1;
            self.vault.set(name, &self.written.to_string());
        }
    }

    fn begin_trouble(&mut self) {
        if self.fault.is_some() {
            return;
        }
        let codes = [
            Code::VaultUnavailable,
            Code::VaultThrottled,
            Code::Connect,
            Code::Dns,
            Code::Tls,
            Code::Timeout,
            Code::VaultProtocol,
            Code::TokenUnavailable,
            Code::TokenThrottled,
            Code::TokenRefused,
            Code::VaultUnauthenticated,
            Code::VaultForbidden,
        ];
        let fault = match self.random.u8(..10) {
            0 => Fault::Hang,
            1 => Fault::RetryAfter(Duration::from_secs(self.random.u64(..7_200))),
            _ => Fault::Code(codes[self.random.usize(..codes.len())]),
        };
        let trouble = match self.random.u8(..10) {
            0..6 => Trouble::Down(fault),
            6..8 => Trouble::Loss(0.05 + 0.9 * self.random.f64()),
            _ => Trouble::Listing(fault),
        };
        let hours = self.random.f64().powi(3) * 8.0;
        let share = if matches!(trouble, Trouble::Loss(_)) { 0.1 } else { 1.0 };
        let lasts = MINUTE.mul_f64(1.0 + 60.0 * hours * share);
        match trouble {
            Trouble::Down(fault) => self.vault.fail(Some(fault)),
            Trouble::Loss(share) => self.vault.lose(share),
            Trouble::Listing(fault) => self.vault.fail_list(Some(fault)),
        }
        // While requests are lost now and then, each object is tried again after seconds.
        let flapping = if matches!(trouble, Trouble::Loss(_)) { lasts.as_secs_f64() / 7.5 } else { 40.0 };
        self.extra += flapping * (self.names.len() + 2) as f64;
        self.fault = Some((trouble, self.clock.wall() + lasts));
    }

    /// One object at a time, so that the others show that it is no storm; and forbidden is excused by their success.
    fn deny(&mut self, name: &str) {
        if self.objects.values().any(|truth| truth.denied.is_some()) {
            return;
        }
        let denial = [Denial::Disabled, Denial::Deleted, Denial::Forbidden][self.random.usize(..3)];
        self.switch(name, denial, true);
        let now = self.clock.wall();
        let until = now + MINUTE.mul_f64(1.0 + 90.0 * self.random.f64());
        self.objects.get_mut(name).expect("known").denied = Some((denial, now, until));
    }

    fn switch(&self, name: &str, denial: Denial, on: bool) {
        match denial {
            Denial::Disabled => self.vault.enable(name, !on),
            Denial::Deleted => self.vault.present(name, !on),
            Denial::Forbidden => self.vault.forbid(name, on),
        }
    }

    fn end_what_is_over(&mut self) {
        let now = self.clock.wall();
        if self.fault.is_some_and(|(_, until)| until <= now) {
            self.fault = None;
            self.vault.fail(None);
            self.vault.lose(0.0);
            self.vault.fail_list(None);
            self.healthy_since = now;
        }
        for name in &self.names {
            self.objects.get_mut(name).expect("known").note_denial(now);
            if let Some((denial, _, until)) = self.objects[name].denied
                && until <= now
            {
                self.switch(name, denial, false);
                let truth = self.objects.get_mut(name).expect("known");
                (truth.denied, truth.calm_since) = (None, now);
            }
        }
    }

    fn calm_down(&mut self) {
        self.fault = self.fault.map(|(trouble, _)| (trouble, Duration::ZERO));
        for truth in self.objects.values_mut() {
            truth.denied = truth.denied.map(|(denial, since, _)| (denial, since, Duration::ZERO));
        }
        self.end_what_is_over();
    }

    async fn look_up_something_else(&mut self) {
        for _ in 0..self.random.usize(1..20) {
            let name = format!("other-{}", self.random.usize(..500));
            if self.random.bool() {
                self.vault.set(&name, &"x".repeat(self.random.usize(..2_000)));
            }
            self.extra += 1.0;
            // What other callers do must not show in what readers of watched objects see.
            let _ = self.broker.get(&self.key(&name)).await;
            // Until the next chance to drop it, one object may be above the limit.
            assert!(self.broker.weight() <= CAPACITY + 4_096, "{} bytes are held", self.broker.weight());
        }
    }

    async fn restart(&mut self) {
        let saved = self.broker.export();
        self.run.abort();
        self.watch = None;
        for (name, truth) in &mut self.objects {
            truth.given = saved.iter().any(|saved| saved.key.request.object.name() == name);
            truth.sequence = 0;
        }
        let seed = self.random.u64(..);
        (self.broker, self.run) = start(&self.settings, &self.clock, &self.vault, &self.identity, seed);
        self.broker.restore(saved);
        self.watch_all().await;
        // First reads meet whatever is going on; what follows a restart is due like after any other trouble.
        self.healthy_since = self.healthy_since.max(self.clock.wall());
    }

    /// Lets time pass and looks at each change as it comes.
    async fn pass(&mut self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        loop {
            let mut watch = self.watch.take().expect("something is watched");
            let changed = tokio::select! {
                biased;
                () = watch.changed() => true,
                () = tokio::time::sleep_until(end) => false,
            };
            for snapshot in watch.snapshots() {
                self.check_sequence(&snapshot);
            }
            self.watch = Some(watch);
            if !changed {
                return;
            }
        }
    }

    fn check_sequence(&mut self, snapshot: &Snapshot) {
        let truth = self.objects.get_mut(snapshot.key.request.object.name()).expect("known");
        assert!(snapshot.sequence >= truth.sequence, "the sequence went back");
        truth.sequence = snapshot.sequence;
    }

    async fn observe(&mut self) {
        self.end_what_is_over();
        for name in self.names.clone() {
            let before = self.clock.wall();
            let result = self.broker.get(&self.key(&name)).await;
            let now = self.clock.wall();
            let (recovery, bound) = (self.recovery(), self.bound());
            let calm_since = self.objects[&name].calm_since.max(self.healthy_since);
            let calm = self.fault.is_none()
                && self.objects[&name].denied.is_none()
                && before - calm_since >= recovery;
            let truth = self.objects.get_mut(&name).expect("known");
            truth.note_denial(now);
            let told =
                format!("{name} at {:?}, {:?}, {:?}", now - TokioClock::EPOCH, self.fault, truth.denied);
            match result {
                Ok(snapshot) => {
                    let value = text(&snapshot);
                    truth.given = true;
                    if snapshot.state == State::Fresh {
                        (truth.denied_long, truth.fresh) = (Vec::new(), before);
                    }
                    assert!(
                        self.vault.held_since(&name, &value, Duration::ZERO),
                        "{told}: {value} was never written"
                    );
                    if calm {
                        assert_eq!(snapshot.state, State::Fresh, "{told}: {:?}", snapshot.error);
                        let visible = self.vault.held_since(&name, &value, before.saturating_sub(bound));
                        assert!(visible, "{told}: {value} is older than {bound:?}");
                    }
                    self.check_sequence(&snapshot);
                }
                Err(error) => {
                    assert!(!calm, "{told}: {error}");
                    let believed = truth.denied_long.contains(&error.kind());
                    let expired =
                        error.code() == Code::StaleLimit && now - truth.fresh > self.settings.max_stale;
                    assert!(!truth.given || believed || expired, "{told}: a reader failed with {error}");
                }
            }
        }
    }

    async fn value(&self, name: &str) -> String {
        let snapshot = self.broker.get(&self.key(name)).await.expect("nothing is wrong");
        text(&snapshot)
    }

    fn check_rate(&self) {
        let shortest = self.settings.interval.mul_f64(0.5 * 0.8);
        let checks = self.elapsed().as_secs_f64() / shortest.as_secs_f64();
        let allowed = checks * (self.names.len() + 2) as f64 + self.extra;
        let requests = self.vault.counts().requests() as f64;
        assert!(requests <= allowed, "{requests} requests, {allowed} expected at most");
    }
}

impl Truth {
    /// A no that lasted for so long may be believed.
    fn note_denial(&mut self, now: UnixTime) {
        if let Some((denial, since, _)) = self.denied
            && now - since >= 15 * MINUTE
        {
            self.denied_long.extend(denial.kind());
        }
    }
}

impl Denial {
    /// Forbidden while others succeed is never believed.
    fn kind(self) -> Option<ErrorKind> {
        match self {
            Self::Disabled => Some(ErrorKind::Disabled),
            Self::Deleted => Some(ErrorKind::NotFound),
            Self::Forbidden => None,
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.run.abort();
    }
}

fn start(
    settings: &BrokerSettings,
    clock: &Arc<TokioClock>,
    vault: &Arc<ModelVault>,
    identity: &Arc<IdentityKey>,
    seed: u64,
) -> (Arc<Broker>, JoinHandle<()>) {
    let broker = Broker::new(settings.clone(), clock.clone(), Arc::new(Silent), seed);
    broker.attach(identity.clone(), vault.clone());
    let run = tokio::spawn(broker.clone().run());
    (broker, run)
}

fn text(snapshot: &Snapshot) -> String {
    match &snapshot.fetched.as_ref().expect("there is a value").content {
        Content::Secret { value, .. } => value.expose_str().expect("the vault holds text").to_owned(),
        _ => panic!("the vault holds secrets"),
    }
}
