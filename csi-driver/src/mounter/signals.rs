use std::os::fd::{AsFd, BorrowedFd};

use keyward_core::Result;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::confine::failed;

/// Signals as something to poll for.
pub(super) struct Signals(SignalFd);

/// What has come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// The broker may have ended.
    Child,
    /// Somebody wants the driver to end.
    End(Signal),
}

impl Signals {
    /// Holds the signals back from now on. A program that is started afterwards inherits that: see [`release`].
    pub(super) fn block() -> Result<Self> {
        let held = held();
        held.thread_block().map_err(failed("hold signals back"))?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        SignalFd::with_flags(&held, flags).map(Self).map_err(failed("wait for signals"))
    }

    pub(super) fn next(&self) -> Option<Came> {
        let number = self.0.read_signal().ok()??.ssi_signo;
        match Signal::try_from(number.cast_signed()).ok()? {
            Signal::SIGCHLD => Some(Came::Child),
            signal => Some(Came::End(signal)),
        }
    }
}

/// Lets signals come again, in the program that the mounter has started with them held back.
///
/// # Errors
/// `KW_INTERNAL` when the kernel refuses.
pub fn release() -> Result<()> {
    held().thread_unblock().map_err(failed("let signals come"))
}

fn held() -> SigSet {
    [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT].into_iter().collect()
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
