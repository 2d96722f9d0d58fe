#![expect(clippy::arithmetic_side_effects, reason = "a rate that is not zero, and a wait that it bounds")]

use std::time::Duration;

use tokio::time::Instant;

/// A token bucket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    tokens: f64,
    full: f64,
    per_second: f64,
    filled: Instant,
}

impl Bucket {
    pub(super) fn new(full: u32, every: Duration) -> Self {
        let full = f64::from(full);
        Self { tokens: full, full, per_second: 1.0 / every.as_secs_f64(), filled: Instant::now() }
    }

    /// Takes one, or answers how long until there is one.
    pub(super) fn take(&mut self) -> Result<(), Duration> {
        self.take_above(0)
    }

    /// Takes one beyond `kept`, or answers how long until there is one.
    pub(super) fn take_above(&mut self, kept: u32) -> Result<(), Duration> {
        let wanted = f64::from(kept) + 1.0;
        let now = Instant::now();
        let grown = now.duration_since(self.filled).as_secs_f64() * self.per_second;
        (self.tokens, self.filled) = ((self.tokens + grown).min(self.full), now);
        if self.tokens >= wanted {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((wanted - self.tokens) / self.per_second) + Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_gives_what_it_holds_and_then_as_it_fills() {
        let mut bucket = Bucket::new(2, Duration::from_secs(10));
        assert!(bucket.take().is_ok() && bucket.take().is_ok());
        let wait = bucket.take().unwrap_err();
        assert!(wait <= Duration::from_millis(10_001));
        tokio::time::advance(wait).await;
        assert!(bucket.take().is_ok() && bucket.take().is_err());
    }
}
