//! Who read what: a log that shows when it was changed.
//!
//! The log is JSON lines, in a file or on standard output. Records are the leaves of a Merkle tree (RFC 6962 hashing
//! over the bytes of the line without its line feed). Every 10 s in which something was written, and at the end,
//! follows a line `{"checkpoint":"…"}` with a signed note (C2SP tlog-checkpoint) over the tree so far; checkpoints are
//! not leaves, but each record says how many of them stand before it. Each start opens a log of its own, whose first
//! record carries its verifier key and names what stood in the file before.
//!
//! What this proves and what not: whoever changes lines that a checkpoint covers is found out, unless they can also
//! sign, that is, hold the process's memory or the key file. Whoever may write the file can cut it off after any
//! checkpoint, or replace it whole by one with another key: only a key pinned with `audit.keyFile` and checkpoints
//! that leave the node (a log shipper does it) show that.

mod file;
mod ledger;
pub mod merkle;
mod note;
mod prove;
mod record;
mod repeats;
mod verify;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keyward_core::audit::{Act, AuditEvent, AuditSink};
use keyward_core::observe::Observer;
use keyward_core::{Clock, Code, Error, Result, UnixTime};

pub use note::{Checkpoint, NoteSignature, PublicKey, SigningKey, is_origin};
pub use prove::{ConsistencyProof, Proof, prove, prove_consistency};
pub use record::{Head, Line, MAX_LINE, Place, Predecessor, SCHEMA, parse_line};
pub use verify::{LogReport, VerifyOptions, VerifyReport, verify};

use ledger::{Ledger, Sink};
use writer::Shared;

/// How often a checkpoint is signed and counted repeats are written, while there is anything to write.
pub const PERIOD: Duration = Duration::from_secs(10);
/// How long [`AuditLog::close`] waits for a destination that takes nothing.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Where the log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Standard output, which nothing else may write to.
    Stdout,
    /// A file, appended to; one writer at a time.
    File(PathBuf),
}

/// What happens when the log cannot take a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// The act goes on; a gap record and a metric say how many records are missing.
    #[default]
    Allow,
    /// The act is refused with `KW_AUDIT_UNAVAILABLE`.
    Deny,
}

/// How to keep the log.
pub struct Settings {
    /// Where it goes.
    pub destination: Destination,
    /// Wait for the disk after every batch. Standard output cannot be waited for.
    pub fsync: bool,
    /// What happens when it cannot take a record.
    pub on_failure: OnFailure,
    /// The log's name, unique to this start: `keyward/<node or host>/<start id>`; see [`is_origin`].
    pub origin: String,
    /// Records that may wait for the writer; at least 1.
    pub queue: usize,
    /// The key to sign with; `None` makes one for this log alone.
    pub key: Option<SigningKey>,
}

/// The log of one process.
pub struct AuditLog {
    shared: Arc<Shared>,
    origin: String,
    verifier: String,
}

impl AuditLog {
    /// Opens the destination and starts the writer, a thread of its own: a destination that stalls holds up nobody.
    ///
    /// # Errors
    /// `KW_AUDIT_UNAVAILABLE` when the file cannot be opened or another process writes it; `KW_CONFIG_INVALID` for an
    /// origin that is none.
    pub fn open(settings: Settings, clock: Arc<dyn Clock>, observer: Arc<dyn Observer>) -> Result<Self> {
        let (sink, predecessor, discarded) = match &settings.destination {
            Destination::Stdout => (Sink::new(Box::new(stdout()?), None), None, 0),
            Destination::File(path) => {
                let file::Opened { file, predecessor, discarded } = file::open(path)?;
                let unavailable = |error: std::io::Error| {
                    Error::new(Code::AuditUnavailable, "the audit log cannot be opened twice").detail(error)
                };
                let sync = settings.fsync.then(|| file.try_clone()).transpose().map_err(unavailable)?;
                (Sink::new(Box::new(file), sync), predecessor, discarded)
            }
        };
        Self::start(settings, sink, predecessor, discarded, clock, observer)
    }

    fn start(
        settings: Settings,
        sink: Sink,
        predecessor: Option<Predecessor>,
        discarded: u64,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self> {
        if !is_origin(&settings.origin) {
            return Err(Error::new(
                Code::ConfigInvalid,
                "the audit log's origin must be 1 to 255 characters without spaces and plus signs",
            ));
        }
        let key = settings.key.map_or_else(SigningKey::generate, Ok)?;
        let mut ledger = Ledger::new(settings.origin.clone(), key, sink);
        let verifier = ledger.verifier();
        let now = clock.wall();
        ledger.append(now, &record::Body::Open { key: verifier.clone(), predecessor });
        if discarded > 0 {
            ledger.append(now, &record::Body::Recovery { discarded });
        }
        let shared = Shared::new(settings.on_failure, settings.queue.max(1), clock, observer);
        writer::spawn(Arc::clone(&shared), ledger)?;
        Ok(Self { shared, origin: settings.origin, verifier })
    }

    /// The log's name.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The log's verifier key, to pin or to publish.
    #[must_use]
    pub fn verifier(&self) -> &str {
        &self.verifier
    }

    /// Whether the destination took what was last written.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.shared.is_healthy()
    }

    /// When the last checkpoint was written, wall time; zero before the first.
    #[must_use]
    pub fn last_checkpoint(&self) -> UnixTime {
        self.shared.last_checkpoint()
    }

    /// Records lost so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.lost()
    }

    /// Writes everything that waits, counted repeats included, and a checkpoint.
    ///
    /// # Errors
    /// `KW_AUDIT_UNAVAILABLE` when the destination does not take it, or not within 5 s.
    pub async fn checkpoint(&self) -> Result<()> {
        finished(self.shared.ask(false)).await
    }

    /// Writes everything, a closing record and the last checkpoint, and ends the log. Later records are lost, or
    /// refused with `deny`.
    ///
    /// # Errors
    /// As [`Self::checkpoint`].
    pub async fn close(&self) -> Result<()> {
        finished(self.shared.ask(true)).await
    }
}

impl AuditSink for AuditLog {
    fn record(&self, event: AuditEvent) -> Result<()> {
        self.shared.record(event)
    }

    fn repeat(&self, act: &Act<'_>) -> Result<bool> {
        self.shared.repeat(act)
    }
}

/// A log that nobody closed is closed without waiting.
impl Drop for AuditLog {
    fn drop(&mut self) {
        drop(self.shared.ask(true));
    }
}

async fn finished(answer: tokio::sync::oneshot::Receiver<bool>) -> Result<()> {
    match tokio::time::timeout(CLOSE_LIMIT, answer).await {
        Ok(Ok(true)) => Ok(()),
        _ => Err(writer::unavailable()),
    }
}

/// Standard output without the line buffer of `std::io::Stdout`.
fn stdout() -> Result<std::fs::File> {
    use std::os::fd::AsFd;
    let fd = std::io::stdout().as_fd().try_clone_to_owned();
    fd.map(std::fs::File::from)
        .map_err(|error| Error::new(Code::AuditUnavailable, "standard output is closed").detail(error))
}

#[cfg(test)]
mod tests;
