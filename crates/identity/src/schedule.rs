//! When to ask for the next token: pure functions of lifetimes, failures and chance.

use std::time::Duration;

use keyward_core::Error;
use keyward_core::backoff::exponential;

/// The shortest time between two exchanges for one token.
const SOONEST: Duration = Duration::from_secs(1);

/// What is left of a token's life when its refresh starts, where the life is long enough.
const RESERVE: Duration = Duration::from_secs(300);

/// How long after its arrival a token is refreshed: when the issuer says, else at half its life, earlier where less than
/// five minutes would remain, and at a third where the whole life is shorter. Up to a tenth earlier by chance, so that
/// the pods of a node do not ask together. `random` is in `0.0..1.0`.
pub(crate) fn refresh_after(lifetime: Duration, refresh_in: Option<Duration>, random: f64) -> Duration {
    let part = |of: u32| lifetime.checked_div(of).unwrap_or_default();
    let (half, third) = (part(2), part(3));
    let wanted = match refresh_in.filter(|wanted| *wanted < lifetime) {
        Some(wanted) => wanted,
        None => match lifetime.checked_sub(RESERVE).filter(|rest| *rest >= third) {
            Some(latest) => latest.min(half),
            None => third,
        },
    };
    wanted.mul_f64(1.0 - 0.1 * random.clamp(0.0, 1.0)).max(SOONEST)
}

/// How long after failure number `failures` (≥ 1) the background tries again, while the old token serves.
pub(crate) fn retry_after_failure(failures: u32, error: &Error, random: f64) -> Duration {
    let step = exponential(Duration::from_secs(5), Duration::from_secs(300), failures.saturating_sub(1));
    let asked = error.wait().unwrap_or_default().min(Duration::from_secs(300));
    step.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0)).max(asked)
}

/// For how long callers get the same error without another exchange, when there is no token: a definite no is asked
/// again after ten seconds, an outage after 1, 2, 4, 8 and then 15 s, or when the peer says.
pub(crate) fn hold_off(failures: u32, error: &Error, random: f64) -> Duration {
    if error.kind().is_definite_no() {
        return Duration::from_secs(10);
    }
    let step = exponential(Duration::from_secs(1), Duration::from_secs(15), failures.saturating_sub(1));
    let asked = error.wait().unwrap_or_default().min(Duration::from_secs(60));
    step.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0)).max(asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_core::Code;
    use proptest::prelude::*;

    #[test]
    fn an_hour_is_refreshed_at_about_half_and_a_day_at_about_noon() {
        assert_eq!(refresh_after(Duration::from_secs(3600), None, 0.0), Duration::from_secs(1800));
        assert_eq!(refresh_after(Duration::from_secs(3600), None, 1.0), Duration::from_secs(1620));
        assert_eq!(refresh_after(Duration::from_secs(86_400), None, 0.0), Duration::from_secs(43_200));
    }

    #[test]
    fn the_issuers_own_wish_wins_unless_it_is_too_late() {
        let hour = Duration::from_secs(3600);
        assert_eq!(refresh_after(hour, Some(Duration::from_secs(3000)), 0.0), Duration::from_secs(3000));
        assert_eq!(refresh_after(hour, Some(Duration::from_secs(7200)), 0.0), Duration::from_secs(1800));
    }

    proptest! {
        #[test]
        fn a_refresh_always_comes_before_the_end_and_never_at_once(seconds in 2u64..200_000, asked in proptest::option::of(0u64..300_000), random in 0.0f64..1.0) {
            let lifetime = Duration::from_secs(seconds);
            let after = refresh_after(lifetime, asked.map(Duration::from_secs), random);
            prop_assert!(after < lifetime && after >= SOONEST);
        }

        #[test]
        fn at_least_five_minutes_remain_when_life_allows(seconds in 450u64..200_000, random in 0.0f64..1.0) {
            let lifetime = Duration::from_secs(seconds);
            prop_assert!(lifetime - refresh_after(lifetime, None, random) >= RESERVE);
        }

        #[test]
        fn waits_after_failures_grow_differ_and_stay_bounded(failures in 1u32..10_000, a in 0.0f64..0.4, b in 0.6f64..1.0, asked in proptest::option::of(0u64..100_000)) {
            let error = Error::new(Code::TokenUnavailable, "down").retry_after(asked.map(Duration::from_secs));
            prop_assert!(retry_after_failure(failures, &error, a) <= Duration::from_secs(300));
            prop_assert!(hold_off(failures, &error, b) <= Duration::from_secs(60));
            let plain = Error::new(Code::TokenUnavailable, "down");
            prop_assert!(retry_after_failure(failures, &plain, a) < retry_after_failure(failures, &plain, b));
        }
    }
}
