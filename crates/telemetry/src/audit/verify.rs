//! Checking a log: any edit, removal, reordering, insertion or truncation before its last checkpoint is found.

#![expect(clippy::arithmetic_side_effects, reason = "counts of lines that were read")]

use std::io::{self, BufRead, Read};

use aws_lc_rs::digest::{Context, SHA256};
use keyward_core::{Code, Error, Result};
use serde::Serialize;

use super::merkle::{Frontier, Hash, leaf_hash};
use super::note::{Checkpoint, PublicKey};
use super::record::{Head, Line, MAX_LINE, Place, Predecessor, hex, parse_line};

/// What to hold a log against, apart from itself.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Every log must be signed with this key. Without it a log proves only that it fits its own key, which whoever
    /// can write the whole file can replace.
    pub key: Option<PublicKey>,
    /// A checkpoint (signed note) that was kept elsewhere: its log must be here, and contain what it says.
    pub checkpoint: Option<String>,
    /// Skip lines that are not ours, for a stream that other programs write to as well. Lines of ours are those that
    /// begin with `{"schema":"keyward.audit.` or `{"checkpoint":`.
    pub skip_foreign: bool,
}

/// What was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// The logs of the file, in order; each start of Keyward opens one.
    pub logs: Vec<LogReport>,
    /// What the first log says it follows, when that is not in this file: it was rotated away, or removed.
    pub continues: Option<Predecessor>,
    /// Bytes of half a line at the end: a crash, or a line being written now.
    pub unfinished: u64,
}

impl VerifyReport {
    /// Records of all logs.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.logs.iter().map(|log| log.records).sum()
    }
}

/// One log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogReport {
    /// Its origin.
    pub log: String,
    /// Its verifier key.
    pub key: String,
    /// Its records.
    pub records: u64,
    /// How many of them its last checkpoint covers. The others are covered only by the opening record of the next log.
    pub signed: u64,
    /// Its checkpoints.
    pub checkpoints: u64,
    /// Whether it was closed in order.
    pub closed: bool,
    /// Its last checkpoint: a signed note.
    pub checkpoint: Option<String>,
}

/// Checks every line. Memory does not depend on the length of the log.
///
/// # Errors
/// `KW_AUDIT_BROKEN` with the line and what is wrong with it; `KW_FILE_SYSTEM` when it cannot be read.
pub fn verify(mut reader: impl BufRead, options: &VerifyOptions) -> Result<VerifyReport> {
    let mut walk = Walk::new(options)?;
    let mut line = Vec::new();
    for number in 1u64.. {
        match next_line(&mut reader, &mut line)? {
            Next::End => break,
            Next::Unfinished(count) => {
                walk.unfinished = count;
                break;
            }
            Next::Line if options.skip_foreign && !is_ours(&line) => {}
            Next::Line => walk.line(&line).map_err(|what| broken(number, &what))?,
        }
    }
    walk.finish()
}

fn broken(number: u64, what: &str) -> Error {
    Error::new(Code::AuditBroken, format!("line {number} {what}"))
}

pub(super) fn is_ours(line: &[u8]) -> bool {
    line.starts_with(b"{\"schema\":\"keyward.audit.") || line.starts_with(b"{\"checkpoint\":")
}

pub(super) enum Next {
    Line,
    Unfinished(u64),
    End,
}

/// Reads one line without its line feed; never more than [`MAX_LINE`] bytes and one.
pub(super) fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> Result<Next> {
    let unreadable =
        |error: io::Error| Error::new(Code::FileSystem, "the audit log cannot be read").detail(error);
    line.clear();
    reader.take(MAX_LINE as u64 + 2).read_until(b'\n', line).map_err(unreadable)?;
    if line.is_empty() {
        return Ok(Next::End);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(Next::Line);
    }
    // An overlong line is left to be refused as one; what it goes on with is never looked at.
    Ok(if line.len() > MAX_LINE { Next::Line } else { Next::Unfinished(line.len() as u64) })
}

struct Walk<'a> {
    options: &'a VerifyOptions,
    wanted: Option<Checkpoint>,
    wanted_seen: bool,
    logs: Vec<LogReport>,
    current: Option<Current>,
    continues: Option<Predecessor>,
    /// What the next opening record must name.
    head: Option<Head>,
    after: Context,
    lines_after: u64,
    unfinished: u64,
}

struct Current {
    key: PublicKey,
    tree: Frontier,
    report: LogReport,
}

impl<'a> Walk<'a> {
    fn new(options: &'a VerifyOptions) -> Result<Self> {
        let wanted = match &options.checkpoint {
            None => None,
            Some(note) => {
                Some(Checkpoint::parse(note.as_bytes()).map(|(wanted, _)| wanted).ok_or_else(|| {
                    Error::new(Code::ConfigInvalid, "the checkpoint to compare with is not a signed note")
                })?)
            }
        };
        Ok(Self {
            options,
            wanted,
            wanted_seen: false,
            logs: Vec::new(),
            current: None,
            continues: None,
            head: None,
            after: Context::new(&SHA256),
            lines_after: 0,
            unfinished: 0,
        })
    }

    fn line(&mut self, bytes: &[u8]) -> std::result::Result<(), String> {
        match parse_line(bytes)? {
            Line::Checkpoint(note) => self.checkpoint(&note),
            Line::Record(place) => self.record(&place, bytes),
        }
    }

    fn record(&mut self, place: &Place, bytes: &[u8]) -> std::result::Result<(), String> {
        if place.action == "open" {
            self.open(place)?;
        }
        let current = self.current.as_mut().ok_or("is a record before any log was opened")?;
        if current.report.closed {
            return Err("follows the end of its log".to_owned());
        }
        if place.log != current.report.log {
            return Err(format!("belongs to log {}, but {} is open", place.log, current.report.log));
        }
        if place.seq != current.tree.size() {
            return Err(format!(
                "is record {}, but record {} is expected: lines were removed, added or moved",
                place.seq,
                current.tree.size()
            ));
        }
        if place.checkpoints != current.report.checkpoints {
            return Err(format!(
                "stands after {} checkpoints, but was written after {}: a checkpoint was removed or moved",
                current.report.checkpoints, place.checkpoints
            ));
        }
        current.tree.push(leaf_hash(bytes));
        current.report.records += 1;
        current.report.closed = place.action == "close";
        self.after.update(bytes);
        self.after.update(b"\n");
        self.lines_after += 1;
        let (size, root) = (current.tree.size(), current.tree.root_if(self.wanted.as_ref()));
        self.compare(size, root)
    }

    fn open(&mut self, place: &Place) -> std::result::Result<(), String> {
        if place.seq != 0 {
            return Err("opens a log, but is not its first record".to_owned());
        }
        let (name, key) = place
            .key
            .as_deref()
            .and_then(PublicKey::parse_verifier)
            .ok_or("opens a log without a verifier key")?;
        if name != place.log {
            return Err("opens a log with the verifier key of another".to_owned());
        }
        if self.options.key.is_some_and(|pinned| pinned != key) {
            return Err(format!("opens log {name} with another key than the given one"));
        }
        self.follow(place.predecessor.clone())?;
        self.close_current();
        if self.logs.iter().any(|log| log.log == name) {
            return Err(format!("opens log {name} a second time"));
        }
        let report = LogReport {
            log: name.to_owned(),
            key: key.verifier(name),
            records: 0,
            signed: 0,
            checkpoints: 0,
            closed: false,
            checkpoint: None,
        };
        self.current = Some(Current { key, tree: Frontier::default(), report });
        Ok(())
    }

    /// The first log may follow what is not here; every other must follow exactly what stands before it.
    fn follow(&mut self, named: Option<Predecessor>) -> std::result::Result<(), String> {
        if self.current.is_none() {
            self.continues = named;
            return Ok(());
        }
        let found = Predecessor {
            head: self.head.clone(),
            lines_after: self.lines_after,
            sha256_after: hex(self.after.clone().finish().as_ref()),
        };
        match named {
            Some(named) if named == found => Ok(()),
            // A stream cannot be read back, so its logs name nothing.
            None if self.options.skip_foreign => Ok(()),
            None => Err("opens a log that does not name the one before it".to_owned()),
            Some(_) => Err("opens a log that followed something else than what stands before it".to_owned()),
        }
    }

    fn checkpoint(&mut self, note: &str) -> std::result::Result<(), String> {
        let current = self.current.as_mut().ok_or("is a checkpoint before any log was opened")?;
        let checkpoint =
            Checkpoint::open(note, &current.key).map_err(|error| format!("is wrong: {}", error.message()))?;
        let report = &mut current.report;
        if checkpoint.origin != report.log {
            return Err(format!("is a checkpoint of log {}, but {} is open", checkpoint.origin, report.log));
        }
        if checkpoint.size != current.tree.size() || checkpoint.size == report.signed {
            return Err(format!(
                "is a checkpoint over {} records, but stands after {}",
                checkpoint.size,
                current.tree.size()
            ));
        }
        if checkpoint.root != current.tree.root() {
            return Err(format!(
                "is a checkpoint that does not fit: one of the records {} to {} was changed",
                report.signed,
                checkpoint.size - 1
            ));
        }
        report.signed = checkpoint.size;
        report.checkpoints += 1;
        report.checkpoint = Some(note.to_owned());
        self.head = Some(Head::new(&checkpoint.origin, checkpoint.size, &checkpoint.root));
        self.after = Context::new(&SHA256);
        self.lines_after = 0;
        Ok(())
    }

    fn compare(&mut self, size: u64, root: Option<Hash>) -> std::result::Result<(), String> {
        let (Some(wanted), Some(current), Some(root)) = (&self.wanted, &self.current, root) else {
            return Ok(());
        };
        if wanted.origin != current.report.log || wanted.size != size {
            return Ok(());
        }
        if wanted.root != root {
            return Err(format!(
                "ends the first {size} records, which are not those of the given checkpoint"
            ));
        }
        let note = self.options.checkpoint.as_deref().unwrap_or_default();
        Checkpoint::open(note, &current.key)
            .map_err(|error| format!("is not what was given: {}", error.message()))?;
        self.wanted_seen = true;
        Ok(())
    }

    fn close_current(&mut self) {
        self.logs.extend(self.current.take().map(|current| current.report));
    }

    fn finish(mut self) -> Result<VerifyReport> {
        self.close_current();
        if self.logs.is_empty() {
            return Err(Error::new(Code::AuditBroken, "there is no audit log in this file"));
        }
        if let Some(wanted) = self.wanted.filter(|_| !self.wanted_seen) {
            return Err(Error::new(
                Code::AuditBroken,
                format!(
                    "log {} is not here up to record {}, which the given checkpoint covers: it was truncated or replaced",
                    wanted.origin,
                    wanted.size.saturating_sub(1)
                ),
            ));
        }
        Ok(VerifyReport { logs: self.logs, continues: self.continues, unfinished: self.unfinished })
    }
}

impl Frontier {
    /// The root, when the tree has the size that is asked for.
    fn root_if(&self, wanted: Option<&Checkpoint>) -> Option<Hash> {
        wanted.filter(|wanted| wanted.size == self.size()).map(|_| self.root())
    }
}
