use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use keyward_core::observe::{Event, Observer};
use keyward_core::{Code, Error, Result};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};

/// The gate never stays closed longer for one refusal, whatever the vault asks for.
const CLOSED_LIMIT: Duration = Duration::from_secs(10);

/// First wait after a refusal that names none; doubles with each further one (the documented 1, 2, 4, 8 … s).
const UNNAMED_WAIT: Duration = Duration::from_secs(1);

/// A caller waits this long for its turn, then fails.
const TURN_LIMIT: Duration = Duration::from_secs(30);

/// All callers of one vault pass here: how many at once, and none while the vault asks for a pause.
///
/// A vault to which no connection is open is *cold*: one caller goes ahead and the others wait until its connection is
/// there, so that a vault with HTTP/2 gets one connection and not one for each caller. When that caller cannot connect,
/// those who waited fail with it instead of trying one after the other.
pub(crate) struct Gate {
    limits: Limits,
    lines: Arc<Semaphore>,
    state: Mutex<State>,
    moved: Notify,
    observer: Arc<dyn Observer>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) http1: usize,
    pub(crate) http2: usize,
}

#[derive(Default)]
struct State {
    protocol: Option<Protocol>,
    open_lines: usize,
    in_flight: usize,
    closed_until: Option<Instant>,
    refusals_in_a_row: u32,
    cold_failures: u64,
    cold_failure: Option<Error>,
}

/// What the open connections speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

impl Gate {
    pub(crate) fn new(limits: Limits, observer: Arc<dyn Observer>) -> Arc<Self> {
        Arc::new(Self {
            limits,
            lines: Arc::new(Semaphore::new(limits.http1.max(1))),
            state: Mutex::default(),
            moved: Notify::new(),
            observer,
        })
    }

    /// Waits for a turn to send one request.
    ///
    /// # Errors
    /// `KW_VAULT_THROTTLED` or `KW_TIMEOUT` when none comes within 30 s; or the failure of the caller ahead to connect.
    pub(crate) async fn enter(self: &Arc<Self>) -> Result<Pass> {
        let give_up = Instant::now() + TURN_LIMIT;
        let seen_failures = self.state.lock().cold_failures;
        loop {
            let mut moved = pin!(self.moved.notified());
            moved.as_mut().enable();
            match self.try_enter(seen_failures)? {
                Turn::Now => return Ok(Pass(Arc::clone(self))),
                Turn::ClosedUntil(reopens) => {
                    // Spread, so that those who waited do not come back as one wave.
                    let own = reopens + (reopens - Instant::now()).mul_f64(0.2 * fastrand::f64());
                    if own > give_up {
                        return Err(closed(reopens - Instant::now()));
                    }
                    sleep_until(own).await;
                }
                Turn::Full => timeout_at(give_up, moved).await.map_err(|_| {
                    Error::new(Code::Timeout, "too many requests to this vault are in flight")
                })?,
            }
        }
    }

    fn try_enter(&self, seen_failures: u64) -> Result<Turn> {
        let mut state = self.state.lock();
        if state.cold_failures != seen_failures
            && state.protocol.is_none()
            && let Some(error) = &state.cold_failure
        {
            return Err(error.clone());
        }
        if let Some(until) = state.closed_until {
            if Instant::now() < until {
                return Ok(Turn::ClosedUntil(until));
            }
            state.closed_until = None;
        }
        let limit = match state.protocol {
            None => 1,
            Some(Protocol::Http1) => self.limits.http1.max(1),
            Some(Protocol::Http2) => self.limits.http2.max(1),
        };
        if state.in_flight >= limit {
            return Ok(Turn::Full);
        }
        state.in_flight += 1;
        Ok(Turn::Now)
    }

    /// A request found its connection.
    pub(crate) fn connected(&self, protocol: Protocol) {
        let mut state = self.state.lock();
        if state.protocol != Some(protocol) {
            state.protocol = Some(protocol);
            state.cold_failure = None;
            drop(state);
            self.moved.notify_waiters();
        }
    }

    /// A request found no connection.
    pub(crate) fn unconnected(&self, error: &Error) {
        let mut state = self.state.lock();
        if state.protocol.is_none() {
            state.cold_failures += 1;
            state.cold_failure = Some(error.clone());
            drop(state);
            self.moved.notify_waiters();
        }
    }

    /// A connection went silent: the next request finds out anew.
    pub(crate) fn cool(&self) {
        self.state.lock().protocol = None;
    }

    /// The vault answered 429 or 503; `wait` is what it asked for.
    pub(crate) fn refused(&self, status: u16, wait: Option<Duration>) {
        let mut state = self.state.lock();
        let wait = match wait {
            Some(wait) => wait,
            None if status == 429 => UNNAMED_WAIT * 2u32.pow(state.refusals_in_a_row.min(4)),
            None => return,
        };
        state.refusals_in_a_row = state.refusals_in_a_row.saturating_add(1);
        let wait = wait.min(CLOSED_LIMIT).mul_f64(1.0 + 0.2 * fastrand::f64());
        let until = Instant::now() + wait;
        if state.closed_until.is_none_or(|earlier| earlier < until) {
            state.closed_until = Some(until);
            drop(state);
            self.observer.event(&Event::Throttled { wait });
        }
    }

    /// The vault answered something else.
    pub(crate) fn accepted(&self) {
        self.state.lock().refusals_in_a_row = 0;
    }

    /// A place for one connection.
    pub(crate) fn line(self: &Arc<Self>) -> impl Future<Output = Line> + Send + use<> {
        let gate = Arc::clone(self);
        async move {
            let permit = Arc::clone(&gate.lines).acquire_owned().await.ok();
            Line { gate, up: false, _permit: permit }
        }
    }
}

enum Turn {
    Now,
    ClosedUntil(Instant),
    Full,
}

fn closed(wait: Duration) -> Error {
    Error::new(Code::VaultThrottled, "the vault asks to slow down").retry_after(Some(wait))
}

/// Leave to send one request.
pub(crate) struct Pass(Arc<Gate>);

impl Pass {
    pub(crate) fn gate(&self) -> &Gate {
        &self.0
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.state.lock().in_flight -= 1;
        self.0.moved.notify_one();
    }
}

/// One connection's place, from before it is opened until it is closed.
pub(crate) struct Line {
    gate: Arc<Gate>,
    up: bool,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Line {
    /// Its handshake is done.
    pub(crate) fn up(mut self) -> Self {
        self.up = true;
        self.gate.state.lock().open_lines += 1;
        self
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.up {
            let mut state = self.gate.state.lock();
            state.open_lines -= 1;
            if state.open_lines == 0 {
                state.protocol = None;
            }
        }
    }
}

/// The gates of all vaults in use, by authority (`host[:port]`).
#[derive(Default)]
pub(crate) struct Gates(Mutex<HashMap<String, Weak<Gate>>>);

impl Gates {
    pub(crate) fn find(&self, authority: &str) -> Option<Arc<Gate>> {
        self.0.lock().get(authority).and_then(Weak::upgrade)
    }

    /// The one gate of a vault, for as long as anybody holds it.
    pub(crate) fn of(&self, authority: &str, limits: Limits, observer: &Arc<dyn Observer>) -> Arc<Gate> {
        let mut gates = self.0.lock();
        if let Some(gate) = gates.get(authority).and_then(Weak::upgrade) {
            return gate;
        }
        gates.retain(|_, gate| gate.strong_count() > 0);
        let gate = Gate::new(limits, Arc::clone(observer));
        gates.insert(authority.to_owned(), Arc::downgrade(&gate));
        gate
    }
}

#[cfg(test)]
mod tests;
