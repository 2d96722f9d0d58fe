use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use keyward_core::observe::{Lookup, Observer};
use keyward_core::{Clock, Code, Error, IdentityKey, ObjectKey, Provider, Result, Snapshot, State};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::cache::Cache;
use crate::entry::Entry;
use crate::settings::BrokerSettings;
use crate::vault::Vaults;

/// What callers, reads and the supervisor have in common. Locks are taken in the order cache, entry, vaults, and none
/// is held across an await.
pub(crate) struct Shared {
    pub(crate) settings: ArcSwap<BrokerSettings>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) cache: RwLock<Cache>,
    pub(crate) vaults: Vaults,
    /// Tells the supervisor to look again.
    pub(crate) wake: Notify,
    /// When it will look by itself, milliseconds on the boot clock.
    asleep_until: AtomicU64,
    pub(crate) watches: AtomicU64,
    providers: RwLock<HashMap<Arc<IdentityKey>, Arc<dyn Provider>>>,
    random: Mutex<fastrand::Rng>,
    sequence: AtomicU64,
}

impl Shared {
    pub(crate) fn new(
        settings: BrokerSettings,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
        seed: u64,
    ) -> Self {
        Self {
            settings: ArcSwap::from_pointee(settings),
            clock,
            observer,
            cache: RwLock::default(),
            vaults: Vaults::default(),
            wake: Notify::new(),
            asleep_until: AtomicU64::new(u64::MAX),
            watches: AtomicU64::new(0),
            providers: RwLock::default(),
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            sequence: AtomicU64::new(0),
        }
    }

    pub(crate) fn provider(&self, identity: &IdentityKey) -> Option<Arc<dyn Provider>> {
        self.providers.read().get(identity).cloned()
    }

    pub(crate) fn set_provider(&self, identity: &Arc<IdentityKey>, provider: Option<Arc<dyn Provider>>) {
        let mut providers = self.providers.write();
        match provider {
            Some(provider) => providers.insert(identity.clone(), provider),
            None => providers.remove(identity),
        };
    }

    /// One sequence for all objects, so that it grows even for an object that was dropped and read again.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The supervisor looks again at `at`, or only when it is woken.
    pub(crate) fn sleep_until(&self, at: Option<Duration>) {
        let millis = at.map_or(u64::MAX, |at| u64::try_from(at.as_millis()).unwrap_or(u64::MAX));
        self.asleep_until.store(millis, Ordering::Release);
    }

    /// Wakes the supervisor if it would sleep past `at`.
    pub(crate) fn wake_before(&self, at: Duration) {
        if at.as_millis() < u128::from(self.asleep_until.load(Ordering::Acquire)) {
            self.wake.notify_one();
        }
    }

    pub(crate) fn random(&self) -> f64 {
        self.random.lock().f64()
    }

    pub(crate) fn random_below(&self, limit: usize) -> usize {
        self.random.lock().usize(..limit)
    }

    pub(crate) fn entry(&self, key: &ObjectKey) -> Arc<Entry> {
        if let Some(entry) = self.cache.read().get(key) {
            return entry.clone();
        }
        let mut cache = self.cache.write();
        let entry = cache.get_or_insert(key, self.clock.boot());
        cache.evict(self.settings.load().capacity_bytes);
        entry
    }

    /// Takes note of an entry's new weight and makes room.
    pub(crate) fn weigh(&self, entry: &Arc<Entry>) {
        let mut cache = self.cache.write();
        cache.weigh(entry);
        cache.evict(self.settings.load().capacity_bytes);
    }

    /// What a reader is given without asking anybody; `None` when the provider must be asked. A watched object is kept
    /// current by the supervisor; any other counts as current for one interval after its last check.
    pub(crate) fn answer(&self, entry: &Entry) -> Option<(Result<Arc<Snapshot>>, Lookup)> {
        let snapshot = entry.snapshot();
        let watched = entry.is_watched();
        if watched && snapshot.state == State::Fresh {
            return Some((Ok(snapshot), Lookup::Hit));
        }
        let now = self.clock.boot();
        if !watched {
            entry.touch(now);
        }
        if snapshot.state == State::Pending {
            let remembered = entry.memory().negative_until > now;
            return snapshot.error.clone().filter(|_| remembered).map(|error| (Err(error), Lookup::Refused));
        }
        if !watched && entry.memory().due <= now {
            return None;
        }
        let given = self.serve(snapshot, now);
        let lookup = match &given {
            Ok(snapshot) if snapshot.state == State::Fresh => Lookup::Hit,
            Ok(_) => Lookup::Stale,
            Err(_) => Lookup::Refused,
        };
        Some((given, lookup))
    }

    /// A snapshot as promise 3's table gives it to a reader of the API. The supervisor may be a moment behind a stale
    /// value's limit, so that is looked at here as well.
    pub(crate) fn serve(&self, snapshot: Arc<Snapshot>, now: Duration) -> Result<Arc<Snapshot>> {
        let limit = self.settings.load().max_stale;
        let age = snapshot.confirmed_boot.map(|confirmed| now.saturating_sub(confirmed));
        match snapshot.state {
            State::Fresh => Ok(snapshot),
            State::Stale if age.is_some_and(|age| age <= limit) => Ok(snapshot),
            State::Stale | State::Expired => Err(stale_limit(&snapshot)),
            State::Pending | State::Revoked => {
                Err(snapshot.error.clone().unwrap_or_else(|| never_read(&snapshot)))
            }
        }
    }
}

fn stale_limit(snapshot: &Snapshot) -> Error {
    let cause = snapshot.error.as_ref().map_or("no check succeeded".to_owned(), |error| {
        format!("checks fail with {}", error.code().as_str())
    });
    Error::new(
        Code::StaleLimit,
        format!("the last value is older than rotation.maxStale allows: {cause}; restore access or raise the limit"),
    )
    .object(&snapshot.key.request.object)
    .identity(&snapshot.key.identity)
}

fn never_read(snapshot: &Snapshot) -> Error {
    Error::new(Code::VaultUnavailable, "the object was not read yet")
        .object(&snapshot.key.request.object)
        .identity(&snapshot.key.identity)
}
