//! Writes an audit log and its proofs into a directory, for a verifier that shares no code with this one:
//! `tests/conformance/merkle`.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyward_core::audit::{Action, Actor, AuditEvent, AuditSink};
use keyward_core::observe::Silent;
use keyward_core::{Clock, Code, Error, Result, SystemClock};
use keyward_telemetry::audit::{
    AuditLog, Destination, OnFailure, Settings, VerifyOptions, prove, prove_consistency, verify,
};

/// Records of each log: sizes around powers of two are where trees go wrong.
const LOGS: [u32; 4] = [0, 5, 14, 62];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let directory = std::env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .ok_or_else(|| Error::new(Code::ConfigInvalid, "usage: audit_sample DIRECTORY"))?;
    let path = directory.join("audit.jsonl");
    for (start, records) in LOGS.into_iter().enumerate() {
        let settings = Settings {
            destination: Destination::File(path.clone()),
            fsync: false,
            on_failure: OnFailure::Deny,
            origin: format!("keyward/conformance/{start}"),
            queue: 1024,
            key: None,
        };
        let log = AuditLog::open(settings, Arc::new(SystemClock), Arc::new(Silent))?;
        for number in 0..records {
            log.record(event(number))?;
            if number.is_multiple_of(5) {
                log.checkpoint().await?;
            }
        }
        log.close().await?;
    }
    let report = verify(open(&path)?, &VerifyOptions::default())?;
    let mut proofs = Vec::new();
    for log in &report.logs {
        for seq in 0..log.records {
            proofs.push(prove(open(&path)?, Some(&log.log), seq)?);
        }
    }
    write(&directory.join("inclusion.json"), &proofs)?;
    let mut proofs = Vec::new();
    for note in checkpoints(&path)? {
        proofs.push(prove_consistency(open(&path)?, &note)?);
    }
    write(&directory.join("consistency.json"), &proofs)
}

fn event(number: u32) -> AuditEvent {
    AuditEvent {
        at: SystemClock.wall(),
        actor: Actor::Peer { uid: 1000, gid: 1000, pid: 0 },
        action: Action::Fetch,
        object: format!("https://shop.vault.azure.net/secrets/näme-{number}"),
        version: None,
        identity: None,
        error: number.is_multiple_of(7).then_some(Code::VaultForbidden),
        trace_id: None,
        request_id: None,
    }
}

fn checkpoints(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).map_err(failed));
    let notes = lines.map(|line| line.map(|line| line["checkpoint"].as_str().map(str::to_owned)));
    notes.filter_map(Result::transpose).collect()
}

fn open(path: &Path) -> Result<BufReader<File>> {
    File::open(path).map(BufReader::new).map_err(failed)
}

fn write(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(value).map_err(failed)?;
    std::fs::write(path, text).map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::new(Code::FileSystem, "the sample cannot be written").detail(error)
}
