use std::time::Duration;

use keyward_core::Urgency;
use tokio::time::Instant;

use crate::VaultRate;

/// A token bucket: full after a rest, one token for each request, refilled at an even pace. Refreshes leave the last
/// third to starts.
pub(super) struct Bucket {
    burst: f64,
    per_second: f64,
    tokens: f64,
    /// When `tokens` was right; may lie ahead while the bucket stays empty.
    at: Instant,
}

impl Bucket {
    pub(super) fn new(rate: VaultRate, now: Instant) -> Self {
        let burst = f64::from(rate.burst.max(1));
        Self { burst, per_second: f64::from(rate.per_second.max(1)), tokens: burst, at: now }
    }

    /// Takes a token, or says when there will be one.
    pub(super) fn take(&mut self, urgency: Urgency, now: Instant) -> Option<Instant> {
        let passed = now.saturating_duration_since(self.at);
        self.tokens = (self.tokens + passed.as_secs_f64() * self.per_second).min(self.burst);
        self.at = self.at.max(now);
        let kept = match urgency {
            Urgency::Start => 0.0,
            Urgency::Refresh => (self.burst / 3.0).floor(),
        };
        let lacking = kept + 1.0 - self.tokens;
        // Half a millionth of a token is what rounding may have lost.
        if lacking <= 5e-7 {
            self.tokens -= 1.0;
            return None;
        }
        let wait = Duration::from_secs_f64(lacking / self.per_second).max(Duration::from_millis(1));
        Some(self.at + wait)
    }

    /// Whoever took a token did not use it.
    pub(super) fn give_back(&mut self) {
        self.tokens = (self.tokens + 1.0).min(self.burst);
    }

    /// Holds nothing before `until`, and fills up from then on.
    pub(super) fn empty_until(&mut self, until: Instant) {
        self.tokens = 0.0;
        self.at = until;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bucket(burst: u32, per_second: u32) -> (Bucket, Instant) {
        let now = Instant::now();
        (Bucket::new(VaultRate { burst, per_second }, now), now)
    }

    #[test]
    fn refreshes_leave_the_last_third_to_starts() {
        let (mut bucket, now) = bucket(9, 1);
        let taken = (0..9).take_while(|_| bucket.take(Urgency::Refresh, now).is_none()).count();
        assert_eq!(taken, 6);
        let taken = (0..9).take_while(|_| bucket.take(Urgency::Start, now).is_none()).count();
        assert_eq!(taken, 3);
        assert_eq!(bucket.take(Urgency::Start, now), Some(now + Duration::from_secs(1)));
        assert_eq!(bucket.take(Urgency::Refresh, now), Some(now + Duration::from_secs(4)));
    }

    #[test]
    fn after_a_refusal_it_fills_from_the_moment_that_the_vault_named() {
        let (mut bucket, now) = bucket(100, 10);
        let until = now + Duration::from_secs(5);
        bucket.empty_until(until);
        assert_eq!(bucket.take(Urgency::Start, now), Some(until + Duration::from_millis(100)));
        assert_eq!(bucket.take(Urgency::Start, until), Some(until + Duration::from_millis(100)));
        assert_eq!(bucket.take(Urgency::Start, until + Duration::from_millis(100)), None);
    }

    proptest! {
        #[test]
        fn no_window_sees_more_than_burst_and_refill(
            burst in 1u32..200,
            per_second in 1u32..300,
            steps in proptest::collection::vec((0u64..3_000, any::<bool>()), 1..300),
        ) {
            let (mut bucket, begin) = bucket(burst, per_second);
            let (mut now, mut taken) = (begin, 0u32);
            for (wait, is_start) in steps {
                now += Duration::from_millis(wait);
                let urgency = if is_start { Urgency::Start } else { Urgency::Refresh };
                match bucket.take(urgency, now) {
                    None => taken += 1,
                    Some(at) => {
                        prop_assert!(at > now);
                        prop_assert!(bucket.take(urgency, at).is_none(), "the time that was named was wrong");
                        (now, taken) = (at, taken + 1);
                    }
                }
                let allowed = f64::from(burst) + (now - begin).as_secs_f64() * f64::from(per_second);
                prop_assert!(f64::from(taken) <= allowed + 1e-3);
            }
        }
    }
}
