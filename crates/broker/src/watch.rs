use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keyward_core::{FetchRequest, Snapshot, State, Urgency};
use tokio::sync::watch;

use crate::entry::{Entry, Lease};
use crate::flight::land;
use crate::settings::WatchItem;
use crate::shared::Shared;

/// A lease on some objects: they stay in memory and are kept current until it is dropped.
///
/// Changes coalesce to a number, so that a slow subscriber costs nothing and delays nobody: it sees the newest state
/// whenever it looks.
pub struct Watch {
    id: u64,
    shared: Arc<Shared>,
    entries: Vec<Arc<Entry>>,
    seen: watch::Receiver<u64>,
    /// Ends with the reads that this watch began or joined.
    reads: watch::Receiver<()>,
}

/// Getting ready is a courtesy to the reads; they do not wait for it longer than this.
const WARM_UP: Duration = Duration::from_secs(30);

impl Watch {
    pub(crate) fn begin(shared: &Arc<Shared>, items: Vec<WatchItem>) -> Self {
        let id = shared.watches.fetch_add(1, Ordering::Relaxed);
        let (generation, seen) = watch::channel(0);
        let generation = Arc::new(generation);
        let now = shared.clock.boot();
        let interval = shared.settings.load().interval;
        let mut entries: Vec<Arc<Entry>> = Vec::with_capacity(items.len());
        let mut missing = Vec::new();
        let mut cache = shared.cache.write();
        for WatchItem { key, refresh } in items {
            let entry = cache.get_or_insert(&key, now);
            let mut memory = entry.memory();
            let lease = Lease { watch: id, refresh, generation: generation.clone() };
            let again = entries.iter().any(|known| Arc::ptr_eq(known, &entry));
            let is_first = entry.lease(&mut memory, lease);
            if is_first {
                let host = key.request.object.host();
                shared.vaults.with(&key.identity, host, |vault| vault.watched += 1);
            }
            let state = entry.snapshot().state;
            let current = state == State::Fresh && memory.due > now;
            // What others watch is kept current for all; but what they wait for in vain may be there by now.
            let wanted = if is_first { !current } else { state == State::Pending };
            if wanted && (memory.join(Urgency::Start).is_some() || memory.negative_until <= now) {
                missing.push(Missing { entry: entry.clone(), awaited: state != State::Stale, state });
                memory.due = now + interval;
            }
            memory.due = memory.due.min(now + refresh.unwrap_or(interval));
            drop(memory);
            if !again {
                entries.push(entry);
            }
        }
        drop(cache);
        let reads = fetch(shared, missing);
        shared.wake.notify_one();
        Self { id, shared: shared.clone(), entries, seen, reads }
    }

    /// Returns when every object was tried once, well or not: by this watch unless it was current already, or refused a
    /// moment ago. A stale value needs no try: it can be served while the provider is away.
    pub async fn ready(&self) {
        let mut reads = self.reads.clone();
        while reads.changed().await.is_ok() {}
        let mut seen = self.seen.clone();
        while !self.entries.iter().all(|entry| entry.is_tried()) {
            if seen.changed().await.is_err() {
                return;
            }
        }
    }

    /// The objects as they stand, in the order they were asked for.
    #[must_use]
    pub fn snapshots(&self) -> Vec<Arc<Snapshot>> {
        self.entries.iter().map(|entry| entry.snapshot()).collect()
    }

    /// Asks the provider about `request` again soon, and counts its next good answer as a change whatever it says: what
    /// was asked for too long ago must be confirmed before it may replace anything.
    pub fn ask_again(&self, request: &FetchRequest) {
        for entry in self.entries.iter().filter(|entry| entry.key.request == *request) {
            let mut memory = entry.memory();
            let now = self.shared.clock.boot();
            memory.awaited = Some(now);
            memory.due = now;
        }
        self.shared.wake.notify_one();
    }

    /// Returns when something changed since the last return: content, a state, or a first try that failed. May be
    /// dropped and called again without losing a change.
    pub async fn changed(&mut self) {
        if self.seen.changed().await.is_err() {
            // Only when nothing is watched: then nothing ever changes.
            std::future::pending::<()>().await;
        }
    }

    /// A number that grows with every change.
    #[must_use]
    pub fn generation(&self) -> u64 {
        *self.seen.borrow()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let now = self.shared.clock.boot();
        for entry in &self.entries {
            let mut memory = entry.memory();
            if !entry.release(&mut memory, self.id) {
                continue;
            }
            entry.touch(now);
            let host = entry.key.request.object.host();
            let turned = self.shared.vaults.with(&entry.key.identity, host, |vault| {
                vault.watched = vault.watched.saturating_sub(1);
                vault.refusals.cleared(entry.id);
                vault.storm_turned()
            });
            self.shared.tell_storm(host, turned);
        }
        self.shared.wake.notify_one();
    }
}

/// An object to read for a watch.
struct Missing {
    entry: Arc<Entry>,
    /// Whether the watch is ready only afterwards.
    awaited: bool,
    /// What it was when the watch began.
    state: State,
}

impl Missing {
    /// Whether another watch's read came in since: that one is as good.
    fn is_read(&self) -> bool {
        self.state != State::Fresh && self.entry.snapshot().state == State::Fresh
    }
}

/// Reads in parallel what is missing, after one warm-up for each vault and identity, so that challenge, token and
/// connection are fetched once and not by each read. What is returned ends with the reads that are awaited.
fn fetch(shared: &Arc<Shared>, missing: Vec<Missing>) -> watch::Receiver<()> {
    let (open, reads) = watch::channel(());
    let open = Arc::new(open);
    let mut vaults: BTreeMap<_, Vec<Missing>> = BTreeMap::new();
    for missing in missing {
        let key = &missing.entry.key;
        let vault = (key.identity.clone(), key.request.object.host().clone());
        vaults.entry(vault).or_default().push(missing);
    }
    for ((identity, host), missing) in vaults {
        let (shared, open) = (shared.clone(), open.clone());
        tokio::spawn(async move {
            let awaited = missing.iter().any(|missing| missing.awaited);
            let open = awaited.then_some(open);
            if let Some(provider) = shared.provider(&identity) {
                let _ = tokio::time::timeout(WARM_UP, provider.warm_up(&host)).await;
            }
            let flights: Vec<_> = missing
                .iter()
                .filter(|missing| !missing.is_read())
                .map(|missing| (shared.fly(&missing.entry, Urgency::Start), missing.awaited))
                .collect();
            for (flight, _) in flights.into_iter().filter(|(_, awaited)| *awaited) {
                let _ = land(flight).await;
            }
            drop(open);
        });
    }
    reads
}
