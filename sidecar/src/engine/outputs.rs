use std::sync::Arc;

use keyward_core::Result;
use keyward_core::config::{Files, Tmpfs};
use keyward_delivery::atomic::AtomicDirectory;
use keyward_delivery::tmpfs::{self, Mode, NoSwap, Options};
use keyward_volume::{OnTmpfs, Outputs};

/// Makes sure of tmpfs and takes the directory over, with whatever an earlier process committed.
///
/// # Errors
/// `KW_TMPFS_REQUIRED` or `KW_FILE_SYSTEM`, naming the path and the fix.
pub(crate) fn prepare(files: &Files) -> Result<Outputs> {
    let mode = match files.tmpfs {
        Tmpfs::Auto => Mode::Auto,
        Tmpfs::Mount => Mode::Mount,
        Tmpfs::Require => Mode::Require,
    };
    let options = Options { directory_mode: 0o755, gid: files.gid, allow_swap: files.allow_swap };
    let prepared = tmpfs::prepare(&files.path, mode, files.size.unwrap_or(SMALLEST), &options)?;
    if prepared.noswap != NoSwap::Yes && prepared.swap_on {
        tracing::warn!(path = %files.path.display(), "the tmpfs has no noswap and swap is on: its pages could reach a disk");
    }
    tracing::info!(path = %files.path.display(), mounted = prepared.mounted, reused = prepared.reused, "tmpfs is ready");
    Ok(Outputs::new(AtomicDirectory::open(prepared.directory)?, Arc::new(OnTmpfs)))
}

/// A tmpfs of ours begins with this many bytes and grows with its payload.
const SMALLEST: u64 = 1 << 20;
