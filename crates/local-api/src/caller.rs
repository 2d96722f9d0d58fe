use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use keyward_core::ledger::{Account, Charge, Kind};
use keyward_core::{Code, Error};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::ApiSettings;
use crate::pool::{Pool, Taken};
use crate::rate::Rate;

/// User ids that are remembered while they have no connection, so that a new connection does not renew a used limit.
const REMEMBERED: usize = 1024;

/// What a connection needs at rest, in bytes: its task, HTTP/2's state and buffers.
const CONNECTION: usize = 16 << 10;

/// What a connection may ask for.
pub(crate) struct Access {
    /// Why it is refused everything; `None` when it is admitted.
    pub(crate) refusal: Option<Error>,
    /// Whether health may be asked all the same.
    pub(crate) health: bool,
}

/// Decides by user id alone: the kernel vouches for it, also across pid namespaces.
pub(crate) fn access(uid: u32, own_uid: u32, allowed: Option<&[u32]>) -> Access {
    match allowed {
        Some(allowed) if !allowed.contains(&uid) => Access {
            refusal: Some(Error::new(
                Code::CallerRefused,
                format!("user id {uid} may not call; an administrator may add it to grpc.allowUids"),
            )),
            health: uid == own_uid,
        },
        _ => Access { refusal: None, health: true },
    }
}

/// Who is connected, by user id, and the places that connections take.
pub(crate) struct Callers {
    account: Account,
    bytes: Arc<Pool>,
    calls: Arc<Pool>,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    known: HashMap<u32, Arc<Caller>>,
    seated: HashMap<u64, Seated>,
    next: u64,
}

/// A connection that has a place, and what the place is charged for.
struct Seated {
    uid: u32,
    seat: Arc<Seat>,
    _charges: Charges,
}

/// A connection and its descriptor, and the bytes that it needs at rest.
type Charges = (Charge, Charge, Taken);

/// What one user id may still use.
pub(crate) struct Caller {
    pub(crate) lookups: Rate,
    pub(crate) upstream: Rate,
}

/// What a connection is doing, for those who look for a place.
#[derive(Default)]
pub(crate) struct Seat {
    /// When a call last began or ended, in milliseconds of the server's clock; at first when it connected.
    pub(crate) last: AtomicU64,
    /// Calls and watches under way.
    pub(crate) calls: AtomicUsize,
    ends: AtomicBool,
    told: Notify,
}

impl Seat {
    pub(crate) fn new(now: Duration) -> Self {
        let seat = Self::default();
        seat.active(now);
        seat
    }

    /// Notes that a call begins or ends.
    pub(crate) fn active(&self, now: Duration) {
        self.last.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Tells the connection to end at once.
    pub(crate) fn end(&self) {
        self.ends.store(true, Ordering::Relaxed);
        self.told.notify_one();
    }

    /// Returns when the connection is to end.
    pub(crate) async fn ended(&self) {
        while !self.ends.load(Ordering::Relaxed) {
            self.told.notified().await;
        }
    }
}

impl Callers {
    pub(crate) fn new(account: Account, bytes: Arc<Pool>, calls: Arc<Pool>) -> Self {
        Self { account, bytes, calls, books: Mutex::default() }
    }

    /// Gives a place to one more connection of `uid`, until the slot is dropped. When there is none, the connection
    /// that has been idle longest gives up its own: one of the same user id when that has too many, else any. A
    /// connection without a finished preface or without a call is idle from the start.
    ///
    /// # Errors
    /// `KW_LIMIT_EXCEEDED` when the caller, the server, the pod or the node has too many and none is idle;
    /// `KW_NO_SPACE` when what a connection needs cannot be charged.
    pub(crate) fn connect(
        self: &Arc<Self>,
        uid: u32,
        settings: &ApiSettings,
        now: Duration,
    ) -> Result<Slot, Error> {
        let too_many = |whose: &str, most: usize| {
            Error::new(
                Code::LimitExceeded,
                format!("{whose} more than {most} connections; use one connection for many calls"),
            )
        };
        let mut books = self.books.lock();
        if books.known.len() >= REMEMBERED {
            let Books { known, seated, .. } = &mut *books;
            let connected: HashSet<u32> = seated.values().map(|seated| seated.uid).collect();
            known.retain(|uid, caller| connected.contains(uid) || !caller.is_idle(now));
        }
        let of_uid = books.seated.values().filter(|seated| seated.uid == uid).count();
        if of_uid >= settings.max_connections_per_caller && !books.evict(Some(uid)) {
            return Err(too_many("this user id has", settings.max_connections_per_caller));
        }
        if books.seated.len() >= settings.max_connections && !books.evict(None) {
            return Err(too_many("all callers together have", settings.max_connections));
        }
        let charges = match self.charges() {
            Ok(charges) => charges,
            Err(error) if !books.evict(None) => return Err(error),
            Err(_) => self.charges()?,
        };
        let caller = books.known.entry(uid).or_insert_with(|| {
            Arc::new(Caller {
                lookups: Rate::new(settings.lookups_per_caller),
                upstream: Rate::new(settings.upstream_per_caller),
            })
        });
        let caller = Arc::clone(caller);
        let seat = Arc::new(Seat::new(now));
        let number = books.next;
        books.next = books.next.saturating_add(1);
        books.seated.insert(number, Seated { uid, seat: Arc::clone(&seat), _charges: charges });
        self.bytes.open(true);
        self.calls.open(true);
        Ok(Slot { callers: Arc::clone(self), number, caller, seat })
    }

    /// Charges a descriptor for a connection that is refused and may hear why, when there is one to spare.
    pub(crate) fn refuse(&self) -> Option<Charge> {
        self.account.charge(Kind::Descriptors, 1).ok()
    }

    /// What the connections of the server's pod are charged to.
    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    /// Ends the connection that has been idle longest, or else the oldest.
    pub(crate) fn give_way(&self) -> bool {
        let mut books = self.books.lock();
        books.evict(None) || {
            let oldest = books.seated.keys().min().copied();
            oldest.is_some_and(|oldest| books.end(oldest))
        }
    }

    fn charges(&self) -> Result<Charges, Error> {
        Ok((
            self.account.charge(Kind::Connections, 1)?,
            self.account.charge(Kind::Descriptors, 1)?,
            self.bytes.take(CONNECTION)?,
        ))
    }

    fn leave(&self, number: u64) {
        let mut books = self.books.lock();
        books.seated.remove(&number);
        if books.seated.is_empty() {
            self.bytes.open(false);
            self.calls.open(false);
        }
    }
}

impl Books {
    /// Ends the connection (of `uid`) that has been idle longest, and frees its place at once. Says whether there was one.
    fn evict(&mut self, uid: Option<u32>) -> bool {
        let idle = self.seated.iter().filter(|(_, seated)| {
            uid.is_none_or(|uid| seated.uid == uid) && seated.seat.calls.load(Ordering::Relaxed) == 0
        });
        let longest =
            idle.min_by_key(|(number, seated)| (seated.seat.last.load(Ordering::Relaxed), **number));
        let longest = longest.map(|(number, _)| *number);
        longest.is_some_and(|longest| self.end(longest))
    }

    fn end(&mut self, number: u64) -> bool {
        let seated = self.seated.remove(&number);
        seated.inspect(|seated| seated.seat.end()).is_some()
    }
}

impl Caller {
    fn is_idle(&self, now: Duration) -> bool {
        self.lookups.is_idle(now) && self.upstream.is_idle(now)
    }
}

/// A connection that was admitted.
pub(crate) struct Slot {
    callers: Arc<Callers>,
    number: u64,
    pub(crate) caller: Arc<Caller>,
    pub(crate) seat: Arc<Seat>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.callers.leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_user_ids_are_admitted_and_our_own_may_still_ask_for_health() {
        let admitted = |uid, allowed: Option<&[u32]>| access(uid, 65532, allowed).refusal.is_none();
        assert!(admitted(7, None) && admitted(7, Some(&[1000, 7])));
        assert!(!admitted(7, Some(&[1000])) && !admitted(0, Some(&[1000])) && !admitted(7, Some(&[])));
        assert!(access(65532, 65532, Some(&[1000])).health && !access(7, 65532, Some(&[1000])).health);
        let refusal = access(7, 65532, Some(&[1000])).refusal.unwrap();
        assert_eq!(refusal.code(), Code::CallerRefused);
    }

    fn settings() -> ApiSettings {
        ApiSettings { max_connections: 3, max_connections_per_caller: 2, ..ApiSettings::new("/x") }
    }

    fn callers(account: &Account) -> Arc<Callers> {
        let pool = |kind| Pool::new(account.clone(), kind, usize::MAX, 1);
        Arc::new(Callers::new(account.clone(), pool(Kind::Answers), pool(Kind::Streams)))
    }

    fn ended(slot: &Slot) -> bool {
        slot.seat.ends.load(Ordering::Relaxed)
    }

    #[test]
    fn one_user_id_cannot_take_every_connection_and_a_closed_one_is_free_again() {
        let account = Account::unlimited();
        let callers = callers(&account);
        let connect = |uid| {
            let slot = callers.connect(uid, &settings(), Duration::ZERO)?;
            slot.seat.calls.store(1, Ordering::Relaxed);
            Ok::<_, Error>(slot)
        };
        let first = connect(1).unwrap();
        let _second = connect(1).unwrap();
        assert_eq!(connect(1).err().unwrap().code(), Code::LimitExceeded);
        let _other = connect(2).unwrap();
        assert_eq!(connect(3).err().unwrap().code(), Code::LimitExceeded);
        drop(first);
        assert!(connect(3).is_ok());
    }

    #[test]
    fn the_connection_that_is_idle_longest_gives_way_and_a_busy_one_never() {
        let account = Account::unlimited();
        let callers = callers(&account);
        let connect = |uid, second| callers.connect(uid, &settings(), Duration::from_secs(second)).unwrap();
        let (first, second, other) = (connect(1, 0), connect(1, 1), connect(2, 2));
        first.seat.active(Duration::from_secs(3));
        // The user id has two: the second one is idle longer now.
        let third = connect(1, 4);
        assert_eq!([&first, &second, &other].map(ended), [false, true, false]);
        // All three places are taken: the other user's is idle longest.
        first.seat.calls.store(1, Ordering::Relaxed);
        third.seat.calls.store(1, Ordering::Relaxed);
        let newest = connect(3, 5);
        assert_eq!([&first, &third, &other, &newest].map(ended), [false, false, true, false]);
        // What was evicted holds nothing, also while its task has not noticed.
        assert_eq!(account.held().of(Kind::Connections), 3);
        drop((first, second, third, other, newest));
        assert_eq!(account.held(), keyward_core::ledger::Held::default());
    }

    #[test]
    fn a_pod_that_has_no_place_left_gives_its_own_idle_ones_only() {
        use keyward_core::ledger::{Ledger, Limit, Limits};
        let limit = |pod| Limit { pod, node: 4, own: 0, pod_setting: "pod", node_setting: "node" };
        let ledger = Ledger::new(Limits::default().with(Kind::Connections, limit(2)));
        let (a, b) = (callers(&ledger.account("a")), callers(&ledger.account("b")));
        let connect = |callers: &Arc<Callers>| callers.connect(1, &ApiSettings::new("/x"), Duration::ZERO);
        let (first, second) = (connect(&a).unwrap(), connect(&a).unwrap());
        let neighbour = connect(&b).unwrap();
        let third = connect(&a).unwrap();
        assert_eq!([&first, &second, &third, &neighbour].map(ended), [true, false, false, false]);
        for slot in [&second, &third] {
            slot.seat.calls.store(1, Ordering::Relaxed);
        }
        assert!(connect(&a).err().unwrap().message().contains("`pod`"));
    }

    #[test]
    fn a_new_connection_does_not_renew_a_used_limit_and_idle_callers_are_forgotten() {
        let settings = ApiSettings { upstream_per_caller: 1, ..ApiSettings::new("/x") };
        let callers = callers(&Account::unlimited());
        let now = Duration::from_secs(100);
        assert!(callers.connect(0, &settings, now).unwrap().caller.upstream.take(now, 1).is_ok());
        assert!(callers.connect(0, &settings, now).unwrap().caller.upstream.take(now, 1).is_err());
        for uid in 1..3000 {
            drop(callers.connect(uid, &settings, now).unwrap());
        }
        assert!(callers.books.lock().known.len() <= REMEMBERED);
        assert!(callers.connect(0, &settings, now).unwrap().caller.upstream.take(now, 1).is_err());
    }
}
