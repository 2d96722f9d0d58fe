//! Counting instead of writing: repeated reads, and refusals beyond a rate. Every act is either written or counted.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "counts of what this process did, far below the range of a number"
)]

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::time::Duration;

use keyward_core::Code;
use keyward_core::UnixTime;
use keyward_core::audit::{Act, Action, Actor, AuditEvent};

use super::record::Counted;

/// Refusals of one caller that are written singly each second, and at once.
const REFUSALS_PER_SECOND: f64 = 10.0;
/// Pairs of caller and object that are counted apart; about 4 MiB when full. Acts beyond are counted together, those of
/// each pod apart.
const MAX_WINDOWS: usize = 16_384;
/// Those of one pod: a container that calls under thousands of user ids fills no other pod's windows, and not the queue.
const MAX_WINDOWS_OF_POD: usize = 512;
/// Those that a pod gets although all are taken, so that many pods together do not blur what another one reads.
const KEPT_FOR_POD: usize = 16;
/// Callers whose refusals are measured apart, a pod being one; the others share one rate.
const MAX_CALLERS: usize = 1024;

/// What to do with an act.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Write it.
    Write,
    /// It has been counted.
    Counted,
}

/// What is being counted.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    hasher: RandomState,
    windows: HashMap<u64, Window>,
    callers: HashMap<u64, Rate>,
    /// Windows of each pod.
    pods: HashMap<String, usize>,
    /// Acts by callers or of objects too many to be told apart, by pod; otherwise few keys, all from closed sets.
    mixed: HashMap<(Action, Option<Code>, String), Counted>,
}

#[derive(Debug)]
struct Window {
    event: AuditEvent,
    count: u64,
    last: UnixTime,
}

#[derive(Debug)]
struct Rate {
    tokens: f64,
    at: Duration,
}

impl Repeats {
    /// Decides about an act at `now` (any steady clock).
    pub(super) fn take(&mut self, event: &AuditEvent, now: Duration) -> Verdict {
        match event.error {
            None if event.action == Action::Read => self.read(event),
            None => Verdict::Write,
            Some(code) => self.refusal(event, code, now),
        }
    }

    /// Counts an allowed act when it is in the table already: no allocation, one hash and one comparison.
    pub(super) fn repeat(&mut self, act: &Act<'_>, wall: UnixTime) -> bool {
        let key = self.key(act, None);
        match self.windows.get_mut(&key) {
            Some(window) if window.is(act, None) => {
                window.add(wall);
                true
            }
            _ => false,
        }
    }

    /// The act could not be written after all: forget that it was.
    pub(super) fn forget(&mut self, event: &AuditEvent) {
        let key = self.key(&act(event), event.error);
        if self.windows.get(&key).is_some_and(|window| window.count == 0) {
            self.windows.remove(&key);
            if let Some(windows) = self.pods.get_mut(pod(&event.actor)) {
                *windows = windows.saturating_sub(1);
            }
        }
    }

    /// Ends a period: what was counted in it. Pairs that were quiet for a whole period are forgotten.
    pub(super) fn end_period(&mut self, now: Duration) -> Vec<Counted> {
        let mut counted: Vec<_> = self.mixed.drain().map(|(_, counted)| counted).collect();
        let pods = &mut self.pods;
        self.windows.retain(|_, window| {
            let taken = window.take();
            let busy = taken.is_some();
            counted.extend(taken);
            if !busy && let Some(windows) = pods.get_mut(pod(&window.event.actor)) {
                *windows = windows.saturating_sub(1);
            }
            busy
        });
        self.pods.retain(|_, windows| *windows > 0);
        self.callers.retain(|_, rate| {
            rate.refill(now);
            rate.tokens < REFUSALS_PER_SECOND
        });
        counted.sort_by_key(|counted| counted.event.at);
        counted
    }

    /// Whether a period must end some time.
    pub(super) fn is_empty(&self) -> bool {
        self.windows.is_empty() && self.mixed.is_empty() && self.callers.is_empty()
    }

    fn read(&mut self, event: &AuditEvent) -> Verdict {
        let act = act(event);
        let key = self.key(&act, None);
        match self.windows.get_mut(&key) {
            Some(window) if window.is(&act, None) => {
                window.add(event.at);
                return Verdict::Counted;
            }
            // Two acts with one 64-bit key: the second is written singly.
            Some(_) => return Verdict::Write,
            None => {}
        }
        if self.open(key, event, 0) {
            return Verdict::Write;
        }
        self.mix(event);
        Verdict::Counted
    }

    fn refusal(&mut self, event: &AuditEvent, code: Code, now: Duration) -> Verdict {
        if self.rate(&event.actor, now).take(now) {
            return Verdict::Write;
        }
        let act = act(event);
        let key = self.key(&act, Some(code));
        match self.windows.get_mut(&key) {
            Some(window) if window.is(&act, Some(code)) => window.add(event.at),
            Some(_) => self.mix(event),
            None => {
                if !self.open(key, event, 1) {
                    self.mix(event);
                }
            }
        }
        Verdict::Counted
    }

    /// Opens a window, unless there are as many as there may be, of this pod or of all.
    fn open(&mut self, key: u64, event: &AuditEvent, count: u64) -> bool {
        let of_pod = self.pods.get(pod(&event.actor)).copied().unwrap_or(0);
        let (share, kept) = match pod(&event.actor) {
            "" => (MAX_WINDOWS, 0),
            _ => (MAX_WINDOWS_OF_POD, KEPT_FOR_POD),
        };
        if of_pod >= share || (self.windows.len() >= MAX_WINDOWS && of_pod >= kept) {
            return false;
        }
        self.pods.insert(pod(&event.actor).to_owned(), of_pod + 1);
        self.windows.insert(key, Window { event: event.clone(), count, last: event.at });
        true
    }

    /// Counts an act together with others of its pod.
    fn mix(&mut self, event: &AuditEvent) {
        let key = (event.action, event.error, pod(&event.actor).to_owned());
        let fresh = || Counted { event: event.clone(), mixed: true, count: 0, last: event.at };
        let counted = self.mixed.entry(key).or_insert_with(fresh);
        counted.count += 1;
        counted.last = event.at;
    }

    fn rate(&mut self, actor: &Actor, now: Duration) -> &mut Rate {
        // A pod is one caller here, under however many user ids it calls.
        let key = match pod(actor) {
            "" => self.hasher.hash_one(Caller(actor)),
            pod => self.hasher.hash_one(pod),
        };
        let key = if self.callers.len() < MAX_CALLERS || self.callers.contains_key(&key) { key } else { 0 };
        self.callers.entry(key).or_insert(Rate { tokens: REFUSALS_PER_SECOND, at: now })
    }

    fn key(&self, act: &Act<'_>, error: Option<Code>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        Caller(act.actor).hash(&mut hasher);
        (act.action, act.object, act.version, error).hash(&mut hasher);
        hasher.finish()
    }
}

impl Window {
    fn is(&self, act: &Act<'_>, error: Option<Code>) -> bool {
        let event = &self.event;
        event.action == act.action
            && event.error == error
            && event.object == act.object
            && event.version.as_deref() == act.version
            && Caller(&event.actor) == Caller(act.actor)
    }

    fn add(&mut self, at: UnixTime) {
        if self.count == 0 {
            self.event.at = at;
        }
        self.count += 1;
        self.last = at;
    }

    fn take(&mut self) -> Option<Counted> {
        let count = std::mem::take(&mut self.count);
        (count > 0).then(|| Counted { event: self.event.clone(), mixed: false, count, last: self.last })
    }
}

impl Rate {
    fn take(&mut self, now: Duration) -> bool {
        self.refill(now);
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }

    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at);
        self.tokens = (self.tokens + passed.as_secs_f64() * REFUSALS_PER_SECOND).min(REFUSALS_PER_SECOND);
        self.at = now;
    }
}

/// An actor without its process id, which a caller can change at will.
struct Caller<'a>(&'a Actor);

impl PartialEq for Caller<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self.0, other.0) {
            (Actor::Peer { uid, gid, .. }, Actor::Peer { uid: u, gid: g, .. }) => (uid, gid) == (u, g),
            (Actor::PodPeer { pod, uid, gid, .. }, Actor::PodPeer { pod: other, uid: u, gid: g, .. }) => {
                (pod, uid, gid) == (other, u, g)
            }
            (a, b) => a == b,
        }
    }
}

impl Hash for Caller<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.0 {
            Actor::Peer { uid, gid, .. } => (uid, gid).hash(state),
            Actor::PodPeer { pod, uid, gid, .. } => (pod, uid, gid).hash(state),
            other => other.hash(state),
        }
    }
}

/// The UID of the pod that an actor belongs to; empty where it belongs to none.
fn pod(actor: &Actor) -> &str {
    match actor {
        Actor::PodPeer { pod, .. } => pod,
        Actor::Pod { uid, .. } => uid,
        Actor::Keyward | Actor::Peer { .. } => "",
    }
}

fn act(event: &AuditEvent) -> Act<'_> {
    Act {
        actor: &event.actor,
        action: event.action,
        object: &event.object,
        version: event.version.as_deref(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(uid: u32, pid: i32, object: &str) -> AuditEvent {
        AuditEvent {
            at: Duration::from_secs(1),
            actor: Actor::Peer { uid, gid: uid, pid },
            action: Action::Read,
            object: object.to_owned(),
            version: Some("v1".to_owned()),
            identity: None,
            error: None,
            trace_id: None,
            request_id: None,
        }
    }

    fn refused(uid: u32, object: &str) -> AuditEvent {
        AuditEvent { error: Some(Code::UnknownName), ..read(uid, 1, object) }
    }

    #[test]
    fn the_first_read_is_written_and_the_others_are_counted_exactly() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.take(&read(1, 1, "a"), Duration::ZERO), Verdict::Write);
        for pid in 0..99 {
            assert_eq!(repeats.take(&read(1, pid, "a"), Duration::ZERO), Verdict::Counted);
        }
        assert_eq!(repeats.take(&read(2, 1, "a"), Duration::ZERO), Verdict::Write, "another caller");
        assert_eq!(repeats.take(&read(1, 1, "b"), Duration::ZERO), Verdict::Write, "another object");
        let counted = repeats.end_period(Duration::from_secs(10));
        assert_eq!(counted.len(), 1);
        assert_eq!(counted[0].count, 99);
        assert!(repeats.end_period(Duration::from_secs(20)).is_empty());
        assert!(repeats.is_empty());
        assert_eq!(repeats.take(&read(1, 1, "a"), Duration::from_secs(30)), Verdict::Write);
    }

    #[test]
    fn a_borrowed_repeat_counts_only_what_has_been_written() {
        let mut repeats = Repeats::default();
        let event = read(1, 1, "a");
        assert!(!repeats.repeat(&act(&event), Duration::ZERO));
        repeats.take(&event, Duration::ZERO);
        assert!(repeats.repeat(&act(&event), Duration::ZERO));
        let other_version = Act { version: Some("v2"), ..act(&event) };
        assert!(!repeats.repeat(&other_version, Duration::ZERO));
        assert_eq!(repeats.end_period(Duration::ZERO)[0].count, 1);
    }

    #[test]
    fn refusals_are_written_singly_up_to_ten_a_second_and_then_counted() {
        let mut repeats = Repeats::default();
        let mut written = 0;
        for _ in 0..100 {
            written += u64::from(repeats.take(&refused(1, "a"), Duration::ZERO) == Verdict::Write);
        }
        assert_eq!(written, 10);
        assert_eq!(repeats.take(&refused(2, "a"), Duration::ZERO), Verdict::Write, "another caller's rate");
        assert_eq!(repeats.take(&refused(1, "a"), Duration::from_secs(1)), Verdict::Write, "a second later");
        assert_eq!(repeats.end_period(Duration::from_secs(1))[0].count, 90);
    }

    #[test]
    fn a_caller_that_asks_for_ever_new_names_costs_bounded_memory_and_is_still_counted_exactly() {
        let mut repeats = Repeats::default();
        let mut written = 0;
        for i in 0..20_000u32 {
            let event = refused(i % 3000, &format!("guess-{i}"));
            written += u64::from(repeats.take(&event, Duration::ZERO) == Verdict::Write);
        }
        assert!(repeats.windows.len() <= MAX_WINDOWS && repeats.callers.len() <= MAX_CALLERS + 1);
        let counted: u64 = repeats.end_period(Duration::ZERO).iter().map(|counted| counted.count).sum();
        assert_eq!(written + counted, 20_000);
    }

    fn of_pod(pod: &str, uid: u32, object: &str) -> AuditEvent {
        let actor = Actor::PodPeer {
            namespace: "shop".to_owned(),
            name: "web-0".to_owned(),
            pod: pod.to_owned(),
            uid,
            gid: uid,
            pid: 1,
        };
        AuditEvent { actor, ..read(uid, 1, object) }
    }

    #[test]
    fn pods_that_take_all_windows_together_blur_no_other_pods_reads() {
        let mut repeats = Repeats::default();
        for pod in 0..=MAX_WINDOWS / MAX_WINDOWS_OF_POD {
            for uid in 0..512 {
                repeats.take(&of_pod(&format!("hostile-{pod}"), uid, "a"), Duration::ZERO);
            }
        }
        assert!(repeats.windows.len() >= MAX_WINDOWS);
        let mut read = |n: usize| repeats.take(&of_pod("victim", 1, &format!("o{n}")), Duration::ZERO);
        assert!((0..KEPT_FOR_POD).all(|n| read(n) == Verdict::Write));
        assert_eq!(read(KEPT_FOR_POD), Verdict::Counted, "and not one more");
    }

    #[test]
    fn a_pod_with_thousands_of_user_ids_costs_a_bounded_number_of_records_and_no_other_pod_any() {
        let mut repeats = Repeats::default();
        let mut written = 0;
        for uid in 0..20_000 {
            written +=
                u64::from(repeats.take(&of_pod("hostile", uid, "a"), Duration::ZERO) == Verdict::Write);
        }
        assert_eq!(written, MAX_WINDOWS_OF_POD as u64);
        for uid in 0..20_000 {
            let refused = AuditEvent { error: Some(Code::UnknownName), ..of_pod("hostile", uid, "b") };
            written += u64::from(repeats.take(&refused, Duration::ZERO) == Verdict::Write);
        }
        assert_eq!(written, MAX_WINDOWS_OF_POD as u64 + 10, "and refusals at the rate of one caller");
        // Another pod's first read has a record of its own, and the next is counted in its own window.
        assert_eq!(repeats.take(&of_pod("victim", 1, "a"), Duration::ZERO), Verdict::Write);
        assert_eq!(repeats.take(&of_pod("victim", 1, "a"), Duration::ZERO), Verdict::Counted);
        let refused = AuditEvent { error: Some(Code::UnknownName), ..of_pod("victim", 1, "b") };
        assert_eq!(repeats.take(&refused, Duration::ZERO), Verdict::Write);
        let counted = repeats.end_period(Duration::ZERO);
        let (hostile, victim): (Vec<_>, Vec<_>) =
            counted.iter().partition(|counted| pod(&counted.event.actor) == "hostile");
        let total: u64 = hostile.iter().map(|counted| counted.count).sum();
        assert_eq!(written + total, 40_000, "every act is written or counted");
        assert_eq!(
            victim.iter().map(|counted| (counted.count, counted.mixed)).collect::<Vec<_>>(),
            [(1, false)]
        );
        assert!(repeats.pods.len() <= 1, "what was quiet is forgotten");
        // Its windows are its own again.
        repeats.end_period(Duration::from_secs(10));
        assert_eq!(repeats.take(&of_pod("hostile", 1, "a"), Duration::from_secs(10)), Verdict::Write);
    }

    proptest! {
        #[test]
        fn every_act_is_written_or_counted_once(acts in prop::collection::vec((0u32..3, 0usize..3, any::<bool>(), any::<bool>(), 0u64..4), 0..300)) {
            let mut repeats = Repeats::default();
            let (mut total, mut now) = (0, Duration::ZERO);
            for (uid, object, refuse, end, step) in &acts {
                now += Duration::from_millis(step * 50);
                let object = ["a", "b", "c"][*object];
                let event = if *refuse { refused(*uid, object) } else { read(*uid, 1, object) };
                total += u64::from(repeats.take(&event, now) == Verdict::Write);
                if *end {
                    total += repeats.end_period(now).iter().map(|counted| counted.count).sum::<u64>();
                }
            }
            total += repeats.end_period(now).iter().map(|counted| counted.count).sum::<u64>();
            prop_assert_eq!(total, acts.len() as u64);
        }
    }
}
