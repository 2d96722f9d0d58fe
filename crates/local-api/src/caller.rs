use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keyward_core::{Code, Error};
use parking_lot::Mutex;

use crate::ApiSettings;
use crate::rate::Rate;

/// User ids that are remembered while they have no connection, so that a new connection does not renew a used limit.
const REMEMBERED: usize = 1024;

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

/// Everyone who is connected, by user id.
pub(crate) struct Callers {
    known: Mutex<HashMap<u32, Arc<Caller>>>,
    connections: AtomicUsize,
}

/// What one user id may still use.
pub(crate) struct Caller {
    pub(crate) lookups: Rate,
    pub(crate) upstream: Rate,
    connections: AtomicUsize,
}

impl Callers {
    pub(crate) fn new() -> Self {
        Self { known: Mutex::default(), connections: AtomicUsize::new(0) }
    }

    /// Counts one more connection of `uid`, until the slot is dropped.
    ///
    /// # Errors
    /// `KW_LIMIT_EXCEEDED` when the caller or the process has too many.
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
        let mut known = self.known.lock();
        if self.connections.load(Ordering::Relaxed) >= settings.max_connections {
            return Err(too_many("all callers together have", settings.max_connections));
        }
        if known.len() >= REMEMBERED {
            known.retain(|_, caller| !caller.is_idle(now));
        }
        let caller = known.entry(uid).or_insert_with(|| {
            Arc::new(Caller {
                lookups: Rate::new(settings.lookups_per_caller),
                upstream: Rate::new(settings.upstream_per_caller),
                connections: AtomicUsize::new(0),
            })
        });
        if caller.connections.load(Ordering::Relaxed) >= settings.max_connections_per_caller {
            return Err(too_many("this user id has", settings.max_connections_per_caller));
        }
        caller.connections.fetch_add(1, Ordering::Relaxed);
        self.connections.fetch_add(1, Ordering::Relaxed);
        Ok(Slot { callers: Arc::clone(self), caller: Arc::clone(caller) })
    }
}

impl Caller {
    fn is_idle(&self, now: Duration) -> bool {
        self.connections.load(Ordering::Relaxed) == 0
            && self.lookups.is_idle(now)
            && self.upstream.is_idle(now)
    }
}

/// A counted connection.
pub(crate) struct Slot {
    callers: Arc<Callers>,
    pub(crate) caller: Arc<Caller>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.caller.connections.fetch_sub(1, Ordering::Relaxed);
        self.callers.connections.fetch_sub(1, Ordering::Relaxed);
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

    #[test]
    fn one_user_id_cannot_take_every_connection_and_a_closed_one_is_free_again() {
        let settings =
            ApiSettings { max_connections: 3, max_connections_per_caller: 2, ..ApiSettings::new("/x") };
        let callers = Arc::new(Callers::new());
        let connect = |uid| callers.connect(uid, &settings, Duration::ZERO);
        let first = connect(1).unwrap();
        let _second = connect(1).unwrap();
        assert_eq!(connect(1).err().unwrap().code(), Code::LimitExceeded);
        let _other = connect(2).unwrap();
        assert_eq!(connect(3).err().unwrap().code(), Code::LimitExceeded);
        drop(first);
        assert!(connect(3).is_ok());
    }

    #[test]
    fn a_new_connection_does_not_renew_a_used_limit_and_idle_callers_are_forgotten() {
        let settings = ApiSettings { upstream_per_caller: 1, ..ApiSettings::new("/x") };
        let callers = Arc::new(Callers::new());
        let now = Duration::from_secs(100);
        assert!(callers.connect(0, &settings, now).unwrap().caller.upstream.take(now, 1).is_ok());
        assert!(callers.connect(0, &settings, now).unwrap().caller.upstream.take(now, 1).is_err());
        for uid in 1..3000 {
            drop(callers.connect(uid, &settings, now).unwrap());
        }
        assert!(callers.known.lock().len() <= REMEMBERED);
        assert!(callers.connect(0, &settings, now).unwrap().caller.upstream.take(now, 1).is_err());
    }
}
