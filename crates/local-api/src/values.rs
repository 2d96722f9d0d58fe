//! Which values are held only because an answer with them waits to be read.

use std::collections::HashMap;
use std::sync::Arc;

use keyward_core::{Result, SecretBytes};
use parking_lot::Mutex;

use crate::pool::{Pool, Taken};

/// The values of answers under way. A value in place is held, and accounted, by the cache already: answers share it and
/// cost nothing more. One that was read for a single answer, or that was replaced while an older answer still holds it,
/// is charged.
pub(crate) struct Values {
    pool: Arc<Pool>,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    /// By the address of the bytes, which is unique while they are held.
    held: HashMap<usize, Entry>,
    /// The newest value of each name, by address.
    newest: HashMap<String, usize>,
}

struct Entry {
    holders: usize,
    length: usize,
    charge: Option<Taken>,
    /// The names whose newest value it is; aliases share one value.
    names: Vec<String>,
}

/// A value that an answer holds.
pub(crate) struct HeldValue {
    value: SecretBytes,
    values: Arc<Values>,
}

impl Values {
    pub(crate) fn new(pool: Arc<Pool>) -> Arc<Self> {
        Arc::new(Self { pool, books: Mutex::default() })
    }

    /// Holds the value of `name`; `in_place` says that a lookup of the name would find it now.
    ///
    /// # Errors
    /// `KW_NO_SPACE` when replaced values that wait to be read, or this one, exceed what may be held.
    pub(crate) fn hold(
        self: &Arc<Self>,
        name: &str,
        value: &SecretBytes,
        in_place: bool,
    ) -> Result<HeldValue> {
        let address = address(value);
        let mut books = self.books.lock();
        let Books { held, newest } = &mut *books;
        if in_place
            && let Some(older) = newest.get(name).filter(|older| **older != address)
            && let Some(older) = held.get_mut(older)
            && older.charge.is_none()
        {
            older.charge = Some(self.pool.take(older.length)?);
        }
        let known = held.get(&address).is_some_and(|entry| in_place || entry.charge.is_some());
        let charge = if in_place || known { None } else { Some(self.pool.take(value.len())?) };
        let entry = held.entry(address).or_insert_with(|| Entry {
            holders: 0,
            length: value.len(),
            charge: None,
            names: Vec::new(),
        });
        entry.holders = entry.holders.saturating_add(1);
        if charge.is_some() {
            entry.charge = charge;
        }
        if in_place && newest.get(name) != Some(&address) {
            newest.insert(name.to_owned(), address);
            entry.names.push(name.to_owned());
        }
        drop(books);
        Ok(HeldValue { value: value.clone(), values: Arc::clone(self) })
    }
}

/// Where the bytes are; no bytes are nowhere.
fn address(value: &SecretBytes) -> usize {
    if value.is_empty() { 0 } else { value.expose().as_ptr().addr() }
}

impl AsRef<[u8]> for HeldValue {
    fn as_ref(&self) -> &[u8] {
        self.value.expose()
    }
}

impl Drop for HeldValue {
    fn drop(&mut self) {
        let address = address(&self.value);
        let mut books = self.values.books.lock();
        let Some(entry) = books.held.get_mut(&address) else { return };
        entry.holders = entry.holders.saturating_sub(1);
        if entry.holders > 0 {
            return;
        }
        let names = books.held.remove(&address).map(|entry| entry.names).unwrap_or_default();
        for name in names {
            if books.newest.get(&name) == Some(&address) {
                books.newest.remove(&name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_core::ledger::{Account, Held, Kind};

    fn value(byte: u8) -> SecretBytes {
        SecretBytes::copy_from(&[byte; 1000])
    }

    #[test]
    fn a_value_in_place_is_shared_and_its_replacement_makes_the_older_one_count_once() {
        let account = Account::unlimited();
        let values = Values::new(Pool::new(account.clone(), Kind::Answers, 1500, 1));
        let (first, second, third) = (value(1), value(2), value(3));
        let held: Vec<_> = (0..100).map(|_| values.hold("db", &first, true).unwrap()).collect();
        assert_eq!(account.held(), Held::default());
        let newer = values.hold("db", &second, true).unwrap();
        assert_eq!(account.held().bytes(), 1000, "the first value is held for its answers only");
        // Another replacement would hold two old values for answers that are not read.
        assert!(values.hold("db", &third, true).is_err());
        drop(held);
        assert_eq!(account.held(), Held::default());
        let _newest = values.hold("db", &third, true).unwrap();
        assert_eq!(account.held().bytes(), 1000);
        drop(newer);
        assert_eq!(account.held(), Held::default());
    }

    #[test]
    fn a_value_that_was_read_for_one_answer_is_charged_at_once_and_only_once() {
        let account = Account::unlimited();
        let values = Values::new(Pool::new(account.clone(), Kind::Answers, 1500, 1));
        let old = value(1);
        let held = [values.hold("db", &old, false).unwrap(), values.hold("db", &old, false).unwrap()];
        assert_eq!(account.held().bytes(), 1000);
        assert!(values.hold("db", &value(2), false).is_err());
        drop(held);
        assert_eq!(account.held(), Held::default());
        let books = values.books.lock();
        assert!(books.held.is_empty() && books.newest.is_empty());
    }
}
