//! Proofs that anybody can check with any implementation of RFC 6962 and of signed notes.

use std::io::{BufRead, Seek, SeekFrom};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use keyward_core::{Code, Error, Result};
use serde::{Deserialize, Serialize};

use super::merkle::{Hash, RangeRoots, leaf_hash, verify_consistency, verify_inclusion};
use super::note::{Checkpoint, PublicKey};
use super::record::{Line, parse_line};
use super::verify::{LogReport, Next, VerifyOptions, next_line, verify};

/// That a record is in a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// The log's verifier key, as its opening record has it.
    pub key: String,
    /// The record: its line, whose bytes are the leaf.
    pub leaf: String,
    /// The record's number.
    pub index: u64,
    /// How many records the checkpoint covers.
    pub tree_size: u64,
    /// Sibling hashes from leaf to root, base64.
    pub hashes: Vec<String>,
    /// The checkpoint: a signed note.
    pub checkpoint: String,
}

impl Proof {
    /// Checks the proof, and the checkpoint against `key` or, without one, against the proof's own key.
    ///
    /// # Errors
    /// `KW_AUDIT_BROKEN` when it proves nothing.
    pub fn verify(&self, key: Option<&PublicKey>) -> Result<()> {
        let checkpoint = opened(&self.checkpoint, &self.key, key)?;
        let hashes = decode(&self.hashes)?;
        let leaf = leaf_hash(self.leaf.as_bytes());
        let holds = checkpoint.size == self.tree_size
            && verify_inclusion(&leaf, self.index, self.tree_size, &hashes, &checkpoint.root);
        if holds { Ok(()) } else { Err(nothing("the record is not the one of the checkpoint")) }
    }
}

/// That a checkpoint kept elsewhere is a prefix of the log as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsistencyProof {
    /// The log's verifier key.
    pub key: String,
    /// The older checkpoint.
    pub first: String,
    /// The newer checkpoint.
    pub second: String,
    /// Hashes in the order of RFC 6962 §2.1.2, base64.
    pub hashes: Vec<String>,
}

impl ConsistencyProof {
    /// Checks the proof and both checkpoints.
    ///
    /// # Errors
    /// As [`Proof::verify`].
    pub fn verify(&self, key: Option<&PublicKey>) -> Result<()> {
        let first = opened(&self.first, &self.key, key)?;
        let second = opened(&self.second, &self.key, key)?;
        let hashes = decode(&self.hashes)?;
        let holds = first.origin == second.origin
            && verify_consistency(first.size, second.size, &first.root, &second.root, &hashes);
        if holds { Ok(()) } else { Err(nothing("the older checkpoint is not a prefix of the newer one")) }
    }
}

/// Proves record `seq` of `log` (by default the last log of the file) against that log's last checkpoint. The whole
/// file is verified first.
///
/// # Errors
/// As [`verify`], and `KW_AUDIT_BROKEN` when there is no such record or no checkpoint covers it yet.
pub fn prove(mut reader: impl BufRead + Seek, log: Option<&str>, seq: u64) -> Result<Proof> {
    let (report, note) = find(&mut reader, log)?;
    let ranges = RangeRoots::inclusion(seq, report.signed).ok_or_else(|| {
        nothing(&format!(
            "log {} has no record {seq} that a checkpoint covers: there are {}",
            report.log, report.signed
        ))
    })?;
    let mut leaf = None;
    let hashes = stream(&mut reader, &report, ranges, |index, line| {
        if index == seq {
            leaf = Some(String::from_utf8_lossy(line).into_owned());
        }
    })?;
    let leaf = leaf.ok_or_else(|| nothing("the log changed while it was read"))?;
    Ok(Proof { key: report.key, leaf, index: seq, tree_size: report.signed, hashes, checkpoint: note })
}

/// Proves that the log of `first`, a checkpoint kept elsewhere, still begins with what it says.
///
/// # Errors
/// As [`prove`], and `KW_CONFIG_INVALID` when `first` is not a signed note.
pub fn prove_consistency(mut reader: impl BufRead + Seek, first: &str) -> Result<ConsistencyProof> {
    let (old, _) = Checkpoint::parse(first.as_bytes())
        .ok_or_else(|| Error::new(Code::ConfigInvalid, "the older checkpoint is not a signed note"))?;
    let (report, second) = find(&mut reader, Some(&old.origin))?;
    let ranges = RangeRoots::consistency(old.size, report.signed)
        .ok_or_else(|| nothing("the log is shorter than the older checkpoint"))?;
    let hashes = stream(&mut reader, &report, ranges, |_, _| {})?;
    Ok(ConsistencyProof { key: report.key, first: first.to_owned(), second, hashes })
}

fn find(reader: &mut (impl BufRead + Seek), log: Option<&str>) -> Result<(LogReport, String)> {
    let report = verify(&mut *reader, &VerifyOptions::default())?;
    let mut logs = report.logs.into_iter().rev();
    let found = match log {
        None => logs.next(),
        Some(name) => logs.find(|log| log.log == name),
    };
    let found = found.ok_or_else(|| nothing("there is no such log in the file"))?;
    let note = found.checkpoint.clone().ok_or_else(|| nothing("the log has no checkpoint yet"))?;
    Ok((found, note))
}

/// Feeds the leaves of one log to `ranges`.
fn stream(
    reader: &mut (impl BufRead + Seek),
    log: &LogReport,
    mut ranges: RangeRoots,
    mut each: impl FnMut(u64, &[u8]),
) -> Result<Vec<String>> {
    reader
        .seek(SeekFrom::Start(0))
        .map_err(|error| Error::new(Code::FileSystem, "the audit log cannot be read twice").detail(error))?;
    let mut line = Vec::new();
    let mut index = 0;
    while index < log.signed && matches!(next_line(reader, &mut line)?, Next::Line) {
        if let Ok(Line::Record(place)) = parse_line(&line)
            && place.log == log.log
        {
            ranges.push(leaf_hash(&line));
            each(index, &line);
            index = u64::saturating_add(index, 1);
        }
    }
    let hashes = ranges.finish().ok_or_else(|| nothing("the log changed while it was read"))?;
    Ok(hashes.iter().map(|hash| BASE64_STANDARD.encode(hash)).collect())
}

fn opened(note: &str, own: &str, pinned: Option<&PublicKey>) -> Result<Checkpoint> {
    let (name, own) =
        PublicKey::parse_verifier(own).ok_or_else(|| nothing("its key is not a verifier key"))?;
    let checkpoint = Checkpoint::open(note, pinned.unwrap_or(&own))?;
    if checkpoint.origin == name { Ok(checkpoint) } else { Err(nothing("its key belongs to another log")) }
}

fn decode(hashes: &[String]) -> Result<Vec<Hash>> {
    hashes
        .iter()
        .map(|text| BASE64_STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()))
        .collect::<Option<_>>()
        .ok_or_else(|| nothing("a hash is not 32 bytes in base64"))
}

fn nothing(what: &str) -> Error {
    Error::new(Code::AuditBroken, format!("no proof: {what}"))
}
