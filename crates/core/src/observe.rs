//! What happens, for metrics. One closed event type; labels come from closed sets only, never from names.

use std::time::Duration;

use crate::{Code, ErrorKind};

/// Receives events; must not block.
pub trait Observer: Send + Sync {
    /// One event.
    fn event(&self, event: &Event);
}

/// Something worth counting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// A local read of an object.
    Lookup {
        /// How it was answered.
        outcome: Lookup,
    },
    /// A call of the local API was answered.
    Rpc {
        /// The full method, `package.Service/Method`, from the service's own list; `_OTHER` for any other.
        method: &'static str,
        /// The canonical status code by name: `OK`, `NOT_FOUND`, …
        code: &'static str,
        /// From the request's arrival to its answer; to the end of the stream for a watch.
        duration: Duration,
    },
    /// A call to a provider.
    Upstream {
        /// `azure-key-vault`, …
        provider: &'static str,
        /// `get`, `list`, `versions`
        operation: &'static str,
        /// `None` on success.
        error: Option<Code>,
        /// Wall duration, retries included.
        duration: Duration,
    },
    /// One HTTP request left the process.
    Request {
        /// `vault`, `token`, `imds`, `notify`, `otlp`
        target: &'static str,
        /// HTTP status, or 0 when none came.
        status: u16,
    },
    /// A token exchange.
    Token {
        /// As in `IdentityKey::method`.
        method: &'static str,
        /// `None` on success.
        error: Option<Code>,
        /// Seconds until the token in hand ends, wall time of the end.
        expires_wall: Option<Duration>,
    },
    /// A TLS handshake finished.
    Handshake {
        /// `TLSv1_3`, …
        version: &'static str,
        /// `X25519MLKEM768`, …
        group: &'static str,
    },
    /// A vault's gate closed for a while.
    Throttled {
        /// For how long.
        wait: Duration,
    },
    /// A rotation reached readers.
    Rotated {
        /// From the provider's `updated` to visible.
        lag: Option<Duration>,
    },
    /// A rotation check of one vault ended.
    Check {
        /// Objects looked at.
        objects: usize,
        /// Requests that it cost.
        requests: usize,
        /// Whether it failed and how.
        error: Option<ErrorKind>,
    },
    /// Objects by state, after a change.
    States {
        /// Fresh objects.
        fresh: usize,
        /// Stale objects.
        stale: usize,
        /// Expired or revoked objects.
        refused: usize,
        /// Objects never read.
        pending: usize,
    },
    /// A storm of refusals is on or over for a vault.
    Storm {
        /// Whether it is on.
        active: bool,
    },
    /// Files were written.
    Written {
        /// Files in the tree.
        files: usize,
        /// How long the swap took.
        duration: Duration,
        /// `None` on success.
        error: Option<Code>,
    },
    /// What a restart must find of a volume was written down, or could not be.
    Kept {
        /// `None` on success.
        error: Option<Code>,
    },
    /// An application was notified.
    Notified {
        /// `signal`, `http`, `exec`
        kind: &'static str,
        /// `None` on success.
        error: Option<Code>,
    },
    /// An audit record was written, or lost.
    Audit {
        /// Whether it was lost.
        lost: bool,
    },
}

/// How a local read was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lookup {
    /// From the cache, fresh.
    Hit,
    /// From the cache, stale.
    Stale,
    /// Needed the provider.
    Miss,
    /// Refused or failed.
    Refused,
}

/// Drops everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _event: &Event) {}
}
