#![cfg_attr(
    not(test),
    expect(
        clippy::arithmetic_side_effects,
        reason = "counts of this process's own requests, and times a bounded wait ahead: no outside byte decides them"
    )
)]

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use keyward_core::observe::{Event, Observer};
use keyward_core::{Code, Error, Priority, Result, Urgency};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::VaultRate;

mod bucket;
mod queue;

use bucket::Bucket;
use queue::Queue;

/// The gate never stays closed longer for one refusal, whatever the vault asks for.
const CLOSED_LIMIT: Duration = Duration::from_secs(10);

/// First wait after a refusal that names none; doubles with each further one (the documented 1, 2, 4, 8 … s).
const UNNAMED_WAIT: Duration = Duration::from_secs(1);

/// A start waits this long for its turn, then fails.
const TURN_LIMIT: Duration = Duration::from_secs(30);

/// A refresh, for which nobody waits, lets others go ahead for longer.
const REFRESH_LIMIT: Duration = Duration::from_secs(90);

/// All callers of one vault pass here: how many at once, how many in a time, and none while the vault asks for a pause.
/// Starts go before refreshes, and among those whoever came first.
///
/// A vault to which no connection is open is *cold*: one caller goes ahead and the others wait until its connection is
/// there, so that a vault with HTTP/2 gets one connection and not one for each caller. When that caller cannot connect,
/// those who waited fail with it instead of trying one after the other.
pub(crate) struct Gate {
    limits: Limits,
    lines: Arc<Semaphore>,
    state: Mutex<State>,
    observer: Arc<dyn Observer>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) http1: usize,
    pub(crate) http2: usize,
    pub(crate) rate: VaultRate,
}

struct State {
    protocol: Option<Protocol>,
    open_lines: usize,
    in_flight: usize,
    closed_until: Option<Instant>,
    refusals_in_a_row: u32,
    bucket: Bucket,
    queue: Queue<Result<Pass>>,
    /// When a task will look again whether somebody's time has come.
    alarm: Option<Instant>,
}

/// What the open connections speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

impl Gate {
    pub(crate) fn new(limits: Limits, observer: Arc<dyn Observer>) -> Arc<Self> {
        let state = State {
            protocol: None,
            open_lines: 0,
            in_flight: 0,
            closed_until: None,
            refusals_in_a_row: 0,
            bucket: Bucket::new(limits.rate, Instant::now()),
            queue: Queue::default(),
            alarm: None,
        };
        let lines = Arc::new(Semaphore::new(limits.http1.max(1)));
        Arc::new(Self { limits, lines, state: Mutex::new(state), observer })
    }

    /// Waits for a turn to send one request, as urgent as the [`Priority`] that it is asked under.
    ///
    /// # Errors
    /// `KW_VAULT_THROTTLED` or `KW_TIMEOUT` when none comes within 30 s (90 s for a refresh); or the failure of the
    /// caller ahead to connect.
    pub(crate) async fn enter(self: &Arc<Self>) -> Result<Pass> {
        let (priority, begun) = (Priority::current(), Instant::now());
        loop {
            let pass = self.wait(&priority, begun).await?;
            // A refusal may have come between the call and its being heard.
            if !self.is_closed() {
                return Ok(pass);
            }
        }
    }

    async fn wait(self: &Arc<Self>, priority: &Priority, begun: Instant) -> Result<Pass> {
        let (place, mut turn) = {
            let mut state = self.state.lock();
            let (number, turn) = state.queue.join(priority.urgency());
            self.call(&mut state);
            (Place { gate: self, number }, turn)
        };
        if priority.urgency() == Urgency::Refresh {
            tokio::select! {
                biased;
                turn = &mut turn => return given(turn),
                () = priority.promoted() => {
                    let mut state = self.state.lock();
                    state.queue.promote(place.number);
                    self.call(&mut state);
                }
                () = sleep_until(begun + REFRESH_LIMIT) => {}
            }
        }
        let limit = if priority.urgency() == Urgency::Start { TURN_LIMIT } else { REFRESH_LIMIT };
        tokio::select! {
            biased;
            turn = &mut turn => given(turn),
            () = sleep_until(begun + limit) => {
                drop(place);
                // It may have come at the last moment.
                turn.try_recv().unwrap_or_else(|_| Err(self.too_late()))
            }
        }
    }

    fn is_closed(&self) -> bool {
        self.state.lock().closed_until.is_some_and(|until| Instant::now() < until)
    }

    fn too_late(&self) -> Error {
        let state = self.state.lock();
        // The gate may just have opened again for those ahead: what held everybody up is what the vault said last.
        if state.refusals_in_a_row == 0 {
            return Error::new(Code::Timeout, "too many requests to this vault are waiting for their turn");
        }
        let left = state.closed_until.and_then(|until| until.checked_duration_since(Instant::now()));
        Error::new(Code::VaultThrottled, "the vault asks to slow down").retry_after(left)
    }

    /// Gives a turn to everyone whose it is.
    fn call(self: &Arc<Self>, state: &mut State) {
        let now = Instant::now();
        while let Some(urgency) = state.queue.first() {
            match self.turn(state, urgency, now) {
                Turn::Now => {
                    state.in_flight += 1;
                    let Some(caller) = state.queue.take_first() else { return };
                    // Nobody is there any more: the pass must not be dropped under this lock.
                    if let Err(Ok(pass)) = caller.send(Ok(Pass(Some(Arc::clone(self))))) {
                        pass.waive();
                        state.in_flight -= 1;
                        state.bucket.give_back();
                    }
                }
                Turn::At(at) => {
                    self.look_again(state, at);
                    return;
                }
                Turn::Full => return,
            }
        }
    }

    fn turn(&self, state: &mut State, urgency: Urgency, now: Instant) -> Turn {
        if let Some(until) = state.closed_until {
            if now < until {
                return Turn::At(until);
            }
            state.closed_until = None;
        }
        let limit = match state.protocol {
            None => 1,
            Some(Protocol::Http1) => self.limits.http1.max(1),
            Some(Protocol::Http2) => self.limits.http2.max(1),
        };
        if state.in_flight >= limit {
            return Turn::Full;
        }
        state.bucket.take(urgency, now).map_or(Turn::Now, Turn::At)
    }

    /// One task for all who wait for a time.
    fn look_again(self: &Arc<Self>, state: &mut State, at: Instant) {
        if state.alarm.is_some_and(|alarm| alarm <= at) {
            return;
        }
        state.alarm = Some(at);
        let gate = Arc::downgrade(self);
        tokio::spawn(async move {
            sleep_until(at).await;
            let Some(gate) = gate.upgrade() else { return };
            let mut state = gate.state.lock();
            if state.alarm == Some(at) {
                state.alarm = None;
            }
            gate.call(&mut state);
        });
    }

    /// A request found its connection.
    pub(crate) fn connected(self: &Arc<Self>, protocol: Protocol) {
        let mut state = self.state.lock();
        if state.protocol != Some(protocol) {
            state.protocol = Some(protocol);
            self.call(&mut state);
        }
    }

    /// A request found no connection: nor would those find one who wait for it.
    pub(crate) fn unconnected(&self, error: &Error) {
        let mut state = self.state.lock();
        if state.protocol.is_none() {
            let waiting = state.queue.take_all();
            drop(state);
            waiting.into_iter().for_each(|caller| drop(caller.send(Err(error.clone()))));
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
            // So that those who waited do not come back as one wave.
            state.bucket.empty_until(until);
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
    At(Instant),
    Full,
}

fn given(turn: std::result::Result<Result<Pass>, oneshot::error::RecvError>) -> Result<Pass> {
    turn.unwrap_or_else(|_| Err(Error::new(Code::Internal, "a request lost its place in the queue")))
}

/// A caller's place in the queue, given up when the caller goes away.
struct Place<'a> {
    gate: &'a Arc<Gate>,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.gate.state.lock().queue.leave(self.number);
    }
}

/// Leave to send one request.
pub(crate) struct Pass(Option<Arc<Gate>>);

impl Pass {
    pub(crate) fn gate(&self) -> &Arc<Gate> {
        #[expect(
            clippy::expect_used,
            reason = "no input decides it: only a pass that was never given out is waived"
        )]
        self.0.as_ref().expect("only a pass that was never given out is waived")
    }

    fn waive(mut self) {
        self.0 = None;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(gate) = self.0.take() {
            let mut state = gate.state.lock();
            state.in_flight -= 1;
            gate.call(&mut state);
        }
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
