use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use keyward_core::spec::FilePath;
use keyward_core::{Code, Error, Result};
use keyward_delivery::atomic::{AtomicDirectory, Committed};
use keyward_delivery::tmpfs;
use keyward_delivery::tree::{File, Tree};
use tokio::runtime::Handle;
use tokio::sync::Mutex;

/// Makes room for a tree before it is written. Called off the async threads; may block.
pub trait Room: Send + Sync {
    /// Makes sure that the old and a new generation of `files` files with `payload` bytes together fit.
    ///
    /// # Errors
    /// `KW_NO_SPACE` when there is none to be had; nothing is written then.
    fn ensure(&self, directory: &OwnedFd, payload: usize, files: usize) -> Result<()>;
}

/// Grows a tmpfs of ours; takes any other as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct OnTmpfs;

impl Room for OnTmpfs {
    fn ensure(&self, directory: &OwnedFd, payload: usize, files: usize) -> Result<()> {
        if let tmpfs::Room::Tight { wanted, size } = tmpfs::ensure_room(directory, payload, files)? {
            tracing::warn!(
                wanted,
                size,
                "the volume is small: the replaced files may go before their grace is over"
            );
        }
        Ok(())
    }
}

/// The directory that applications read. Its system calls run off the thread that answers lookups.
pub struct Outputs {
    /// Locked while a call is at work on it, which goes on to its end whoever waits for it.
    directory: Arc<Mutex<AtomicDirectory>>,
    /// `None` for the runtime's own threads.
    threads: Option<Handle>,
    room: Arc<dyn Room>,
}

impl Outputs {
    /// Goes on with `directory`, whatever an earlier process committed to it.
    #[must_use]
    pub fn new(directory: AtomicDirectory, room: Arc<dyn Room>) -> Self {
        Self { directory: Arc::new(Mutex::new(directory)), threads: None, room }
    }

    /// Makes its system calls on the blocking threads of another runtime.
    #[must_use]
    pub fn on(self, threads: Handle) -> Self {
        Self { threads: Some(threads), ..self }
    }

    /// Returns when no call is at work on the directory any more.
    pub async fn idle(&self) {
        drop(self.directory.lock().await);
    }

    /// Whether readers see what was committed last; see [`AtomicDirectory::marker_is_intact`]. False while another
    /// call is at work on the directory.
    #[must_use]
    pub fn marker_is_intact(&self) -> bool {
        self.directory.try_lock().is_ok_and(|directory| directory.marker_is_intact())
    }

    /// Compares with what is there at the next commit; see [`AtomicDirectory::distrust`].
    pub async fn distrust(&mut self) {
        self.directory.lock().await.distrust();
    }

    /// Those of `paths` that readers see now; `None` when nothing was committed, or its mark is gone.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM`.
    pub async fn read(&mut self, paths: Vec<FilePath>) -> Result<Option<BTreeMap<FilePath, File>>> {
        self.with(move |directory| {
            if !directory.marker_is_intact() {
                return Ok(None);
            }
            let mut found = BTreeMap::new();
            for path in paths {
                if let Some(file) = directory.read(&path)? {
                    found.insert(path, file);
                }
            }
            Ok(Some(found))
        })
        .await
    }

    /// Makes readers see `tree`; see [`AtomicDirectory::commit`]. Does `first` before, off the async threads too, and
    /// nothing when that fails.
    ///
    /// # Errors
    /// As there, those of the room, and those of `first`.
    pub async fn commit(
        &mut self,
        tree: Tree,
        first: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<Committed> {
        let room = Arc::clone(&self.room);
        self.with(move |directory| {
            first()?;
            room.ensure(directory.directory(), tree.payload(), tree.files.len())?;
            directory.commit(&tree)
        })
        .await
    }

    /// Removes generations whose grace is over.
    pub async fn sweep(&mut self) {
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
        let mut directory = Arc::clone(&self.directory).lock_owned().await;
        let work = move || {
            let result = work(&mut directory);
            drop(directory);
            result
        };
        let done = match &self.threads {
            Some(threads) => threads.spawn_blocking(work),
            None => tokio::task::spawn_blocking(work),
        };
        // A panic was reported by the panic hook; what it left is compared with what is there.
        match done.await {
            Ok(result) => result,
            Err(_) => {
                self.directory.lock().await.distrust();
                Err(Error::new(Code::Internal, "the files could not be written because of a defect"))
            }
        }
    }
}
