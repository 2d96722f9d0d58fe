//! The emulator's wall clock, injected so that tests own it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// Where the emulator reads the time from. Milliseconds since the Unix epoch.
pub trait Clock: Send + Sync + 'static {
    /// The present moment in milliseconds since the Unix epoch.
    fn unix_millis(&self) -> i64;
}

/// The machine's own clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where the emulator reads the machine's clock"
    )]
    fn unix_millis(&self) -> i64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |elapsed| i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A clock that moves with tokio's time, and so stands still and jumps with it when a test pauses time.
#[derive(Debug)]
pub struct TokioClock {
    base_millis: i64,
    base: tokio::time::Instant,
}

impl TokioClock {
    /// Starts at `unix_seconds` now. Call it inside the runtime whose time it shall follow.
    #[must_use]
    pub fn starting_at(unix_seconds: i64) -> Self {
        Self { base_millis: unix_seconds * 1000, base: tokio::time::Instant::now() }
    }
}

impl Clock for TokioClock {
    fn unix_millis(&self) -> i64 {
        self.base_millis + millis(self.base.elapsed())
    }
}

/// A clock that only moves when told to.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// Starts, and stays, at `unix_seconds`.
    #[must_use]
    pub fn starting_at(unix_seconds: i64) -> Self {
        Self(AtomicI64::new(unix_seconds * 1000))
    }

    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(millis(by), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn unix_millis(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Any clock plus an offset that can be moved at run time (the admin API's `/clock`).
pub(crate) struct OffsetClock {
    inner: std::sync::Arc<dyn Clock>,
    offset_millis: AtomicI64,
}

impl OffsetClock {
    pub(crate) fn new(inner: std::sync::Arc<dyn Clock>) -> Self {
        Self { inner, offset_millis: AtomicI64::new(0) }
    }

    pub(crate) fn unix_millis(&self) -> i64 {
        self.inner.unix_millis() + self.offset_millis.load(Ordering::SeqCst)
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.offset_millis.fetch_add(millis(by), Ordering::SeqCst);
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_tokio_clock_follows_paused_time() {
        let clock = TokioClock::starting_at(1_700_000_000);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(clock.unix_millis(), 1_700_003_600_000);
    }

    #[test]
    fn the_manual_clock_moves_only_when_told() {
        let clock = ManualClock::starting_at(10);
        assert_eq!(clock.unix_millis(), 10_000);
        clock.advance(Duration::from_millis(5));
        assert_eq!(clock.unix_millis(), 10_005);
    }
}
