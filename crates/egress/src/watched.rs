use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

/// How often files are looked at when the node has no inotify instance left.
const POLL: Duration = Duration::from_secs(10);
/// Writers that replace several files do so within this time.
const SETTLE: Duration = Duration::from_millis(100);

/// Tells when one of a few files has other content: configuration, federated token, TLS roots.
///
/// One inotify instance watches their directories (kubelet swaps a link there, the files themselves never change).
/// Events are only hints: what counts is whether a file's fingerprint differs.
pub struct Files {
    watched: Vec<(PathBuf, Option<Fingerprint>)>,
    hints: mpsc::Receiver<()>,
    watcher: Option<RecommendedWatcher>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Files {
    /// Begins to watch `paths`; one that does not exist yet is watched for its appearance.
    #[must_use]
    pub fn watch(paths: Vec<PathBuf>) -> Self {
        let (sender, hints) = mpsc::channel(1);
        // A full channel already holds the hint.
        let watcher = notify::recommended_watcher(move |_| {
            let _ = sender.try_send(());
        });
        let mut watcher = match watcher {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(%error, "no inotify instance is left; files are looked at every 10 s");
                None
            }
        };
        if let Some(active) = &mut watcher {
            let mut directories: Vec<_> =
                paths.iter().filter_map(|path| path.parent()).map(readable).collect();
            directories.sort_unstable();
            directories.dedup();
            for directory in directories {
                if let Err(error) = active.watch(directory, RecursiveMode::NonRecursive) {
                    tracing::warn!(directory = %directory.display(), %error, "a directory cannot be watched; its files are looked at every 10 s");
                    watcher = None;
                    break;
                }
            }
        }
        let watched = paths
            .into_iter()
            .map(|path| {
                let seen = fingerprint(&path);
                (path, seen)
            })
            .collect();
        Self { watched, hints, watcher }
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
            if self.watcher.is_some() && self.hints.recv().await.is_some() {
                tokio::time::sleep(SETTLE).await;
                while self.hints.try_recv().is_ok() {}
            } else {
                poll.tick().await;
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
    async fn without_inotify_a_change_is_seen_by_looking() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        let mut files = Files::watch(vec![file.clone()]);
        files.watcher = None;
        let change = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            std::fs::write(&file, "appeared").unwrap();
        };
        let (changed, ()) = tokio::join!(files.changed(), change);
        assert_eq!(changed, [file]);
    }
}
