use std::os::fd::RawFd;

use super::{Allow, Filter, NOT_EXECUTABLE};

/// What is left to ask one question over a socket that is connected already, and to say what came of it.
pub(in crate::confine) fn filter(socket: RawFd) -> Filter {
    let socket = u64::from(socket.cast_unsigned());
    let mut filter = Filter::default()
        .any(CALLS)
        .when(libc::SYS_mmap, &[NOT_EXECUTABLE])
        .when(libc::SYS_mprotect, &[NOT_EXECUTABLE])
        .when(libc::SYS_tgkill, &[Allow::Equal(0, std::process::id().into())])
        .when(libc::SYS_prctl, &[Allow::Equal(0, libc::PR_SET_VMA as u64)])
        // Builds with debug assertions look whether a descriptor that they close is one.
        .when(libc::SYS_fcntl, &[Allow::Equal(1, libc::F_GETFD as u64)]);
    for call in [libc::SYS_read, libc::SYS_recvfrom, libc::SYS_sendto, libc::SYS_readv, libc::SYS_shutdown] {
        filter = filter.when(call, &[Allow::Equal(0, socket)]);
    }
    // And standard output and error.
    for descriptor in [socket, 1, 2] {
        filter = filter.when(libc::SYS_write, &[Allow::Equal(0, descriptor)]);
        filter = filter.when(libc::SYS_writev, &[Allow::Equal(0, descriptor)]);
    }
    filter
}

const CALLS: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_ppoll,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];
