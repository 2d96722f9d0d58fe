use std::time::Duration;

use async_trait::async_trait;
use keyward_core::backoff::RetryPolicy;
use keyward_core::{Error, Result};

use crate::Issued;

/// A failed try of an exchange, and whether another may help.
pub(crate) struct Failed {
    pub(crate) error: Error,
    pub(crate) again: Again,
}

/// Why another try may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// It may not.
    Never,
    /// The error is transient: the way's own policy decides.
    Policy,
    /// A new federated credential takes seconds to be known everywhere (AADSTS70021x).
    Propagating,
    /// The assertion was out of its time (AADSTS700024): the file may have been replaced since it was read.
    Reread,
    /// The metadata service is being updated and back within 70 s (410).
    Updating,
}

impl Failed {
    pub(crate) fn never(error: Error) -> Self {
        Self { error, again: Again::Never }
    }

    /// As the policy says for the error's kind.
    pub(crate) fn policy(error: Error) -> Self {
        Self { error, again: Again::Policy }
    }
}

/// Tries within one exchange.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tries {
    policy: u32,
    propagating: u32,
    rereads: u32,
    updating: u32,
    waited: Duration,
}

impl Tries {
    /// The wait before the next try, or `None` to give up. `random` is in `0.0..1.0`.
    pub(crate) fn next(&mut self, policy: &RetryPolicy, failed: &Failed, random: f64) -> Option<Duration> {
        match failed.again {
            Again::Never => None,
            // Sooner than asked would be rude, later is the cache's business.
            Again::Policy if failed.error.wait().is_some_and(|asked| asked > policy.cap) => None,
            Again::Policy => {
                self.policy = self.policy.saturating_add(1);
                let wait = policy.next(&failed.error, self.policy, self.waited, random)?;
                self.waited = self.waited.saturating_add(wait);
                Some(wait)
            }
            Again::Propagating => {
                self.propagating = self.propagating.saturating_add(1);
                // 1, 2 and 4 s, a quarter more by chance.
                let seconds = match self.propagating {
                    1 => 1,
                    2 => 2,
                    3 => 4,
                    _ => return None,
                };
                Some(Duration::from_secs(seconds).mul_f64(1.0 + 0.25 * random))
            }
            Again::Reread => {
                self.rereads = self.rereads.saturating_add(1);
                (self.rereads <= 1).then_some(Duration::ZERO)
            }
            Again::Updating => {
                self.updating = self.updating.saturating_add(1);
                (self.updating <= 7).then_some(Duration::from_secs(10))
            }
        }
    }
}

/// One try of an exchange.
#[async_trait]
pub(crate) trait Attempt: Send + Sync {
    async fn attempt(&self, resource: &str) -> std::result::Result<Issued, Failed>;
}

/// Tries until it succeeds or the rules say to give up.
pub(crate) async fn until_done(policy: &RetryPolicy, way: &dyn Attempt, resource: &str) -> Result<Issued> {
    let mut tries = Tries::default();
    loop {
        let failed = match way.attempt(resource).await {
            Ok(issued) => return Ok(issued),
            Err(failed) => failed,
        };
        match tries.next(policy, &failed, fastrand::f64()) {
            Some(wait) => {
                let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                tracing::debug!(error = %failed.error, wait_ms, "a token exchange is tried again");
                tokio::time::sleep(wait).await;
            }
            None => return Err(failed.error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_core::Code;
    use proptest::prelude::*;

    fn failed(again: Again) -> Failed {
        Failed { error: Error::new(Code::TokenUnavailable, "down"), again }
    }

    #[test]
    fn an_update_of_the_metadata_service_is_waited_out_for_seventy_seconds() {
        let mut tries = Tries::default();
        let waits: Vec<_> =
            std::iter::from_fn(|| tries.next(&RetryPolicy::NONE, &failed(Again::Updating), 0.5)).collect();
        assert_eq!(waits.iter().sum::<Duration>(), Duration::from_secs(70));
    }

    /// Fails until `until` has passed, then succeeds; keeps when it was asked.
    struct Flaky {
        begin: tokio::time::Instant,
        until: Duration,
        again: Again,
        asked: parking_lot::Mutex<Vec<Duration>>,
    }

    impl Flaky {
        fn new(until: u64, again: Again) -> Self {
            let begin = tokio::time::Instant::now();
            Self { begin, until: Duration::from_secs(until), again, asked: parking_lot::Mutex::default() }
        }
    }

    #[async_trait]
    impl Attempt for Flaky {
        async fn attempt(&self, _: &str) -> std::result::Result<Issued, Failed> {
            let now = self.begin.elapsed();
            self.asked.lock().push(now);
            if now < self.until {
                return Err(failed(self.again));
            }
            let secret = keyward_core::SecretBytes::copy_from(b"t");
            Ok(Issued { secret, lifetime: Duration::from_secs(1), refresh_in: None })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_410_for_a_minute_ends_in_success_and_for_two_in_an_error() {
        let way = Flaky::new(60, Again::Updating);
        assert!(until_done(&crate::managed::POLICY, &way, "r").await.is_ok());
        assert_eq!(way.asked.lock().last(), Some(&Duration::from_secs(60)));
        let way = Flaky::new(120, Again::Updating);
        assert!(until_done(&crate::managed::POLICY, &way, "r").await.is_err());
        assert_eq!(way.begin.elapsed(), Duration::from_secs(70));
    }

    #[tokio::test(start_paused = true)]
    async fn limit_5_imds_is_asked_again_after_one_two_and_four_seconds_at_least() {
        let way = Flaky::new(1000, Again::Policy);
        assert!(until_done(&crate::managed::POLICY, &way, "r").await.is_err());
        let asked = way.asked.lock();
        let waits: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(waits.len(), 3);
        for (wait, least) in waits.iter().zip([1, 2, 4]) {
            assert!(
                *wait >= Duration::from_secs(least) && *wait <= Duration::from_secs(2 * least),
                "{waits:?}"
            );
        }
    }

    #[test]
    fn a_wait_longer_than_the_cap_is_left_to_the_cache() {
        let mut failed = failed(Again::Policy);
        failed.error = failed.error.retry_after(Some(Duration::from_secs(120)));
        assert_eq!(Tries::default().next(&RetryPolicy::VAULT, &failed, 0.5), None);
    }

    #[test]
    fn a_file_is_read_again_once() {
        let mut tries = Tries::default();
        assert_eq!(tries.next(&RetryPolicy::NONE, &failed(Again::Reread), 0.5), Some(Duration::ZERO));
        assert_eq!(tries.next(&RetryPolicy::NONE, &failed(Again::Reread), 0.5), None);
    }

    proptest! {
        #[test]
        fn every_mix_of_failures_ends(kinds in proptest::collection::vec(0usize..5, 0..200), random in 0.0f64..1.0) {
            let all = [Again::Never, Again::Policy, Again::Propagating, Again::Reread, Again::Updating];
            let mut tries = Tries::default();
            let mut went_on = 0;
            for kind in kinds {
                if tries.next(&RetryPolicy::VAULT, &failed(all[kind]), random).is_none() {
                    break;
                }
                went_on += 1;
            }
            prop_assert!(went_on <= 3 + 3 + 1 + 7);
        }
    }
}
