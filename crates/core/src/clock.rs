use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Wall time as whole and fractional seconds since 1970-01-01T00:00:00Z.
pub type UnixTime = Duration;

/// Time, injected. Tests own it; nothing in Keyward asks the system directly.
pub trait Clock: Send + Sync {
    /// Wall time, for what people and peers read. May step.
    fn wall(&self) -> UnixTime;

    /// Time since boot, suspended time included: the one to measure the age of tokens and values with.
    fn boot(&self) -> Duration;
}

/// The system's clocks: `CLOCK_REALTIME` and `CLOCK_BOOTTIME`.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall(&self) -> UnixTime {
        read(ClockId::CLOCK_REALTIME)
    }

    fn boot(&self) -> Duration {
        read(ClockId::CLOCK_BOOTTIME)
    }
}

fn read(id: ClockId) -> Duration {
    #[expect(clippy::expect_used, reason = "no input decides it")]
    let now = clock_gettime(id).expect("Linux has had both clocks since 2.6.39");
    Duration::new(u64::try_from(now.tv_sec()).unwrap_or(0), u32::try_from(now.tv_nsec()).unwrap_or(0))
}
