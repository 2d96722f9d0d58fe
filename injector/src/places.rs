//! Who may hold a connection, and until when. A connection has a little time, counted from the moment it was accepted, to
//! show that it is the API server's by asking at the right path; one that has shown it may be kept open for longer. When
//! all places are taken, the oldest of those that have shown nothing goes, from the address that has most of them: one
//! pod's connections go before the API server's.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// From accepting a connection to the end of the first question's head: TLS handshake and HTTP headers together.
pub(crate) const FIRST: Duration = Duration::from_secs(10);
/// From one question's head to the next, on a connection of the API server, which keeps an idle one for 90 seconds
/// (Go, net/http `DefaultTransport`).
pub(crate) const NEXT: Duration = Duration::from_secs(120);

/// From a question at a wrong path to the end of its connection.
pub(crate) const REFUSED: Duration = Duration::from_secs(1);

/// All places.
pub(crate) struct Places {
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    /// By age, the oldest first.
    held: BTreeMap<u64, Held>,
}

struct Held {
    peer: IpAddr,
    known: bool,
    until: Instant,
    /// Tells the connection that `until` is sooner than it was.
    sooner: Arc<Notify>,
    evicted: CancellationToken,
}

/// One place, given back when it is dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    id: u64,
    sooner: Arc<Notify>,
    evicted: CancellationToken,
}

impl Places {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, state: Mutex::default() })
    }

    /// A place for a connection from `peer`; `None` when all are the API server's.
    pub(crate) fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let mut state = self.state();
        if state.held.len() >= self.most {
            let id = state.least_missed()?;
            state.held.remove(&id)?.evicted.cancel();
        }
        let id = state.next;
        state.next = id.saturating_add(1);
        let evicted = CancellationToken::new();
        let until = later(FIRST);
        let peer = peer.to_canonical();
        let sooner = Arc::new(Notify::new());
        let held = Held { peer, known: false, until, sooner: Arc::clone(&sooner), evicted: evicted.clone() };
        state.held.insert(id, held);
        Some(Place { places: Arc::clone(self), id, sooner, evicted })
    }

    /// Ends every connection that has shown nothing.
    pub(crate) fn end_strangers(&self) {
        self.state().held.values().filter(|held| !held.known).for_each(|held| held.evicted.cancel());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Which of those that have shown nothing goes first.
    fn least_missed(&self) -> Option<u64> {
        let strangers = || self.held.iter().filter(|(_, held)| !held.known);
        let mut by_peer: HashMap<IpAddr, usize> = HashMap::new();
        for (_, held) in strangers() {
            let count = by_peer.entry(held.peer).or_default();
            *count = count.saturating_add(1);
        }
        let most = *by_peer.values().max()?;
        strangers().find(|(_, held)| by_peer.get(&held.peer) == Some(&most)).map(|(id, _)| *id)
    }
}

impl Place {
    /// The connection is the API server's.
    pub(crate) fn know(&self) {
        if let Some(held) = self.places.state().held.get_mut(&self.id) {
            held.known = true;
            held.until = later(NEXT);
        }
    }

    /// The connection asked where only a stranger asks: it has a moment to read the answer.
    pub(crate) fn refuse(&self) {
        if let Some(held) = self.places.state().held.get_mut(&self.id).filter(|held| !held.known) {
            held.until = held.until.min(later(REFUSED));
            held.sooner.notify_one();
        }
    }

    /// Done when the place is taken away, because its time is over or somebody else needs it.
    pub(crate) async fn over(&self) {
        loop {
            let Some(until) = self.places.state().held.get(&self.id).map(|held| held.until) else { return };
            if until <= Instant::now() || self.evicted.is_cancelled() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = self.sooner.notified() => {}
                () = self.evicted.cancelled() => return,
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.state().held.remove(&self.id);
    }
}

fn later(by: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(by).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_over(place: &Place) -> bool {
        let mut over = std::pin::pin!(place.over());
        over.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    fn pod(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_for_ten_seconds_and_for_two_minutes_from_each_question_of_the_api_server() {
        let places = Places::new(2);
        let (silent, asks) = (places.take(pod(1)).unwrap(), places.take(pod(2)).unwrap());
        asks.refuse();
        silent.refuse();
        tokio::time::advance(REFUSED / 2).await;
        assert!(!is_over(&silent) && !is_over(&asks));
        asks.know();
        asks.refuse();
        tokio::time::advance(REFUSED / 2).await;
        assert!(is_over(&silent) && !is_over(&asks));
        drop((silent, asks));
        let (silent, asks) = (places.take(pod(1)).unwrap(), places.take(pod(2)).unwrap());
        tokio::time::advance(FIRST / 2).await;
        asks.know();
        tokio::time::advance(FIRST / 2).await;
        assert!(is_over(&silent) && !is_over(&asks));
        tokio::time::advance(NEXT - FIRST).await;
        asks.know();
        tokio::time::advance(NEXT / 2).await;
        assert!(!is_over(&asks));
        asks.over().await;
        assert!(is_over(&asks));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_are_taken_the_oldest_stranger_of_the_greediest_address_goes() {
        let places = Places::new(4);
        let api_server = places.take(pod(1)).unwrap();
        let greedy = [2, 2].map(|last| places.take(pod(last)).unwrap());
        let known = places.take(pod(3)).unwrap();
        known.know();
        let later = places.take(pod(4)).unwrap();
        assert!(is_over(&greedy[0]) && !is_over(&greedy[1]) && !is_over(&later));
        assert!(!is_over(&api_server) && !is_over(&known));
        // What was evicted takes no place away when it has gone.
        drop(greedy);
        let more = places.take(pod(2)).unwrap();
        assert!(!is_over(&more) && !is_over(&api_server));
    }

    #[tokio::test(start_paused = true)]
    async fn places_of_the_api_server_are_taken_from_it_by_nobody() {
        let places = Places::new(3);
        let known: Vec<_> = (0..3).map(|_| places.take(pod(1)).unwrap()).collect();
        known.iter().for_each(Place::know);
        assert!(places.take(pod(2)).is_none());
        assert!(known.iter().all(|place| !is_over(place)));
        drop(known);
        let (stranger, known) = (places.take(pod(2)).unwrap(), places.take(pod(1)).unwrap());
        known.know();
        places.end_strangers();
        assert!(is_over(&stranger) && !is_over(&known));
    }
}
