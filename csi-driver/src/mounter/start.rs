//! Starting the broker, and what the mounter gives up before it listens to it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};

use keyward_core::{Code, Error, Result};
use nix::sched::{CloneFlags, unshare};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::CapabilitySet;

use super::detached::Waiting;
use super::listen::Sockets;
use super::serve::Mounter;
use super::signals::{Came, Signals};
use super::table::Table;
use super::targets::Targets;
use super::{PROPAGATION, Settings, report, state};
use crate::confine::{Allow, Filter, NOT_EXECUTABLE, failed, keep_only, one_thread};

/// How long a broker may live after it closed its end of the socket.
const LINGER: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// The broker's process, and the mounter's end of the socket to it, which stays open until the end: the filter keeps
/// its number taken.
pub(super) struct Broker {
    child: Child,
    socket: OwnedFd,
    /// Requests may come.
    listening: bool,
}

/// Starts this very program as the broker, with its end of the socket as standard input.
pub(super) fn broker(settings: &Settings) -> Result<Broker> {
    let flags = SocketFlags::CLOEXEC;
    let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(failed("make a socket pair"))?;
    let child = Command::new("/proc/self/exe")
        // What `ps` shows; the broker gives itself its name of 15 bytes.
        .arg0("keyward-broker")
        .args(&settings.broker_args)
        .stdin(Stdio::from(theirs))
        .spawn()
        .map_err(|error| crate::spare::explained("start the broker", &error))?;
    Ok(Broker { child, socket, listening: true })
}

/// Moves into namespaces of the mounter's own, opens what it works beneath, and drops all but what it needs.
pub(super) fn confined(settings: &Settings, signals: Signals, broker: &Broker) -> Result<Mounter> {
    one_thread()?;
    // The network is new and empty. The mounts are the same, and those that are shared stay so: what is mounted or
    // unmounted on them shows on the host; but the waiting room is nobody else's.
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).map_err(failed("leave the namespaces"))?;
    let table = Table::open().map_err(failed("read the mount table"))?;
    let waiting = Waiting::new(state::waiting_room(settings, &table)?, settings.allow_swap);
    let pods = settings.kubelet_dir.join("pods");
    let targets = Targets::open(settings, table).map_err(|errno| {
        Error::new(
            Code::FileSystem,
            format!(
                "cannot open {}: {}; mount kubelet's directory into the container at the same path, with \
                 `mountPropagation: Bidirectional`",
                pods.display(),
                std::io::Error::from(errno)
            ),
        )
    })?;
    if !targets.is_shared().map_err(failed("read the mount table"))? {
        let text = format!("no pod would see a volume in {}: {PROPAGATION}", pods.display());
        return Err(Error::new(Code::FileSystem, text));
    }
    keep_only(CapabilitySet::SYS_ADMIN | CapabilitySet::CHOWN)?;
    // Most of the program is the broker's. Done here, because the filter lets no link be read by its path.
    keyward_memory::hand_back_code();
    filter(broker.child.id(), broker.socket.as_raw_fd()).install()?;
    Ok(Mounter { signals, waiting, targets, sockets: Sockets::new(settings) })
}

impl Broker {
    /// Serves the broker until it has ended, and passes on to it what ends the driver. Returns the exit code.
    pub(super) fn attend(&mut self, mounter: &mut Mounter) -> Result<u8> {
        loop {
            if let Some(status) = self.child.try_wait().map_err(failed("wait for the broker"))? {
                return Ok(exit_code(status));
            }
            let mut wanted = vec![PollFd::from_borrowed_fd(mounter.signals.as_fd(), PollFlags::IN)];
            wanted.extend(self.listening.then(|| PollFd::new(&self.socket, PollFlags::IN)));
            let ready = match poll(&mut wanted, (!self.listening).then_some(&LINGER)) {
                Err(Errno::INTR) => continue,
                ready => ready.map_err(failed("wait for requests"))?,
            };
            let asked = wanted.get(1).is_some_and(|socket| !socket.revents().is_empty());
            if ready == 0 {
                self.kill();
            }
            while let Some(came) = mounter.signals.next() {
                if let Came::End(signal) = came {
                    self.signal(signal);
                }
            }
            if asked && !mounter.serve(&self.socket) {
                // A broker that waits for a reply learns that there will be none.
                let _ = shutdown(&self.socket, Shutdown::Both);
                self.listening = false;
            }
        }
    }

    /// Ends the broker at once.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let signal = if signal == nix::sys::signal::Signal::SIGINT { Signal::INT } else { Signal::TERM };
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }
}

/// The broker's own, or what a shell would make of its signal.
fn exit_code(status: ExitStatus) -> u8 {
    if let Some(signal) = status.signal() {
        report(&format!("the broker was ended by signal {signal}"));
    }
    let code = status.code().or(status.signal().map(|signal| signal.saturating_add(128)));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// All that is called from here on. No new process, no program, no network; signals to nobody but the broker.
fn filter(broker: u32, channel: RawFd) -> Filter {
    let mut filter = Filter::default()
        .any(CALLS)
        .descriptors_over(channel)
        .descriptor_flags()
        .when(libc::SYS_mmap, &[NOT_EXECUTABLE])
        .when(libc::SYS_mprotect, &[NOT_EXECUTABLE])
        .when(
            libc::SYS_socket,
            &[Allow::Equal(0, libc::AF_UNIX as u64), Allow::Bits(1, 0xf, libc::SOCK_STREAM as u64)],
        )
        .when(libc::SYS_kill, &[Allow::Equal(0, broker.into())])
        .when(libc::SYS_tgkill, &[Allow::Equal(0, std::process::id().into())]);
    // The standard library holds a descriptor of the child's process where it can.
    for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGINT] {
        filter = filter.when(libc::SYS_pidfd_send_signal, &[Allow::Equal(1, signal as u64)]);
    }
    filter
}

/// The numbers of the system calls that the mounter may make, with some arguments at least. For tests, which try all
/// others.
#[doc(hidden)]
#[must_use]
pub fn mounter_calls() -> Vec<i64> {
    filter(1, 0).calls()
}

const CALLS: &[i64] = &[
    libc::SYS_bind,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fchmod,
    libc::SYS_fchown,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_init1,
    libc::SYS_listen,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mkdirat,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_open_tree,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_recvmsg,
    libc::SYS_renameat,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_umount2,
    libc::SYS_unlinkat,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_write,
    libc::SYS_writev,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];
