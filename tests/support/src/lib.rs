//! Clocks and helpers that tests share.

pub mod fake_api;
mod hand_view;
pub mod kubelet;
pub mod limits;
mod model_vault;
pub mod node;
mod texts;

pub use hand_view::{HandView, Kept};
pub use model_vault::{Counts, Fault, ModelVault};
pub use texts::{any_text, is_tidy};

use std::time::Duration;

use keyward_core::{Clock, UnixTime};
use tokio::time::Instant;

/// A clock that follows tokio's, so that a test that pauses time owns wall and boot time too.
///
/// Wall time begins at 2026-11-23T06:00:00Z and boot time at one hour.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    start: Instant,
}

impl TokioClock {
    /// Wall time at the moment of [`TokioClock::new`].
    pub const EPOCH: UnixTime = Duration::from_secs(1_795_413_600);

    /// Begins now. Must be called inside a tokio runtime whose time is paused, if at all, already.
    #[must_use]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TokioClock {
    fn wall(&self) -> UnixTime {
        Self::EPOCH + self.start.elapsed()
    }

    fn boot(&self) -> Duration {
        Duration::from_secs(3600) + self.start.elapsed()
    }
}
