//! What a supervisor tells a daemon.

use keyward_core::{Code, Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT end the process after a drain; SIGHUP reads the configuration again.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrived {
    /// End.
    Stop,
    /// Read the configuration again.
    Reload,
}

impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// `KW_INTERNAL` when a handler cannot be installed.
    pub fn listen() -> Result<Self> {
        let on = |kind| {
            signal(kind)
                .map_err(|error| Error::new(Code::Internal, "signals cannot be received").detail(error))
        };
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
        })
    }

    /// The next signal. Cancel-safe.
    pub async fn next(&mut self) -> Arrived {
        tokio::select! {
            _ = self.terminate.recv() => Arrived::Stop,
            _ = self.interrupt.recv() => Arrived::Stop,
            _ = self.hangup.recv() => Arrived::Reload,
        }
    }
}
