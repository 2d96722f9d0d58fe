//! The end of the application, for clusters without native sidecars: in a pod that ends and shares its processes, the
//! sidecar ends once it is alone.

use std::path::Path;
use std::time::Duration;

use keyward_core::{Code, Error, Result};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Looks without anybody after which an application that was seen has ended; a container that is started anew at once is
/// not missed.
const QUIET: u32 = 3;
/// Looks without anybody after which an application that was never seen has ended before the first one. Our container is
/// the last that kubelet starts.
const NEVER_SEEN: u32 = 30;

/// Returns when the application has ended.
///
/// # Errors
/// `KW_CONFIG_INVALID` in a pod that does not share its processes.
pub(crate) async fn ended(proc: &Path) -> Result<()> {
    if std::process::id() == 1 {
        return Err(Error::new(
            Code::ConfigInvalid,
            "--exit-with-application sees the application only in a pod with shareProcessNamespace: true",
        ));
    }
    let mut looks = Looks::default();
    loop {
        if looks.look(others(proc, std::process::id())) {
            return Ok(());
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// How many processes there are beside the pod's first, which only holds the namespace, and us. What cannot be read counts
/// as one: better to stay too long than to leave too early.
fn others(proc: &Path, own: u32) -> usize {
    let Ok(entries) = std::fs::read_dir(proc) else { return 1 };
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| *id != 1 && *id != own).count()
}

#[derive(Default)]
struct Looks {
    seen: bool,
    quiet: u32,
}

impl Looks {
    /// Whether the application has ended, now that there are so many others.
    fn look(&mut self, others: usize) -> bool {
        if others > 0 {
            self.seen = true;
            self.quiet = 0;
            return false;
        }
        self.quiet = self.quiet.saturating_add(1);
        self.quiet >= if self.seen { QUIET } else { NEVER_SEEN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_has_ended_when_nobody_is_left_for_three_looks() {
        let mut looks = Looks::default();
        assert!(!looks.look(2));
        assert!(!looks.look(0) && !looks.look(0));
        assert!(!looks.look(1), "it was started anew");
        assert!(!looks.look(0) && !looks.look(0) && looks.look(0));
    }

    #[test]
    fn one_that_was_never_seen_is_waited_for_longer() {
        let mut looks = Looks::default();
        assert!((1..NEVER_SEEN).all(|_| !looks.look(0)));
        assert!(looks.look(0));
    }

    #[test]
    fn the_first_process_and_our_own_are_not_the_application() {
        let proc = tempfile::tempdir().unwrap();
        for name in ["1", "7", "8", "self", "meminfo"] {
            std::fs::create_dir(proc.path().join(name)).unwrap();
        }
        assert_eq!(others(proc.path(), 7), 1);
        assert_eq!(others(Path::new("/does/not/exist"), 7), 1);
    }
}
