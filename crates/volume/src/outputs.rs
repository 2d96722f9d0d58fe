use keyward_core::config::{Files, Tmpfs};
use keyward_core::{Code, Error, Result};
use keyward_delivery::atomic::{AtomicDirectory, Committed};
use keyward_delivery::tmpfs::{self, Mode, NoSwap, Options, Room};
use keyward_delivery::tree::Tree;

/// The directory that applications read. Its system calls run off the thread that answers lookups.
pub(crate) struct Outputs {
    directory: Option<AtomicDirectory>,
}

impl Outputs {
    /// Makes sure of tmpfs and takes the directory over, with whatever an earlier process committed.
    ///
    /// # Errors
    /// `KW_TMPFS_REQUIRED` or `KW_FILE_SYSTEM`, naming the path and the fix.
    pub(crate) fn prepare(files: &Files) -> Result<Self> {
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
        Ok(Self { directory: Some(AtomicDirectory::open(prepared.directory)?) })
    }

    pub(crate) async fn commit(&mut self, tree: Tree) -> Result<Committed> {
        self.with(move |directory| {
            let room = tmpfs::ensure_room(directory.directory(), tree.payload(), tree.files.len())?;
            if let Room::Tight { wanted, size } = room {
                tracing::warn!(
                    wanted,
                    size,
                    "the volume is small: the replaced files may go before their grace is over"
                );
            }
            directory.commit(&tree)
        })
        .await
    }

    pub(crate) async fn sweep(&mut self) {
        // Sweeping has no result, and a panic was reported by the panic hook.
        let _ = self
            .with(|directory| {
                directory.sweep_old();
                Ok(())
            })
            .await;
    }

    async fn with<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut AtomicDirectory) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let lost = || Error::new(Code::Internal, "the directory was lost to an earlier defect");
        let mut directory = self.directory.take().ok_or_else(lost)?;
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&mut directory);
            (directory, result)
        });
        let (directory, result) = done.await.map_err(|_| lost())?;
        self.directory = Some(directory);
        result
    }
}

/// A tmpfs of ours begins with this many bytes and grows with its payload.
const SMALLEST: u64 = 1 << 20;
