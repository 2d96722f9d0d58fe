//! Counts of every request by operation, and of connections.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::Serialize;

use crate::operation::{Operation, matches_name};

/// Counts since the start or the last [`reset`](Counters::reset).
#[derive(Default)]
pub struct Counters {
    rows: Mutex<BTreeMap<(Operation, String, u16), u64>>,
    connections: Mutex<Connections>,
    in_flight: AtomicU64,
}

/// Counts a request as under way until it is dropped.
pub(crate) struct InFlight<'a>(&'a AtomicU64);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One row of the table of requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CounterRow {
    /// The operation, such as `secrets.get`.
    pub operation: String,
    /// The vault's name, or `entra`, `imds`, `app-service`, `token-proxy`.
    pub site: String,
    /// The status answered; 0 when the request was left hanging or its connection reset.
    pub status: u16,
    /// How many.
    pub count: u64,
}

/// Connections to the TLS listener that serves vaults and Entra.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Connections {
    /// Accepted in all.
    pub accepted: u64,
    /// Open now.
    pub open: u64,
    /// The most that were open at one time.
    pub peak: u64,
}

impl Counters {
    /// Requests of the operations that `pattern` covers, whatever came of them.
    #[must_use]
    pub fn requests(&self, pattern: &str) -> u64 {
        self.sum(pattern, |_, _| true)
    }

    /// Requests of the operations that `pattern` covers which were answered with `status`. A challenge is a 401, so
    /// `with_status("secrets.get", 200)` is the number of values that were handed out.
    #[must_use]
    pub fn with_status(&self, pattern: &str, status: u16) -> u64 {
        self.sum(pattern, |_, s| s == status)
    }

    /// Requests of the operations that `pattern` covers at one vault (by its name), or at `entra`, `imds`, ….
    #[must_use]
    pub fn at(&self, site: &str, pattern: &str) -> u64 {
        self.sum(pattern, |at, _| at == site)
    }

    /// The whole table, sorted.
    #[must_use]
    pub fn rows(&self) -> Vec<CounterRow> {
        self.rows
            .lock()
            .iter()
            .map(|((operation, site, status), count)| CounterRow {
                operation: operation.to_string(),
                site: site.clone(),
                status: *status,
                count: *count,
            })
            .collect()
    }

    /// Counts of connections.
    #[must_use]
    pub fn connections(&self) -> Connections {
        *self.connections.lock()
    }

    /// Requests that a handler is at work on, those that a fault delays included.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::SeqCst)
    }

    pub(crate) fn begin(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        InFlight(&self.in_flight)
    }

    /// Starts again from zero; open connections stay counted as open.
    pub fn reset(&self) {
        self.rows.lock().clear();
        let mut connections = self.connections.lock();
        connections.accepted = 0;
        connections.peak = connections.open;
    }

    pub(crate) fn record(&self, operation: Operation, site: &str, status: u16) {
        *self.rows.lock().entry((operation, site.to_owned(), status)).or_default() += 1;
    }

    pub(crate) fn connection_opened(&self) {
        let mut connections = self.connections.lock();
        connections.accepted += 1;
        connections.open += 1;
        connections.peak = connections.peak.max(connections.open);
    }

    pub(crate) fn connection_closed(&self) {
        self.connections.lock().open -= 1;
    }

    fn sum(&self, pattern: &str, keep: impl Fn(&str, u16) -> bool) -> u64 {
        self.rows
            .lock()
            .iter()
            .filter(|((operation, site, status), _)| {
                keep(site, *status) && matches_name(pattern, &operation.to_string(), operation.is_vault())
            })
            .map(|(_, count)| count)
            .sum()
    }
}
