//! The task of one call: what it holds, and how long its answer may wait to be read.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use keyward_core::Error;
use tokio::time::{Sleep, sleep};

use crate::connection::Connection;

/// What waits to be read: nothing, the one answer of a call, or (larger numbers) a message of a stream.
const NOTHING: u64 = 0;
const ANSWER: u64 = 1;

/// State of the call whose task is running.
struct Turn {
    waiting: Cell<u64>,
    refusal: Cell<Option<Error>>,
}

tokio::task_local! {
    static TURN: Turn;
}

/// Why the call may not run, when there are too many already.
pub(crate) fn refusal() -> Option<Error> {
    TURN.try_with(|turn| turn.refusal.take()).ok().flatten()
}

/// The call's one answer is being handed over; all of it must be read in time.
pub(crate) fn answering() {
    let _ = TURN.try_with(|turn| turn.waiting.set(ANSWER));
}

/// One more piece of a stream is being handed over, which must be read in time by itself.
pub(crate) fn streaming() {
    let _ = TURN.try_with(|turn| turn.waiting.set(turn.waiting.get().saturating_add(1).max(ANSWER + 1)));
}

/// All of a stream that there is was read.
pub(crate) fn caught_up() {
    let _ = TURN.try_with(|turn| turn.waiting.set(NOTHING));
}

/// Runs the calls of a connection, each in a task of its own.
#[derive(Clone)]
pub(crate) struct Turns(pub(crate) Arc<Connection>);

impl<F> hyper::rt::Executor<F> for Turns
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        let (held, refusal) = match self.0.begin() {
            Ok(held) => (Some(held), None),
            Err(error) => (None, Some(error)),
        };
        let turn = Turn { waiting: Cell::new(NOTHING), refusal: Cell::new(refusal) };
        let connection = Arc::clone(&self.0);
        tokio::spawn(TURN.scope(turn, async move {
            let _held = held;
            // Before it holds anything that others may wait for.
            connection.shared.pace.ready().await;
            run(call, &connection).await;
        }));
    }
}

/// Runs a call until its answer was handed over, or until the peer had its time to read it. Dropping the call resets its
/// stream, which gives back what it holds.
async fn run(call: impl Future<Output = ()>, connection: &Connection) {
    let mut call = pin!(call);
    let mut timer = pin!(None::<Sleep>);
    let mut timed = NOTHING;
    poll_fn(|context| {
        if connection.shared.pace.charged(|| call.as_mut().poll(context)).is_ready() {
            return Poll::Ready(());
        }
        let waiting = TURN.with(|turn| turn.waiting.get());
        if waiting != timed {
            timed = waiting;
            let patience = connection.shared.settings.read_timeout;
            timer.set((waiting != NOTHING).then(|| sleep(patience)));
        }
        let over = timer.as_mut().as_pin_mut().is_some_and(|timer| timer.poll(context).is_ready());
        if !over {
            return Poll::Pending;
        }
        tracing::debug!("an answer was not read in time");
        if waiting == ANSWER {
            connection.seat.end();
        }
        Poll::Ready(())
    })
    .await;
}
