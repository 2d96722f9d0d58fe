//! When to ask again: one pure function.

use std::time::Duration;

use keyward_core::UnixTime;
use keyward_core::backoff::{exponential, jitter};

/// What matters about an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EntryFacts {
    /// Its own interval, when one was asked for.
    pub refresh: Option<Duration>,
    /// Whether one version is pinned, which changes only by being disabled or deleted.
    pub pinned: bool,
    /// Whether there is a value to serve meanwhile.
    pub held: bool,
    /// Checks in a row that did not confirm it.
    pub failures: u32,
    /// Whether the last of them was a definite no.
    pub refused: bool,
    /// How long the peer asked us to wait.
    pub asked: Option<Duration>,
    /// When the value expires by its owner's word.
    pub expires: Option<UnixTime>,
}

/// The general pace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Time between checks.
    pub interval: Duration,
    /// Share of it by which checks vary.
    pub jitter: f64,
    /// A pinned version is checked once in so many intervals.
    pub full_read_every: u32,
}

/// No wait is shorter, whatever the settings say.
pub const SHORTEST: Duration = Duration::from_millis(100);

/// First wait after a failure, with a value to serve and without one.
const RETRY_HELD: Duration = Duration::from_secs(15);
const RETRY_EMPTY: Duration = Duration::from_secs(1);

/// Owners replace a value around the moment it expires; the checks of all readers spread over this time after it.
const EXPIRY_SPREAD: Duration = Duration::from_secs(30);

/// How long to wait from `now` until the object is checked again; `random` is in `0.0..1.0`.
///
/// - All is well: the object's interval, jittered; ten (`full_read_every`) of them for a pinned version without an
///   interval of its own; sooner when the value expires before, namely shortly after that.
/// - A definite no to an object that has a value: the interval, so that the run which revokes it is heard.
/// - A failure: from 15 s (1 s when there is no value, also after a definite no) doubling to [`slowest`], never
///   sooner than the peer asked unless that is beyond it.
#[must_use]
pub fn next_check(now: UnixTime, facts: &EntryFacts, pace: &Pace, random: f64) -> Duration {
    let every = facts.refresh.unwrap_or(pace.interval);
    let wait = if facts.failures == 0 {
        let slower = if facts.pinned && facts.refresh.is_none() { pace.full_read_every.max(1) } else { 1 };
        let wait = jitter(every.saturating_mul(slower), pace.jitter, random);
        match facts.expires.and_then(|expires| expires.checked_sub(now)) {
            Some(left) => {
                let after = EXPIRY_SPREAD.min(every).mul_f64(0.1 + 0.9 * random.clamp(0.0, 1.0));
                wait.min(left.saturating_add(after))
            }
            None => wait,
        }
    } else if facts.refused && facts.held {
        jitter(every, pace.jitter, random)
    } else {
        let base = if facts.held { RETRY_HELD } else { RETRY_EMPTY };
        let cap = if facts.held { slowest(every) } else { every };
        let step = exponential(base.min(cap), cap, facts.failures - 1);
        let jittered = step.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0));
        jittered.max(facts.asked.unwrap_or_default().min(cap))
    };
    wait.max(SHORTEST)
}

/// The longest wait of a failing object that is otherwise checked `every` so often: four times that, but no more than a
/// quarter of an hour unless the object's own interval is longer.
#[must_use]
pub fn slowest(every: Duration) -> Duration {
    every.saturating_mul(4).min(every.max(Duration::from_secs(15 * 60)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PACE: Pace = Pace { interval: Duration::from_secs(60), jitter: 0.1, full_read_every: 10 };
    const NOW: UnixTime = Duration::from_secs(1_800_000_000);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn wait(facts: EntryFacts) -> Duration {
        next_check(NOW, &facts, &PACE, 0.5)
    }

    #[test]
    fn each_situation_has_its_own_pace() {
        let held = EntryFacts { held: true, ..EntryFacts::default() };
        assert_eq!(wait(held), seconds(60));
        assert_eq!(wait(EntryFacts { refresh: Some(seconds(30)), ..held }), seconds(30));
        assert_eq!(wait(EntryFacts { pinned: true, ..held }), seconds(600));
        assert_eq!(wait(EntryFacts { pinned: true, refresh: Some(seconds(30)), ..held }), seconds(30));
        assert_eq!(wait(EntryFacts { failures: 2, refused: true, pinned: true, ..held }), seconds(60));
        assert_eq!(wait(EntryFacts { failures: 1, ..held }), seconds(15).mul_f64(0.75));
        assert_eq!(wait(EntryFacts { failures: 40, ..held }), seconds(180));
        assert_eq!(wait(EntryFacts { failures: 1, asked: Some(seconds(100)), ..held }), seconds(100));
        assert_eq!(wait(EntryFacts { failures: 1, asked: Some(seconds(9999)), ..held }), seconds(240));
        assert_eq!(wait(EntryFacts { failures: 1, ..EntryFacts::default() }), seconds(1).mul_f64(0.75));
        assert_eq!(slowest(seconds(3600)), seconds(3600));
    }

    #[test]
    fn a_value_that_expires_before_the_next_check_is_checked_shortly_after_it_expires() {
        let held = EntryFacts { held: true, pinned: true, ..EntryFacts::default() };
        let expires = |left| wait(EntryFacts { expires: Some(NOW + seconds(left)), ..held });
        assert!(expires(100) > seconds(100) && expires(100) <= seconds(130));
        assert_eq!(expires(10_000), seconds(600));
        assert_eq!(wait(EntryFacts { expires: Some(NOW - seconds(1)), ..held }), seconds(600));
    }

    fn facts() -> impl Strategy<Value = EntryFacts> {
        let refresh = proptest::option::of(1u64..100_000);
        let asked = proptest::option::of(0u64..100_000);
        let expires = proptest::option::of(1_799_990_000u64..1_800_010_000);
        (refresh, any::<(bool, bool, bool)>(), 0u32..50, asked, expires).prop_map(
            |(refresh, (pinned, held, refused), failures, asked, expires)| EntryFacts {
                refresh: refresh.map(seconds),
                pinned,
                held,
                failures,
                refused,
                asked: asked.map(seconds),
                expires: expires.map(seconds),
            },
        )
    }

    proptest! {
        #[test]
        fn a_wait_is_never_nothing_and_never_longer_than_its_reason_allows(facts in facts(), random in 0.0f64..1.0) {
            let every = facts.refresh.unwrap_or(PACE.interval);
            let slower = if facts.pinned && facts.refresh.is_none() { 10 } else { 1 };
            let wait = next_check(NOW, &facts, &PACE, random);
            prop_assert!(wait >= SHORTEST);
            let longest = if facts.failures == 0 { every.mul_f64(1.1) * slower } else { slowest(every).max(every.mul_f64(1.1)) };
            prop_assert!(wait <= longest);
        }

        #[test]
        fn a_longer_failure_never_means_a_shorter_wait(facts in facts(), random in 0.0f64..1.0) {
            let first = EntryFacts { failures: facts.failures + 1, ..facts };
            let second = EntryFacts { failures: facts.failures + 2, ..facts };
            prop_assert!(next_check(NOW, &first, &PACE, random) <= next_check(NOW, &second, &PACE, random));
        }

        #[test]
        fn an_expiry_only_ever_brings_a_check_forward(facts in facts(), random in 0.0f64..1.0) {
            let without = EntryFacts { expires: None, ..facts };
            prop_assert!(next_check(NOW, &facts, &PACE, random) <= next_check(NOW, &without, &PACE, random));
        }
    }
}
