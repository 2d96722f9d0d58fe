//! What is held for pods, accounted in one place before it exists.
//!
//! A node plugin works for many pods that do not trust each other. Whatever it holds for a pod (bytes, sockets, places in
//! a table) is charged to that pod's [`Account`] first. A charge that exceeds the pod's share, or the node's budget, is
//! refused before anything is allocated, so one pod's demands cost no other pod anything.
//!
//! Of a budget an amount is kept back for each of [`PODS`] pods ([`Limit::own`]). What pods hold beyond it shares the rest,
//! so that pods that act together cannot keep another one from starting.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::{Code, Error, Result};

/// What a charge is for. Kinds in bytes share one budget; each kind that is counted has limits of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Bytes of fetched values in the cache.
    Cached,
    /// Bytes of projections that are being made: rendered templates, converted and decoded values.
    Rendering,
    /// Bytes of files on a volume's tmpfs.
    Staged,
    /// Bytes of answers that wait to be written to a socket.
    Answers,
    /// Bytes of values kept across a restart.
    Kept,
    /// Published volumes.
    Volumes,
    /// Connections to the local API.
    Connections,
    /// Calls and watches under way on the local API.
    Streams,
    /// Versions that a pod asked for through the local API and that the cache keeps.
    PinnedVersions,
    /// Distinct vault hosts.
    Hosts,
    /// File descriptors.
    Descriptors,
}

impl Kind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[
        Self::Cached,
        Self::Rendering,
        Self::Staged,
        Self::Answers,
        Self::Kept,
        Self::Volumes,
        Self::Connections,
        Self::Streams,
        Self::PinnedVersions,
        Self::Hosts,
        Self::Descriptors,
    ];

    /// The word in errors and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Rendering => "rendering",
            Self::Staged => "staged",
            Self::Answers => "answers",
            Self::Kept => "kept",
            Self::Volumes => "volumes",
            Self::Connections => "connections",
            Self::Streams => "streams",
            Self::PinnedVersions => "pinned_versions",
            Self::Hosts => "hosts",
            Self::Descriptors => "descriptors",
        }
    }

    /// Whether amounts are bytes, which share one budget, or a count.
    #[must_use]
    pub fn is_bytes(self) -> bool {
        (self as usize) < COUNTED_FROM
    }
}

const COUNTED_FROM: usize = Kind::Volumes as usize;
const KINDS: usize = Kind::ALL.len();

/// For how many pods something is kept back: as many as a node runs.
pub const PODS: usize = 256;

/// The most that may be held of something, and the settings that say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// For one pod.
    pub pod: usize,
    /// For all pods of the node together.
    pub node: usize,
    /// Kept back for each pod, out of what the node has: other pods never get it.
    pub own: usize,
    /// The setting of the pod's share, as an administrator writes it.
    pub pod_setting: &'static str,
    /// The setting of the node's budget.
    pub node_setting: &'static str,
}

impl Limit {
    /// No limit.
    pub const NONE: Self =
        Self { pod: usize::MAX, node: usize::MAX, own: 0, pod_setting: "", node_setting: "" };

    /// What all pods together may hold beyond what is kept back for each.
    fn shared(&self) -> usize {
        self.node.saturating_sub(self.own.saturating_mul(PODS))
    }
}

/// Every limit of a ledger.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For all kinds in bytes together.
    pub bytes: Limit,
    counts: [Limit; KINDS - COUNTED_FROM],
}

impl Default for Limits {
    /// No limits.
    fn default() -> Self {
        Self { bytes: Limit::NONE, counts: [Limit::NONE; KINDS - COUNTED_FROM] }
    }
}

impl Limits {
    /// Sets the limit of all kinds in bytes together.
    #[must_use]
    pub fn with_bytes(self, limit: Limit) -> Self {
        Self { bytes: limit, ..self }
    }

    /// Sets the limit of a counted kind. A kind in bytes has no limit of its own and is left alone.
    #[must_use]
    pub fn with(mut self, kind: Kind, limit: Limit) -> Self {
        if let Some(slot) = (kind as usize).checked_sub(COUNTED_FROM).and_then(|at| self.counts.get_mut(at)) {
            *slot = limit;
        }
        self
    }

    /// The limit that charges of `kind` are held to.
    #[must_use]
    pub fn of(&self, kind: Kind) -> Limit {
        let counted = (kind as usize).checked_sub(COUNTED_FROM).and_then(|at| self.counts.get(at));
        counted.copied().unwrap_or(self.bytes)
    }
}

/// The amounts held, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held([usize; KINDS]);

impl Held {
    /// What is held of `kind`.
    #[must_use]
    pub fn of(&self, kind: Kind) -> usize {
        self.0.get(kind as usize).copied().unwrap_or(0)
    }

    /// What counts against the limit of `kind`: of bytes the sum.
    fn against(&self, kind: Kind) -> usize {
        if kind.is_bytes() { self.bytes() } else { self.of(kind) }
    }

    /// All bytes together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.iter().take(COUNTED_FROM).fold(0, |sum, amount| sum.saturating_add(*amount))
    }

    fn change(&mut self, kind: Kind, less: usize, more: usize) {
        if let Some(amount) = self.0.get_mut(kind as usize) {
            *amount = amount.saturating_sub(less).saturating_add(more);
        }
    }
}

/// The books of a node.
pub struct Ledger {
    limits: Limits,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    node: Held,
    /// What pods hold beyond [`Limit::own`], as the sum over pods; bytes of all kinds under the first.
    beyond: [usize; KINDS],
    accounts: HashMap<String, Weak<Inner>>,
}

/// What one pod holds. Clones are the same account.
#[derive(Clone)]
pub struct Account(Arc<Inner>);

struct Inner {
    ledger: Arc<Ledger>,
    pod: String,
    /// Changed only while the ledger's books are locked, so that a pod's sum and the node's agree.
    held: Mutex<Held>,
}

/// An amount that is charged until this is dropped.
pub struct Charge {
    account: Account,
    kind: Kind,
    amount: usize,
}

impl Books {
    /// What may be charged of `kind` to a pod that holds `held` and gives back `less` of it: by the pod's share, and by
    /// what the others leave of the node's budget.
    fn room(&self, held: &Held, limit: &Limit, kind: Kind, less: usize) -> (usize, usize) {
        let own = held.against(kind);
        let others = self.beyond(kind).saturating_sub(own.saturating_sub(limit.own));
        let left = limit.shared().saturating_sub(others).saturating_add(limit.own);
        let room = |held: usize, most: usize| most.saturating_sub(held).saturating_add(less);
        (room(own, limit.pod), room(self.node.against(kind), limit.node).min(room(own, left)))
    }

    fn change(&mut self, held: &mut Held, limit: &Limit, kind: Kind, less: usize, more: usize) {
        let beyond = |held: &Held| held.against(kind).saturating_sub(limit.own);
        let before = beyond(held);
        held.change(kind, less, more);
        let after = beyond(held);
        self.node.change(kind, less, more);
        if let Some(sum) = self.beyond.get_mut(group(kind)) {
            *sum = sum.saturating_sub(before).saturating_add(after);
        }
    }

    fn beyond(&self, kind: Kind) -> usize {
        self.beyond.get(group(kind)).copied().unwrap_or(0)
    }
}

/// Kinds with one index share a limit.
fn group(kind: Kind) -> usize {
    if kind.is_bytes() { 0 } else { kind as usize }
}

impl Ledger {
    /// Books with nothing in them.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, books: Mutex::default() })
    }

    /// The account of a pod, by its UID. It exists while it, or a charge of it, is held.
    #[must_use]
    pub fn account(self: &Arc<Self>, pod: &str) -> Account {
        let mut books = self.books.lock();
        if let Some(known) = books.accounts.get(pod).and_then(Weak::upgrade) {
            return Account(known);
        }
        let inner = Arc::new(Inner { ledger: Arc::clone(self), pod: pod.to_owned(), held: Mutex::default() });
        books.accounts.insert(pod.to_owned(), Arc::downgrade(&inner));
        Account(inner)
    }

    /// What all pods hold together.
    #[must_use]
    pub fn held(&self) -> Held {
        self.books.lock().node
    }

    /// The limits that it was made with.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

impl Account {
    /// An account without limits, for a process that serves one pod only.
    #[must_use]
    pub fn unlimited() -> Self {
        Ledger::new(Limits::default()).account("")
    }

    /// Charges `amount` before it is allocated.
    ///
    /// # Errors
    /// `KW_NO_SPACE` for bytes and `KW_LIMIT_EXCEEDED` for counts, when the pod's share or the node's budget would be
    /// exceeded. Nothing is charged then.
    pub fn charge(&self, kind: Kind, amount: usize) -> Result<Charge> {
        self.change(kind, 0, amount)?;
        Ok(Charge { account: self.clone(), kind, amount })
    }

    /// Charges as much as there is, from `least` up to `most`: for work that stops when it reaches what it was given.
    ///
    /// # Errors
    /// As [`Self::charge`], when there is less than `least`.
    pub fn charge_up_to(&self, kind: Kind, least: usize, most: usize) -> Result<Charge> {
        let amount = self.change_up_to(kind, 0, least, most)?;
        Ok(Charge { account: self.clone(), kind, amount })
    }

    /// Charges what exists already, such as the files of a volume that an earlier process mounted. Never refused: what
    /// comes after it is.
    #[must_use]
    pub fn take(&self, kind: Kind, amount: usize) -> Charge {
        let ledger = &self.0.ledger;
        ledger.books.lock().change(&mut self.0.held.lock(), &ledger.limits.of(kind), kind, 0, amount);
        Charge { account: self.clone(), kind, amount }
    }

    /// What the pod holds.
    #[must_use]
    pub fn held(&self) -> Held {
        *self.0.held.lock()
    }

    /// What could still be charged of `kind`.
    #[must_use]
    pub fn room(&self, kind: Kind) -> usize {
        let ledger = &self.0.ledger;
        let (pod, node) = ledger.books.lock().room(&self.0.held.lock(), &ledger.limits.of(kind), kind, 0);
        pod.min(node)
    }

    /// Whether both are the account of one pod.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The ledger that the account belongs to.
    #[must_use]
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.0.ledger
    }

    fn change(&self, kind: Kind, less: usize, more: usize) -> Result<()> {
        self.change_up_to(kind, less, more, more).map(drop)
    }

    /// Gives back `less` and takes as much as there is, from `least` up to `most`; says how much that was.
    fn change_up_to(&self, kind: Kind, less: usize, least: usize, most: usize) -> Result<usize> {
        let ledger = &self.0.ledger;
        let limit = ledger.limits.of(kind);
        let mut books = ledger.books.lock();
        let mut held = self.0.held.lock();
        let (pod, node) = books.room(&held, &limit, kind, less);
        // Giving back is never refused, also where more is held than the limit allows.
        let amount = most.min(pod.min(node).max(less));
        if amount < least {
            return Err(refusal(kind, least, &limit, pod < least));
        }
        books.change(&mut held, &limit, kind, less, amount);
        Ok(amount)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut books = self.ledger.books.lock();
        // An account that was opened again meanwhile is another one.
        if books.accounts.get(&self.pod).is_some_and(|known| known.strong_count() == 0) {
            books.accounts.remove(&self.pod);
        }
    }
}

impl Charge {
    /// What is charged.
    #[must_use]
    pub fn amount(&self) -> usize {
        self.amount
    }

    /// Charges `amount` instead. A smaller amount is never refused.
    ///
    /// # Errors
    /// As [`Account::charge`]; the old amount stays charged then.
    pub fn resize(&mut self, amount: usize) -> Result<()> {
        self.account.change(self.kind, self.amount, amount)?;
        self.amount = amount;
        Ok(())
    }

    /// Charges as much as there is, from `least` up to `most`.
    ///
    /// # Errors
    /// As [`Account::charge_up_to`]; the old amount stays charged then.
    pub fn resize_up_to(&mut self, least: usize, most: usize) -> Result<()> {
        self.amount = self.account.change_up_to(self.kind, self.amount, least, most)?;
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        // Giving back is never refused.
        let _ = self.account.change(self.kind, self.amount, 0);
    }
}

fn refusal(kind: Kind, amount: usize, limit: &Limit, of_pod: bool) -> Error {
    let (code, unit) = match kind.is_bytes() {
        true => (Code::NoSpace, " bytes"),
        false => (Code::LimitExceeded, ""),
    };
    let (whose, most, setting) = match of_pod {
        true => ("this pod", limit.pod, limit.pod_setting),
        false => ("all pods of this node", limit.node, limit.node_setting),
    };
    let kept = match limit.own {
        own if own > 0 && !of_pod => format!(", {own} of them kept back for each pod"),
        _ => String::new(),
    };
    let what = kind.as_str().replace('_', " ");
    let step = match kind {
        Kind::Connections => "use one connection for many calls",
        Kind::Streams => "wait for calls to end",
        Kind::PinnedVersions => "ask for fewer older versions; one that is not asked for is soon forgotten",
        Kind::Hosts => "ask fewer vaults",
        _ if of_pod => "declare less for it",
        _ => "move pods to another node",
    };
    Error::new(
        code,
        format!(
            "{amount}{unit} more ({what}) would exceed the limit of {whose}: {most}{unit} (`{setting}`){kept}; \
             {step}, or ask the administrator to raise the limit"
        ),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits() -> Limits {
        let share =
            |pod, node| Limit { pod, node, own: 0, pod_setting: "limits.pod", node_setting: "limits.node" };
        Limits { bytes: share(100, 150), ..Limits::default() }.with(Kind::Volumes, share(2, 3))
    }

    #[test]
    fn a_pod_gets_its_share_and_not_one_byte_more() {
        let account = Ledger::new(limits()).account("a");
        let cached = account.charge(Kind::Cached, 60).unwrap();
        let _staged = account.charge(Kind::Staged, 40).unwrap();
        let error = account.charge(Kind::Rendering, 1).err().unwrap();
        assert_eq!(error.code(), Code::NoSpace);
        assert!(error.message().contains("this pod") && error.message().contains("limits.pod"), "{error}");
        drop(cached);
        assert!(account.charge(Kind::Rendering, 60).is_ok());
    }

    #[test]
    fn the_nodes_budget_holds_for_all_pods_together_and_names_its_own_setting() {
        let ledger = Ledger::new(limits());
        let (a, b) = (ledger.account("a"), ledger.account("b"));
        let _a = a.charge(Kind::Cached, 100).unwrap();
        let _b = b.charge(Kind::Cached, 50).unwrap();
        let error = b.charge(Kind::Cached, 1).err().unwrap();
        assert!(error.message().contains("limits.node"), "{error}");
        assert_eq!(ledger.held().bytes(), 150);
    }

    #[test]
    fn counts_are_limited_each_for_itself() {
        let ledger = Ledger::new(limits());
        let account = ledger.account("a");
        let held = [account.charge(Kind::Volumes, 1).unwrap(), account.charge(Kind::Volumes, 1).unwrap()];
        assert_eq!(account.charge(Kind::Volumes, 1).err().unwrap().code(), Code::LimitExceeded);
        assert!(account.charge(Kind::Streams, 1_000).is_ok());
        drop(held);
        assert_eq!(ledger.held(), Held::default());
    }

    #[test]
    fn the_same_pod_is_the_same_account_and_an_account_without_charges_is_forgotten() {
        let ledger = Ledger::new(limits());
        let charge = ledger.account("a").charge(Kind::Cached, 100).unwrap();
        assert!(ledger.account("a").charge(Kind::Cached, 1).is_err());
        drop(charge);
        assert!(ledger.books.lock().accounts.is_empty());
    }

    #[test]
    fn a_charge_that_cannot_grow_stays_what_it_was() {
        let account = Ledger::new(limits()).account("a");
        let mut charge = account.charge(Kind::Rendering, 90).unwrap();
        assert!(charge.resize(101).is_err());
        assert_eq!((charge.amount(), account.held().bytes()), (90, 90));
        charge.resize(10).unwrap();
        assert_eq!(account.held().bytes(), 10);
    }

    #[test]
    fn what_stops_by_itself_gets_what_there_is_and_what_exists_is_never_refused() {
        let ledger = Ledger::new(limits());
        let (a, b) = (ledger.account("a"), ledger.account("b"));
        let _cached = a.charge(Kind::Cached, 70).unwrap();
        let mut rendering = a.charge_up_to(Kind::Rendering, 10, 50).unwrap();
        assert_eq!(rendering.amount(), 30);
        rendering.resize(5).unwrap();
        rendering.resize_up_to(5, 20).unwrap();
        assert_eq!(rendering.amount(), 20);
        assert!(rendering.resize_up_to(31, 50).is_err() && rendering.amount() == 20);
        // After a restart with lower limits.
        let mut mounted = b.take(Kind::Staged, 120);
        assert_eq!((ledger.held().bytes(), b.held().bytes()), (210, 120));
        assert!(b.charge(Kind::Cached, 1).is_err() && a.charge(Kind::Cached, 1).is_err());
        mounted.resize(119).unwrap();
        assert!(mounted.resize(120).is_err(), "what was given back is gone");
        drop((mounted, rendering));
        assert_eq!(ledger.held().bytes(), 70);
    }

    /// With 10 of 4,000 bytes kept back for each pod, and 1 of 300 volumes.
    fn kept_back() -> Limits {
        let limit = |pod, node, own| Limit { own, ..Limit { pod, node, ..Limit::NONE } };
        Limits::default().with_bytes(limit(1_000, 4_000, 10)).with(Kind::Volumes, limit(32, 300, 1))
    }

    #[test]
    fn whatever_pods_hold_together_each_other_pod_still_gets_what_is_kept_back_for_it() {
        let ledger = Ledger::new(kept_back());
        let greedy: Vec<_> = (0..6).map(|pod| ledger.account(&format!("greedy-{pod}"))).collect();
        let mut taken = Vec::new();
        for account in &greedy {
            while let Ok(charge) = account.charge(Kind::Staged, 1) {
                taken.push(charge);
            }
            while let Ok(charge) = account.charge(Kind::Volumes, 1) {
                taken.push(charge);
            }
        }
        // What is shared, and what is kept back for the six themselves.
        let held = ledger.held();
        assert_eq!((held.bytes(), held.of(Kind::Volumes)), (4_000 - 250 * 10, 300 - 250));
        let error = greedy[5].charge(Kind::Cached, 1).err().unwrap();
        assert!(error.message().contains("10 of them kept back for each pod"), "{error}");
        let others: Vec<_> = (0..PODS - 6).map(|pod| ledger.account(&format!("pod-{pod}"))).collect();
        for account in &others {
            assert_eq!((account.room(Kind::Cached), account.room(Kind::Volumes)), (10, 1));
            taken.push(account.charge(Kind::Cached, 6).unwrap());
            taken.push(account.charge_up_to(Kind::Rendering, 1, 100).unwrap());
            taken.push(account.charge(Kind::Volumes, 1).unwrap());
            assert_eq!(account.held().bytes(), 10);
            assert!(account.charge(Kind::Kept, 1).is_err() && account.charge(Kind::Volumes, 1).is_err());
        }
        assert_eq!((ledger.held().bytes(), ledger.held().of(Kind::Volumes)), (4_000, 300));
        // Given back, it is there for all again.
        drop(taken);
        assert_eq!((greedy[0].room(Kind::Cached), greedy[0].room(Kind::Volumes)), (1_000, 32));
        assert_eq!(ledger.books.lock().beyond, [0; KINDS]);
    }

    proptest! {
        #[test]
        fn a_pod_is_given_what_is_kept_back_for_it_whatever_happened_before(
            steps in proptest::collection::vec((0..8usize, 0..COUNTED_FROM, 0..1_200usize, 0..3u8), 1..200)
        ) {
            let ledger = Ledger::new(kept_back());
            let accounts: Vec<_> = (0..8).map(|pod| ledger.account(&pod.to_string())).collect();
            let mut charges: Vec<Charge> = Vec::new();
            for (pod, kind, amount, what) in steps {
                match what {
                    0 if !charges.is_empty() => drop(charges.swap_remove(amount % charges.len())),
                    1 if !charges.is_empty() => {
                        let at = amount % charges.len();
                        let _ = charges[at].resize(amount);
                    }
                    _ => charges.extend(accounts[pod].charge(Kind::ALL[kind], amount).ok()),
                }
                prop_assert!(ledger.held().bytes() <= 4_000);
                for account in accounts.iter().filter(|account| account.held().bytes() < 10) {
                    prop_assert!(account.charge(Kind::Cached, 10 - account.held().bytes()).is_ok());
                }
            }
        }

        #[test]
        fn the_nodes_sum_is_the_sum_of_the_pods_and_no_limit_is_ever_exceeded(
            steps in proptest::collection::vec((0..3usize, 0..KINDS, 0..80usize, any::<bool>()), 1..200)
        ) {
            let ledger = Ledger::new(limits());
            let accounts: Vec<_> = ["a", "b", "c"].iter().map(|pod| ledger.account(pod)).collect();
            let mut charges: Vec<Charge> = Vec::new();
            for (pod, kind, amount, give_back) in steps {
                if give_back && !charges.is_empty() {
                    charges.swap_remove(amount % charges.len());
                } else if let Ok(charge) = accounts[pod].charge(Kind::ALL[kind], amount) {
                    charges.push(charge);
                }
                let node = ledger.held();
                prop_assert!(node.bytes() <= 150 && node.of(Kind::Volumes) <= 3);
                for kind in Kind::ALL {
                    let pods: usize = accounts.iter().map(|account| account.held().of(*kind)).sum();
                    prop_assert_eq!(pods, node.of(*kind));
                    let charged = charges.iter().filter(|charge| charge.kind == *kind);
                    prop_assert_eq!(charged.map(|charge| charge.amount).sum::<usize>(), node.of(*kind));
                }
                prop_assert!(accounts.iter().all(|account| account.held().bytes() <= 100));
            }
        }
    }
}
