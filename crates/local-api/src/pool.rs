//! Amounts that calls take from the pod's account many times a second, without a lock for each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use keyward_core::ledger::{Account, Charge, Kind};
use keyward_core::{Code, Error, Result};
use parking_lot::Mutex;

/// What one server holds of a kind. It charges the account in blocks, so that a call inside the block in hand costs two
/// atomic operations; one block stays charged while a connection is open.
pub(crate) struct Pool {
    account: Account,
    kind: Kind,
    /// The most that this server may hold, whatever the account allows.
    most: usize,
    /// What is charged at a time.
    block: usize,
    used: AtomicUsize,
    /// What the account has granted. Lowered only under the lock of `charge`.
    granted: AtomicUsize,
    charge: Mutex<Option<Charge>>,
    /// Whether the block in hand may stay charged.
    open: AtomicBool,
}

/// An amount that is held until this is dropped.
pub(crate) struct Taken {
    pool: Arc<Pool>,
    amount: usize,
}

impl Pool {
    pub(crate) fn new(account: Account, kind: Kind, most: usize, block: usize) -> Arc<Self> {
        Arc::new(Self {
            account,
            kind,
            most,
            block: block.max(1),
            used: AtomicUsize::new(0),
            granted: AtomicUsize::new(0),
            charge: Mutex::new(None),
            open: AtomicBool::new(false),
        })
    }

    /// Takes `amount`.
    ///
    /// # Errors
    /// `KW_NO_SPACE` or `KW_LIMIT_EXCEEDED` when the server, the pod or the node holds too much already.
    pub(crate) fn take(self: &Arc<Self>, amount: usize) -> Result<Taken> {
        self.reserve(amount)?;
        Ok(Taken { pool: Arc::clone(self), amount })
    }

    /// As [`Self::take`]; the caller gives it back.
    ///
    /// # Errors
    /// Those of [`Self::take`].
    pub(crate) fn reserve(&self, amount: usize) -> Result<()> {
        // Counted before the grant is read, and a grant is lowered before the count is read: one of the two sees the
        // other, so that the count never stays above the grant.
        let used = self.used.fetch_add(amount, Ordering::SeqCst).saturating_add(amount);
        if used > self.granted.load(Ordering::SeqCst)
            && let Err(error) = self.grow()
        {
            self.give_back(amount);
            return Err(error);
        }
        Ok(())
    }

    /// Says whether any connection is open. Without one nothing stays charged that is not held.
    pub(crate) fn open(&self, open: bool) {
        self.open.store(open, Ordering::SeqCst);
        if !open {
            self.shrink();
        }
    }

    fn grow(&self) -> Result<()> {
        let mut charge = self.charge.lock();
        let used = self.used.load(Ordering::SeqCst);
        if used <= self.granted.load(Ordering::SeqCst) {
            return Ok(());
        }
        if used > self.most {
            return Err(self.full());
        }
        // A whole block where the account has it, else what is needed.
        let whole = used.div_ceil(self.block).saturating_mul(self.block).min(self.most);
        let granted = match self.recharge(&mut charge, whole) {
            Ok(()) => whole,
            Err(_) => self.recharge(&mut charge, used).map(|()| used)?,
        };
        self.granted.store(granted, Ordering::SeqCst);
        Ok(())
    }

    fn recharge(&self, charge: &mut Option<Charge>, amount: usize) -> Result<()> {
        match charge {
            Some(charge) => charge.resize(amount),
            None => self.account.charge(self.kind, amount).map(|new| *charge = Some(new)),
        }
    }

    /// Gives back what [`Self::reserve`] granted.
    pub(crate) fn give_back(&self, amount: usize) {
        let used = self.used.fetch_sub(amount, Ordering::SeqCst).saturating_sub(amount);
        let granted = self.granted.load(Ordering::SeqCst);
        // One spare block, so that calls at the edge of a block do not charge and give back in turn.
        let spare = if self.in_blocks(granted) { self.block.saturating_mul(2) } else { 0 };
        if granted > used.saturating_add(spare) {
            self.shrink();
        }
    }

    /// Whether spare blocks may stay charged: while a connection is open, unless the account had less than a block left.
    fn in_blocks(&self, granted: usize) -> bool {
        self.open.load(Ordering::SeqCst) && granted.is_multiple_of(self.block)
    }

    fn shrink(&self) {
        let mut charge = self.charge.lock();
        let used = self.used.load(Ordering::SeqCst);
        let granted = self.granted.load(Ordering::SeqCst);
        let mut wanted = match self.in_blocks(granted) {
            true => used.max(1).div_ceil(self.block).saturating_mul(self.block),
            false => used,
        };
        if wanted >= granted {
            return;
        }
        self.granted.store(wanted, Ordering::SeqCst);
        // Who took meanwhile and saw the old grant keeps what it took.
        wanted = self.used.load(Ordering::SeqCst).clamp(wanted, granted);
        self.granted.store(wanted, Ordering::SeqCst);
        if wanted == 0 {
            *charge = None;
        } else if let Some(charge) = &mut *charge {
            // Giving back is never refused.
            let _ = charge.resize(wanted);
        }
    }

    fn full(&self) -> Error {
        let most = self.most;
        if self.kind.is_bytes() {
            let message = format!(
                "more than {most} bytes wait to be read from this socket; read the answers, or ask for fewer at a time"
            );
            Error::new(Code::NoSpace, message)
        } else {
            let message =
                format!("more than {most} calls are under way on this socket; wait for some to end");
            Error::new(Code::LimitExceeded, message)
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.pool.give_back(self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_core::ledger::{Held, Ledger, Limit, Limits};
    use proptest::prelude::*;

    fn account(most: usize) -> Account {
        let limit =
            Limit { pod: most, node: most, own: 0, pod_setting: "limits.pod", node_setting: "limits.node" };
        Ledger::new(Limits::default().with_bytes(limit)).account("a")
    }

    #[test]
    fn it_charges_in_blocks_keeps_one_while_a_connection_is_open_and_nothing_after() {
        let account = account(1000);
        let pool = Pool::new(account.clone(), Kind::Answers, 1000, 100);
        pool.open(true);
        let first = pool.take(30).unwrap();
        assert_eq!(account.held().bytes(), 100);
        let second = pool.take(500).unwrap();
        assert_eq!(account.held().bytes(), 600);
        drop(second);
        assert_eq!(account.held().bytes(), 100);
        drop(first);
        assert_eq!(account.held().bytes(), 100);
        pool.open(false);
        assert_eq!(account.ledger().held(), Held::default());
    }

    #[test]
    fn the_servers_own_limit_and_the_accounts_are_both_exact() {
        let pool = Pool::new(account(1000), Kind::Answers, 250, 100);
        let _held = pool.take(250).unwrap();
        let error = pool.take(1).err().unwrap();
        assert!(error.code() == Code::NoSpace && error.message().contains("250 bytes"), "{error}");
        // Less than a block is left in the account.
        let pool = Pool::new(account(150), Kind::Answers, 1000, 100);
        let _held = pool.take(150).unwrap();
        let error = pool.take(1).err().unwrap();
        assert!(error.message().contains("limits.pod"), "{error}");
    }

    #[test]
    fn threads_that_take_and_give_at_once_never_hold_more_than_is_charged() {
        let account = account(usize::MAX);
        let pool = Pool::new(account.clone(), Kind::Answers, usize::MAX, 64);
        pool.open(true);
        std::thread::scope(|scope| {
            for thread in 0..4usize {
                let (pool, account) = (&pool, &account);
                scope.spawn(move || {
                    for turn in 0..2_000usize {
                        let amount = (turn * 37 + thread * 11) % 300;
                        let _taken = pool.take(amount).unwrap();
                        assert!(account.held().bytes() >= amount);
                    }
                });
            }
        });
        pool.open(false);
        assert_eq!(account.held(), Held::default());
    }

    proptest! {
        #[test]
        fn what_is_charged_covers_what_is_held_and_no_limit_is_exceeded(
            steps in proptest::collection::vec((0usize..400, any::<bool>(), 0u8..20), 1..120)
        ) {
            let account = account(900);
            let pool = Pool::new(account.clone(), Kind::Answers, 700, 64);
            let mut held: Vec<Taken> = Vec::new();
            for (amount, give_back, open) in steps {
                if open < 2 {
                    pool.open(open == 0);
                }
                if give_back && !held.is_empty() {
                    held.swap_remove(amount % held.len());
                } else {
                    let sum: usize = held.iter().map(|taken| taken.amount).sum();
                    match pool.take(amount) {
                        Ok(taken) => held.push(taken),
                        Err(_) => prop_assert!(sum + amount > 700),
                    }
                }
                let sum: usize = held.iter().map(|taken| taken.amount).sum();
                let charged = account.held().bytes();
                prop_assert!(charged >= sum && charged <= 700 && sum <= 700, "{charged} {sum}");
                prop_assert!(charged <= sum + 3 * 64);
            }
            held.clear();
            pool.open(false);
            prop_assert_eq!(account.held(), Held::default());
        }
    }
}
