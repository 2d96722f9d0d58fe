use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// Why something is read now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Urgency {
    /// Somebody waits for it: a pod that starts, a lookup of what is not at hand.
    Start,
    /// A scheduled check of what is being served.
    Refresh,
}

/// The urgency of one read, which may grow while it waits for its turn: when somebody begins to wait for a read that
/// was begun for nobody in particular.
///
/// It travels with the read, not through signatures: whoever begins the read [scopes](Self::scope) it, and whatever
/// queues requests asks for the [current](Self::current) one. Outside any scope everything is a start.
#[derive(Clone)]
pub struct Priority(Arc<State>);

struct State {
    is_start: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
    asker: Option<Arc<str>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Priority>> = const { RefCell::new(None) };
}

impl Priority {
    /// A priority of its own.
    #[must_use]
    pub fn new(urgency: Urgency) -> Self {
        Self::of(urgency, None)
    }

    /// The same on behalf of `asker`, whose share of what is scarce a read takes: name look-ups.
    #[must_use]
    pub fn asked_by(&self, asker: Arc<str>) -> Self {
        Self::of(self.urgency(), Some(asker))
    }

    fn of(urgency: Urgency, asker: Option<Arc<str>>) -> Self {
        let is_start = AtomicBool::new(urgency == Urgency::Start);
        Self(Arc::new(State { is_start, waiting: Mutex::default(), asker }))
    }

    /// On whose behalf it is; `None` is the process itself.
    #[must_use]
    pub fn asker(&self) -> Option<Arc<str>> {
        self.0.asker.clone()
    }

    /// That of the scope in which the calling future is polled.
    #[must_use]
    pub fn current() -> Self {
        CURRENT.with_borrow(Clone::clone).unwrap_or_else(|| Self::new(Urgency::Start))
    }

    /// As it stands.
    #[must_use]
    pub fn urgency(&self) -> Urgency {
        if self.0.is_start.load(Ordering::Acquire) { Urgency::Start } else { Urgency::Refresh }
    }

    /// Somebody waits for it from now on.
    pub fn promote(&self) {
        self.0.is_start.store(true, Ordering::Release);
        std::mem::take(&mut *self.0.waiting.lock()).into_iter().for_each(Waker::wake);
    }

    /// Returns when it is a start.
    pub async fn promoted(&self) {
        std::future::poll_fn(|context| {
            let mut waiting = self.0.waiting.lock();
            if self.urgency() == Urgency::Start {
                return Poll::Ready(());
            }
            if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Runs `future` under this priority.
    pub fn scope<F: Future>(&self, future: F) -> Scoped<F> {
        Scoped { priority: self.clone(), future: Box::pin(future) }
    }
}

/// A future under a [`Priority`].
pub struct Scoped<F> {
    priority: Priority,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let outer = CURRENT.replace(Some(self.priority.clone()));
        // Put back even when the future panics: the thread goes on to other tasks.
        let _restore = Restore(outer);
        self.future.as_mut().poll(context)
    }
}

struct Restore(Option<Priority>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll<F: Future>(future: F) -> Poll<F::Output> {
        std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_scope_holds_within_it_and_nowhere_else() {
        let refresh = Priority::new(Urgency::Refresh);
        let inner = async { Priority::current().urgency() };
        let outer = async { (refresh.scope(inner).await, Priority::current().urgency()) };
        assert_eq!(poll(outer), Poll::Ready((Urgency::Refresh, Urgency::Start)));
        let start = Priority::new(Urgency::Start);
        let nested = refresh.scope(async { start.scope(async { Priority::current().urgency() }).await });
        assert_eq!(poll(nested), Poll::Ready(Urgency::Start));
    }

    #[test]
    fn a_scope_ends_when_its_future_panics() {
        let refresh = Priority::new(Urgency::Refresh);
        let broken = refresh.scope(async { panic!("a defect") });
        assert!(
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| poll::<Scoped<_>>(broken))).is_err()
        );
        assert_eq!(Priority::current().urgency(), Urgency::Start);
    }

    #[test]
    fn a_promotion_wakes_whoever_waits_for_it_and_holds_for_every_copy() {
        let priority = Priority::new(Urgency::Refresh);
        let copy = priority.clone();
        let mut waiting = std::pin::pin!(copy.promoted());
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        priority.promote();
        assert!(waiting.as_mut().poll(&mut context).is_ready());
        assert_eq!(copy.urgency(), Urgency::Start);
    }
}
