#![expect(
    clippy::arithmetic_side_effects,
    reason = "a rate that is not zero, and times that were compared before they are subtracted"
)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A rate limit without a lock: the generic cell rate algorithm (ITU-T I.371), whose whole state is the time at which
/// everything granted so far would be used up at the permitted rate.
pub(crate) struct Rate {
    /// Nanoseconds that one grant takes.
    gap: u64,
    /// Nanoseconds that the limit may be ahead of time: the burst.
    burst: u64,
    used_up: AtomicU64,
}

impl Rate {
    /// `per_second` grants a second and as many at once; at least one.
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            gap: 1_000_000_000 / u64::from(per_second.max(1)),
            burst: 1_000_000_000,
            used_up: AtomicU64::new(0),
        }
    }

    /// One grant for each `gap`, none ahead of time.
    pub(crate) fn every(gap: Duration) -> Self {
        let gap = u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX).max(1);
        Self { gap, burst: gap, used_up: AtomicU64::new(0) }
    }

    /// Takes `cost` grants at `now` (on any clock that does not step back), or says how long to wait. A cost greater
    /// than the burst counts as the whole burst, so that it is not refused for ever.
    pub(crate) fn take(&self, now: Duration, cost: u32) -> Result<(), Duration> {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 2);
        let cost = self.gap.saturating_mul(u64::from(cost)).min(self.burst);
        let mut used_up = self.used_up.load(Ordering::Relaxed);
        loop {
            let next = used_up.max(now).saturating_add(cost);
            let ahead = next - now;
            if ahead > self.burst {
                return Err(Duration::from_nanos(ahead - self.burst));
            }
            match self.used_up.compare_exchange_weak(used_up, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => used_up = other,
            }
        }
    }

    /// Whether everything granted is used up, so that forgetting the state changes nothing.
    pub(crate) fn is_idle(&self, now: Duration) -> bool {
        u128::from(self.used_up.load(Ordering::Relaxed)) <= now.as_nanos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_is_granted_and_then_the_rate() {
        let rate = Rate::new(10);
        let granted = |now| (0..100).take_while(|_| rate.take(now, 1).is_ok()).count();
        assert_eq!(granted(Duration::from_secs(5)), 10);
        assert_eq!(granted(Duration::from_millis(5_250)), 2);
        assert_eq!(rate.take(Duration::from_millis(5_250), 1), Err(Duration::from_millis(50)));
    }

    #[test]
    fn a_gap_grants_one_at_a_time() {
        let rate = Rate::every(Duration::from_secs(1));
        assert_eq!(rate.take(Duration::from_secs(9), 1), Ok(()));
        assert_eq!(rate.take(Duration::from_millis(9_400), 1), Err(Duration::from_millis(600)));
        assert_eq!(rate.take(Duration::from_secs(10), 1), Ok(()));
    }

    #[test]
    fn a_cost_over_the_burst_waits_for_a_full_burst_and_then_passes() {
        let rate = Rate::new(10);
        assert_eq!(rate.take(Duration::from_secs(1), 1), Ok(()));
        assert_eq!(rate.take(Duration::from_secs(1), 400), Err(Duration::from_millis(100)));
        assert_eq!(rate.take(Duration::from_millis(1_100), 400), Ok(()));
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_the_rate_over_any_time(
            per_second in 1u32..5_000,
            steps in proptest::collection::vec((0u64..200_000_000, 1u32..50), 1..200),
        ) {
            let rate = Rate::new(per_second);
            let (mut now, mut granted) = (Duration::from_secs(1), 0u64);
            let begin = now;
            for (step, cost) in steps {
                now += Duration::from_nanos(step);
                if rate.take(now, cost).is_ok() {
                    granted += u64::from(cost.min(per_second));
                }
                let most = u64::from(per_second) + 1 + ((now - begin).as_nanos() / u128::from(rate.gap)) as u64;
                prop_assert!(granted <= most, "{granted} > {most}");
            }
        }

        #[test]
        fn waiting_as_long_as_told_is_enough(per_second in 1u32..5_000, cost in 1u32..100) {
            let rate = Rate::new(per_second);
            let now = Duration::from_secs(3);
            while rate.take(now, 1).is_ok() {}
            let wait = rate.take(now, cost).unwrap_err();
            prop_assert!(rate.take(now + wait, cost).is_ok());
        }
    }
}
