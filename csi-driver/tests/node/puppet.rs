//! System calls made by another process, with its own filter, user and descriptors, as code that runs in it would make
//! them. Its registers are set while it is stopped behind a call; nothing of its memory changes.

use nix::libc::user_regs_struct;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// The instruction `syscall`, in the order of the bytes.
const SYSCALL: i64 = 0x050f;
/// No call is under way that the kernel might begin anew.
const NO_CALL: u64 = u64::MAX;

/// What a call answers inside the kernel that was interrupted and is to be made again.
const AGAIN: std::ops::RangeInclusive<i64> = -516..=-512;

/// A process that is stopped behind a call. It goes on where it was when this is dropped.
pub(crate) struct Puppet {
    process: Pid,
    before: user_regs_struct,
}

impl Puppet {
    /// Takes hold of a process by its first thread.
    pub(crate) fn of(pid: u32) -> Self {
        let process = Pid::from_raw(pid.cast_signed());
        ptrace::seize(process, Options::PTRACE_O_TRACESYSGOOD).unwrap();
        loop {
            ptrace::interrupt(process).unwrap();
            wait(process);
            let before = ptrace::getregs(process).unwrap();
            let at = (before.rip - 2) as ptrace::AddressType;
            if before.orig_rax != NO_CALL && ptrace::read(process, at).unwrap() & 0xffff == SYSCALL {
                return Self { process, before };
            }
            // Between two calls: it comes to the next one.
            ptrace::cont(process, None).unwrap();
            std::thread::yield_now();
        }
    }

    /// Makes a call and gives what the kernel answers: a result, or a negative error number.
    pub(crate) fn call(&mut self, number: i64, arguments: &[u64]) -> i64 {
        let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
        let mut registers = self.before;
        registers.rip -= 2;
        (registers.rax, registers.orig_rax) = (number.cast_unsigned(), NO_CALL);
        (registers.rdi, registers.rsi, registers.rdx) = (argument(0), argument(1), argument(2));
        (registers.r10, registers.r8, registers.r9) = (argument(3), argument(4), argument(5));
        ptrace::setregs(self.process, registers).unwrap();
        // To its entry, where the filter looks at it, and to its exit.
        for _ in 0..2 {
            self.step();
        }
        ptrace::getregs(self.process).unwrap().rax.cast_signed()
    }

    fn step(&self) {
        let mut signal = None;
        loop {
            ptrace::syscall(self.process, signal).unwrap();
            match wait(self.process) {
                WaitStatus::PtraceSyscall(_) => return,
                WaitStatus::Stopped(_, came) => signal = Some(came),
                WaitStatus::PtraceEvent(..) => signal = None,
                ended => panic!("the process ended by a call: {ended:?}"),
            }
        }
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        let mut registers = self.before;
        registers.orig_rax = NO_CALL;
        // A call that is over has its answer, and must not be made twice.
        if AGAIN.contains(&self.before.rax.cast_signed()) {
            registers.rip -= 2;
            registers.rax = self.before.orig_rax;
        }
        // It may have ended.
        let _ = ptrace::setregs(self.process, registers);
        let _ = ptrace::detach(self.process, None);
    }
}

fn wait(process: Pid) -> WaitStatus {
    waitpid(process, Some(WaitPidFlag::__WALL)).unwrap()
}
