//! The bounded queue between those who act and the thread that writes.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "counts of this process's own records, and times a period ahead"
)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keyward_core::audit::{Act, AuditEvent};
use keyward_core::observe::{Event, Observer};
use keyward_core::{Clock, Code, Error, Result, UnixTime};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::ledger::Ledger;
use super::record::Body;
use super::repeats::{Repeats, Verdict};
use super::{OnFailure, PERIOD};

/// After a failed write, how long until the next attempt.
const RETRY: Duration = Duration::from_secs(1);
/// Records that are written at once.
const BATCH: usize = 256;

pub(super) struct Shared {
    on_failure: OnFailure,
    limit: usize,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn Observer>,
    state: Mutex<State>,
    wake: Condvar,
    lost: AtomicU64,
    checkpoint_millis: AtomicU64,
}

#[derive(Default)]
struct State {
    queue: VecDeque<AuditEvent>,
    repeats: Repeats,
    /// Records lost since the last gap record.
    gap: u64,
    /// When the period ends, boot time; `None` while there is nothing to sign or count.
    due: Option<Duration>,
    /// The destination did not take the last write.
    failing: bool,
    asked: Vec<oneshot::Sender<bool>>,
    closing: bool,
}

impl Shared {
    pub(super) fn new(
        on_failure: OnFailure,
        limit: usize,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> Arc<Self> {
        Arc::new(Self {
            on_failure,
            limit,
            clock,
            observer,
            state: Mutex::default(),
            wake: Condvar::new(),
            lost: AtomicU64::new(0),
            checkpoint_millis: AtomicU64::new(0),
        })
    }

    pub(super) fn record(&self, event: AuditEvent) -> Result<()> {
        let now = self.clock.boot();
        let mut state = self.state.lock();
        self.admit(&state)?;
        if state.closing {
            return self.lose(&mut state);
        }
        match state.repeats.take(&event, now) {
            Verdict::Counted => self.begin_period(&mut state, now),
            Verdict::Write if state.queue.len() >= self.limit => {
                if self.on_failure == OnFailure::Deny {
                    state.repeats.forget(&event);
                }
                return self.lose(&mut state);
            }
            Verdict::Write => {
                state.queue.push_back(event);
                // While the destination fails, the writer tries again in its own time.
                if !state.failing {
                    self.wake.notify_one();
                }
            }
        }
        Ok(())
    }

    pub(super) fn repeat(&self, act: &Act<'_>) -> Result<bool> {
        let wall = self.clock.wall();
        let mut state = self.state.lock();
        self.admit(&state)?;
        Ok(!state.closing && state.repeats.repeat(act, wall))
    }

    /// Asks the writer to write everything and sign it, and to end when `close`. The answer is whether that worked.
    pub(super) fn ask(&self, close: bool) -> oneshot::Receiver<bool> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        if !state.closing {
            state.closing = close;
            state.asked.push(sender);
            self.wake.notify_one();
        }
        receiver
    }

    pub(super) fn is_healthy(&self) -> bool {
        let state = self.state.lock();
        !state.failing && state.gap == 0
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(super) fn last_checkpoint(&self) -> UnixTime {
        Duration::from_millis(self.checkpoint_millis.load(Ordering::Relaxed))
    }

    /// With `deny`, nothing is admitted while the destination fails.
    fn admit(&self, state: &State) -> Result<()> {
        let refused = self.on_failure == OnFailure::Deny && (state.failing || state.closing);
        if refused { Err(unavailable()) } else { Ok(()) }
    }

    fn lose(&self, state: &mut State) -> Result<()> {
        if self.on_failure == OnFailure::Deny {
            return Err(unavailable());
        }
        state.gap += 1;
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.observer.event(&Event::Audit { lost: true });
        Ok(())
    }

    fn begin_period(&self, state: &mut State, now: Duration) {
        if state.due.is_none() {
            state.due = Some(now + PERIOD);
            self.wake.notify_one();
        }
    }
}

pub(super) fn unavailable() -> Error {
    Error::new(
        Code::AuditUnavailable,
        "the audit log cannot be written; free its space or unblock its reader",
    )
}

/// Starts the thread; it ends when asked to close.
pub(super) fn spawn(shared: Arc<Shared>, ledger: Ledger) -> Result<()> {
    std::thread::Builder::new()
        .name("audit".to_owned())
        .stack_size(256 * 1024)
        .spawn(move || Writer { shared, ledger, stuck: false }.run())
        .map(drop)
        .map_err(|error| {
            Error::new(Code::AuditUnavailable, "the audit log's thread cannot start").detail(error)
        })
}

struct Writer {
    shared: Arc<Shared>,
    ledger: Ledger,
    stuck: bool,
}

/// What one round writes.
struct Round {
    events: Vec<AuditEvent>,
    gap: u64,
    /// The period is over, or somebody asked.
    end: bool,
    asked: Vec<oneshot::Sender<bool>>,
    closing: bool,
}

/// Those who asked, and what they are told.
struct Answers {
    asked: Vec<oneshot::Sender<bool>>,
    done: bool,
}

impl Answers {
    fn now_or_at_end(self, end: bool) -> Option<Self> {
        if end {
            return Some(self);
        }
        self.answer();
        None
    }

    fn answer(self) {
        for asked in self.asked {
            let _ = asked.send(self.done);
        }
    }
}

impl Writer {
    fn run(mut self) {
        // The opening record is in the buffer already.
        self.flush();
        loop {
            let step = if self.stuck { self.retry() } else { self.round() };
            if let Some(last) = step {
                // The file is let go before anybody hears of it, so that whoever waited may open it again.
                drop(self);
                last.answer();
                return;
            }
        }
    }

    /// Tries to finish what the destination did not take; the queue stays where it is bounded. `Some` ends the log.
    fn retry(&mut self) -> Option<Answers> {
        let mut state = self.shared.state.lock();
        if state.asked.is_empty() {
            let _ = self.shared.wake.wait_for(&mut state, RETRY);
        }
        drop(state);
        if self.flush() {
            return None;
        }
        let mut state = self.shared.state.lock();
        let answers = Answers { asked: std::mem::take(&mut state.asked), done: false };
        answers.now_or_at_end(state.closing)
    }

    /// Waits until there is something to do, and does it. `Some` ends the log.
    fn round(&mut self) -> Option<Answers> {
        let round = self.next();
        let clock = Arc::clone(&self.shared.clock);
        let mut written = round.events.len();
        for event in round.events {
            self.ledger.append(clock.wall(), &Body::Act(event));
        }
        if round.gap > 0 {
            self.ledger.append(clock.wall(), &Body::Gap { count: round.gap });
        }
        if round.end {
            written += self.end_period();
            if round.closing {
                self.ledger.append(clock.wall(), &Body::Close);
            }
            self.ledger.checkpoint();
        }
        let flushed = self.flush();
        if flushed {
            (0..written).for_each(|_| self.shared.observer.event(&Event::Audit { lost: false }));
            if round.end {
                let millis = u64::try_from(clock.wall().as_millis()).unwrap_or(u64::MAX);
                self.shared.checkpoint_millis.store(millis, Ordering::Relaxed);
            }
        }
        Answers { asked: round.asked, done: flushed }.now_or_at_end(round.closing)
    }

    fn next(&self) -> Round {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        if self.ledger.is_unsigned() && state.due.is_none() {
            state.due = Some(shared.clock.boot() + PERIOD);
        }
        while state.queue.is_empty() && state.asked.is_empty() && state.gap == 0 {
            let Some(due) = state.due else {
                shared.wake.wait(&mut state);
                continue;
            };
            let Some(wait) = due.checked_sub(shared.clock.boot()).filter(|wait| !wait.is_zero()) else {
                break;
            };
            let _ = shared.wake.wait_for(&mut state, wait);
        }
        let asked = std::mem::take(&mut state.asked);
        let count = if asked.is_empty() { state.queue.len().min(BATCH) } else { state.queue.len() };
        let due = state.due.is_some_and(|due| due <= shared.clock.boot());
        Round {
            events: state.queue.drain(..count).collect(),
            gap: std::mem::take(&mut state.gap),
            end: due || !asked.is_empty(),
            closing: state.closing,
            asked,
        }
    }

    /// Writes what was counted; returns how many records that made.
    fn end_period(&mut self) -> usize {
        let now = self.shared.clock.boot();
        let counted = {
            let mut state = self.shared.state.lock();
            let counted = state.repeats.end_period(now);
            state.due = (!state.repeats.is_empty()).then(|| now + PERIOD);
            counted
        };
        let count = counted.len();
        for counted in counted {
            self.ledger.append(self.shared.clock.wall(), &Body::Counted(counted));
        }
        count
    }

    fn flush(&mut self) -> bool {
        let failed = self.ledger.flush().err();
        match &failed {
            Some(error) if !self.stuck => tracing::error!(%error, "the audit log cannot be written"),
            None if self.stuck => tracing::info!("the audit log is written again"),
            _ => {}
        }
        self.stuck = failed.is_some();
        self.shared.state.lock().failing = self.stuck;
        !self.stuck
    }
}
