//! The mounter: mounts what the broker asks for, and nothing else (promise 14).

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// What the mounter is told on its command line.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Kubelet's root directory, at the same path as on the host.
    pub kubelet_dir: PathBuf,
    /// Where the CSI socket is bound.
    pub endpoint: PathBuf,
    /// Where the registration socket is bound.
    pub registration_socket: Option<PathBuf>,
    /// Where state is kept that outlives a restart.
    pub state_dir: PathBuf,
    /// Accept a tmpfs that can be swapped out while swap is on.
    pub allow_swap: bool,
    /// What the broker is started with, its subcommand first.
    pub broker_args: Vec<OsString>,
}

/// Runs the mounter until the broker ends.
#[must_use]
pub fn run(_settings: Settings) -> ExitCode {
    ExitCode::FAILURE
}
