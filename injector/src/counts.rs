//! How often what happened, for metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keyward_core::Result;
use keyward_telemetry::Metrics;

use crate::admission::Decision;

/// Decisions since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    injected: AtomicU64,
    skipped: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    pub(crate) fn register(self: &Arc<Self>, metrics: &Metrics) {
        let counted = |pick: fn(&Self) -> &AtomicU64| {
            let counts = Arc::clone(self);
            move || pick(&counts).load(Ordering::Relaxed)
        };
        metrics.register_counter(
            "injector_injected_pods",
            "Pods that were given their secrets",
            counted(|c| &c.injected),
        );
        metrics.register_counter(
            "injector_skipped_pods",
            "Pods that asked and were left alone",
            counted(|c| &c.skipped),
        );
        metrics.register_counter(
            "injector_refused_pods",
            "Pods that were refused for what they ask",
            counted(|c| &c.refused),
        );
        metrics.register_counter(
            "injector_failed_requests",
            "Pods that were not decided about, because something was not available",
            counted(|c| &c.failed),
        );
    }

    pub(crate) fn count(&self, decision: &Result<Decision>) {
        let counter = match decision {
            Ok(Decision::Untouched) => return,
            Ok(Decision::Skipped { .. }) => &self.skipped,
            Ok(Decision::Injected { .. }) => &self.injected,
            Err(error) if error.kind().is_transient() => &self.failed,
            Err(_) => &self.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
