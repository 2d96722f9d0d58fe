use std::path::PathBuf;
use std::time::Duration;

/// Where the API listens, who may call, and how much anyone may use. Every limit is on by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiSettings {
    /// Path of the Unix socket. Its directory must exist.
    pub socket: PathBuf,
    /// What the socket is called in logs, audit records and errors, where the path means nothing to people, such as one
    /// below `/proc/self/fd`; `None` shows the path.
    pub shown: Option<String>,
    /// The pod that the socket is for: audit records then name it beside the caller's user id.
    pub pod: Option<Pod>,
    /// Whether the name in the directory is ours: whatever stands there is then replaced, a live socket too.
    pub replace: bool,
    /// Permission bits of the socket. A client needs write permission to connect.
    pub mode: u32,
    /// Owner of the socket; `None` leaves the process's own.
    pub uid: Option<u32>,
    /// Group of the socket; `None` leaves the process's own.
    pub gid: Option<u32>,
    /// User ids that may call; `None` admits everyone who can open the socket. The process's own user may always ask
    /// for health, so that a probe works.
    pub allow_uids: Option<Vec<u32>>,
    /// Lookups a second for each user id, with a burst of one second's worth; a batch counts its names. It stops a
    /// runaway loop, and stands well above what one core answers in honest use.
    pub lookups_per_caller: u32,
    /// Calls a second for each user id that may reach the provider (refreshes, versions not in place), burst alike.
    pub upstream_per_caller: u32,
    /// Calls at a time, over all callers, that may reach the provider.
    pub max_upstream: usize,
    /// The shortest time between two refreshes of one name, whoever asks.
    pub refresh_gap: Duration,
    /// Connections at a time.
    pub max_connections: usize,
    /// Connections at a time for each user id.
    pub max_connections_per_caller: usize,
    /// Calls and watches at a time.
    pub max_calls: usize,
    /// Calls at a time on one connection.
    pub max_calls_per_connection: u32,
    /// Bytes of answers that wait to be read, with what calls and connections need meanwhile. Values in place are shared
    /// and do not count; replaced ones that an answer still holds do.
    pub max_unread: usize,
    /// Bytes of answers that wait to be read on one connection.
    pub max_unread_per_connection: usize,
    /// How long an answer, or one message of a stream, may wait to be read. Then a stream is reset, and a connection whose
    /// answers or socket are not read is closed.
    pub read_timeout: Duration,
    /// Watches at a time.
    pub max_watches: usize,
    /// Watches at a time on one connection.
    pub max_watches_per_connection: usize,
    /// Largest request message in bytes.
    pub max_message: usize,
    /// Names in one batch.
    pub max_batch: usize,
    /// Largest sum of the values in the answer to a batch, in bytes; clients commonly refuse messages over 4 MiB.
    pub max_batch_bytes: usize,
    /// Names that all watches together may compare a second to find what changed, with a burst of one second's worth.
    /// Beyond it changes are seen later, several at once.
    pub looks: u32,
    /// Names in one watch.
    pub max_watched_names: usize,
    /// How long a new connection may take to say that it speaks HTTP/2.
    pub handshake_timeout: Duration,
    /// How long a call other than a watch may take, its request's arrival included.
    pub call_timeout: Duration,
    /// How long a silent connection lives before the peer is asked for a sign of life, and the time for that sign.
    pub keepalive: (Duration, Duration),
    /// How long a connection lives on which no call begins or ends and nothing is watched.
    pub idle_timeout: Duration,
    /// How long calls in flight may take to end at shutdown.
    pub drain_timeout: Duration,
}

/// A pod by its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

impl ApiSettings {
    /// What the socket is called.
    #[must_use]
    pub fn shown(&self) -> String {
        self.shown.clone().unwrap_or_else(|| self.socket.display().to_string())
    }

    /// The defaults, at `socket`.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            shown: None,
            pod: None,
            replace: false,
            mode: 0o666,
            uid: None,
            gid: None,
            allow_uids: None,
            lookups_per_caller: 200_000,
            upstream_per_caller: 10,
            max_upstream: 64,
            refresh_gap: Duration::from_secs(1),
            max_connections: 256,
            max_connections_per_caller: 192,
            max_calls: 1024,
            max_calls_per_connection: 256,
            max_unread: 32 << 20,
            max_unread_per_connection: 8 << 20,
            read_timeout: Duration::from_secs(30),
            max_watches: 256,
            max_watches_per_connection: 32,
            max_message: 64 << 10,
            max_batch: 256,
            max_batch_bytes: 3 << 20,
            looks: 200_000,
            max_watched_names: 2000,
            handshake_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(30),
            keepalive: (Duration::from_secs(60), Duration::from_secs(20)),
            idle_timeout: Duration::from_secs(15 * 60),
            drain_timeout: Duration::from_secs(5),
        }
    }
}
