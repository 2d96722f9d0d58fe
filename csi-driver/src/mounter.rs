//! The mounter: it mounts what the broker asks for, and nothing else (promise 14).
//!
//! It is the process that the container starts. It may mount and change owners, has no network and holds no secret:
//! content is written by the broker, through descriptors. It takes one fixed-size request at a time, believes none of
//! it, and works beneath descriptors that it opened itself. Between requests it sleeps in `poll`.
//!
//! Each tmpfs has two mounts. One is read-only from its first moment, waits in a directory that only this process sees,
//! and is moved to the volume's target by the commit. The other is writable and attached nowhere; its root is what the
//! broker gets. So a volume is never writable where it can be seen, and no directory of the broker's leads anywhere.

mod detached;
mod listen;
mod serve;
mod signals;
mod start;
mod state;
mod table;
mod targets;
mod tmpfs;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use keyward_core::Result;
use signals::Signals;

pub use signals::release as release_signals;
pub use start::mounter_calls;

/// What to change when a mount would not be seen outside of the container.
pub const PROPAGATION: &str = "kubelet's `pods` directory is not on a shared mount in the driver's container. Add \
     `mountPropagation: Bidirectional` to its entry under `volumeMounts` of the driver's DaemonSet; if it is there, run \
     `mount --make-shared` on the node for the mount that holds the directory, and restart the driver";

/// What the mounter is told on its command line.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The driver's name, as kubelet writes it beside each volume.
    pub driver_name: String,
    /// Kubelet's root directory, at the same path as on the host.
    pub kubelet_dir: PathBuf,
    /// Where the CSI socket is bound.
    pub endpoint: PathBuf,
    /// Where the registration socket is bound.
    pub registration_socket: Option<PathBuf>,
    /// Where state is kept that outlives a restart: `volumes/` on disk, `snapshot/` in memory.
    pub state_dir: PathBuf,
    /// Accept a tmpfs that can be swapped out while swap is on.
    pub allow_swap: bool,
    /// What the broker is started with, its subcommand first.
    pub broker_args: Vec<OsString>,
}

/// Prepares the state directory, starts the broker, gives up what is not needed, and serves until the broker ends.
/// Returns the broker's exit code; 128 and the signal's number when a signal ended it; 69 when the start fails.
#[must_use]
pub fn run(settings: Settings) -> ExitCode {
    match serve(&settings) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report(&error.to_string());
            ExitCode::from(69)
        }
    }
}

fn serve(settings: &Settings) -> Result<u8> {
    crate::confine::name(c"keyward-mounter")?;
    // First of all: whoever ends the driver while it starts must reach the broker too.
    let signals = Signals::block()?;
    crate::spare::descriptors()?;
    tmpfs::check_kernel()?;
    state::prepare(settings)?;
    let mut broker = start::broker(settings)?;
    let result = start::confined(settings, signals, &broker).and_then(|mut mounter| {
        let code = broker.attend(&mut mounter);
        mounter.sockets.remove();
        code
    });
    if result.is_err() {
        broker.kill();
    }
    result
}

/// The mounter has no log but standard error, and little to say.
#[expect(clippy::print_stderr, reason = "the process's only voice")]
fn report(text: &str) {
    eprintln!("keyward-csi-driver: mounter: {text}");
}
