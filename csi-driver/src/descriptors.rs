//! How many file descriptors pods may cause.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that the process needs whatever pods do: its sockets, connections to vaults and the API server, the audit
/// log, watches, open directories.
const OWN: u64 = 256;

/// Raises the limit of open files to the hard limit, and says how many of them may be held for pods. Where the limit
/// cannot be raised, those that the process has are shared out.
pub(crate) fn raise() -> usize {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
    {
        tracing::warn!(%error, "the limit of open files stays what it was");
    }
    for_pods(getrlimit(Resource::Nofile).current)
}

/// `None` is without limit.
fn for_pods(limit: Option<u64>) -> usize {
    let left = limit.map_or(u64::MAX, |limit| limit.saturating_sub(OWN));
    usize::try_from(left).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_raised_and_what_the_process_needs_is_kept_back() {
        let hard = getrlimit(Resource::Nofile).maximum;
        // Lower than it may be, as services start.
        setrlimit(Resource::Nofile, Rlimit { current: Some(1024), maximum: hard }).unwrap();
        let pods = raise();
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
        assert_eq!(pods as u64, hard.map_or(u64::MAX, |hard| hard - OWN));
        assert_eq!((for_pods(Some(100)), for_pods(None)), (0, usize::MAX));
    }
}
