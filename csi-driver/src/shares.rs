//! What a pod is charged for its volumes as long as they exist: places, descriptors, files, vault hosts, and the values
//! that are about to be read.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use keyward_core::ledger::{Account, Charge, Kind};
use keyward_core::{Result, VaultHost};
use keyward_volume::LARGEST_VALUE;
use parking_lot::Mutex;

/// Descriptors of one volume: its root, the directory that is written to, the socket, and one for each of those that a
/// call needs for a moment.
const DESCRIPTORS: usize = 6;

/// One volume's shares, from before it is made until its files are gone.
pub(crate) struct Shares {
    /// Its place among the volumes, and its descriptors.
    _places: [Charge; 2],
    /// The most that its tmpfs can hold.
    staged: Mutex<Charge>,
    /// The record of how it was declared, in the state directory and in memory.
    record: Mutex<Charge>,
}

impl Shares {
    /// Takes a place for a volume that is to be made.
    ///
    /// # Errors
    /// `KW_LIMIT_EXCEEDED`, naming the limit.
    pub(crate) fn admit(account: &Account) -> Result<Arc<Self>> {
        let places = [account.charge(Kind::Volumes, 1)?, account.charge(Kind::Descriptors, DESCRIPTORS)?];
        Ok(Arc::new(Self {
            _places: places,
            staged: Mutex::new(account.charge(Kind::Staged, 0)?),
            record: Mutex::new(account.charge(Kind::Kept, 0)?),
        }))
    }

    /// Those of a volume that is mounted already, with a tmpfs of `bytes`. Never refused.
    pub(crate) fn mounted(account: &Account, bytes: u64) -> Arc<Self> {
        let places = [account.take(Kind::Volumes, 1), account.take(Kind::Descriptors, DESCRIPTORS)];
        let staged = account.take(Kind::Staged, size(bytes));
        let record = account.take(Kind::Kept, 0);
        Arc::new(Self { _places: places, staged: Mutex::new(staged), record: Mutex::new(record) })
    }

    /// Charges a tmpfs that is made, or grows, to `bytes`. It never shrinks.
    ///
    /// # Errors
    /// `KW_NO_SPACE`; the tmpfs must stay as it is then.
    pub(crate) fn stage(&self, bytes: u64) -> Result<()> {
        let mut staged = self.staged.lock();
        let bytes = size(bytes).max(staged.amount());
        staged.resize(bytes)
    }

    /// Charges the record of a volume, which has `bytes` as a file and is held in memory too.
    ///
    /// # Errors
    /// `KW_NO_SPACE`; it must not be written then.
    pub(crate) fn record(&self, bytes: usize) -> Result<()> {
        self.record.lock().resize(bytes.saturating_mul(2))
    }

    /// The same for a volume that is mounted already. Never refused.
    pub(crate) fn recorded(&self, account: &Account, bytes: usize) {
        *self.record.lock() = account.take(Kind::Kept, bytes.saturating_mul(2));
    }
}

/// Charges values before they are read, by the largest that a vault gives.
///
/// # Errors
/// `KW_NO_SPACE`.
pub(crate) fn values(account: &Account, objects: usize) -> Result<Charge> {
    account.charge(Kind::Cached, objects.saturating_mul(LARGEST_VALUE))
}

/// The vault hosts of every pod, each charged once however many of its volumes ask there.
#[derive(Default)]
pub(crate) struct Hosts(Mutex<HashMap<(String, VaultHost), Weak<Charge>>>);

/// Those of one volume, as long as it asks there.
#[derive(Default)]
pub(crate) struct OfVolume {
    _charges: Vec<Arc<Charge>>,
}

impl Hosts {
    /// Charges the `hosts` of a volume of the pod with this UID.
    ///
    /// # Errors
    /// `KW_LIMIT_EXCEEDED` when the pod would ask more hosts than it may. Nobody is asked then.
    pub(crate) fn admit(&self, account: &Account, pod: &str, hosts: BTreeSet<VaultHost>) -> Result<OfVolume> {
        self.each(pod, hosts, || account.charge(Kind::Hosts, 1))
    }

    /// Those of a volume that is mounted already. Never refused.
    pub(crate) fn mounted(&self, account: &Account, pod: &str, hosts: BTreeSet<VaultHost>) -> OfVolume {
        self.each(pod, hosts, || Ok(account.take(Kind::Hosts, 1))).unwrap_or_default()
    }

    fn each(
        &self,
        pod: &str,
        hosts: BTreeSet<VaultHost>,
        charge: impl Fn() -> Result<Charge>,
    ) -> Result<OfVolume> {
        let mut known = self.0.lock();
        known.retain(|_, charge| charge.strong_count() > 0);
        let mut charges = Vec::with_capacity(hosts.len());
        for host in hosts {
            let key = (pod.to_owned(), host);
            let charged = match known.get(&key).and_then(Weak::upgrade) {
                Some(charged) => charged,
                None => {
                    let charged = Arc::new(charge()?);
                    known.insert(key, Arc::downgrade(&charged));
                    charged
                }
            };
            charges.push(charged);
        }
        Ok(OfVolume { _charges: charges })
    }
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use keyward_core::Code;
    use keyward_core::config::node::parse;
    use keyward_core::ledger::Ledger;

    use super::*;

    fn account() -> Account {
        let text = "limits: {volumesPerPod: 2, hostsPerPod: 2, descriptorsPerPod: 12, bytesPerPod: 65536}";
        Ledger::new(parse(text.as_bytes()).unwrap().limits.ledger(1000)).account("pod")
    }

    fn hosts(names: &[&str]) -> BTreeSet<VaultHost> {
        names.iter().map(|name| VaultHost::parse(&format!("{name}.vault.azure.net")).unwrap()).collect()
    }

    #[test]
    fn volumes_and_their_files_are_held_to_the_pods_share_and_given_back_with_them() {
        let account = account();
        let shares = [Shares::admit(&account).unwrap(), Shares::admit(&account).unwrap()];
        let error = Shares::admit(&account).err().unwrap();
        assert_eq!(error.code(), Code::LimitExceeded);
        assert!(error.message().contains("limits.volumesPerPod"), "{error}");
        shares[0].stage(40_000).unwrap();
        shares[0].stage(1).unwrap();
        let error = shares[1].stage(30_000).err().unwrap();
        assert_eq!((error.code(), account.held().of(Kind::Staged)), (Code::NoSpace, 40_000));
        shares[0].record(12_000).unwrap();
        assert_eq!(account.held().of(Kind::Kept), 24_000);
        assert_eq!(shares[1].record(800).err().unwrap().code(), Code::NoSpace);
        drop(shares);
        assert_eq!(account.held(), keyward_core::ledger::Held::default());
        // After a restart, what is mounted counts, whatever the limits are by now.
        let mounted: Vec<_> = (0..3).map(|_| Shares::mounted(&account, 40_000)).collect();
        assert_eq!((account.held().of(Kind::Volumes), account.held().bytes()), (3, 120_000));
        assert!(Shares::admit(&account).is_err());
        mounted[0].recorded(&account, 30_000);
        assert_eq!(account.held().bytes(), 180_000);
        drop(mounted);
    }

    #[test]
    fn a_host_counts_once_for_a_pod_however_many_volumes_ask_there() {
        let (account, all) = (account(), Hosts::default());
        let first = all.admit(&account, "pod", hosts(&["a", "b"])).unwrap();
        let second = all.admit(&account, "pod", hosts(&["b"])).unwrap();
        let error = all.admit(&account, "pod", hosts(&["c"])).err().unwrap();
        assert_eq!(error.code(), Code::LimitExceeded);
        assert!(error.message().contains("limits.hostsPerPod"), "{error}");
        drop(first);
        assert_eq!(account.held().of(Kind::Hosts), 1);
        let third = all.admit(&account, "pod", hosts(&["c"])).unwrap();
        drop((second, third));
        assert_eq!(account.held().of(Kind::Hosts), 0);
        let _mounted = all.mounted(&account, "pod", hosts(&["a", "b", "c"]));
        assert_eq!(account.held().of(Kind::Hosts), 3);
    }

    #[test]
    fn values_are_charged_by_the_largest_that_a_vault_gives_before_they_are_read() {
        let account = account();
        let two = values(&account, 2).unwrap();
        assert_eq!(two.amount(), 2 * (26 << 10));
        assert_eq!(values(&account, 1).err().unwrap().code(), Code::NoSpace);
    }
}
