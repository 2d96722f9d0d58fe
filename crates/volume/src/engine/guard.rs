//! Nothing newer is taken back (promise 3): which of the broker's snapshots may replace what readers have.
//!
//! Readers keep what they have until the provider was asked after they were given it. What an earlier process delivered
//! counts as delivered before this one asked anybody; a value that outlived the restart, this volume's own or another's,
//! was not asked for since, and replaces nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use keyward_broker::Saved;
use keyward_core::{FetchRequest, Snapshot, State};

/// Snapshots by what they are of.
pub(super) type Snapshots = HashMap<FetchRequest, Arc<Snapshot>>;

/// What readers have.
#[derive(Default)]
pub(super) struct Guard {
    held: Vec<Held>,
    /// An earlier process has delivered to the same readers, and not all of it may be known.
    resumed: bool,
}

struct Held {
    snapshot: Arc<Snapshot>,
    /// When readers were given its content, boot clock; zero when that was before this process.
    since: Duration,
    /// The provider was asked again because its last answer is from before that.
    asked_again: bool,
}

/// What becomes of a snapshot of the broker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Readers may have it.
    Take,
    /// Readers keep what they have.
    Keep,
    /// Nothing is known of what readers have: it is not shown.
    Withhold,
}

impl Guard {
    /// The guard of readers to whom an earlier process has delivered `saved`, and perhaps more.
    pub(super) fn resumed(saved: Vec<Saved>) -> Self {
        let held = saved.into_iter().map(|Saved { key, fetched, confirmed_wall }| Held {
            snapshot: Arc::new(Snapshot {
                key,
                state: State::Stale,
                fetched: Some(fetched),
                error: None,
                confirmed: Some(confirmed_wall),
                confirmed_boot: Some(Duration::ZERO),
                asked: None,
                checked: None,
                next_check: None,
                sequence: 0,
            }),
            since: Duration::ZERO,
            asked_again: false,
        });
        Self { held: held.collect(), resumed: true }
    }

    /// What readers may see, now that the broker has `now`. Says of which objects the provider must be asked again.
    pub(super) fn admit(&mut self, now: Vec<Arc<Snapshot>>) -> (Snapshots, Vec<FetchRequest>) {
        let mut again = Vec::new();
        let admitted = now.into_iter().map(|now| {
            let index = self.position(&now.key.request);
            let held = index.and_then(|index| self.held.get_mut(index));
            let verdict = verdict(held.as_deref(), self.resumed, &now);
            let request = now.key.request.clone();
            let shown = match (verdict, held) {
                (Verdict::Keep, Some(held)) => {
                    // A value that nobody asked for yet will be told of by its first check anyway.
                    if now.asked.is_some() && !std::mem::replace(&mut held.asked_again, true) {
                        again.push(request.clone());
                    }
                    kept(&held.snapshot, &now)
                }
                (Verdict::Withhold, _) => withheld(&now),
                _ => now,
            };
            (request, shown)
        });
        (admitted.collect(), again)
    }

    /// What readers have, in the state that the broker's `now` tells; nothing newer is let through.
    pub(super) fn shown(&self, now: Vec<Arc<Snapshot>>) -> Snapshots {
        let shown = now.into_iter().map(|now| {
            let held = self.position(&now.key.request).and_then(|index| self.held.get(index));
            let shown = match held {
                Some(held) if same_content(&held.snapshot, &now) => Arc::clone(&now),
                Some(held) => kept(&held.snapshot, &now),
                None if self.resumed => withheld(&now),
                None => Arc::clone(&now),
            };
            (now.key.request.clone(), shown)
        });
        shown.collect()
    }

    /// Whether a snapshot would be let through, or readers have its content already.
    pub(super) fn would_show(&self, now: &Snapshot) -> bool {
        let held = self.position(&now.key.request).and_then(|index| self.held.get(index));
        now.fetched.is_some() && verdict(held, self.resumed, now) != Verdict::Withhold
    }

    /// Readers were given `shown`, until `now` on the boot clock. What is not in it is no longer declared.
    pub(super) fn settle(&mut self, shown: &Snapshots, now: Duration) {
        let mut before = std::mem::take(&mut self.held);
        self.held.reserve_exact(shown.len());
        for snapshot in shown.values().filter(|snapshot| snapshot.fetched.is_some()) {
            let old = before.iter().position(|held| held.snapshot.key.request == snapshot.key.request);
            let old = old.map(|index| before.swap_remove(index));
            let (since, asked_again) = match old {
                Some(old) if same_content(&old.snapshot, snapshot) => (old.since, old.asked_again),
                _ => (now, false),
            };
            self.held.push(Held { snapshot: Arc::clone(snapshot), since, asked_again });
        }
    }

    /// Forgets what an earlier process delivered of these objects: something newer was delivered after it.
    pub(super) fn disown(&mut self, requests: &[FetchRequest]) {
        self.held.retain(|held| !requests.contains(&held.snapshot.key.request));
    }

    fn position(&self, request: &FetchRequest) -> Option<usize> {
        self.held.iter().position(|held| held.snapshot.key.request == *request)
    }
}

fn verdict(held: Option<&Held>, resumed: bool, now: &Snapshot) -> Verdict {
    match (held, &now.fetched) {
        (None, None) => Verdict::Take,
        (None, Some(_)) if resumed && now.asked.is_none() => Verdict::Withhold,
        (None, Some(_)) => Verdict::Take,
        (Some(_), None) => Verdict::Keep,
        (Some(held), Some(_)) if same_content(&held.snapshot, now) => Verdict::Take,
        (Some(held), Some(_)) if now.asked >= Some(held.since) => Verdict::Take,
        (Some(_), Some(_)) => Verdict::Keep,
    }
}

fn same_content(a: &Snapshot, b: &Snapshot) -> bool {
    match (&a.fetched, &b.fetched) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a.same_as(b),
        _ => false,
    }
}

/// What readers have, in the state of something else: never fresh, because nobody has confirmed it.
fn kept(held: &Snapshot, now: &Snapshot) -> Arc<Snapshot> {
    let state = match now.state {
        State::Fresh | State::Pending => State::Stale,
        state @ (State::Stale | State::Expired | State::Revoked) => state,
    };
    Arc::new(Snapshot {
        key: now.key.clone(),
        state,
        error: now.error.clone(),
        checked: now.checked,
        next_check: now.next_check,
        ..held.clone()
    })
}

fn withheld(now: &Snapshot) -> Arc<Snapshot> {
    Arc::new(Snapshot {
        state: State::Pending,
        fetched: None,
        confirmed: None,
        confirmed_boot: None,
        ..now.clone()
    })
}

#[cfg(test)]
mod tests;
