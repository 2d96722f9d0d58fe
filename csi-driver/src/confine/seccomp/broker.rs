use std::os::fd::RawFd;

use super::{Allow, Filter, NOT_EXECUTABLE};

/// The flags of a new thread, as glibc and musl give them: it shares all that threads share, is no process, gets no
/// namespace and is traced by nobody.
const THREAD: Allow = Allow::Bits(
    0,
    // musl sets CLONE_DETACHED as well, which means nothing.
    0xffff_ffff & !(libc::CLONE_DETACHED as u64),
    (libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_SETTLS
        | libc::CLONE_PARENT_SETTID
        | libc::CLONE_CHILD_CLEARTID) as u64,
);
/// Type of a socket, without the flags that ride on it.
const SOCKET_TYPE: u64 = 0xf;
/// The first option of SOL_SOCKET that attaches a program of the caller's (`SO_ATTACH_FILTER`).
const FIRST_PROGRAM: u64 = libc::SO_ATTACH_FILTER as u64;

/// What an asynchronous TLS client and server of Unix sockets with files needs, on glibc and musl. `channel` is the
/// socket to the mounter.
pub(in crate::confine) fn filter(channel: RawFd) -> Filter {
    let own = u64::from(std::process::id());
    let mut filter = Filter::default()
        .any(MEMORY_AND_TIME)
        .any(FILES)
        .any(SOCKETS)
        .any(OLDER)
        .descriptors_over(channel)
        .descriptor_flags()
        .when(libc::SYS_mmap, &[NOT_EXECUTABLE])
        .when(libc::SYS_mprotect, &[NOT_EXECUTABLE])
        .when(libc::SYS_clone, &[THREAD])
        // Its own limits, and not those of another process of the same user.
        .when(libc::SYS_prlimit64, &[Allow::Equal(0, 0)])
        // A thread's own priority, which without a capability it can only lower.
        .when(libc::SYS_setpriority, &[Allow::Equal(0, libc::PRIO_PROCESS as u64), Allow::Equal(1, 0)])
        // `abort` raises a signal in the own process.
        .when(libc::SYS_tgkill, &[Allow::Equal(0, own)])
        .when(libc::SYS_socketpair, &[Allow::Equal(0, libc::AF_UNIX as u64)]);
    let kinds = |family: i32, kind: i32, protocol: i32| {
        [
            Allow::Equal(0, family as u64),
            Allow::Bits(1, SOCKET_TYPE, kind as u64),
            Allow::Equal(2, protocol as u64),
        ]
    };
    for (family, kind, protocol) in [
        (libc::AF_UNIX, libc::SOCK_STREAM, 0),
        (libc::AF_INET, libc::SOCK_STREAM, 0),
        (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP),
        (libc::AF_INET, libc::SOCK_DGRAM, 0),
        (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDP),
        (libc::AF_INET6, libc::SOCK_STREAM, 0),
        (libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_TCP),
        (libc::AF_INET6, libc::SOCK_DGRAM, 0),
        (libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP),
    ] {
        filter = filter.when(libc::SYS_socket, &kinds(family, kind, protocol));
    }
    // Options of TCP and IP, and those of any socket that attach no program.
    for level in [libc::IPPROTO_TCP, libc::IPPROTO_IP, libc::IPPROTO_IPV6] {
        filter = filter.when(libc::SYS_setsockopt, &[Allow::Equal(1, level as u64)]);
    }
    let any_socket = Allow::Equal(1, libc::SOL_SOCKET as u64);
    filter = filter.when(libc::SYS_setsockopt, &[any_socket, Allow::Below(2, FIRST_PROGRAM)]);
    // Non-blocking mode, how much can be read, and whether standard error is a terminal.
    for request in [libc::FIONBIO, libc::FIONREAD, libc::TCGETS, libc::TIOCGWINSZ] {
        filter = filter.when(libc::SYS_ioctl, &[Allow::Equal(1, u64::from(request as u32))]);
    }
    // Names of threads and of memory, huge pages off; nothing that gives back what was given up.
    for option in [
        libc::PR_SET_NAME,
        libc::PR_GET_NAME,
        libc::PR_SET_VMA,
        libc::PR_SET_THP_DISABLE,
        libc::PR_GET_DUMPABLE,
    ] {
        filter = filter.when(libc::SYS_prctl, &[Allow::Equal(0, option as u64)]);
    }
    filter
}

const MEMORY_AND_TIME: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_mremap,
    libc::SYS_munlock,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

const FILES: &[i64] = &[
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_rm_watch,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    libc::SYS_writev,
];

const SOCKETS: &[i64] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
];

/// Older forms that only some machines have, and musl prefers.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[
    libc::SYS_access,
    libc::SYS_chmod,
    libc::SYS_epoll_wait,
    libc::SYS_getdents,
    libc::SYS_getrlimit,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_symlink,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_allowed_that_gives_privilege_or_reaches_another_process() {
        let calls = filter(3).calls();
        for call in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_kill,
            libc::SYS_tkill,
            libc::SYS_pidfd_open,
            libc::SYS_pidfd_getfd,
            libc::SYS_pidfd_send_signal,
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_open_tree,
            libc::SYS_move_mount,
            libc::SYS_fsopen,
            libc::SYS_mount_setattr,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_open_by_handle_at,
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_enter,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_userfaultfd,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_memfd_create,
            libc::SYS_capset,
            libc::SYS_setuid,
            libc::SYS_seccomp,
            libc::SYS_personality,
            libc::SYS_init_module,
            libc::SYS_kexec_load,
            libc::SYS_mknodat,
            libc::SYS_sendmmsg,
            libc::SYS_dup3,
            libc::SYS_close_range,
        ] {
            assert!(!calls.contains(&call), "system call {call}");
        }
        assert!(calls.contains(&libc::SYS_read));
    }
}
