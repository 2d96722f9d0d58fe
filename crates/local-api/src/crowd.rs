//! The local APIs of one node, which share its places for connections and the thread that answers.

use std::sync::{Arc, Weak};
use std::time::Duration;

use keyward_core::ledger::{Account, Kind};
use parking_lot::Mutex;

use crate::caller::Callers;
use crate::pace::{Pace, Paces};

/// The servers of a process that serves many pods. When the node has no place for another connection, the pod that holds
/// the most gives one to a pod that holds fewer.
#[derive(Default)]
pub struct Crowd {
    servers: Mutex<Vec<Weak<Callers>>>,
    paces: Paces,
}

impl Crowd {
    /// No servers.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// The share of the thread that the pod with this UID has: one for all that is done for it.
    #[must_use]
    pub fn pace(&self, pod: &str) -> Pace {
        self.paces.of(pod)
    }

    /// How long pods were put off in all because they had used up their shares.
    #[must_use]
    pub fn put_off(&self) -> Duration {
        self.paces.put_off()
    }

    pub(crate) fn join(&self, callers: &Arc<Callers>) {
        let mut servers = self.servers.lock();
        servers.retain(|server| server.strong_count() > 0);
        servers.push(Arc::downgrade(callers));
    }

    /// Frees a place for the pod of `account` when the node has none left for it and another pod holds at least two more.
    pub(crate) fn make_room(&self, account: &Account) -> bool {
        let limit = account.ledger().limits().of(Kind::Connections);
        let own = account.held().of(Kind::Connections);
        if own >= limit.pod || account.room(Kind::Connections) > 0 {
            return false;
        }
        let servers: Vec<_> = self.servers.lock().iter().filter_map(Weak::upgrade).collect();
        let mut largest: Vec<_> = servers
            .iter()
            .map(|server| (server.account().held().of(Kind::Connections), server))
            .filter(|(held, _)| *held > own.saturating_add(1))
            .collect();
        largest.sort_by_key(|(held, _)| std::cmp::Reverse(*held));
        largest.into_iter().any(|(_, server)| server.give_way())
    }
}

#[cfg(test)]
mod tests {
    use keyward_core::Code;
    use keyward_core::ledger::{Ledger, Limit, Limits};

    use super::*;
    use crate::ApiSettings;
    use crate::caller::Slot;
    use crate::pool::Pool;

    #[test]
    fn when_the_node_has_no_place_left_the_pod_with_the_most_gives_one_though_its_own_are_busy() {
        let limit = Limit { pod: 8, node: 10, own: 0, pod_setting: "pod", node_setting: "node" };
        let ledger = Ledger::new(Limits::default().with(Kind::Connections, limit));
        let crowd = Crowd::new();
        let server = |pod| {
            let account = ledger.account(pod);
            let pool = |kind| Pool::new(account.clone(), kind, usize::MAX, 1);
            let callers = Arc::new(Callers::new(account.clone(), pool(Kind::Answers), pool(Kind::Streams)));
            crowd.join(&callers);
            callers
        };
        let connect = |server: &Arc<Callers>| -> keyward_core::Result<Slot> {
            let slot = server.connect(1, &ApiSettings::new("/x"), Duration::ZERO)?;
            slot.seat.calls.store(1, std::sync::atomic::Ordering::Relaxed);
            Ok(slot)
        };
        let (a, b, c) = (server("a"), server("b"), server("c"));
        let mut held: Vec<_> = (0..7).map(|_| connect(&a).unwrap()).collect();
        held.extend((0..3).map(|_| connect(&b).unwrap()));
        assert_eq!(connect(&c).err().unwrap().code(), Code::LimitExceeded);
        assert!(crowd.make_room(c.account()));
        held.push(connect(&c).unwrap());
        let counts = |ledger: &Arc<Ledger>| {
            ["a", "b", "c"].map(|pod| ledger.account(pod).held().of(Kind::Connections))
        };
        assert_eq!(counts(&ledger), [6, 3, 1]);
        // The pod that has the most gets none of the others' places.
        assert!(!crowd.make_room(a.account()));
        for _ in 0..2 {
            assert!(crowd.make_room(c.account()));
            held.push(connect(&c).unwrap());
        }
        assert_eq!(counts(&ledger), [4, 3, 3]);
        assert!(!crowd.make_room(c.account()), "all hold about the same");
    }
}
