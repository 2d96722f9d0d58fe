//! The log as it is written: records and checkpoints in order, into a buffer, into a file or stream.

use std::fs::File;
use std::io::{self, Write};

use keyward_core::UnixTime;

use super::merkle::{Frontier, leaf_hash};
use super::note::{Checkpoint, SigningKey};
use super::record::{self, Body};

/// The buffer keeps this much room between flushes.
const KEPT: usize = 64 * 1024;

/// One log from its opening record to its last checkpoint.
pub(super) struct Ledger {
    origin: String,
    key: SigningKey,
    tree: Frontier,
    checkpoints: u64,
    signed: u64,
    sink: Sink,
}

impl Ledger {
    pub(super) fn new(origin: String, key: SigningKey, sink: Sink) -> Self {
        Self { origin, key, tree: Frontier::default(), checkpoints: 0, signed: 0, sink }
    }

    /// The verifier key of this log.
    pub(super) fn verifier(&self) -> String {
        self.key.public().verifier(&self.origin)
    }

    /// Adds a record to the buffer; [`Self::flush`] writes it.
    pub(super) fn append(&mut self, now: UnixTime, body: &Body) {
        let line = record::line(&self.origin, self.tree.size(), self.checkpoints, now, body);
        self.tree.push(leaf_hash(&line));
        self.sink.add(&line);
    }

    /// Adds a checkpoint to the buffer when there is anything new to sign.
    pub(super) fn checkpoint(&mut self) {
        if self.tree.size() == self.signed {
            return;
        }
        let checkpoint =
            Checkpoint { origin: self.origin.clone(), size: self.tree.size(), root: self.tree.root() };
        self.sink.add(&record::checkpoint_line(&checkpoint.sign(&self.key)));
        self.signed = self.tree.size();
        self.checkpoints = self.checkpoints.saturating_add(1);
    }

    /// Whether records wait for a checkpoint.
    pub(super) fn is_unsigned(&self) -> bool {
        self.tree.size() > self.signed
    }

    /// Writes what is buffered. After an error the rest stays buffered, so that a later flush completes the line.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// Where lines go.
pub(super) struct Sink {
    out: Box<dyn Write + Send>,
    sync: Option<File>,
    buffer: Vec<u8>,
    written: usize,
    unsynced: bool,
}

impl Sink {
    /// `sync`, when given, is the file behind `out`, and every flush waits until the disk has it.
    pub(super) fn new(out: Box<dyn Write + Send>, sync: Option<File>) -> Self {
        Self { out, sync, buffer: Vec::new(), written: 0, unsynced: false }
    }

    fn add(&mut self, line: &[u8]) {
        self.buffer.extend_from_slice(line);
        self.buffer.push(b'\n');
    }

    fn flush(&mut self) -> io::Result<()> {
        while let Some(rest) = self.buffer.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.out.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.written = self.written.saturating_add(count);
                    self.unsynced = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.buffer.clear();
        self.buffer.shrink_to(KEPT);
        self.written = 0;
        if self.unsynced
            && let Some(file) = &self.sync
        {
            file.sync_data()?;
        }
        self.unsynced = false;
        Ok(())
    }
}
