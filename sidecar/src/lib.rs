//! One pod's secrets as files and local gRPC.
//!
//! A binary is parse → build → run → drain: [`main`] parses and hardens, `app` builds and runs, and names the
//! concrete types.

// No input from outside may end the process.
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

mod app;
mod application;
mod args;
mod engine;
mod supervisor;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use keyward_core::{Code, Error, ErrorKind, SystemClock};
use keyward_telemetry::stall::Stalls;

/// Runs the sidecar with a command line, the program's name included, and says how it ended:
/// 0 success, 64 a mistake in configuration or flags, 69 upstream not available (`--once`), 77 access refused, 1 else.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = match args::parse(arguments) {
        Ok(parsed) => parsed,
        Err(answer) => return answer,
    };
    let stalls = Stalls::new(Arc::new(SystemClock));
    let result = match parsed {
        args::Action::Probe { socket, patience } => on_runtime(&stalls, app::probe(&socket, patience)),
        args::Action::CheckConfig { setup } => {
            report(&format!("the configuration is valid: {} objects", setup.config.objects.len()));
            Ok(())
        }
        args::Action::Run { setup, end } => {
            harden().and_then(|()| on_runtime(&stalls, app::run(*setup, end, stalls.clone())))
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

fn harden() -> keyward_core::Result<()> {
    keyward_memory::harden()
        .map_err(|error| Error::new(Code::Internal, "the process cannot be closed to others").detail(error))
}

/// One thread: for a sidecar it is as fast as several, and smaller.
fn on_runtime(
    stalls: &Stalls,
    run: impl Future<Output = keyward_core::Result<()>>,
) -> keyward_core::Result<()> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    stalls.watch(&mut builder);
    let runtime = builder
        .enable_all()
        .thread_keep_alive(std::time::Duration::from_secs(1))
        .max_blocking_threads(4)
        .build()
        .map_err(|error| Error::new(Code::Internal, "the runtime cannot start").detail(error))?;
    let result = runtime.block_on(run);
    // A conversion that still runs must not hold up the exit.
    runtime.shutdown_background();
    result
}

fn exit_code(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::InvalidInput => 64,
        ErrorKind::Unavailable | ErrorKind::Throttled | ErrorKind::Timeout | ErrorKind::Protocol => 69,
        ErrorKind::Unauthenticated | ErrorKind::Forbidden | ErrorKind::PermissionDenied => 77,
        _ => 1,
    }
}

/// The last words of a process that may have no logging yet.
#[expect(clippy::print_stderr, reason = "the binary's own voice")]
fn report(text: &str) {
    eprintln!("keyward-sidecar: {text}");
}
