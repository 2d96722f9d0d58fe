//! The per-vault rate limit, as a sliding window.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

/// How much a vault takes before it answers 429.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimits {
    /// Transactions of any kind within the window.
    pub transactions: u64,
    /// Creations of secrets and imports within the window.
    pub creates: u64,
    /// The window.
    pub window: Duration,
}

impl RateLimits {
    /// What Azure documents per vault and region: 4,000 transactions and 300 creations within 10 seconds.
    pub const AZURE: Self = Self { transactions: 4_000, creates: 300, window: Duration::from_secs(10) };
}

/// Remembers the transactions of one window.
#[derive(Default)]
pub(crate) struct Limiter {
    recent: Mutex<Recent>,
}

#[derive(Default)]
struct Recent {
    transactions: VecDeque<i64>,
    creates: VecDeque<i64>,
}

impl Limiter {
    /// Counts one transaction, or refuses it. A refused one does not count.
    pub(crate) fn admit(&self, limits: RateLimits, is_create: bool, now_millis: i64) -> bool {
        let window = i64::try_from(limits.window.as_millis()).unwrap_or(i64::MAX);
        let mut recent = self.recent.lock();
        let recent = &mut *recent;
        for queue in [&mut recent.transactions, &mut recent.creates] {
            while queue.front().is_some_and(|at| now_millis - at >= window) {
                queue.pop_front();
            }
        }
        let full = recent.transactions.len() as u64 >= limits.transactions
            || (is_create && recent.creates.len() as u64 >= limits.creates);
        if full {
            return false;
        }
        recent.transactions.push_back(now_millis);
        if is_create {
            recent.creates.push_back(now_millis);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_thousand_and_first_transaction_in_ten_seconds_is_refused_and_later_ones_are_not() {
        let limiter = Limiter::default();
        for n in 0..4_000 {
            assert!(limiter.admit(RateLimits::AZURE, false, n), "{n}");
        }
        assert!(!limiter.admit(RateLimits::AZURE, false, 9_999));
        assert!(limiter.admit(RateLimits::AZURE, false, 10_000));
        assert!(!limiter.admit(RateLimits::AZURE, false, 10_000));
    }

    #[test]
    fn creations_have_a_limit_of_their_own() {
        let limiter = Limiter::default();
        assert!((0..300).all(|n| limiter.admit(RateLimits::AZURE, true, n)));
        assert!(!limiter.admit(RateLimits::AZURE, true, 400));
        assert!(limiter.admit(RateLimits::AZURE, false, 400));
    }
}
