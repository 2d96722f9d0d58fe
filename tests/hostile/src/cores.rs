//! Who runs where: the system under test on core 0, everything else on core 1, attackers only when nobody else wants to.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::{SysconfVar, gettid, sysconf};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Outcome;

/// The core of the system under test.
pub(crate) const TESTED: usize = 0;
/// The core of victims' clients, emulator, API server and attackers.
pub(crate) const OTHERS: usize = 1;

/// Binds this thread, and the threads and children that it starts from now on, to one core. A machine with one core has
/// but one.
pub(crate) fn bind(core: usize) -> Outcome<()> {
    let mut set = CpuSet::new();
    set.set(core.min(count() - 1));
    Ok(sched_setaffinity(None, &set)?)
}

/// Whether attackers take their share of the core instead of what is left.
static SHARED: AtomicBool = AtomicBool::new(false);

/// Says whether the machine has other work, which would leave nothing to attackers that stand back.
pub(crate) fn contend(shared: bool) {
    SHARED.store(shared, Ordering::Relaxed);
}

/// Makes this thread run only when no other wants its core, so that victims do not suffer from an attacker's own work.
pub(crate) fn stand_back() {
    if SHARED.load(Ordering::Relaxed) {
        return;
    }
    let thread = gettid().to_string();
    let idle = Command::new("chrt")
        .args(["--idle", "--pid", "0", &thread])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !idle {
        // The next best thing.
        let _ = rustix::process::nice(19);
    }
}

/// Cores of the machine, whatever this thread is bound to now.
pub(crate) fn count() -> usize {
    sysconf(SysconfVar::_NPROCESSORS_ONLN)
        .ok()
        .flatten()
        .and_then(|count| usize::try_from(count).ok())
        .unwrap_or(1)
        .max(1)
}
