//! When to try again: pure functions of what happened so far, property-tested.

use std::time::Duration;

use crate::Error;

/// How often and how long one operation is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all, the first included; at least 1.
    pub attempts: u32,
    /// Wait before the second try; doubles from there.
    pub base: Duration,
    /// No single wait is longer, whatever the peer asks for.
    pub cap: Duration,
    /// All waits of one operation together are never longer.
    pub budget: Duration,
}

impl RetryPolicy {
    /// Key Vault reads: the documented 1, 2, 4 … s schedule would outlast a pod start, so begin lower.
    pub const VAULT: Self = Self {
        attempts: 4,
        base: Duration::from_millis(250),
        cap: Duration::from_secs(10),
        budget: Duration::from_secs(20),
    };

    /// No second try.
    pub const NONE: Self =
        Self { attempts: 1, base: Duration::ZERO, cap: Duration::ZERO, budget: Duration::ZERO };

    /// How long to wait before try number `failed + 1`, or `None` to give up.
    ///
    /// `failed` counts the tries so far (≥ 1), `waited` is the sum of earlier waits, `random` is in `0.0..1.0`.
    /// The wait lies in `[half, whole]` of the exponential step, never under what the peer asked for unless that is
    /// beyond `cap`, and never takes the operation past `budget`. Only transient errors are tried again.
    #[must_use]
    pub fn next(&self, error: &Error, failed: u32, waited: Duration, random: f64) -> Option<Duration> {
        if !error.kind().is_transient() || failed >= self.attempts {
            return None;
        }
        let step = exponential(self.base, self.cap, failed.saturating_sub(1));
        let jittered = step.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0));
        let wait = jittered.max(error.wait().unwrap_or_default()).min(self.cap);
        (waited.saturating_add(wait) <= self.budget).then_some(wait)
    }
}

/// `base × 2^exponent`, at most `cap`.
#[must_use]
pub fn exponential(base: Duration, cap: Duration, exponent: u32) -> Duration {
    base.saturating_mul(1u32.checked_shl(exponent).unwrap_or(u32::MAX)).min(cap)
}

/// `interval` spread evenly over `± fraction` of itself; `random` is in `0.0..1.0`.
#[must_use]
pub fn jitter(interval: Duration, fraction: f64, random: f64) -> Duration {
    interval.mul_f64((1.0 + fraction.clamp(0.0, 1.0) * (2.0 * random.clamp(0.0, 1.0) - 1.0)).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;
    use proptest::prelude::*;

    #[test]
    fn a_definite_no_is_never_tried_again() {
        let error = Error::new(Code::VaultForbidden, "no");
        assert_eq!(RetryPolicy::VAULT.next(&error, 1, Duration::ZERO, 0.5), None);
    }

    #[test]
    fn an_hour_of_retry_after_is_cut_to_the_cap() {
        let error =
            Error::new(Code::VaultThrottled, "slow down").retry_after(Some(Duration::from_secs(3600)));
        assert_eq!(RetryPolicy::VAULT.next(&error, 1, Duration::ZERO, 0.0), Some(RetryPolicy::VAULT.cap));
    }

    proptest! {
        #[test]
        fn waits_stay_within_cap_and_budget_and_end(randoms in proptest::collection::vec(0.0f64..1.0, 1..20), asked in proptest::option::of(0u64..10_000)) {
            let policy = RetryPolicy::VAULT;
            let error = Error::new(Code::VaultThrottled, "slow down").retry_after(asked.map(Duration::from_secs));
            let (mut waited, mut failed) = (Duration::ZERO, 1);
            for random in randoms {
                let Some(wait) = policy.next(&error, failed, waited, random) else { break };
                prop_assert!(wait <= policy.cap);
                waited += wait;
                failed += 1;
                prop_assert!(waited <= policy.budget && failed <= policy.attempts);
            }
        }

        #[test]
        fn jitter_stays_inside_its_band_and_differs(seconds in 1u64..100_000, fraction in 0.01f64..1.0, a in 0.0f64..0.4, b in 0.6f64..1.0) {
            let interval = Duration::from_secs(seconds);
            let (low, high) = (jitter(interval, fraction, a), jitter(interval, fraction, b));
            prop_assert!(low < high);
            prop_assert!(low >= interval.mul_f64((1.0 - fraction).max(0.0)) && high <= interval.mul_f64(1.0 + fraction));
        }
    }
}
