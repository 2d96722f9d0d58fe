use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use keyward_broker::Saved;
use keyward_core::{IdentityKey, Result, UnixTime};
use keyward_delivery::saved::{self, Loaded, SavedObject};

/// The last snapshot, kept across restarts in a place that only Keyward reads: a restart is no worse than an outage.
pub struct Kept {
    directory: Arc<OwnedFd>,
    written: Vec<(usize, UnixTime)>,
}

impl Kept {
    /// Opens the place and reads what an earlier process left for this identity. Damage is reported and forgotten.
    ///
    /// # Errors
    /// `KW_TMPFS_REQUIRED` or `KW_FILE_SYSTEM`, naming the path and the fix.
    pub fn open(path: &Path, identity: &Arc<IdentityKey>) -> Result<(Self, Vec<Saved>)> {
        let directory = saved::open(path)?;
        let loaded = saved::load(&directory, std::slice::from_ref(identity))?;
        Ok(Self::with(directory, loaded))
    }

    /// Goes on with an open directory, and reads what an earlier process left there for whatever identity. The caller
    /// makes sure that each object is served to its own identity only.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn load_all(directory: OwnedFd) -> Result<(Self, Vec<Saved>)> {
        saved::check(&directory)?;
        let loaded = saved::load_all(&directory)?;
        Ok(Self::with(directory, loaded))
    }

    fn with(directory: OwnedFd, loaded: Loaded) -> (Self, Vec<Saved>) {
        if let Some(error) = loaded.damaged {
            tracing::warn!(%error, "the kept snapshot is not used");
        }
        let objects = loaded
            .objects
            .into_iter()
            .map(|object| Saved {
                key: object.key,
                fetched: object.fetched,
                confirmed_wall: object.confirmed,
            })
            .collect();
        (Self { directory: Arc::new(directory), written: Vec::new() }, objects)
    }

    /// Writes the snapshot unless the very same was written last.
    pub async fn save(&mut self, objects: Vec<Saved>) {
        let mut now: Vec<_> =
            objects.iter().map(|saved| (Arc::as_ptr(&saved.fetched).addr(), saved.confirmed_wall)).collect();
        now.sort_unstable();
        if now == self.written {
            return;
        }
        let objects: Vec<_> = objects
            .into_iter()
            .map(|saved| SavedObject {
                key: saved.key,
                fetched: saved.fetched,
                confirmed: saved.confirmed_wall,
            })
            .collect();
        let directory = Arc::clone(&self.directory);
        match tokio::task::spawn_blocking(move || saved::save(&directory, &objects)).await {
            Ok(Ok(())) => self.written = now,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the snapshot could not be kept; a restart would begin with nothing");
            }
            // A panic was reported by the panic hook.
            Err(_) => {}
        }
    }
}
