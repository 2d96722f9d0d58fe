//! `keyward-injector`: the mutating admission webhook, which turns a pod's label and annotations into a sidecar, an init
//! container or a CSI volume. It holds no code that can read a secret.
//!
//! A question walks `server` (TLS) → `review` (the API server's words) → `lookups` (what a decision needs) →
//! [`admission`] (the decision, a pure function) → `review` again (a JSON Patch). `certificates` keeps what the server
//! shows and the API server trusts in step, and the paths at which it asks.

// Every module here handles what pods' authors, the API server or a stranger's connection sent. A panic ends the process,
// for all pods of the cluster: there is none. Each exception says why it is none.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

pub mod admission;
mod app;
mod args;
mod certificates;
mod counts;
pub mod explain;
mod lookups;
mod paths;
mod places;
mod probe;
pub mod review;
mod server;
mod text;
mod webhook;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use admission::Decision;
use keyward_core::config::injector::Injection;
use keyward_core::{Code, Error, ErrorKind, Result, SystemClock, document};
use keyward_telemetry::stall::Stalls;

/// Runs the injector with a command line, the program's name included, and says how it ended: 0 success, 64 a mistake
/// in configuration, flags or a manifest, 69 not reachable, 1 else.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let action = match args::parse(arguments) {
        Ok(action) => action,
        Err(answer) => return answer,
    };
    let stalls = Stalls::new(Arc::new(SystemClock));
    let result = match action {
        args::Action::Probe { config } => on_runtime(&stalls, probe::probe(config.listen.port())),
        args::Action::CheckConfig => {
            report("the configuration is valid");
            Ok(())
        }
        args::Action::Explain { manifest, config } => print_explained(&manifest, &config.injection),
        args::Action::Run { config } => {
            harden().and_then(|()| on_runtime(&stalls, app::run(*config, stalls.clone())))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error.to_string());
            ExitCode::from(exit_code(&error))
        }
    }
}

/// The key of the webhook's CA is in memory, and must not end in a core file.
fn harden() -> Result<()> {
    keyward_memory::harden()
        .map_err(|error| Error::new(Code::Internal, "the process cannot be closed to others").detail(error))
}

/// One thread: a decision takes less than a millisecond, and pods come one by one.
fn on_runtime(stalls: &Stalls, run: impl Future<Output = Result<()>>) -> Result<()> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    stalls.watch(&mut builder);
    builder
        .enable_all()
        .build()
        .map_err(|error| Error::new(Code::Internal, "the runtime cannot start").detail(error))?
        .block_on(run)
}

fn print_explained(manifest: &Path, injection: &Injection) -> Result<()> {
    let text = document::read_file_or_stdin(manifest)?;
    let mut refused = None;
    let mut told = String::new();
    for explained in explain::explain(&text, injection)? {
        told.push_str(&format!("# {}: ", explained.of));
        match explained.decision {
            Ok(Decision::Untouched) => {
                told.push_str("untouched, it has neither label nor annotation keyward.dev/inject, or its namespace is excluded\n");
            }
            Ok(Decision::Skipped { reason, .. }) => told.push_str(&format!("skipped, {reason}\n")),
            Ok(Decision::Injected { pod, summary, warnings }) => {
                told.push_str(&format!("injected, {summary}\n"));
                told.extend(warnings.iter().map(|warning| format!("# warning: {warning}\n")));
                // JSON is YAML.
                told.push_str(&format!("{pod:#}\n---\n"));
            }
            Err(error) => {
                told.push_str(&format!("refused, {}\n", error.to_string().replace('\n', "\n#   ")));
                refused = refused.or(Some(error.code()));
            }
        }
    }
    // Whoever reads may have seen enough.
    let _ = std::io::stdout().write_all(told.as_bytes());
    refused.map_or(Ok(()), |code| Err(Error::new(code, "not every pod would be admitted")))
}

fn exit_code(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::InvalidInput => 64,
        ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::System => 69,
        _ => 1,
    }
}

/// The last words of a process that may have no logging yet.
#[expect(clippy::print_stderr, reason = "the binary's own voice")]
fn report(text: &str) {
    eprintln!("keyward-injector: {text}");
}
