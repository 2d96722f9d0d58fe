//! What is worth a record for those who must show who read what. Values and tokens never appear here.

use crate::{Code, Result, UnixTime};

/// Receives audit events; must not block.
pub trait AuditSink: Send + Sync {
    /// Takes one event.
    ///
    /// # Errors
    /// `KW_AUDIT_UNAVAILABLE` when the log cannot take it and `audit.onFailure` is `deny`: the act must not happen.
    fn record(&self, event: AuditEvent) -> Result<()>;

    /// Counts one more of an allowed act that is in the log already, without building an event for it.
    ///
    /// `false` means that the act is not known, and [`Self::record`] must be called: the way to ask is `repeat` first.
    /// Callers are told apart by pod or by user and group id, not by process id.
    ///
    /// # Errors
    /// As [`Self::record`].
    fn repeat(&self, act: &Act<'_>) -> Result<bool> {
        let _ = act;
        Ok(false)
    }
}

/// An allowed act, borrowed: the part of an [`AuditEvent`] that makes it the same as an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Act<'a> {
    /// Who.
    pub actor: &'a Actor,
    /// What.
    pub action: Action,
    /// The provider's identifier.
    pub object: &'a str,
    /// The version.
    pub version: Option<&'a str>,
}

/// Who acted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Actor {
    /// Keyward itself, on its own schedule.
    Keyward,
    /// A process on the local socket.
    Peer {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// Process id as the kernel reported it; 0 across pid namespaces. Informative only.
        pid: i32,
    },
    /// A process on the socket in a pod's volume.
    PodPeer {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        name: String,
        /// The pod's UID.
        pod: String,
        /// The process's user id.
        uid: u32,
        /// The process's group id.
        gid: u32,
        /// As in [`Self::Peer`].
        pid: i32,
    },
    /// A pod.
    Pod {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// UID.
        uid: String,
    },
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// A value was read from the provider.
    Fetch,
    /// Metadata was listed at the provider.
    List,
    /// A token was exchanged.
    Token,
    /// Files were written for a pod.
    Deliver,
    /// A value was handed over by the local API.
    Read,
    /// A fresh read was asked for through the local API.
    Refresh,
    /// An application was notified of a change.
    Notify,
    /// Files were removed because access was revoked.
    Remove,
    /// The configuration was applied or refused.
    Configure,
}

impl Action {
    /// The word in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::List => "list",
            Self::Token => "token",
            Self::Deliver => "deliver",
            Self::Read => "read",
            Self::Refresh => "refresh",
            Self::Notify => "notify",
            Self::Remove => "remove",
            Self::Configure => "configure",
        }
    }
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEvent {
    /// When, wall time.
    pub at: UnixTime,
    /// Who.
    pub actor: Actor,
    /// What.
    pub action: Action,
    /// The provider's identifier, or the resource of a token.
    pub object: String,
    /// The version, when one is known.
    pub version: Option<String>,
    /// The identity used upstream, when one was.
    pub identity: Option<String>,
    /// `None` when it was allowed and worked.
    pub error: Option<Code>,
    /// W3C trace id, 32 hex digits, when one is known.
    pub trace_id: Option<String>,
    /// The id sent upstream as `x-ms-client-request-id`, which Key Vault's own log shows as correlationId.
    pub request_id: Option<String>,
}

/// Drops everything: for tests and for `doctor`, which delivers nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unaudited;

impl AuditSink for Unaudited {
    fn record(&self, _event: AuditEvent) -> Result<()> {
        Ok(())
    }
}
