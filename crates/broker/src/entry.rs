use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use keyward_core::ledger::{Account, Charge, Kind};
use keyward_core::{ObjectKey, Priority, Result, Snapshot, State, UnixTime, Urgency};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::flight::Flight;
use crate::freshness::History;
use crate::probe::Held;
use crate::vault::GroupKey;

/// One object in the cache: the snapshot that readers take without a lock, and what its checks remember.
pub(crate) struct Entry {
    /// Older entries have smaller ids; gives checks an order that does not depend on hashing.
    pub(crate) id: u64,
    pub(crate) key: ObjectKey,
    current: ArcSwap<Snapshot>,
    leases: AtomicUsize,
    flying: AtomicBool,
    /// Last use while nobody watched, milliseconds on the boot clock.
    used: AtomicU64,
    memory: Mutex<Memory>,
}

/// What only checks look at.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) history: History,
    /// When the last read that succeeded began, wall time.
    pub(crate) read: Option<UnixTime>,
    /// The `updated` of the last listing that was acted on.
    pub(crate) listed: Option<UnixTime>,
    /// Checks since the last read that a listing answered.
    pub(crate) light_checks: u32,
    /// Checks in a row that took its failure from that of others, without asking.
    pub(crate) passed_over: u32,
    /// When to check next, boot clock.
    pub(crate) due: Duration,
    /// A no is repeated until then, boot clock.
    pub(crate) negative_until: Duration,
    /// Somebody waits for an answer that was asked for at or after this, boot clock, also if it says nothing new.
    pub(crate) awaited: Option<Duration>,
    /// Warnings logged in a row.
    pub(crate) warned: u32,
    pub(crate) leases: Vec<Lease>,
    /// The read under way, and how urgent it is.
    pub(crate) flight: Option<(Flight, Priority)>,
    /// Pods that asked for it although they do not watch it. They pay for it until it is dropped.
    payers: Vec<Payer>,
}

/// What one pod is charged for an entry: a place and its bytes.
pub(crate) struct Payer {
    account: Account,
    _place: Charge,
    bytes: Charge,
}

impl Payer {
    /// # Errors
    /// `KW_LIMIT_EXCEEDED`, `KW_NO_SPACE`.
    pub(crate) fn new(account: &Account, bytes: usize) -> Result<Self> {
        let place = account.charge(Kind::PinnedVersions, 1)?;
        let bytes = account.charge(Kind::Cached, bytes)?;
        Ok(Self { account: account.clone(), _place: place, bytes })
    }
}

/// One watch's interest in an entry.
pub(crate) struct Lease {
    pub(crate) watch: u64,
    pub(crate) refresh: Option<Duration>,
    pub(crate) generation: Arc<watch::Sender<u64>>,
}

impl Entry {
    pub(crate) fn new(id: u64, key: ObjectKey, now: Duration) -> Self {
        let snapshot = Snapshot {
            key: key.clone(),
            state: State::Pending,
            fetched: None,
            error: None,
            confirmed: None,
            confirmed_boot: None,
            asked: None,
            checked: None,
            next_check: None,
            sequence: 0,
        };
        Self {
            id,
            key,
            current: ArcSwap::from_pointee(snapshot),
            leases: AtomicUsize::new(0),
            flying: AtomicBool::new(false),
            used: AtomicU64::new(millis(now)),
            memory: Mutex::new(Memory::default()),
        }
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    pub(crate) fn publish(&self, snapshot: Arc<Snapshot>) {
        self.current.store(snapshot);
    }

    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock()
    }

    pub(crate) fn group(&self) -> GroupKey {
        let object = &self.key.request.object;
        (self.key.identity.clone(), object.host().clone(), object.collection())
    }

    pub(crate) fn is_pinned(&self) -> bool {
        self.key.request.object.version().is_some()
    }

    /// Whether it was asked for at least once, or outlived a restart.
    pub(crate) fn is_tried(&self) -> bool {
        let snapshot = self.current.load();
        snapshot.checked.is_some() || snapshot.fetched.is_some()
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.leases.load(Ordering::Acquire) > 0
    }

    /// Adds a lease and says whether it is the first.
    pub(crate) fn lease(&self, memory: &mut Memory, lease: Lease) -> bool {
        memory.leases.push(lease);
        self.leases.fetch_add(1, Ordering::AcqRel) == 0
    }

    /// Ends a lease and says whether it was the last.
    pub(crate) fn release(&self, memory: &mut Memory, watch: u64) -> bool {
        let before = memory.leases.len();
        memory.leases.retain(|lease| lease.watch != watch);
        let ended = before - memory.leases.len();
        ended > 0 && self.leases.fetch_sub(ended, Ordering::AcqRel) == ended
    }

    pub(crate) fn touch(&self, now: Duration) {
        self.used.store(millis(now), Ordering::Relaxed);
    }

    pub(crate) fn used(&self) -> Duration {
        Duration::from_millis(self.used.load(Ordering::Relaxed))
    }

    pub(crate) fn set_flying(&self, flying: bool) {
        self.flying.store(flying, Ordering::Release);
    }

    /// Whether the cache may forget it.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_watched() && !self.flying.load(Ordering::Acquire)
    }

    /// Bytes that it costs, roughly.
    pub(crate) fn weight(&self) -> usize {
        self.current.load().fetched.as_ref().map_or(512, |fetched| fetched.weight())
    }
}

impl Memory {
    /// The shortest interval that a watch asks for.
    pub(crate) fn refresh(&self) -> Option<Duration> {
        self.leases.iter().filter_map(|lease| lease.refresh).min()
    }

    /// The read under way, which becomes as urgent as `urgency`.
    pub(crate) fn join(&self, urgency: Urgency) -> Option<Flight> {
        let (flight, priority) = self.flight.as_ref()?;
        if urgency == Urgency::Start {
            priority.promote();
        }
        Some(flight.clone())
    }

    /// Wakes every watch. Never waits: watches see that something changed, and look when they have time.
    pub(crate) fn signal(&self) {
        for lease in &self.leases {
            lease.generation.send_modify(|generation| *generation += 1);
        }
    }

    /// Charges `bytes` for the entry to `account`, which has a place for it from the first time on.
    pub(crate) fn charge(&mut self, account: &Account, bytes: usize) -> Result<()> {
        match self.payers.iter_mut().find(|payer| payer.account.is(account)) {
            Some(payer) => payer.bytes.resize(bytes),
            None => Payer::new(account, bytes).map(|payer| self.payers.push(payer)),
        }
    }

    /// Takes what was charged before there was an entry, unless another call of the pod was first.
    pub(crate) fn paid(&mut self, payer: Payer) {
        if !self.payers.iter().any(|known| known.account.is(&payer.account)) {
            self.payers.push(payer);
        }
    }

    pub(crate) fn held(&self, updated: Option<UnixTime>) -> Held {
        Held { updated, listed: self.listed, read: self.read }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
