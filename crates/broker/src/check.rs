//! One rotation check of one group: a listing when that is cheaper, then reads of what changed.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, FuturesUnordered, select};
use keyward_core::observe::Event;
use keyward_core::{
    Error, ErrorKind, ObjectMetadata, ObjectRef, Priority, Provider, Result, Snapshot, UnixTime, Urgency,
};

use crate::entry::Entry;
use crate::flight::{no_provider, within_limit};
use crate::probe::{self, Plan};
use crate::record::Finding;
use crate::shared::Shared;
use crate::vault::GroupKey;

/// So many reads, from a random place in the group, tell whether a vault that failed is worth asking for the rest.
const SAMPLE: usize = 4;

/// Checks `entries`, all of `group`.
pub(crate) async fn check(shared: &Arc<Shared>, group: &GroupKey, entries: Vec<Arc<Entry>>) {
    let objects = entries.len();
    shared.begin_round(group, &entries);
    let Some(provider) = shared.provider(&group.0) else {
        entries.iter().for_each(|entry| drop(shared.record(entry, Finding::Failed(no_provider()))));
        shared.observer.event(&Event::Check { objects, requests: 0, error: Some(no_provider().kind()) });
        return;
    };
    let every = shared.settings.load().full_read_every.max(1);
    let (light, mut reads): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|entry| is_listable(entry, every));
    let listing = shared.vaults.with_group(group, |facts| facts.listing(shared.clock.boot()));
    let mut requests = 0;
    let mut lines = Vec::new();
    match probe::plan(light.len(), listing, |count| provider.list_cost(count)) {
        Plan::Gets => reads.extend(light),
        Plan::List { limit } => {
            let (changed, cost) = list(shared, group, provider.as_ref(), light, limit).await;
            reads.extend(changed.iter().map(|(entry, _)| entry.clone()));
            lines = changed;
            requests += cost;
        }
    }
    reads.sort_unstable_by_key(|entry| entry.id);
    let (cost, error) = read(shared, reads).await;
    requests += cost;
    for (entry, listed) in lines {
        let mut memory = entry.memory();
        if memory.history.failures() == 0 {
            memory.listed = listed;
        }
    }
    shared.observer.event(&Event::Check { objects, requests, error });
}

impl Shared {
    /// Draws this round's place in the jitter, and sets a provisional time for the next check, so that one that is
    /// broken off is not lost.
    fn begin_round(&self, group: &GroupKey, entries: &[Arc<Entry>]) {
        let (random, now) = (self.random(), self.clock.boot());
        let interval = self.settings.load().interval;
        self.vaults.with_group(group, |facts| facts.random = random);
        for entry in entries {
            let mut memory = entry.memory();
            memory.due = now + memory.refresh().unwrap_or(interval);
        }
    }
}

/// Whether a listing can say that the object did not change: never of a pinned version, of an object that is refused
/// (listing is another permission than reading) or not held, and not in every tenth check.
fn is_listable(entry: &Entry, full_read_every: u32) -> bool {
    let memory = entry.memory();
    !entry.is_pinned()
        && memory.history.held()
        && memory.history.run().is_none()
        && memory.read.is_some()
        && memory.light_checks + 1 < full_read_every
}

/// Lists, records what did not change, and gives what must be read, each with the `updated` that the listing showed,
/// and the requests that it cost. A listing that fails decides nothing: the reads will tell.
async fn list(
    shared: &Shared,
    group: &GroupKey,
    provider: &dyn Provider,
    entries: Vec<Arc<Entry>>,
    limit: usize,
) -> (Vec<(Arc<Entry>, Option<UnixTime>)>, usize) {
    let asked = shared.clock.boot();
    let listing = within_limit(provider.list(&group.1, group.2, limit));
    let priority = Priority::new(Urgency::Refresh).asked_by(group.0.to_string().into());
    let listed = priority.scope(listing).await.and_then(|listed| listed);
    let until = shared.clock.boot() + shared.settings.load().list_denied_for;
    let listed = match listed {
        Ok(listed) => listed,
        Err(error) => {
            let lasting = !error.kind().is_transient() && error.kind() != ErrorKind::Unauthenticated;
            if lasting {
                shared.vaults.with_group(group, |facts| facts.denied_until = until);
                tracing::info!(vault = %group.1, collection = group.2.as_str(), %error, "not listing for a while");
            } else {
                tracing::debug!(vault = %group.1, collection = group.2.as_str(), %error, "the listing failed");
            }
            return (entries.into_iter().map(|entry| (entry, None)).collect(), 1);
        }
    };
    // A listing that was cut off says that the vault is larger than is worth listing.
    let size = if listed.len() >= limit { limit.saturating_add(1) } else { listed.len() };
    shared.vaults.with_group(group, |facts| facts.size = Some((size, until)));
    let cost = provider.list_cost(listed.len()).max(1);
    let lines: HashMap<&ObjectRef, &ObjectMetadata> =
        listed.iter().map(|line| (&line.object, line)).collect();
    let mut changed = Vec::new();
    for entry in entries {
        let line = lines.get(&entry.key.request.object).copied();
        let listed = line.and_then(|line| line.updated);
        let updated = entry.snapshot().fetched.as_ref().and_then(|fetched| fetched.updated);
        let held = entry.memory().held(updated);
        if probe::changed(line, &held) {
            changed.push((entry, listed));
        } else {
            let _ = shared.record(&entry, Finding::Unchanged { listed, asked });
        }
    }
    (changed, cost)
}

/// Reads `entries`, a sample first when there are many: when all of the sample fail for want of the vault or of a
/// token, the others count as failed too, so that an outage is not answered with a flood. The first answer of another
/// kind lets the others go ahead. Another sample is drawn each time, first of those that were passed over most often,
/// so that bad objects never hold up the rest for long.
async fn read(shared: &Arc<Shared>, mut entries: Vec<Arc<Entry>>) -> (usize, Option<ErrorKind>) {
    if entries.is_empty() {
        return (0, None);
    }
    let start = shared.random_below(entries.len());
    entries.rotate_left(start);
    entries.sort_by_cached_key(|entry| Reverse(entry.memory().passed_over));
    let rest = entries.split_off(entries.len().min(SAMPLE));
    let mut sample: FuturesUnordered<_> =
        entries.into_iter().map(|entry| read_one(shared.clone(), entry)).collect();
    let mut results = Vec::new();
    let mut down = true;
    while down && let Some(result) = sample.next().await {
        down = result.as_ref().is_err_and(|error| is_general(error.kind()));
        results.push(result);
    }
    if let (true, Some(error)) = (down, results.iter().find_map(|result| result.as_ref().err())) {
        for entry in rest {
            entry.memory().passed_over += 1;
            let failed = Error::new(error.code(), error.message()).retry_after(error.wait());
            let _ = shared.record(&entry, Finding::Failed(failed));
        }
    } else {
        let concurrency = shared.settings.load().concurrency.max(1);
        let rest = stream::iter(rest.into_iter().map(|entry| read_one(shared.clone(), entry)));
        results.extend(select(sample, rest.buffer_unordered(concurrency)).collect::<Vec<_>>().await);
    }
    (results.len(), results.iter().find_map(|result| result.as_ref().err()).map(Error::kind))
}

async fn read_one(shared: Arc<Shared>, entry: Arc<Entry>) -> Result<Arc<Snapshot>> {
    shared.read_afresh(&entry, Urgency::Refresh).await
}

/// Whether a failure is of the way to the vault rather than of one object.
fn is_general(kind: ErrorKind) -> bool {
    kind.is_transient() || kind == ErrorKind::Unauthenticated
}
