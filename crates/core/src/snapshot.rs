use std::sync::Arc;
use std::time::Duration;

use crate::{Error, FetchRequest, Fetched, IdentityKey, UnixTime};

/// What a cache entry is known by: whose it is, and what. Compared whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Whose.
    pub identity: Arc<IdentityKey>,
    /// What.
    pub request: FetchRequest,
}

/// What readers of an object are given, by the table of promise 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Never read yet, or the first read failed: nothing to give.
    Pending,
    /// The last check succeeded.
    Fresh,
    /// The last check failed or said a single definite no; the last good value is given, marked stale.
    Stale,
    /// Failing for longer than `maxStale`: files stay, the API refuses with `KW_STALE_LIMIT`.
    Expired,
    /// The same definite no held for long enough and no storm is on: the API refuses, `onRevoke` may remove files.
    Revoked,
}

/// One object as it stands: an immutable view that readers hold without a lock.
#[derive(Clone)]
pub struct Snapshot {
    /// Whose, and what.
    pub key: ObjectKey,
    /// How it stands.
    pub state: State,
    /// The last good content; `None` only when it was never read.
    pub fetched: Option<Arc<Fetched>>,
    /// Why it is not fresh.
    pub error: Option<Error>,
    /// When `fetched` was last confirmed by the provider, wall time.
    pub confirmed: Option<UnixTime>,
    /// The same on the boot clock, for ages. Zero after a restart of Keyward.
    pub confirmed_boot: Option<Duration>,
    /// When the request began by which the provider last gave or confirmed `fetched`, boot clock. `None` for a value that
    /// outlived a restart and was not confirmed since: it never replaces what was delivered.
    pub asked: Option<Duration>,
    /// When the provider was last asked, wall time.
    pub checked: Option<UnixTime>,
    /// When it will be asked again, wall time.
    pub next_check: Option<UnixTime>,
    /// Moves only when what a reader sees changes: the content (a redelivery does not count) or the state.
    pub sequence: u64,
}
