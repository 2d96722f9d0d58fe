use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Outcome;

/// Binds this thread, and the children that it starts from now on, to one core. A machine with one core has but one.
pub(crate) fn bind(core: usize) -> Outcome<()> {
    let mut set = CpuSet::new();
    set.set(core.min(count() - 1));
    Ok(sched_setaffinity(None, &set)?)
}

/// Lets this thread run anywhere again.
pub(crate) fn release() -> Outcome<()> {
    let mut set = CpuSet::new();
    (0..count().max(2)).for_each(|core| set.set(core));
    Ok(sched_setaffinity(None, &set)?)
}

/// Cores of the machine, whatever this thread is bound to now.
fn count() -> usize {
    nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN)
        .ok()
        .flatten()
        .and_then(|count| usize::try_from(count).ok())
        .unwrap_or(1)
        .max(1)
}
