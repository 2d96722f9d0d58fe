use parking_lot::Mutex;

/// Failures told before they go down to debug level.
const TOLD: u32 = 3;

/// Says that something is broken: three times aloud, then at debug level, and once when it is well again.
pub(crate) struct Quiet {
    what: &'static str,
    failures: Mutex<u32>,
}

impl Quiet {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, failures: Mutex::new(0) }
    }

    pub(crate) fn failed(&self, error: &keyward_core::Error) {
        let mut failures = self.failures.lock();
        *failures = failures.saturating_add(1);
        let detail = error.internal_detail().unwrap_or_default();
        if *failures <= TOLD {
            tracing::warn!(%error, failures = *failures, "{} failed", self.what);
            tracing::debug!(detail, "{} failed", self.what);
        } else {
            tracing::debug!(%error, detail, failures = *failures, "{} still fails", self.what);
        }
    }

    pub(crate) fn worked(&self) {
        let failures = std::mem::take(&mut *self.failures.lock());
        if failures > 0 {
            tracing::info!(failures, "{} works again", self.what);
        }
    }
}
