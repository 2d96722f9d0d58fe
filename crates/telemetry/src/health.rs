//! Whether the process is alive and whether it is ready, from what its parts say.
//!
//! Alive means that every loop that promised to come by did so. Ready means that everything that was required has been
//! reached. Neither is green by default: a part that never spoke is not ready, and a loop that fell silent is not alive.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "times a bounded wait ahead; a heartbeat's number is one of a list that never shrinks"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;

/// What readiness consists of. A closed set, so that an answer can never carry a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// The configuration was applied.
    Configuration,
    /// The identity was proved once.
    Identity,
    /// Every required object was read once.
    Objects,
    /// The file tree was committed.
    Files,
    /// The socket is bound.
    Socket,
    /// The audit log takes records, or may lose them.
    Audit,
    /// The CSIDriver object is as it must be.
    Driver,
    /// Kubelet has registered the driver.
    Registration,
    /// There is a serving certificate that the API server trusts.
    Certificate,
}

/// How far a condition is: met when `done` reaches `needed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Progress {
    /// How many are done.
    pub done: usize,
    /// How many are needed.
    pub needed: usize,
}

impl Progress {
    /// Whether the condition is met.
    #[must_use]
    pub fn is_met(self) -> bool {
        self.done >= self.needed
    }
}

/// The state of health of one process; clones share it.
#[derive(Clone, Default)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    conditions: BTreeMap<Condition, Progress>,
    loops: Vec<Loop>,
    draining: bool,
}

struct Loop {
    name: &'static str,
    /// `None` when the loop has ended in order.
    due: Option<Instant>,
}

/// A loop's promise to come by; see [`Health::watch`].
pub struct Heartbeat {
    health: Health,
    index: usize,
}

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether everything is met and the process is not shutting down.
    pub ready: bool,
    /// Whether it is shutting down.
    pub draining: bool,
    /// Each required condition.
    pub conditions: BTreeMap<Condition, Progress>,
}

/// The answer of `/livez`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Liveness {
    /// Whether every loop came by in time.
    pub alive: bool,
    /// Loops that did not.
    pub silent: Vec<&'static str>,
}

impl Health {
    /// A process that needs `conditions`, none of which is met yet. Without any it is ready.
    #[must_use]
    pub fn new(conditions: &[Condition]) -> Self {
        let health = Self::default();
        for condition in conditions {
            health.progress(*condition, 0, 1);
        }
        health
    }

    /// Meets a condition, or takes that back.
    pub fn set(&self, condition: Condition, met: bool) {
        self.progress(condition, usize::from(met), 1);
    }

    /// Says how far a condition is, such as objects read of objects required. It is required from then on.
    pub fn progress(&self, condition: Condition, done: usize, needed: usize) {
        self.0.lock().conditions.insert(condition, Progress { done, needed });
    }

    /// The process is shutting down: not ready any more, still alive.
    pub fn drain(&self) {
        self.0.lock().draining = true;
    }

    /// Watches a loop, which must come by within `first`. `name` is a word of the program, not of a user.
    #[must_use]
    pub fn watch(&self, name: &'static str, first: Duration) -> Heartbeat {
        let mut state = self.0.lock();
        state.loops.push(Loop { name, due: Some(Instant::now() + first) });
        Heartbeat { health: self.clone(), index: state.loops.len() - 1 }
    }

    /// Whether it is ready now.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let state = self.0.lock();
        let met = state.conditions.values().all(|progress| progress.is_met());
        Readiness {
            ready: met && !state.draining,
            draining: state.draining,
            conditions: state.conditions.clone(),
        }
    }

    /// Whether it is alive now.
    #[must_use]
    pub fn liveness(&self) -> Liveness {
        let now = Instant::now();
        let state = self.0.lock();
        let silent: Vec<_> =
            state.loops.iter().filter(|l| l.due.is_some_and(|due| due < now)).map(|l| l.name).collect();
        Liveness { alive: silent.is_empty(), silent }
    }
}

impl Heartbeat {
    /// The loop is here, and promises to come by again within `next`: its longest sleep and time to work.
    pub fn beat(&self, next: Duration) {
        self.health.0.lock().loops[self.index].due = Some(Instant::now() + next);
    }

    /// The loop ends in order. One that is merely dropped, by a panic or an early return, is found silent in time.
    pub fn end(self) {
        self.health.0.lock().loops[self.index].due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_never_spoke_is_not_ready() {
        let health = Health::new(&[Condition::Identity, Condition::Objects]);
        assert!(!health.readiness().ready);
        health.set(Condition::Identity, true);
        health.progress(Condition::Objects, 1, 2);
        assert!(!health.readiness().ready);
        health.progress(Condition::Objects, 2, 2);
        assert!(health.readiness().ready);
    }

    #[test]
    fn a_process_that_drains_is_not_ready_and_still_alive() {
        let health = Health::new(&[]);
        assert!(health.readiness().ready);
        health.drain();
        assert!(!health.readiness().ready && health.liveness().alive);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_falls_silent_is_named_and_one_that_comes_back_is_forgiven() {
        let health = Health::new(&[]);
        let rotation = health.watch("rotation", SECOND);
        let socket = health.watch("socket", 60 * SECOND);
        tokio::time::advance(2 * SECOND).await;
        assert_eq!(health.liveness(), Liveness { alive: false, silent: vec!["rotation"] });
        rotation.beat(10 * SECOND);
        assert!(health.liveness().alive);
        drop(rotation);
        socket.end();
        tokio::time::advance(100 * SECOND).await;
        assert_eq!(health.liveness().silent, ["rotation"], "dropped is not ended");
    }
}
