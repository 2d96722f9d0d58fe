//! How long the one thread that answers calls kept others waiting.
//!
//! A task looks at the time whenever the thread wakes, and again every few milliseconds for as long as it stays busy. What
//! it had to wait beyond that is time in which no other task ran either. An idle thread is woken by nobody: the first look
//! comes with whatever wakes it, and there is one more at most.

#![expect(clippy::arithmetic_side_effects, reason = "times of this process, and a window that is not zero")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use keyward_core::Clock;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::Metrics;

/// Between two looks while the thread is busy.
const LOOK: Duration = Duration::from_millis(5);
/// Rests of the thread between two looks that nothing but the look itself causes: timers are rounded.
const OWN_RESTS: u64 = 2;
/// For how long the longest wait is shown: one to two of these.
const WINDOW: Duration = Duration::from_secs(60);

/// Measures the thread of a runtime. Clones are the same measure.
#[derive(Clone)]
pub struct Stalls(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    /// Whether the next wake is to be told.
    armed: AtomicBool,
    /// When the thread woke, in nanoseconds since boot.
    woke: AtomicU64,
    /// How often it has gone to rest.
    rests: AtomicU64,
    awake: Notify,
    longest: Mutex<Longest>,
}

/// The longest wait of this window and of the one before.
#[derive(Default)]
struct Longest {
    began: Duration,
    now: Duration,
    before: Duration,
}

impl Longest {
    fn turn(&mut self, at: Duration) {
        let windows = at.saturating_sub(self.began).as_secs() / WINDOW.as_secs();
        if windows > 0 {
            self.before = if windows == 1 { self.now } else { Duration::ZERO };
            self.now = Duration::ZERO;
            self.began = at;
        }
    }

    fn note(&mut self, at: Duration, waited: Duration) {
        self.turn(at);
        self.now = self.now.max(waited);
    }

    fn read(&mut self, at: Duration) -> Duration {
        self.turn(at);
        self.now.max(self.before)
    }
}

impl Stalls {
    /// A measure that has seen nothing.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            clock,
            armed: AtomicBool::new(true),
            woke: AtomicU64::new(0),
            rests: AtomicU64::new(0),
            awake: Notify::new(),
            longest: Mutex::default(),
        }))
    }

    /// Lets the runtime that is being built tell when its thread wakes and rests.
    pub fn watch(&self, builder: &mut tokio::runtime::Builder) {
        let (wakes, rests) = (self.clone(), self.clone());
        builder.on_thread_unpark(move || wakes.wakes()).on_thread_park(move || rests.rests());
    }

    fn wakes(&self) {
        if self.0.armed.swap(false, Ordering::Relaxed) {
            let now = u64::try_from(self.0.clock.boot().as_nanos()).unwrap_or(u64::MAX);
            self.0.woke.store(now, Ordering::Relaxed);
            self.0.awake.notify_one();
        }
    }

    fn rests(&self) {
        self.0.rests.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks, until it is dropped. To be spawned on the runtime that is watched.
    pub async fn run(self) {
        loop {
            self.0.awake.notified().await;
            let woke = Duration::from_nanos(self.0.woke.load(Ordering::Relaxed));
            self.note(self.0.clock.boot().saturating_sub(woke));
            // Goes on as long as others wake the thread again and again, or it does not rest at all.
            loop {
                let rested = self.0.rests.load(Ordering::Relaxed);
                let due = Instant::now() + LOOK;
                sleep_until(due).await;
                self.note(due.elapsed());
                let rests = self.0.rests.load(Ordering::Relaxed).wrapping_sub(rested);
                if (1..=OWN_RESTS).contains(&rests) {
                    break;
                }
            }
            self.0.armed.store(true, Ordering::Relaxed);
        }
    }

    fn note(&self, waited: Duration) {
        let at = self.0.clock.boot();
        self.0.longest.lock().note(at, waited);
    }

    /// The longest wait of the last one to two minutes.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.0.longest.lock().read(self.0.clock.boot())
    }

    /// Shows it as `keyward_stall_seconds`.
    pub fn register(&self, metrics: &Metrics) {
        let measure = self.clone();
        metrics.register_seconds(
            "keyward_stall_seconds",
            "Longest time in the last minute or two that the thread that answers calls kept others waiting",
            move || measure.longest(),
        );
    }
}

#[cfg(test)]
mod tests {
    use keyward_core::SystemClock;

    use super::*;

    fn on_watched_runtime<T>(work: impl AsyncFnOnce(Stalls) -> T) -> T {
        let stalls = Stalls::new(Arc::new(SystemClock));
        let mut builder = tokio::runtime::Builder::new_current_thread();
        stalls.watch(&mut builder);
        let runtime = builder.enable_all().build().unwrap();
        runtime.block_on(async {
            let looking = tokio::spawn(stalls.clone().run());
            let outcome = work(stalls).await;
            looking.abort();
            outcome
        })
    }

    /// Holds the thread for as long as no task should.
    fn hold(time: Duration) {
        let end = SystemClock.boot() + time;
        while SystemClock.boot() < end {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn a_task_that_holds_the_thread_is_seen_whether_the_thread_was_idle_or_busy() {
        for busy in [false, true] {
            let longest = on_watched_runtime(async |stalls| {
                let others = busy.then(|| {
                    tokio::spawn(async {
                        loop {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                    })
                });
                tokio::time::sleep(Duration::from_millis(50)).await;
                hold(Duration::from_millis(80));
                tokio::time::sleep(Duration::from_millis(50)).await;
                if let Some(others) = others {
                    others.abort();
                }
                stalls.longest()
            });
            assert!(longest >= Duration::from_millis(70), "{longest:?} (busy: {busy})");
        }
    }

    #[test]
    fn an_idle_thread_is_not_woken() {
        let rests = on_watched_runtime(async |stalls| {
            let rests = || stalls.0.rests.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
            let before = rests();
            tokio::time::sleep(Duration::from_millis(500)).await;
            rests() - before
        });
        // Its own timer, which the runtime looks at some times on the way, each with a look or two of the measure.
        assert!(rests <= 40, "rested {rests} times in half a second");
    }

    #[test]
    fn the_longest_wait_is_shown_for_a_minute_or_two() {
        let second = Duration::from_secs(1);
        let mut longest = Longest::default();
        longest.note(100 * second, 3 * second);
        longest.note(101 * second, second);
        assert_eq!(longest.read(159 * second), 3 * second);
        assert_eq!(longest.read(165 * second), 3 * second);
        assert_eq!(longest.read(230 * second), Duration::ZERO);
        longest.note(231 * second, second);
        assert_eq!(longest.read(1000 * second), Duration::ZERO);
    }
}
