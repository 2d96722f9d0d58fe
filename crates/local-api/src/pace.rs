//! Shares of the one thread that answers calls.
//!
//! What a pod makes that thread do is measured around each poll and charged to the pod. A pod that used more than its share
//! has its next work put off until time has paid for it; a pod below its share is never put off. Only work that holds
//! nothing others wait for is put off: the polls of a connection, and calls, publishes and changes before they begin.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep};

/// A pod may always use one part in this many of the thread's time.
const SHARE: u64 = 4;
/// How far it may be ahead of that. Longer than what a few calls take, and short beside what a lookup of another pod may
/// wait.
const AHEAD: Duration = Duration::from_millis(2);
/// What a pod may use beyond its share before it is put off: a start, or a change of many objects.
const RESERVE: Duration = Duration::from_millis(50);
/// The reserve fills again by one part in this many of the time: a pod that uses it up in bursts is in others' way for
/// half a percent of the time.
const REFILL: u64 = 200;
/// A longer poll counts as this much: the machine slept, or a debugger held it.
const LONGEST: Duration = Duration::from_secs(1);

/// The shares of all pods of a process, and how long they were put off.
#[derive(Default)]
pub(crate) struct Paces {
    /// Kept until everything is paid for: a pod that goes and comes again finds what it owed.
    pods: Mutex<HashMap<String, Arc<Pod>>>,
    /// Nanoseconds.
    put_off: Arc<AtomicU64>,
}

/// One pod's share. The default is no share: nothing is measured, and nothing put off. Clones are the same share.
#[derive(Clone, Default)]
pub struct Pace(Option<Arc<Pod>>);

struct Pod {
    began: Instant,
    share: Bucket,
    reserve: Bucket,
    /// Held by the task that is next, so that one task waits for time and the others for one another.
    next: Arc<tokio::sync::Mutex<()>>,
    put_off: Arc<AtomicU64>,
}

/// The wait of a task that is put off. Whoever stops polling it must drop it: it may be the pod's next.
pub(crate) type Wait = Option<Pin<Box<dyn Future<Output = OwnedMutexGuard<()>> + Send>>>;

impl Paces {
    pub(crate) fn of(&self, pod: &str) -> Pace {
        let mut pods = self.pods.lock();
        if let Some(known) = pods.get(pod) {
            return Pace(Some(Arc::clone(known)));
        }
        pods.retain(|_, pod| Arc::strong_count(pod) > 1 || pod.owes());
        let new = Arc::new(Pod {
            began: Instant::now(),
            share: Bucket::new(SHARE, AHEAD),
            reserve: Bucket::new(REFILL, RESERVE),
            next: Arc::default(),
            put_off: Arc::clone(&self.put_off),
        });
        pods.insert(pod.to_owned(), Arc::clone(&new));
        Pace(Some(new))
    }

    pub(crate) fn put_off(&self) -> Duration {
        Duration::from_nanos(self.put_off.load(Ordering::Relaxed))
    }
}

impl Pace {
    /// Returns when the pod may use the thread. Cancel-safe. To be called before work begins and never in the middle,
    /// where a pod might hold what others wait for.
    pub async fn ready(&self) {
        if let Some(pod) = &self.0
            && pod.left(pod.now()) > 0
        {
            drop(Arc::clone(pod).credit().await);
        }
    }

    /// Runs `future` and charges what its polls take.
    pub async fn measured<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|context| self.charged(|| future.as_mut().poll(context))).await
    }

    /// Does `work` and charges what it takes.
    pub(crate) fn charged<T>(&self, work: impl FnOnce() -> T) -> T {
        let Some(pod) = &self.0 else { return work() };
        let began = pod.now();
        let done = work();
        pod.charge(began, pod.now());
        done
    }

    /// Polls if the pod may use the thread now, and charges what that takes. `wait` is kept from poll to poll.
    pub(crate) fn poll<T>(
        &self,
        wait: &mut Wait,
        context: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Some(pod) = &self.0 else { return poll(context) };
        let (mut began, mut turn) = (pod.now(), None);
        if wait.is_some() || pod.left(began) > 0 {
            let waiting = wait.get_or_insert_with(|| Box::pin(Arc::clone(pod).credit()));
            turn = Some(ready!(waiting.as_mut().poll(context)));
            *wait = None;
            began = pod.now();
        }
        let polled = poll(context);
        pod.charge(began, pod.now());
        drop(turn);
        polled
    }
}

impl Pod {
    /// Nanoseconds since the share began to be counted.
    fn now(&self) -> u64 {
        nanos(self.began.elapsed())
    }

    /// Nanoseconds until the pod may use the thread.
    fn left(&self, now: u64) -> u64 {
        self.share.left(now).min(self.reserve.left(now))
    }

    fn owes(&self) -> bool {
        let now = self.now();
        self.share.owes(now) || self.reserve.owes(now)
    }

    /// Charges the share, and the reserve where the share was used up before.
    fn charge(&self, began: u64, ended: u64) {
        let spent = ended.saturating_sub(began).min(nanos(LONGEST));
        let bucket = if self.share.left(began) == 0 { &self.share } else { &self.reserve };
        bucket.charge(began, spent);
    }

    /// Waits behind the pod's other tasks, then for time.
    async fn credit(self: Arc<Self>) -> OwnedMutexGuard<()> {
        let turn = Arc::clone(&self.next).lock_owned().await;
        loop {
            let now = self.now();
            match self.left(now) {
                0 => return turn,
                left => sleep(Duration::from_nanos(left)).await,
            }
            self.put_off.fetch_add(self.now().saturating_sub(now), Ordering::Relaxed);
        }
    }
}

/// The generic cell rate algorithm, as [`crate::rate::Rate`] has it, for work whose cost is known when it is done.
struct Bucket {
    /// Time that pays for one unit of work.
    price: u64,
    burst: u64,
    /// When everything is paid for.
    paid: AtomicU64,
}

impl Bucket {
    fn new(price: u64, burst: Duration) -> Self {
        Self { price, burst: nanos(burst).saturating_mul(price), paid: AtomicU64::new(0) }
    }

    /// How long until what is not paid for is no more than the burst.
    fn left(&self, now: u64) -> u64 {
        self.paid.load(Ordering::Relaxed).saturating_sub(now).saturating_sub(self.burst)
    }

    fn owes(&self, now: u64) -> bool {
        self.paid.load(Ordering::Relaxed) > now
    }

    fn charge(&self, now: u64, spent: u64) {
        let cost = spent.saturating_mul(self.price);
        let add = |paid: u64| Some(paid.max(now).saturating_add(cost));
        // `add` never says no.
        let _ = self.paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
