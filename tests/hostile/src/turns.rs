//! Peace and attack take turns; both sides wait for each other.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Peace,
    Attack,
    Over,
}

/// The attacker's side.
pub(crate) struct Turns {
    phase: watch::Receiver<Phase>,
    ready: watch::Sender<bool>,
    tries: Arc<AtomicU64>,
    answer: Arc<Mutex<Option<String>>>,
}

/// The side that measures.
pub(crate) struct Watched {
    phase: watch::Sender<Phase>,
    ready: watch::Receiver<bool>,
    tries: Arc<AtomicU64>,
    answer: Arc<Mutex<Option<String>>>,
}

impl Turns {
    pub(crate) fn new() -> (Self, Watched) {
        let (phase, told) = watch::channel(Phase::Peace);
        let (ready, is_ready) = watch::channel(false);
        let tries = Arc::<AtomicU64>::default();
        let answer = Arc::<Mutex<Option<String>>>::default();
        let attacker = Self { phase: told, ready, tries: Arc::clone(&tries), answer: Arc::clone(&answer) };
        (attacker, Watched { phase, ready: is_ready, tries, answer })
    }

    /// Everything is prepared: from now on attacks.
    ///
    /// `work` is begun at each attack, again whenever it ends, and dropped when there is peace.
    pub(crate) async fn each<F: Future<Output = ()>>(&self, mut work: impl FnMut() -> F) {
        self.ready.send_replace(true);
        loop {
            if !self.until(Phase::Attack).await {
                return;
            }
            let mut phase = self.phase.clone();
            let pressing = async {
                loop {
                    work().await;
                    // Work that never waits must not hold up the thread.
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                () = pressing => {}
                _ = phase.wait_for(|phase| *phase != Phase::Attack) => {}
            }
        }
    }

    /// Counts one try.
    pub(crate) fn tried(&self) {
        self.tries.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one try and keeps the answer, so that an attacker that was turned away at once is seen for what it is.
    pub(crate) fn answered<T, E: Display>(&self, answer: Result<T, E>) {
        self.tried();
        *self.answer.lock() = answer.err().map(|error| error.to_string().chars().take(300).collect());
    }

    /// Waits until the trial is over.
    pub(crate) async fn ended(&self) {
        self.until(Phase::Over).await;
    }

    async fn until(&self, wanted: Phase) -> bool {
        let mut phase = self.phase.clone();
        let there = phase.wait_for(|phase| *phase == wanted || *phase == Phase::Over).await;
        let there = there.map_or(Phase::Over, |phase| *phase);
        there == wanted
    }
}

impl Watched {
    /// Waits until the attacker is prepared; false when it never will be.
    pub(crate) async fn ready(&self) -> bool {
        self.ready.clone().wait_for(|ready| *ready).await.is_ok()
    }

    /// Begins an attack and waits for its first try, for so long at most: what is measured is the attack in place.
    pub(crate) async fn attack(&self, most: Duration) {
        let (tries, end) = (self.tries(), Instant::now() + most);
        self.phase.send_replace(Phase::Attack);
        while self.tries() == tries && Instant::now() < end {
            sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn peace(&self) {
        self.phase.send_replace(Phase::Peace);
    }

    /// What the attacker was last told, when that was no.
    pub(crate) fn answer(&self) -> Option<String> {
        self.answer.lock().clone()
    }

    pub(crate) fn end(&self) {
        self.phase.send_replace(Phase::Over);
    }

    /// Tries so far.
    pub(crate) fn tries(&self) -> u64 {
        self.tries.load(Ordering::Relaxed)
    }
}
