use std::sync::Arc;

use keyward_core::ledger::Account;
use keyward_core::observe::{Event, Lookup, Observer};
use keyward_core::{Clock, IdentityKey, ObjectKey, Provider, Result, Snapshot, Urgency};

use crate::entry::{Entry, Payer};
use crate::freshness::History;
use crate::settings::{BrokerSettings, Saved, WatchItem};
use crate::shared::Shared;
use crate::watch::Watch;

/// Holds what was read, reads what is asked for, and keeps current what is watched.
///
/// Must be used inside a tokio runtime with time enabled. Nothing is checked on a schedule unless [`Broker::run`] runs.
pub struct Broker {
    pub(crate) shared: Arc<Shared>,
}

impl Broker {
    /// A broker that holds nothing. `seed` decides jitter; give each process its own.
    #[must_use]
    pub fn new(
        settings: BrokerSettings,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
        seed: u64,
    ) -> Arc<Self> {
        Arc::new(Self { shared: Arc::new(Shared::new(settings, clock, observer, seed)) })
    }

    /// Replaces the settings. A shorter interval applies at once, a longer one after the next check of each object.
    pub fn configure(&self, settings: BrokerSettings) {
        let (now, capacity) = (self.shared.clock.boot(), settings.capacity_bytes);
        let soonest = keyward_core::backoff::jitter(settings.interval, settings.jitter, self.shared.random());
        let shorter = settings.interval < self.shared.settings.load().interval;
        self.shared.settings.store(Arc::new(settings));
        let mut cache = self.shared.cache.write();
        cache.evict(capacity);
        for entry in cache.all().iter().filter(|entry| shorter && !entry.is_pinned()) {
            let mut memory = entry.memory();
            if memory.refresh().is_none() {
                memory.due = memory.due.min(now + soonest);
            }
        }
        drop(cache);
        self.shared.wake.notify_one();
    }

    /// Reads as `identity` through `provider` from now on. What failed before is tried again at once.
    pub fn attach(&self, identity: Arc<IdentityKey>, provider: Arc<dyn Provider>) {
        self.shared.set_provider(&identity, Some(provider));
        self.shared.vaults.forget_denials(&identity);
        let now = self.shared.clock.boot();
        for entry in self.shared.cache.read().all().iter().filter(|entry| entry.key.identity == identity) {
            let mut memory = entry.memory();
            memory.negative_until = now;
            // What was never tried is about to be read by the watch that began with it.
            let failed = memory.history.failures() > 0 || (!memory.history.held() && entry.is_tried());
            if memory.flight.is_none() && failed {
                memory.due = now;
            }
        }
        self.shared.wake.notify_one();
    }

    /// Reads no longer as `identity`. What is held stays and ages.
    pub fn detach(&self, identity: &Arc<IdentityKey>) {
        self.shared.set_provider(identity, None);
    }

    /// Nobody is `identity` any more: reads no longer as it, and forgets what only it had read and nobody watches now,
    /// without waiting for that to age.
    pub fn forget(&self, identity: &Arc<IdentityKey>) {
        self.detach(identity);
        self.shared.cache.write().forget(identity);
        self.shared.forget_vaults();
        self.shared.wake.notify_one();
    }

    /// Takes in values that outlived a restart of Keyward. They are stale, as old as they were before, until the
    /// provider confirms them; they never replace a value that this broker read itself, and of several of one object
    /// the one that was confirmed last stays. Nothing that is not watched or asked for soon stays.
    ///
    /// Gives the entries back, with content that is held already shared instead of held twice.
    pub fn restore(&self, mut entries: Vec<Saved>) -> Vec<Saved> {
        let (now, wall) = (self.shared.clock.boot(), self.shared.clock.wall());
        let mut cache = self.shared.cache.write();
        for saved in &mut entries {
            let entry = cache.get_or_insert(&saved.key, now);
            let mut memory = entry.memory();
            let before = entry.snapshot();
            if let Some(held) = before.fetched.as_ref().filter(|held| held.same_as(&saved.fetched)) {
                saved.fetched = Arc::clone(held);
            }
            let Saved { fetched, confirmed_wall, .. } = saved.clone();
            let older = before.asked.is_some() || before.confirmed >= Some(confirmed_wall);
            if memory.history.held() && older {
                continue;
            }
            memory.history = History::restored(now, wall.saturating_sub(confirmed_wall));
            memory.due = now;
            let state = memory.history.state(now, self.shared.settings.load().max_stale);
            entry.publish(Arc::new(Snapshot {
                state,
                fetched: Some(fetched),
                confirmed: Some(confirmed_wall),
                confirmed_boot: memory.history.confirmed_at(),
                sequence: self.shared.next_sequence(),
                ..(*before).clone()
            }));
            memory.signal();
            drop(memory);
            cache.weigh(&entry);
        }
        entries
    }

    /// What is served now and should outlive a restart: every watched value but the revoked ones, which a restart must
    /// not give back.
    #[must_use]
    pub fn export(&self) -> Vec<Saved> {
        let entries = self.shared.cache.read().all();
        entries
            .iter()
            .filter(|entry| entry.is_watched())
            .filter_map(|entry| saved(&entry.snapshot()))
            .collect()
    }

    /// Keeps `items` current for as long as the watch lives. Those that are not at hand are read at once, in parallel.
    #[must_use]
    pub fn watch(self: &Arc<Self>, items: Vec<WatchItem>) -> Watch {
        Watch::begin(&self.shared, items)
    }

    /// The object as promise 3's table gives it to a reader: from memory when it is held and current enough, otherwise
    /// read, by one read for all who ask at the same time. On a hit nothing is waited for.
    ///
    /// # Errors
    /// `KW_STALE_LIMIT` when checks fail for longer than `max_stale`; the definite no when it held for long enough; for
    /// an object never read, what the provider says, repeated from memory for a moment.
    pub async fn get(&self, key: &ObjectKey) -> Result<Arc<Snapshot>> {
        let held = self.shared.cache.read().get(key).and_then(|entry| self.shared.answer(entry));
        match held {
            Some(answer) => self.note(answer),
            None => self.read(&self.shared.entry(key)).await,
        }
    }

    /// As [`Self::get`], for a pod that does not watch the object: it pays for the entry until the cache drops that.
    /// Before a value is read, `largest` bytes are charged for it.
    ///
    /// # Errors
    /// As [`Self::get`]; `KW_LIMIT_EXCEEDED` and `KW_NO_SPACE` when the pod may hold no more. Nothing is read then.
    pub async fn get_charged(
        &self,
        key: &ObjectKey,
        account: &Account,
        largest: usize,
    ) -> Result<Arc<Snapshot>> {
        let known = self.shared.cache.read().get(key).cloned();
        let entry = match known {
            Some(entry) => {
                let held = entry.snapshot().fetched.is_some();
                let bytes = if held { entry.weight() } else { largest };
                entry.memory().charge(account, bytes).map(|()| entry.clone())
            }
            None => Payer::new(account, largest).map(|payer| {
                let entry = self.shared.entry(key);
                entry.memory().paid(payer);
                entry
            }),
        };
        let entry = entry.map_err(|error| error.object(&key.request.object))?;
        let given = match self.shared.answer(&entry) {
            Some(answer) => self.note(answer),
            None => self.read(&entry).await,
        };
        // As a rule less than was charged before, which is never refused.
        let _ = entry.memory().charge(account, entry.weight());
        given
    }

    async fn read(&self, entry: &Arc<Entry>) -> Result<Arc<Snapshot>> {
        let given = match self.shared.read(entry, Urgency::Start).await {
            Ok(snapshot) => Ok(snapshot),
            Err(error) => {
                let snapshot = entry.snapshot();
                if snapshot.fetched.is_some() {
                    self.shared.serve(snapshot, self.shared.clock.boot())
                } else {
                    Err(error)
                }
            }
        };
        let outcome = if given.is_ok() { Lookup::Miss } else { Lookup::Refused };
        self.note((given, outcome))
    }

    fn note(&self, (given, outcome): (Result<Arc<Snapshot>>, Lookup)) -> Result<Arc<Snapshot>> {
        self.shared.observer.event(&Event::Lookup { outcome });
        given
    }

    /// Reads the object by a read that begins after this call; those who ask at the same time share it.
    ///
    /// # Errors
    /// What the provider says; what is served stays as promise 3's table has it.
    pub async fn refresh(&self, key: &ObjectKey) -> Result<Arc<Snapshot>> {
        let entry = self.shared.entry(key);
        self.shared.read_afresh(&entry, Urgency::Start).await
    }

    /// The object as it stands, whatever its state; `None` when nothing is known of it. Asks nobody.
    #[must_use]
    pub fn peek(&self, key: &ObjectKey) -> Option<Arc<Snapshot>> {
        self.shared.cache.read().get(key).map(|entry| entry.snapshot())
    }

    /// Bytes that all held objects cost, roughly.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.shared.cache.read().weight()
    }
}

fn saved(snapshot: &Snapshot) -> Option<Saved> {
    if snapshot.state == keyward_core::State::Revoked {
        return None;
    }
    Some(Saved {
        key: snapshot.key.clone(),
        fetched: snapshot.fetched.clone()?,
        confirmed_wall: snapshot.confirmed?,
    })
}
