//! Identity, broker, cache and rotation on one thread, with time, network and vault simulated from a seed: outages,
//! losses, rotations (also two within a second), denials, lagging listings, restarts and new watches in random order.
//! A year of it passes in each run. `KEYWARD_SEED=n` replays the month that failed.

#[path = "simulation/checks.rs"]
mod checks;
#[path = "simulation/entra.rs"]
mod entra;
#[path = "simulation/events.rs"]
mod events;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use keyward_broker::{Broker, BrokerSettings, Watch, WatchItem, schedule};
use keyward_core::observe::Silent;
use keyward_core::{Clock, Code, Content, ErrorKind, IdentityKey, ObjectKey, Snapshot, State, UnixTime};
use keyward_test_support::{Fault, ModelVault, TokioClock};
use tokio::task::JoinHandle;

use entra::{Entra, Proven};

const DAYS: u64 = 31;
const SEEDS: u64 = 12;
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Latency of a listing and a read, a deadline that passed, and the minute for which a refused token is not asked for
/// again, all together.
const SLACK: Duration = Duration::from_secs(120);
const CAPACITY: usize = 16 << 10;

#[test]
fn a_simulated_year_of_faults_and_rotations_breaks_no_promise() {
    const { assert!(SEEDS * DAYS >= 365) };
    let chosen = std::env::var("KEYWARD_SEED").ok().and_then(|text| text.parse().ok());
    let seeds: Vec<u64> = chosen.map_or_else(|| (1..=SEEDS).collect(), |seed| vec![seed]);
    // Each month has a thread to itself; two run at a time.
    let (odd, even): (Vec<_>, Vec<_>) = seeds.into_iter().partition(|seed| seed % 2 == 1);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| even.into_iter().for_each(replayable));
        odd.into_iter().for_each(replayable);
        other.join().expect("the message is above");
    });
}

fn replayable(seed: u64) {
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

async fn month(seed: u64) {
    // The token cache draws its jitter from the thread's generator.
    fastrand::seed(seed);
    let mut world = World::new(seed);
    world.watch_all().await;
    while world.elapsed() < DAY * DAYS as u32 {
        world.end_what_is_over();
        world.act().await;
        let pause = world.random.f64() * 30.0;
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
    entra: Arc<Entra>,
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
    /// The same of token exchanges.
    extra_tokens: usize,
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
    Tokens(Fault),
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
        vault.delay(Duration::from_millis(5), Duration::from_millis([20, 200, 3_000][random.usize(..3)]));
        let interval = MINUTE * [10, 30, 60][random.usize(..3)];
        let settings = BrokerSettings { interval, capacity_bytes: CAPACITY, ..BrokerSettings::default() };
        let names: Vec<_> = (0..random.usize(3..9)).map(|index| format!("object-{index}")).collect();
        for name in &names {
            vault.set(name, "0");
        }
        let identity = ModelVault::identity("client");
        let entra = Entra::new(MINUTE * 60 * [1, 24][random.usize(..2)]);
        let provider = Proven::new(vault.clone(), entra.clone(), (*identity).clone(), clock.clone());
        let (broker, run) = start(&settings, &clock, provider, &identity, random.u64(..));
        let now = clock.wall();
        let truth = Truth { calm_since: now, fresh: now, ..Truth::default() };
        let objects = names.iter().map(|name| (name.clone(), truth.clone())).collect();
        Self {
            random,
            clock,
            vault,
            entra,
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
            extra_tokens: 0,
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
}

impl Drop for World {
    fn drop(&mut self) {
        self.run.abort();
    }
}

fn start(
    settings: &BrokerSettings,
    clock: &Arc<TokioClock>,
    provider: Arc<Proven>,
    identity: &Arc<IdentityKey>,
    seed: u64,
) -> (Arc<Broker>, JoinHandle<()>) {
    let broker = Broker::new(settings.clone(), clock.clone(), Arc::new(Silent), seed);
    broker.attach(identity.clone(), provider);
    let run = tokio::spawn(broker.clone().run());
    (broker, run)
}

fn text(snapshot: &Snapshot) -> String {
    match &snapshot.fetched.as_ref().expect("there is a value").content {
        Content::Secret { value, .. } => value.expose_str().expect("the vault holds text").to_owned(),
        _ => panic!("the vault holds secrets"),
    }
}
