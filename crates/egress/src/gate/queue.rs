use std::collections::BTreeMap;

use keyward_core::Urgency;
use tokio::sync::oneshot;

/// Those who wait for their turn: starts before refreshes, and among each whoever came first. A refresh that becomes a
/// start has the place among the starts that its arrival gives it.
pub(super) struct Queue<T> {
    next: u64,
    starts: BTreeMap<u64, oneshot::Sender<T>>,
    refreshes: BTreeMap<u64, oneshot::Sender<T>>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { next: 0, starts: BTreeMap::new(), refreshes: BTreeMap::new() }
    }
}

impl<T> Queue<T> {
    pub(super) fn join(&mut self, urgency: Urgency) -> (u64, oneshot::Receiver<T>) {
        let (turn, given) = oneshot::channel();
        self.next += 1;
        match urgency {
            Urgency::Start => self.starts.insert(self.next, turn),
            Urgency::Refresh => self.refreshes.insert(self.next, turn),
        };
        (self.next, given)
    }

    pub(super) fn promote(&mut self, place: u64) {
        if let Some(turn) = self.refreshes.remove(&place) {
            self.starts.insert(place, turn);
        }
    }

    pub(super) fn leave(&mut self, place: u64) {
        self.starts.remove(&place);
        self.refreshes.remove(&place);
    }

    /// How urgent the one is whose turn is next.
    pub(super) fn first(&self) -> Option<Urgency> {
        if !self.starts.is_empty() {
            Some(Urgency::Start)
        } else if !self.refreshes.is_empty() {
            Some(Urgency::Refresh)
        } else {
            None
        }
    }

    pub(super) fn take_first(&mut self) -> Option<oneshot::Sender<T>> {
        self.starts.pop_first().or_else(|| self.refreshes.pop_first()).map(|(_, turn)| turn)
    }

    pub(super) fn take_all(&mut self) -> Vec<oneshot::Sender<T>> {
        let starts = std::mem::take(&mut self.starts);
        starts.into_values().chain(std::mem::take(&mut self.refreshes).into_values()).collect()
    }
}
