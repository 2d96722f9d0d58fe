use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{MissedTickBehavior, interval};

/// How often files are looked at when the node has no inotify instance left.
const POLL: Duration = Duration::from_secs(10);
/// Writers that replace several files do so within this time.
const SETTLE: Duration = Duration::from_millis(100);

/// Tells when one of a few files has other content: configuration, federated token, TLS roots.
///
/// One inotify instance watches their directories (kubelet swaps a link there, the files themselves never change).
/// Events are only hints: what counts is whether a file's fingerprint differs. It takes one descriptor and no thread;
/// without one, and whenever inotify has nothing more to say, the files are looked at every 10 s.
pub struct Files {
    watched: Vec<(PathBuf, Option<Fingerprint>)>,
    directories: Option<Directories>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Files {
    /// Begins to watch `paths`; one that does not exist yet is watched for its appearance. To be called within a
    /// runtime.
    #[must_use]
    pub fn watch(paths: Vec<PathBuf>) -> Self {
        let mut directories: Vec<_> =
            paths.iter().filter_map(|path| path.parent()).map(readable).map(Path::to_owned).collect();
        directories.sort_unstable();
        directories.dedup();
        let directories = Directories::watch(&directories);
        let watched = paths
            .into_iter()
            .map(|path| {
                let seen = fingerprint(&path);
                (path, seen)
            })
            .collect();
        Self { watched, directories }
    }

    /// Waits until at least one file differs from what was last seen, and returns those. Cancel-safe.
    pub async fn changed(&mut self) -> Vec<PathBuf> {
        let mut poll = interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let changed = self.differing();
            if !changed.is_empty() {
                return changed;
            }
            match &self.directories {
                Some(directories) => {
                    if directories.event().await.is_err() {
                        tracing::warn!("a watched directory is gone; its files are looked at every 10 s");
                        self.directories = None;
                    }
                    tokio::time::sleep(SETTLE).await;
                }
                None => {
                    poll.tick().await;
                }
            }
        }
    }

    fn differing(&mut self) -> Vec<PathBuf> {
        let mut changed = Vec::new();
        for (path, seen) in &mut self.watched {
            let now = fingerprint(path);
            if now != *seen && now.is_some() {
                *seen = now;
                changed.push(path.clone());
            }
        }
        changed
    }
}

/// Says once in the life of a process that it looks at what it would watch, and why.
pub fn tell_of_polling(why: &dyn fmt::Display) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        tracing::warn!(
            %why,
            "inotify is used up on this node: files are looked at every 10 s and sockets every 2 s instead; raise \
             fs.inotify.max_user_instances or fs.inotify.max_user_watches to see changes at once"
        );
    });
}

/// An inotify instance on a few directories.
struct Directories(AsyncFd<OwnedFd>);

impl Directories {
    /// `None` when there is no instance, or when a directory cannot be watched; the log says which.
    fn watch(directories: &[PathBuf]) -> Option<Self> {
        let watch = match instance() {
            Ok(watch) => watch,
            Err(error) => {
                tell_of_polling(&error);
                return None;
            }
        };
        let what = WatchFlags::ATTRIB
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MODIFY
            | WatchFlags::MOVE
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        for directory in directories {
            match add_watch(watch.get_ref(), directory, what) {
                Ok(_) => {}
                Err(errno @ (Errno::NOSPC | Errno::NOMEM)) => {
                    tell_of_polling(&errno);
                    return None;
                }
                Err(error) => {
                    tracing::warn!(directory = %directory.display(), %error, "a directory cannot be watched; its files are looked at every 10 s");
                    return None;
                }
            }
        }
        Some(Self(watch))
    }

    /// Waits until something happens in one of the directories; an error when there is nothing more to come.
    async fn event(&self) -> std::io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(result) = ready.try_io(|watch| Ok(drain(watch.get_ref())?)) {
                return result;
            }
        }
    }
}

/// Takes all events that wait.
fn drain(watch: &OwnedFd) -> rustix::io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(watch, &mut buffer);
    let mut some = false;
    loop {
        match reader.next() {
            // The directory is gone, or its file system.
            Ok(event) if event.events().contains(ReadFlags::IGNORED) => return Err(Errno::NOENT),
            Ok(_) => some = true,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if some => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
}

#[expect(deprecated, reason = "the descriptor is owned, which is all that the newer, unsafe call asks for")]
fn instance() -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?, Interest::READABLE)
}

/// The directory of a path without one is the working directory.
fn readable(directory: &Path) -> &Path {
    if directory.as_os_str().is_empty() { Path::new(".") } else { directory }
}

fn fingerprint(path: &Path) -> Option<Fingerprint> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Fingerprint {
        device: metadata.dev(),
        inode: metadata.ino(),
        length: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[tokio::test]
    async fn a_swapped_link_as_kubelet_makes_it_counts_as_a_change_of_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for (generation, content) in [("..1", "old"), ("..2", "newer")] {
            std::fs::create_dir(root.join(generation)).unwrap();
            std::fs::write(root.join(generation).join("config.yaml"), content).unwrap();
        }
        symlink("..1", root.join("..data")).unwrap();
        symlink("..data/config.yaml", root.join("config.yaml")).unwrap();
        let file = root.join("config.yaml");
        let mut files = Files::watch(vec![file.clone()]);
        symlink("..2", root.join("..data_tmp")).unwrap();
        std::fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        assert_eq!(files.changed().await, [file]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_that_goes_and_comes_back_is_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("mounted");
        std::fs::create_dir(&inner).unwrap();
        let file = inner.join("token");
        let mut files = Files::watch(vec![file.clone()]);
        assert!(files.directories.is_some());
        std::fs::remove_dir(&inner).unwrap();
        std::fs::create_dir(&inner).unwrap();
        assert!(tokio::time::timeout(Duration::from_secs(1), files.changed()).await.is_err());
        assert!(files.directories.is_none(), "the old directory has nothing more to say");
        std::fs::write(&file, "again").unwrap();
        assert_eq!(files.changed().await, [file]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_inotify_a_change_is_seen_by_looking() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        let mut files = Files::watch(vec![file.clone()]);
        files.directories = None;
        let change = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            std::fs::write(&file, "appeared").unwrap();
        };
        let (changed, ()) = tokio::join!(files.changed(), change);
        assert_eq!(changed, [file]);
    }
}
