//! What becomes of a finding: history, state, next check, snapshot, events and log, in one place.

use std::sync::Arc;
use std::time::Duration;

use keyward_core::observe::Event;
use keyward_core::{Error, ErrorKind, Fetched, Result, Snapshot, State, UnixTime, VaultHost};

use crate::entry::{Entry, Memory};
use crate::freshness::{Outcome, judge};
use crate::schedule::{EntryFacts, Pace, next_check};
use crate::shared::Shared;
use crate::supervisor::UNUSED;

/// What a check or read found.
pub(crate) enum Finding {
    /// The value, read by a call that began at `began`, wall time, and at `asked` on the boot clock.
    Read { fetched: Arc<Fetched>, began: UnixTime, asked: Duration },
    /// A listing, begun at `asked` on the boot clock, that shows no change since the last read, with its `updated`.
    Unchanged { listed: Option<UnixTime>, asked: Duration },
    /// No value.
    Failed(Error),
}

/// A failure is remembered no longer than this against callers that ask in a loop.
const FAILURE_TTL: Duration = Duration::from_secs(1);

impl Shared {
    /// Takes note of a finding and gives what is served from now on, or the finding's own error.
    pub(crate) fn record(&self, entry: &Arc<Entry>, finding: Finding) -> Result<Arc<Snapshot>> {
        let (now, wall) = (self.clock.boot(), self.clock.wall());
        let settings = self.settings.load();
        let mut memory = entry.memory();
        let before = entry.snapshot();
        let (outcome, error) = match &finding {
            Finding::Failed(error) => {
                let error = error.clone().object(&entry.key.request.object).identity(&entry.key.identity);
                (Outcome::Failed(error.kind()), Some(error))
            }
            _ => (Outcome::Confirmed, None),
        };

        let asked = match &finding {
            Finding::Read { asked, .. } | Finding::Unchanged { asked, .. } => Some(*asked),
            Finding::Failed(_) => before.asked,
        };
        let excused = self.note_refusal(entry, &memory, outcome, now);
        let (history, state) = judge(memory.history, outcome, now, excused, settings.max_stale);
        memory.history = history;
        let fetched = memory.take_in(finding, before.fetched.as_ref());
        let changed = match (&before.fetched, &fetched) {
            (Some(before), Some(after)) => !Arc::ptr_eq(before, after) && !before.same_as(after),
            (before, after) => before.is_some() != after.is_some(),
        };

        let facts = EntryFacts {
            refresh: memory.refresh(),
            pinned: entry.is_pinned(),
            held: history.held(),
            failures: history.failures(),
            refused: history.run().is_some(),
            asked: error.as_ref().and_then(Error::wait),
            expires: fetched.as_ref().and_then(|fetched| fetched.expires),
        };
        let pace = Pace {
            interval: settings.interval,
            jitter: settings.jitter,
            full_read_every: settings.full_read_every,
        };
        let wait =
            next_check(wall, &facts, &pace, self.vaults.with_group(&entry.group(), |group| group.random));
        let due = now + wait;
        memory.negative_until = match &error {
            Some(error) if error.kind().is_definite_no() => now + settings.negative_ttl,
            Some(_) => now + settings.negative_ttl.min(FAILURE_TTL),
            None => Duration::ZERO,
        };

        let moved = changed || state != before.state;
        let snapshot = Arc::new(Snapshot {
            key: entry.key.clone(),
            state,
            fetched,
            confirmed: if error.is_none() { Some(wall) } else { before.confirmed },
            confirmed_boot: history.confirmed_at(),
            asked,
            checked: Some(wall),
            next_check: Some(wall + wait),
            sequence: if moved { self.next_sequence() } else { before.sequence },
            error: shown_error(&before, state, error.as_ref()),
        });
        entry.publish(snapshot.clone());
        let answered = error.is_none() && memory.awaited.is_some_and(|since| asked >= Some(since));
        if answered {
            memory.awaited = None;
        }
        // An answer that was under way when another was wished for is not the one.
        memory.due = if error.is_none() && memory.awaited.is_some() { now } else { due };
        if moved || answered || before.checked.is_none() {
            memory.signal();
        }
        self.log(entry, &mut memory, error.as_ref(), &before, &snapshot);
        drop(memory);

        if changed && before.fetched.is_some() {
            let updated = snapshot.fetched.as_ref().and_then(|fetched| fetched.updated);
            self.observer.event(&Event::Rotated { lag: updated.map(|updated| wall.saturating_sub(updated)) });
        }
        if changed {
            self.weigh(entry);
        }
        // A change of state is told at once; otherwise the supervisor sleeps on unless something is due before.
        let watched = entry.is_watched();
        self.wake_before(match watched {
            true if moved => Duration::ZERO,
            true => now + wait,
            false => now + UNUSED,
        });
        error.map_or(Ok(snapshot), Err)
    }

    /// Lets a stale value expire when its time has come, without asking anybody.
    pub(crate) fn reassess(&self, entry: &Entry, now: Duration) {
        let memory = entry.memory();
        let before = entry.snapshot();
        let state = memory.history.state(now, self.settings.load().max_stale);
        if state != before.state {
            entry.publish(Arc::new(Snapshot { state, sequence: self.next_sequence(), ..(*before).clone() }));
            memory.signal();
        }
    }

    /// Tells the vault's storm watch, and asks it whether a *forbidden* is excused. A value never read cannot turn.
    fn note_refusal(&self, entry: &Entry, memory: &Memory, outcome: Outcome, now: Duration) -> bool {
        let forbidden = outcome == Outcome::Failed(ErrorKind::Forbidden) && memory.history.held();
        let since = match memory.history.run() {
            Some(run) if run.kind == ErrorKind::Forbidden => run.since,
            _ => now,
        };
        let host = entry.key.request.object.host();
        let (excused, storm) = self.vaults.with(&entry.key.identity, host, |vault| {
            if outcome == Outcome::Confirmed {
                vault.refusals.succeeded(now);
            }
            if forbidden && entry.is_watched() {
                vault.refusals.turned(entry.id, since);
            } else {
                vault.refusals.cleared(entry.id);
            }
            (forbidden && vault.refusals.excuses(since, vault.watched), vault.storm_turned())
        });
        self.tell_storm(host, storm);
        excused
    }

    /// Tells that a storm began or ended.
    pub(crate) fn tell_storm(&self, host: &VaultHost, turned: Option<bool>) {
        let Some(active) = turned else { return };
        if active {
            tracing::warn!(vault = %host, "many objects became forbidden at once; their last values are kept");
        } else {
            tracing::info!(vault = %host, "the storm of refusals is over");
        }
        self.observer.event(&Event::Storm { active });
    }

    /// Warns three times, then whispers, and tells once that it is over: per object for what concerns the object, per
    /// vault for what concerns the way to it.
    fn log(
        &self,
        entry: &Entry,
        memory: &mut Memory,
        error: Option<&Error>,
        before: &Snapshot,
        now: &Snapshot,
    ) {
        let (object, identity) = (&entry.key.request.object, &entry.key.identity);
        match error {
            Some(error) if concerns_object(error.kind()) => {
                memory.warned = memory.warned.saturating_add(1);
                warn_or_whisper(memory.warned, error, now.state);
            }
            Some(error) => {
                let warned = self.vaults.with(identity, object.host(), |vault| {
                    vault.warned = vault.warned.saturating_add(1);
                    vault.warned
                });
                warn_or_whisper(warned, error, now.state);
            }
            None => {
                if std::mem::take(&mut memory.warned) > 0 {
                    tracing::info!(%object, "the object can be read again");
                }
                let warned =
                    self.vaults.with(identity, object.host(), |vault| std::mem::take(&mut vault.warned));
                if warned > 0 {
                    tracing::info!(vault = %object.host(), failures = warned, "the vault answers again");
                }
                if before.sequence != now.sequence {
                    let version = now.fetched.as_ref().map(|fetched| fetched.version.as_str());
                    tracing::info!(%object, version, sequence = now.sequence, "current");
                }
            }
        }
    }
}

impl Memory {
    /// The content to serve after `finding`. The same content keeps its place in memory.
    fn take_in(&mut self, finding: Finding, before: Option<&Arc<Fetched>>) -> Option<Arc<Fetched>> {
        match finding {
            Finding::Read { fetched, began, .. } => {
                self.read = Some(began);
                self.light_checks = 0;
                Some(match before {
                    Some(before) if before.same_as(&fetched) => before.clone(),
                    _ => fetched,
                })
            }
            Finding::Unchanged { listed, .. } => {
                self.listed = listed;
                self.light_checks = self.light_checks.saturating_add(1);
                self.passed_over = 0;
                before.cloned()
            }
            Finding::Failed(_) => before.cloned(),
        }
    }
}

/// Why the object is not fresh. A revoked object goes on telling the no that was believed, whatever follows.
fn shown_error(before: &Snapshot, state: State, error: Option<&Error>) -> Option<Error> {
    let revoked = before.state == State::Revoked && state == State::Revoked;
    if revoked { before.error.clone() } else { error.cloned() }
}

fn concerns_object(kind: ErrorKind) -> bool {
    !kind.is_transient() && kind != ErrorKind::Unauthenticated
}

fn warn_or_whisper(times: u32, error: &Error, state: State) {
    if times <= 3 {
        tracing::warn!(%error, ?state, "a check failed");
    } else {
        tracing::debug!(%error, ?state, times, detail = error.internal_detail(), "a check failed again");
    }
}
