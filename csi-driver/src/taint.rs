//! The start-up taint: a node joins with it, so that no pod comes before its volumes can be mounted, and the driver takes
//! it away once they can.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use keyward_core::backoff::exponential;
use keyward_core::{Code, Error, Result};
use keyward_kubernetes::{Change, Cluster};
use rustix::fs::{Mode, OFlags, openat};

use crate::mounts::{Mounts, Tmpfs};
use crate::node::Node;

/// While the taint is there, or nobody can say: from, to.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// While it is not: a node may be given it again.
const SELDOM: Duration = Duration::from_secs(60);

/// Looks for ever.
pub(crate) async fn watch(node: Arc<Node>, key: String) {
    let (mut told, mut looks) = (None, 0);
    loop {
        let state = look(&node, &key).await;
        if matches!(state, Ok(State::Removed)) {
            tracing::info!(taint = %key, "volumes can be mounted: the start-up taint is taken from the node");
        }
        if let Err(error) = &state
            && told != Some(error.code())
        {
            tracing::warn!(taint = %key, %error, "the start-up taint stays for now");
        }
        told = state.as_ref().err().map(Error::code);
        if matches!(state, Ok(State::Free | State::Removed)) {
            looks = 0;
            tokio::time::sleep(SELDOM).await;
        } else {
            tokio::time::sleep(exponential(AGAIN.0, AGAIN.1, looks)).await;
            looks = u32::saturating_add(looks, 1);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// The node has no such taint.
    Free,
    /// It had.
    Removed,
    /// It has, and must keep it.
    NotYet,
}

async fn look(node: &Node, key: &str) -> Result<State> {
    let cluster: &Cluster = node.cluster.as_deref().ok_or_else(|| {
        Error::new(Code::KubernetesUnavailable, "without the Kubernetes API no taint can be taken away")
    })?;
    // Known without asking anybody.
    if !node.is_ready() {
        return Ok(State::NotYet);
    }
    let taints = cluster.taints().await?;
    if !taints.has(key) {
        return Ok(State::Free);
    }
    if !cluster.is_registered().await? {
        return Ok(State::NotYet);
    }
    node.blocking(mount_and_read).await?;
    Ok(match cluster.remove_taint(&taints, key).await? {
        Change::Done => State::Removed,
        Change::Overtaken => State::NotYet,
    })
}

/// Makes a volume as for a pod, writes to it and reads it back. It is shown nowhere: the mounter mounts only at targets
/// that kubelet has made, and there is none yet.
fn mount_and_read(mounts: &Mounts) -> Result<()> {
    const WORDS: &[u8] = b"keyward";
    let failed = |error: std::io::Error| {
        Error::new(Code::FileSystem, "a volume was made, but cannot be written and read").detail(error)
    };
    let volume = mounts.create(&Tmpfs { bytes: 1 << 16, mode: 0o700, gid: None })?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let open =
        |flags| openat(volume.root(), "self-test", flags, Mode::RUSR | Mode::WUSR).map(std::fs::File::from);
    open(flags).map_err(|error| failed(error.into()))?.write_all(WORDS).map_err(failed)?;
    let mut read = Vec::new();
    let file = open(OFlags::RDONLY | OFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
    file.take(64).read_to_end(&mut read).map_err(failed)?;
    if read != WORDS {
        return Err(Error::new(Code::FileSystem, "a volume does not hold what was written to it"));
    }
    Ok(())
}
