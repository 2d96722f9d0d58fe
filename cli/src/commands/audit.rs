use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use keyward_core::{Code, Error};
use keyward_telemetry::audit::{PublicKey, VerifyOptions, VerifyReport, prove, verify};
use serde_json::json;

use crate::failure::Failure;
use crate::output;

/// Check audit logs, and prove single records
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    Verify(VerifyArgs),
    Prove(ProveArgs),
}

/// Find any edit, removal, reordering or truncation before the last checkpoint
///
/// Without --key a log is held against the key that it names itself: whoever can replace the whole file can replace
/// that too. Pin the key (audit.keyFile), or keep checkpoints elsewhere.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keyward audit verify /var/log/keyward/audit.jsonl
  keyward audit verify audit.jsonl --key keyward/node-7+1a2b3c4d+AbC…
  kubectl logs web-0 -c keyward | keyward audit verify - --skip-foreign")]
struct VerifyArgs {
    /// The log; - for standard input
    file: PathBuf,
    /// Verifier key (name+hash+base64, or the bare key in base64) that must have signed
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// A checkpoint that was kept elsewhere and that the log must contain
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Skip lines of other programs in the same stream
    #[arg(long)]
    skip_foreign: bool,
    /// Write the report as JSON
    #[arg(long)]
    json: bool,
}

/// Prove that a record is in a log, for someone who need not trust whoever holds the log
///
/// Writes JSON with the record, its place, the hashes from leaf to root (RFC 6962) and the signed checkpoint.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  keyward audit prove audit.jsonl --record 42 > proof.json")]
struct ProveArgs {
    /// The log
    file: PathBuf,
    /// Number of the record (its `seq`)
    #[arg(long, value_name = "N")]
    record: u64,
    /// Which log of the file, by its origin; without it, the last
    #[arg(long, value_name = "ORIGIN")]
    log: Option<String>,
}

/// Runs the subcommand.
pub(crate) fn run(args: &AuditArgs) -> Result<(), Failure> {
    match &args.command {
        AuditCommand::Verify(args) => check(args),
        AuditCommand::Prove(args) => {
            let proof = prove(BufReader::new(open(&args.file)?), args.log.as_deref(), args.record)?;
            output::line(json!(proof))
        }
    }
}

fn check(args: &VerifyArgs) -> Result<(), Failure> {
    let options = VerifyOptions {
        key: args.key.as_deref().map(PublicKey::parse).transpose()?,
        checkpoint: args.checkpoint.as_deref().map(read).transpose()?,
        skip_foreign: args.skip_foreign,
    };
    let report = if args.file == Path::new("-") {
        verify(std::io::stdin().lock(), &options)?
    } else {
        verify(BufReader::new(open(&args.file)?), &options)?
    };
    if args.json { output::line(json!(report)) } else { show(&report) }
}

fn show(report: &VerifyReport) -> Result<(), Failure> {
    for log in &report.logs {
        let closed = if log.closed { "closed" } else { "open" };
        output::line(format!(
            "{}: {} records, {} of them signed by {} checkpoints, {closed}",
            log.log, log.records, log.signed, log.checkpoints
        ))?;
        output::line(format!("  key {}", log.key))?;
    }
    if report.continues.is_some() {
        output::line("the first log continues one that is not in this file")?;
    }
    if report.unfinished > 0 {
        output::line(format!(
            "the last {} bytes are half a line: a crash, or a record being written",
            report.unfinished
        ))?;
    }
    output::line(format!("verified: {} records in {} logs", report.records(), report.logs.len()))
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|error| unreadable(path, &error))
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Code::FileSystem, format!("{} cannot be read: {error}", path.display()))
}
