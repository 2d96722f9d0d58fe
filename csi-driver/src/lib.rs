//! The node plugin: secrets as CSI volumes.
//!
//! One binary, two processes (promise 14). The *mounter* is the process that the container starts: it has the
//! capability to mount, no network and no secret. It starts the *broker*, which has the network, the parsers and the
//! secrets, and neither capabilities nor a view of the host's files. They speak fixed-size messages over a socket pair;
//! when one ends, so does the other, and the container is started anew.
//!
//! In the broker a call walks `csi` (wire) → `request` (what kubelet asks, checked) → `plan` (which objects, as whom)
//! → `identities` (proof) → `publish` (fetch, fill, commit) → `volume` (keeps it current), with `state` and `restore`
//! for what must outlive a restart.

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
mod args;
pub mod confine;
mod csi;
mod descriptors;
mod facts;
#[doc(hidden)]
pub mod fuzzing;
mod guards;
mod identities;
pub mod mounter;
pub mod mounts;
mod node;
mod plan;
pub mod protocol;
mod publish;
mod registration;
mod reports;
mod request;
mod restore;
mod serve;
mod shares;
mod snapshots;
mod spare;
mod state;
mod taint;
mod threads;
mod volume;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use keyward_core::{Error, ErrorKind, Result, SystemClock};
use keyward_telemetry::stall::Stalls;

/// Runs the node plugin with a command line, the program's name included, and says how it ended: 0 success, 64 a
/// mistake in configuration or flags, 69 what is needed is not there (kernel, sockets, the other process), 1 else.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let action = match args::parse(arguments) {
        Ok(action) => action,
        Err(answer) => return answer,
    };
    let result = match action {
        args::Action::Probe { socket } => csi::probe(&socket),
        args::Action::CheckConfig => {
            report("the configuration is valid");
            Ok(())
        }
        args::Action::Mount { settings } => return mounter::run(settings),
        args::Action::Broker { setup } => broker(*setup),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error.to_string());
            ExitCode::from(exit_code(&error))
        }
    }
}

/// Confined before the first thread starts and before a byte from outside is read.
fn broker(setup: args::Setup) -> Result<()> {
    confine::name(c"keyward-broker")?;
    mounter::release_signals()?;
    let channel = mounts::take_channel()?;
    spare::descriptors()?;
    confine::enter(&setup.needs(), channel.socket_number())?;
    // Not before: what confines a process wants it to have one thread.
    spare::threads()?;
    let stalls = Stalls::new(Arc::new(SystemClock));
    on_runtime(&stalls, app::run(setup, channel, stalls.clone()))
}

/// One thread: nearly all work waits, and conversions run beside it.
fn on_runtime(stalls: &Stalls, run: impl Future<Output = Result<()>>) -> Result<()> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    stalls.watch(&mut builder);
    let runtime = builder
        .enable_all()
        .thread_keep_alive(std::time::Duration::from_secs(1))
        .max_blocking_threads(32)
        .build()
        .map_err(|error| spare::explained("start the runtime", &error))?;
    let result = runtime.block_on(run);
    // A conversion that still runs must not hold up the exit.
    runtime.shutdown_background();
    result
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
    eprintln!("keyward-csi-driver: {text}");
}
