//! Rotation: checks what is due, all objects of a vault together, and sleeps until the next.

use std::collections::{BTreeMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use keyward_core::observe::Event;
use keyward_core::{ErrorKind, State};

use crate::Broker;
use crate::check::check;
use crate::entry::Entry;
use crate::freshness::Run;
use crate::shared::Shared;
use crate::vault::GroupKey;

/// An object that nobody watches or asked for during this time is dropped.
pub(crate) const UNUSED: Duration = Duration::from_secs(15 * 60);

impl Broker {
    /// Keeps watched objects current; never returns. Drop or abort it to stop. It sleeps on the runtime's clock, which
    /// stands still while the machine is suspended, so that after a resume the first check may be up to one interval
    /// late; ages are measured on the boot clock and are right at once.
    pub async fn run(self: Arc<Self>) {
        let shared = &self.shared;
        let mut checks = FuturesUnordered::new();
        let mut checking = HashSet::new();
        let mut told = None;
        loop {
            // Awake: whatever becomes due while the agenda is made must wake the sleep that follows.
            shared.sleep_until(None);
            let agenda = shared.agenda(&checking);
            for (group, entries) in agenda.due {
                checking.insert(group.clone());
                checks.push(async {
                    check(shared, &group, entries).await;
                    group
                });
            }
            if told != Some(agenda.states) {
                told = Some(agenda.states);
                let [fresh, stale, refused, pending] = agenda.states;
                shared.observer.event(&Event::States { fresh, stale, refused, pending });
            }
            shared.sleep_until(agenda.next);
            tokio::select! {
                biased;
                Some(group) = checks.next(), if !checks.is_empty() => { checking.remove(&group); }
                () = shared.wake.notified() => {}
                () = sleep_until(shared, agenda.next) => {}
            }
            // What happens at nearly the same time is looked at once: a look costs as much as there are objects.
            let Some(calm) = calm(agenda.objects) else { continue };
            let mut calm = pin!(tokio::time::sleep(calm));
            while !calm.is_elapsed() {
                tokio::select! {
                    biased;
                    Some(group) = checks.next(), if !checks.is_empty() => { checking.remove(&group); }
                    () = &mut calm => {}
                }
            }
        }
    }
}

/// How long to let things settle between two looks at so many objects: many times what a look takes, and nothing
/// for a pod's worth of them.
fn calm(objects: usize) -> Option<Duration> {
    let each = Duration::from_micros(20);
    let calm =
        each.saturating_mul(u32::try_from(objects).unwrap_or(u32::MAX)).min(Duration::from_millis(250));
    (objects >= 500).then_some(calm)
}

/// What to do now, and when to look again.
struct Agenda {
    /// How many there are, watched or not.
    objects: usize,
    due: Vec<(GroupKey, Vec<Arc<Entry>>)>,
    next: Option<Duration>,
    /// Watched objects that are fresh, stale, refused, pending.
    states: [usize; 4],
}

impl Shared {
    fn agenda(&self, checking: &HashSet<GroupKey>) -> Agenda {
        let now = self.clock.boot();
        let unused = now.saturating_sub(UNUSED);
        let entries = self.cache.read().all();
        if entries.iter().any(|entry| entry.is_idle() && entry.used() < unused) {
            self.cache.write().sweep(unused);
            self.forget_vaults();
        }

        let objects = entries.len();
        let [mut fresh, mut stale, mut refused, mut pending] = [0; 4];
        let mut next: Option<Duration> = None;
        let mut wake_at = |at: Duration| next = Some(next.map_or(at, |next| next.min(at)));
        let mut groups: BTreeMap<GroupKey, Vec<Planned>> = BTreeMap::new();
        for entry in entries {
            if !entry.is_watched() {
                if entry.is_idle() && entry.used() >= unused {
                    wake_at(entry.used() + UNUSED + Duration::from_millis(1));
                }
                continue;
            }
            let planned = self.plan_entry(entry, now);
            if let Some(expires) = planned.expires {
                wake_at(expires);
            }
            *match planned.entry.snapshot().state {
                State::Fresh => &mut fresh,
                State::Stale => &mut stale,
                State::Expired | State::Revoked => &mut refused,
                State::Pending => &mut pending,
            } += 1;
            groups.entry(planned.entry.group()).or_default().push(planned);
        }

        let mut due = Vec::new();
        for (group, planned) in groups {
            if checking.contains(&group) {
                continue;
            }
            if planned.iter().all(|planned| planned.due > now) {
                planned.iter().for_each(|planned| wake_at(planned.due));
                continue;
            }
            let horizon = now + ahead(&planned, now);
            let now_due =
                planned.into_iter().filter(|planned| planned.due <= horizon).map(|planned| planned.entry);
            due.push((group, now_due.collect()));
        }
        Agenda { objects, due, next, states: [fresh, stale, refused, pending] }
    }

    /// Lets the entry expire if it is time, and says when it is due.
    fn plan_entry(&self, entry: Arc<Entry>, now: Duration) -> Planned {
        self.reassess(&entry, now);
        let settings = self.settings.load();
        let memory = entry.memory();
        let expires = memory.history.expires_at(settings.max_stale).map(|at| at + Duration::from_millis(1));
        let planned = Planned {
            due: memory.due,
            every: memory.refresh().unwrap_or(settings.interval),
            steady: memory.history.failures() == 0,
            alone: memory.history.held()
                && memory.history.run().is_some_and(|run| self.is_alone(&entry, run)),
            expires: expires.filter(|at| *at > now),
            entry: entry.clone(),
        };
        drop(memory);
        planned
    }

    /// Whether an object is forbidden and no other check of its vault succeeded since, perhaps for want of one.
    fn is_alone(&self, entry: &Entry, run: Run) -> bool {
        let host = entry.key.request.object.host();
        run.kind == ErrorKind::Forbidden
            && !self.vaults.with(&entry.key.identity, host, |vault| vault.refusals.is_witnessed(run.since))
    }

    /// Forgets vaults of which nothing is held any more.
    pub(crate) fn forget_vaults(&self) {
        let entries = self.cache.read().all();
        let held: HashSet<_> = entries
            .iter()
            .map(|entry| (entry.key.identity.clone(), entry.key.request.object.host().clone()))
            .collect();
        self.vaults.retain(|key| held.contains(key));
    }
}

struct Planned {
    entry: Arc<Entry>,
    due: Duration,
    every: Duration,
    steady: bool,
    alone: bool,
    expires: Option<Duration>,
}

/// How far ahead of time the others of a group are checked along, so that one check covers all: half the shortest
/// interval. A failing object that is tried again soon takes nobody along; a forbidden one takes all along until one of
/// them has shown whether the vault still knows us, so that it is not believed for want of witnesses.
fn ahead(group: &[Planned], now: Duration) -> Duration {
    let due = || group.iter().filter(|planned| planned.due <= now);
    if due().any(|planned| planned.alone) {
        group.iter().map(|planned| planned.due.saturating_sub(now)).max().unwrap_or_default()
    } else if due().any(|planned| planned.steady) {
        group.iter().map(|planned| planned.every).min().unwrap_or_default() / 2
    } else {
        Duration::ZERO
    }
}

async fn sleep_until(shared: &Shared, at: Option<Duration>) {
    match at {
        Some(at) => {
            let wait = at.saturating_sub(shared.clock.boot());
            tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
        }
        None => std::future::pending().await,
    }
}
