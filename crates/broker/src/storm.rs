//! Whether refusals are to be believed. Key Vault has answered intermittent 403 for days (incident LT7P-9W0), first to a
//! share of requests, then to nearly all: such a storm is treated as a failure (promise 3).
//!
//! Of one identity and vault, *forbidden* is excused while more than a fifth of the watched objects, and at least two,
//! turned to it within 15 minutes of one another, or when any check succeeded since the object in question turned. An
//! identity that lost one object of a vault but reads others there therefore sees it expire after `maxStale`, not be
//! revoked.

use std::collections::BTreeMap;
use std::time::Duration;

/// Refusals that begin within this time of one another belong together.
pub const WINDOW: Duration = Duration::from_secs(15 * 60);

/// Whether `turned`, the moments at which the objects that are forbidden now became so, make a storm among `watched`
/// objects.
#[must_use]
#[expect(clippy::indexing_slicing, reason = "`start` follows `end`, which is below the length")]
pub fn is_storm(turned: impl IntoIterator<Item = Duration>, watched: usize) -> bool {
    let mut turned: Vec<Duration> = turned.into_iter().collect();
    turned.sort_unstable();
    let mut start = 0;
    (0..turned.len()).any(|end| {
        while turned[end] - turned[start] > WINDOW {
            start += 1;
        }
        let together = end - start + 1;
        together >= 2 && together * 5 > watched
    })
}

/// What one identity met in one vault. Times are on the boot clock.
#[derive(Debug, Clone, Default)]
pub struct Refusals {
    turned: BTreeMap<u64, Duration>,
    success: Option<Duration>,
}

impl Refusals {
    /// Object `id`, read before and watched, is forbidden since `since`.
    pub fn turned(&mut self, id: u64, since: Duration) {
        self.turned.insert(id, since);
    }

    /// Object `id` is no longer forbidden or no longer watched.
    pub fn cleared(&mut self, id: u64) {
        self.turned.remove(&id);
    }

    /// A check succeeded, by a read or by a listing.
    pub fn succeeded(&mut self, now: Duration) {
        self.success = Some(now);
    }

    /// Whether any check succeeded since `since`.
    #[must_use]
    pub fn is_witnessed(&self, since: Duration) -> bool {
        self.success.is_some_and(|success| success >= since)
    }

    /// Whether a storm is on among `watched` objects.
    #[must_use]
    pub fn is_storm(&self, watched: usize) -> bool {
        is_storm(self.turned.values().copied(), watched)
    }

    /// Whether an object that is forbidden since `since` is excused.
    #[must_use]
    pub fn excuses(&self, since: Duration, watched: usize) -> bool {
        self.is_witnessed(since) || self.is_storm(watched)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(60 * minutes)
    }

    #[test]
    fn one_object_alone_is_never_a_storm_and_a_fifth_is_not_more_than_a_fifth() {
        assert!(!is_storm([minutes(1)], 1));
        assert!(is_storm([minutes(1), minutes(16)], 9));
        assert!(!is_storm([minutes(1), minutes(16)], 10));
        assert!(!is_storm([minutes(1), minutes(17)], 2));
    }

    #[test]
    fn a_success_elsewhere_excuses_only_what_turned_before_it() {
        let mut refusals = Refusals::default();
        refusals.succeeded(minutes(10));
        refusals.turned(1, minutes(9));
        assert!(refusals.excuses(minutes(9), 100) && !refusals.excuses(minutes(11), 100));
    }

    proptest! {
        #[test]
        fn a_storm_is_found_wherever_its_window_lies(
            turned in proptest::collection::vec(0u64..7_200, 0..30),
            watched in 1usize..60,
        ) {
            let turned: Vec<_> = turned.into_iter().map(Duration::from_secs).collect();
            let most = turned
                .iter()
                .map(|start| turned.iter().filter(|at| *at >= start && **at - *start <= WINDOW).count())
                .max()
                .unwrap_or(0);
            let expected = most >= 2 && most as f64 > watched as f64 / 5.0;
            prop_assert_eq!(is_storm(turned, watched), expected);
        }
    }
}
