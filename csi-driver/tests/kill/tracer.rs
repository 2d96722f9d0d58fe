//! A program under a tracer that kills one of its processes before its n-th system call, or lets that call fail. The
//! sidecar's tests use it too: a program of one process is its own mounter.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::libc::{PTRACE_SYSCALL_INFO_ENTRY, PTRACE_SYSCALL_INFO_EXIT};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use parking_lot::Mutex;

use crate::calls;

/// One of the driver's two processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Who {
    Mounter,
    Broker,
}

/// What happens at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Kill,
    Fail(Errno),
}

/// What happens at which call, counted from the moment that it is armed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shot {
    pub(crate) who: Who,
    pub(crate) what: What,
    pub(crate) nth: usize,
}

/// How often calls were made while armed, and whether the shot was fired, at which call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counted {
    pub(crate) calls: usize,
    pub(crate) fired: Option<String>,
}

#[derive(Default)]
struct Shared {
    armed: Mutex<Option<(Shot, Counted)>>,
    ended: AtomicBool,
    mounter: AtomicI32,
}

/// A program's command line.
pub(crate) struct Line<'a> {
    pub(crate) program: &'a Path,
    pub(crate) arguments: &'a [String],
    pub(crate) variables: &'a [(&'a str, &'a Path)],
    /// Where what it says goes.
    pub(crate) log: &'a Path,
}

/// A running driver, traced. Killed when dropped.
pub(crate) struct Traced {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Traced {
    /// Starts the driver, perhaps with a shot that is armed from its first call on.
    pub(crate) fn spawn(line: &Line<'_>, shot: Option<Shot>) -> Self {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(line.log).unwrap();
        let mut command = Command::new("/bin/sh");
        // Waits until it is traced, so that no call of the driver is missed.
        command
            .args(["-c", "read go; exec \"$@\" </dev/null", "sh"])
            .arg(line.program)
            .args(line.arguments)
            .envs(line.variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let shared = Arc::new(Shared::default());
        shared.armed.lock().clone_from(&shot.map(|shot| (shot, Counted::default())));
        let of_thread = Arc::clone(&shared);
        // All requests to the kernel come from the thread that traces.
        let thread = std::thread::spawn(move || {
            Tracer {
                shared: of_thread,
                mounter: Pid::from_raw(0),
                live: false,
                roles: HashMap::new(),
                failing: HashMap::new(),
            }
            .run(&mut command);
        });
        Self { shared, thread: Some(thread) }
    }

    pub(crate) fn arm(&self, shot: Shot) {
        *self.shared.armed.lock() = Some((shot, Counted::default()));
    }

    pub(crate) fn disarm(&self) -> Counted {
        self.shared.armed.lock().take().map(|(_, counted)| counted).unwrap_or_default()
    }

    /// Whether a process was just killed by a shot, or ended by itself: the other one follows.
    pub(crate) fn is_ended(&self) -> bool {
        self.shared.ended.load(Ordering::Acquire)
    }

    /// Whether a kill was fired, after which both end.
    pub(crate) fn is_dying(&self) -> bool {
        let killed = |(shot, counted): &(Shot, Counted)| shot.what == What::Kill && counted.fired.is_some();
        self.is_ended() || self.shared.armed.lock().as_ref().is_some_and(killed)
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let mounter = self.shared.mounter.load(Ordering::Acquire);
        if mounter > 0 && !self.is_ended() {
            let _ = kill(Pid::from_raw(mounter), Signal::SIGKILL);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Tracer {
    shared: Arc<Shared>,
    mounter: Pid,
    /// The mounter's program has begun.
    live: bool,
    /// By thread: which process it is of.
    roles: HashMap<Pid, (Who, Pid)>,
    /// Calls under way that are to fail.
    failing: HashMap<Pid, Errno>,
}

impl Tracer {
    #[expect(clippy::zombie_processes, reason = "the tracer waits for all that it traces")]
    fn run(mut self, command: &mut Command) {
        let mut child = command.spawn().unwrap();
        self.mounter = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_EXITKILL;
        ptrace::seize(self.mounter, options).unwrap();
        ptrace::interrupt(self.mounter).unwrap();
        waitpid(self.mounter, Some(WaitPidFlag::__WALL)).unwrap();
        go_on(self.mounter, None);
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        self.shared.mounter.store(self.mounter.as_raw(), Ordering::Release);
        loop {
            // Of this thread only: other tests have children too.
            match waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
                Ok(status) => self.stopped(status),
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        self.shared.ended.store(true, Ordering::Release);
    }

    fn stopped(&mut self, status: WaitStatus) {
        match status {
            WaitStatus::PtraceSyscall(thread) => {
                self.at_call(thread);
                go_on(thread, None);
            }
            WaitStatus::PtraceEvent(thread, _, event) => {
                self.live |= event == nix::libc::PTRACE_EVENT_EXEC;
                go_on(thread, None);
            }
            WaitStatus::Stopped(thread, signal) => go_on(thread, Some(signal)),
            WaitStatus::Exited(thread, _) | WaitStatus::Signaled(thread, ..) => {
                self.roles.remove(&thread);
                self.failing.remove(&thread);
            }
            WaitStatus::Continued(_) | WaitStatus::StillAlive => {}
        }
    }

    fn at_call(&mut self, thread: Pid) {
        // It may be dead already.
        let Ok(info) = ptrace::syscall_info(thread) else { return };
        if info.op == PTRACE_SYSCALL_INFO_EXIT {
            if let Some(errno) = self.failing.remove(&thread)
                && let Ok(mut registers) = ptrace::getregs(thread)
            {
                registers.rax = i64::from(-(errno as i32)).cast_unsigned();
                let _ = ptrace::setregs(thread, registers);
            }
            return;
        }
        if info.op != PTRACE_SYSCALL_INFO_ENTRY || !self.live {
            return;
        }
        let mut armed = self.shared.armed.lock();
        let Some((shot, counted)) = armed.as_mut() else { return };
        let Some((who, process)) = role(&mut self.roles, self.mounter, thread) else { return };
        if who != shot.who || counted.fired.is_some() {
            return;
        }
        let Ok(mut registers) = ptrace::getregs(thread) else { return };
        let call = registers.orig_rax.cast_signed();
        let counts = match shot.what {
            What::Kill => calls::has_effect(call),
            What::Fail(_) => calls::may_fail(call, || {
                let file = std::fs::read_link(format!("/proc/{process}/fd/{}", registers.rdi));
                file.is_ok_and(|file| file.is_absolute())
            }),
        };
        if !counts {
            return;
        }
        counted.calls += 1;
        if counted.calls != shot.nth {
            return;
        }
        counted.fired = Some(calls::name(call));
        match shot.what {
            What::Kill => {
                let _ = kill(process, Signal::SIGKILL);
            }
            What::Fail(errno) => {
                // No such call: nothing is done, and what it returns is replaced at its end.
                registers.orig_rax = u64::MAX;
                if ptrace::setregs(thread, registers).is_ok() {
                    self.failing.insert(thread, errno);
                }
            }
        }
    }
}

/// Which process a thread is of, with the process's id.
fn role(roles: &mut HashMap<Pid, (Who, Pid)>, mounter: Pid, thread: Pid) -> Option<(Who, Pid)> {
    if let Some(known) = roles.get(&thread) {
        return Some(*known);
    }
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let group = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    let process = Pid::from_raw(group.trim().parse().ok()?);
    let found = (if process == mounter { Who::Mounter } else { Who::Broker }, process);
    roles.insert(thread, found);
    Some(found)
}

fn go_on(thread: Pid, signal: Option<Signal>) {
    // It may be dead already.
    let _ = ptrace::syscall(thread, signal);
}
