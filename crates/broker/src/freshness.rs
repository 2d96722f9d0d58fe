//! What readers are given: promise 3's table as a pure state machine.
//!
//! | Checks say | State |
//! | --- | --- |
//! | nothing yet, and there is no value | `Pending` |
//! | success | `Fresh` |
//! | failure, or a definite no that has not lasted | `Stale` |
//! | the same for longer than `max_stale` since the last success | `Expired` |
//! | the same definite no at least [`REVOKE_CHECKS`] times over at least [`REVOKE_AFTER`], unbroken and no storm | `Revoked` |
//!
//! A definite no is *forbidden*, *disabled* or *not found*: those that speak about the object. A refused identity
//! (token endpoint, or 401) says nothing about any object and counts as a failure, as the table says of the token
//! endpoint. `Revoked` ends only with a success: neither another no nor an outage gives a revoked value back.

use std::time::Duration;

use keyward_core::{ErrorKind, State};

/// So often the same definite no must be heard before it is believed.
pub const REVOKE_CHECKS: u32 = 3;

/// So long must lie between the first and the last of them.
pub const REVOKE_AFTER: Duration = Duration::from_secs(15 * 60);

/// What one check of an object found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The provider gave the value, or showed that it did not change.
    Confirmed,
    /// It did not.
    Failed(ErrorKind),
}

/// What is remembered of an object's checks. All times are on the boot clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct History {
    confirmed: Option<Confirmed>,
    trouble: Option<Trouble>,
}

/// An unbroken run of the same definite no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Which no.
    pub kind: ErrorKind,
    /// The first.
    pub since: Duration,
    /// The last.
    pub last: Duration,
    /// How many.
    pub count: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Confirmed {
    at: Duration,
    /// How old the value was already at `at`: a restored value may be older than this boot.
    older_by: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Trouble {
    failures: u32,
    run: Option<Run>,
    revoked: bool,
}

/// Whether `kind` is a definite no about the object itself.
#[must_use]
pub fn is_refusal(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Forbidden | ErrorKind::Disabled | ErrorKind::NotFound)
}

/// The history after one more check at `now`, and the state that follows. `excused` tells that a storm is on or that
/// other reads of the same identity and vault succeed, so that *forbidden* is not to be believed.
#[must_use]
pub fn judge(
    history: History,
    outcome: Outcome,
    now: Duration,
    excused: bool,
    max_stale: Duration,
) -> (History, State) {
    let next = match outcome {
        Outcome::Confirmed => {
            let confirmed = Some(Confirmed { at: now, older_by: Duration::ZERO });
            History { confirmed, trouble: None }
        }
        Outcome::Failed(kind) => {
            let before = history.trouble.unwrap_or_default();
            let run = is_refusal(kind).then(|| match before.run {
                Some(run) if run.kind == kind => Run { last: now, count: run.count.saturating_add(1), ..run },
                _ => Run { kind, since: now, last: now, count: 1 },
            });
            let excused = excused && kind == ErrorKind::Forbidden;
            let believed = !excused && run.is_some_and(Run::lasted);
            let revoked = before.revoked || believed && history.confirmed.is_some();
            let failures = before.failures.saturating_add(1);
            History { trouble: Some(Trouble { failures, run, revoked }), ..history }
        }
    };
    (next, next.state(now, max_stale))
}

impl Run {
    fn lasted(self) -> bool {
        self.count >= REVOKE_CHECKS && self.last.saturating_sub(self.since) >= REVOKE_AFTER
    }
}

impl History {
    /// A value that was `age` old when Keyward started at `now`: stale until it is confirmed.
    #[must_use]
    pub fn restored(now: Duration, age: Duration) -> Self {
        Self { confirmed: Some(Confirmed { at: now, older_by: age }), trouble: Some(Trouble::default()) }
    }

    /// The state at `now` when nothing more was heard.
    #[must_use]
    pub fn state(&self, now: Duration, max_stale: Duration) -> State {
        match (&self.confirmed, &self.trouble) {
            (None, _) => State::Pending,
            (Some(_), None) => State::Fresh,
            (Some(_), Some(trouble)) if trouble.revoked => State::Revoked,
            (Some(confirmed), Some(_)) if confirmed.age(now) > max_stale => State::Expired,
            _ => State::Stale,
        }
    }

    /// When a stale value expires; `None` for every other state, now or later.
    #[must_use]
    pub fn expires_at(&self, max_stale: Duration) -> Option<Duration> {
        let trouble = self.trouble.as_ref()?;
        let confirmed = self.confirmed.as_ref()?;
        (!trouble.revoked).then(|| (confirmed.at + max_stale).saturating_sub(confirmed.older_by))
    }

    /// Whether there is a value at all.
    #[must_use]
    pub fn held(&self) -> bool {
        self.confirmed.is_some()
    }

    /// When the value was last confirmed, on this boot's clock; zero when that was before it began.
    #[must_use]
    pub fn confirmed_at(&self) -> Option<Duration> {
        self.confirmed.map(|confirmed| confirmed.at.saturating_sub(confirmed.older_by))
    }

    /// Checks in a row that did not confirm the value.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.trouble.map_or(0, |trouble| trouble.failures)
    }

    /// The definite no that the last check, and those before it, gave.
    #[must_use]
    pub fn run(&self) -> Option<Run> {
        self.trouble.and_then(|trouble| trouble.run)
    }
}

impl Confirmed {
    fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.at).saturating_add(self.older_by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const MINUTE: Duration = Duration::from_secs(60);

    #[derive(Debug, Clone, Copy)]
    struct Step {
        at: Duration,
        outcome: Outcome,
        excused: bool,
    }

    /// The table read literally over the whole past, without any memory.
    fn by_the_table(steps: &[Step], now: Duration, max_stale: Duration) -> State {
        let Some(success) = steps.iter().rposition(|step| step.outcome == Outcome::Confirmed) else {
            return State::Pending;
        };
        let since = &steps[success + 1..];
        if since.is_empty() {
            return State::Fresh;
        }
        let revoked = (0..since.len()).any(|end| {
            let Outcome::Failed(kind) = since[end].outcome else { return false };
            let believable = !(since[end].excused && kind == ErrorKind::Forbidden);
            is_refusal(kind)
                && believable
                && (0..=end).any(|start| {
                    since[start..=end].iter().all(|step| step.outcome == since[end].outcome)
                        && end - start + 1 >= 3
                        && since[end].at - since[start].at >= MINUTE * 15
                })
        });
        if revoked {
            State::Revoked
        } else if now - steps[success].at > max_stale {
            State::Expired
        } else {
            State::Stale
        }
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            2 => Just(Outcome::Confirmed),
            2 => Just(Outcome::Failed(ErrorKind::Unavailable)),
            1 => Just(Outcome::Failed(ErrorKind::Unauthenticated)),
            8 => Just(Outcome::Failed(ErrorKind::Forbidden)),
            8 => Just(Outcome::Failed(ErrorKind::Disabled)),
        ]
    }

    proptest! {
        #[test]
        fn the_state_machine_agrees_with_the_table(
            steps in proptest::collection::vec((1u64..900, outcome(), any::<bool>()), 0..25),
            repeat in 1usize..5,
            later in 0u64..5_000,
        ) {
            let (mut now, mut history, mut past) = (Duration::from_secs(50), History::default(), Vec::new());
            let max_stale = MINUTE * 30;
            for (wait, outcome, excused) in steps {
                for _ in 0..repeat {
                    now += Duration::from_secs(wait);
                    past.push(Step { at: now, outcome, excused });
                    let (next, state) = judge(history, outcome, now, excused, max_stale);
                    prop_assert_eq!(state, by_the_table(&past, now, max_stale));
                    history = next;
                }
            }
            now += Duration::from_secs(later);
            prop_assert_eq!(history.state(now, max_stale), by_the_table(&past, now, max_stale));
            if let Some(at) = history.expires_at(max_stale) {
                prop_assert!(history.state(at, max_stale) == State::Stale);
                prop_assert!(history.state(at + Duration::from_nanos(1), max_stale) == State::Expired);
            }
        }
    }

    #[test]
    fn a_restored_value_is_as_old_as_it_was_before_the_restart() {
        let restored = History::restored(MINUTE, DAY - MINUTE);
        assert_eq!(restored.state(MINUTE, DAY), State::Stale);
        assert_eq!(restored.state(MINUTE * 2, DAY), State::Stale);
        assert_eq!(restored.state(MINUTE * 3, DAY), State::Expired);
        assert_eq!(restored.confirmed_at(), Some(Duration::ZERO));
    }

    #[test]
    fn neither_another_no_nor_an_outage_gives_a_revoked_value_back() {
        let mut history = judge(History::default(), Outcome::Confirmed, MINUTE, false, DAY).0;
        for minute in 2..=17 {
            let disabled = Outcome::Failed(ErrorKind::Disabled);
            history = judge(history, disabled, MINUTE * minute, false, DAY).0;
        }
        assert_eq!(history.state(MINUTE * 17, DAY), State::Revoked);
        for (minute, kind) in
            [(18, ErrorKind::NotFound), (19, ErrorKind::Unavailable), (20, ErrorKind::Forbidden)]
        {
            let (next, state) = judge(history, Outcome::Failed(kind), MINUTE * minute, true, DAY);
            assert_eq!(state, State::Revoked);
            history = next;
        }
        assert_eq!(judge(history, Outcome::Confirmed, MINUTE * 21, false, DAY).1, State::Fresh);
    }
}
