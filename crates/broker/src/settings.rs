use std::sync::Arc;
use std::time::Duration;

use keyward_core::{Fetched, ObjectKey, UnixTime};

/// How the broker behaves; may be replaced while it runs.
#[derive(Debug, Clone, PartialEq)]
pub struct BrokerSettings {
    /// Time between two checks of an object.
    pub interval: Duration,
    /// Share of the interval by which checks vary, `0.0..=1.0`.
    pub jitter: f64,
    /// How long a value is served while its provider fails, measured on the boot clock from its last confirmation.
    pub max_stale: Duration,
    /// Bytes that unwatched objects may fill together with watched ones before the least recently used unwatched ones
    /// are dropped. Watched objects are never dropped.
    pub capacity_bytes: usize,
    /// How long a definite no to an object that was never read is remembered. A failure is remembered for a second at
    /// most.
    pub negative_ttl: Duration,
    /// Every how many checks an object is read although a listing shows no change; at least 1. Pinned versions, which
    /// no listing shows, are read once in so many intervals.
    pub full_read_every: u32,
    /// How long a refusal to list, or a vault too large to be worth listing, is remembered.
    pub list_denied_for: Duration,
    /// Reads of one rotation check that are under way at the same time; at least 1. First reads are not bounded here:
    /// the transport bounds its connections, and starts go before refreshes.
    pub concurrency: usize,
}

impl Default for BrokerSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(60),
            jitter: 0.1,
            max_stale: Duration::from_secs(24 * 3600),
            capacity_bytes: 8 << 20,
            negative_ttl: Duration::from_secs(5),
            full_read_every: 10,
            list_denied_for: Duration::from_secs(3600),
            concurrency: 16,
        }
    }
}

/// One object to keep current.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchItem {
    /// Whose, and what.
    pub key: ObjectKey,
    /// Time between checks; `None` takes [`BrokerSettings::interval`].
    pub refresh: Option<Duration>,
}

/// One value as it outlives a restart of Keyward.
#[derive(Clone)]
pub struct Saved {
    /// Whose, and what.
    pub key: ObjectKey,
    /// The last good content.
    pub fetched: Arc<Fetched>,
    /// When the provider last confirmed it, wall time: the boot clock may have begun anew.
    pub confirmed_wall: UnixTime,
}
