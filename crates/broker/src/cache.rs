use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use keyward_core::{IdentityKey, ObjectKey};

use crate::entry::Entry;

/// Entries by their whole key. Watched entries stay; the others make room, least recently used first.
#[derive(Default)]
pub(crate) struct Cache {
    entries: HashMap<ObjectKey, Slot>,
    weight: usize,
    next_id: u64,
}

struct Slot {
    entry: Arc<Entry>,
    weight: usize,
}

impl Cache {
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<&Arc<Entry>> {
        self.entries.get(key).map(|slot| &slot.entry)
    }

    pub(crate) fn get_or_insert(&mut self, key: &ObjectKey, now: Duration) -> Arc<Entry> {
        if let Some(slot) = self.entries.get(key) {
            return slot.entry.clone();
        }
        self.next_id += 1;
        let entry = Arc::new(Entry::new(self.next_id, key.clone(), now));
        let weight = entry.weight();
        self.weight += weight;
        self.entries.insert(key.clone(), Slot { entry: entry.clone(), weight });
        entry
    }

    /// Takes note of what `entry` weighs now. An entry that was dropped meanwhile stays dropped.
    pub(crate) fn weigh(&mut self, entry: &Arc<Entry>) {
        if let Some(slot) = self.entries.get_mut(&entry.key).filter(|slot| Arc::ptr_eq(&slot.entry, entry)) {
            let weight = entry.weight();
            self.weight = self.weight - slot.weight + weight;
            slot.weight = weight;
        }
    }

    /// Drops idle entries, least recently used first, when `capacity` is exceeded; then to nine tenths of it, so that
    /// the search is not repeated for each further object.
    pub(crate) fn evict(&mut self, capacity: usize) {
        if self.weight <= capacity {
            return;
        }
        let mut idle: Vec<_> =
            self.entries.values().map(|slot| &slot.entry).filter(|entry| entry.is_idle()).cloned().collect();
        idle.sort_unstable_by_key(|entry| (entry.used(), entry.id));
        for entry in idle {
            if self.weight <= capacity / 10 * 9 {
                break;
            }
            self.remove(&entry.key);
        }
    }

    /// Drops idle entries that nobody used since `before`: a value that nobody wants does not stay in memory.
    pub(crate) fn sweep(&mut self, before: Duration) {
        let unused: Vec<_> = self
            .entries
            .values()
            .filter(|slot| slot.entry.is_idle() && slot.entry.used() < before)
            .map(|slot| slot.entry.key.clone())
            .collect();
        for key in unused {
            self.remove(&key);
        }
    }

    /// Drops what `identity` has read and nobody watches. A read under way ends for whoever waits for it.
    pub(crate) fn forget(&mut self, identity: &IdentityKey) {
        let own: Vec<_> = self
            .entries
            .iter()
            .filter(|(key, slot)| *key.identity == *identity && !slot.entry.is_watched())
            .map(|(key, _)| key.clone())
            .collect();
        for key in own {
            self.remove(&key);
        }
    }

    /// Every entry, oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        let mut all: Vec<_> = self.entries.values().map(|slot| slot.entry.clone()).collect();
        all.sort_unstable_by_key(|entry| entry.id);
        all
    }

    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    fn remove(&mut self, key: &ObjectKey) {
        if let Some(slot) = self.entries.remove(key) {
            self.weight -= slot.weight;
        }
    }
}
