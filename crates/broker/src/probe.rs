//! The cheapest way to learn what changed: a listing of metadata when that costs fewer requests than reading each
//! object, otherwise reads.

use std::time::Duration;

use keyward_core::{ObjectMetadata, UnixTime};

/// What is known about listing one collection of a vault as one identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listing {
    /// Whether the identity was not refused lately.
    pub allowed: bool,
    /// How many objects the collection held, or at least held, when it was last listed.
    pub size: Option<usize>,
}

/// What a check does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// List at most `limit` objects, then read those that changed.
    List {
        /// Beyond so many objects the listing would cost as much as the reads.
        limit: usize,
    },
    /// Read each object.
    Gets,
}

/// Vaults beyond this are never listed.
const MOST: usize = 1 << 20;

/// Two writes within one second look alike in a listing, and our clock is not the vault's: an object that was changed
/// so shortly before our last read of it may have been changed again since.
pub const DOUBT: Duration = Duration::from_secs(5);

/// How to check `watched` objects of one identity, vault and collection; `cost` gives the requests that a listing of so
/// many objects takes. A collection that was never listed is taken to hold nothing but the watched objects; `limit`
/// bounds the price of being wrong.
#[must_use]
pub fn plan(watched: usize, listing: Listing, cost: impl Fn(usize) -> usize) -> Plan {
    let size = listing.size.unwrap_or(watched).max(watched);
    if !listing.allowed || size > MOST || cost(size) >= watched {
        return Plan::Gets;
    }
    let (mut affordable, mut beyond) = (size, MOST + 1);
    while beyond - affordable > 1 {
        let middle = affordable + (beyond - affordable) / 2;
        if cost(middle) < watched { affordable = middle } else { beyond = middle }
    }
    Plan::List { limit: affordable }
}

/// What is known about the value in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// The `updated` that came with it.
    pub updated: Option<UnixTime>,
    /// The `updated` that a listing showed, after which the value was read or found unchanged.
    pub listed: Option<UnixTime>,
    /// When its last read began, our wall time; `None` for a restored value.
    pub read: Option<UnixTime>,
}

/// Whether a listing's line (`None`: the object is missing) calls for a read of the object. Doubt does.
#[must_use]
pub fn changed(line: Option<&ObjectMetadata>, held: &Held) -> bool {
    let Some(ObjectMetadata { enabled: true, updated: Some(updated), .. }) = line else { return true };
    let Some(read) = held.read else { return true };
    let seen = held.updated == Some(*updated) || held.listed == Some(*updated);
    !seen || updated.saturating_add(DOUBT) >= read
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_core::{Collection, ObjectRef, VaultHost};
    use proptest::prelude::*;

    fn pages(count: usize) -> usize {
        count.div_ceil(25).max(1)
    }

    fn line(enabled: bool, updated: Option<u64>) -> ObjectMetadata {
        let host = VaultHost::parse("shop.vault.azure.net").unwrap();
        let object = ObjectRef::new(host, Collection::Secrets, "db", None).unwrap();
        ObjectMetadata { object, enabled, updated: updated.map(Duration::from_secs) }
    }

    #[test]
    fn a_hundred_objects_of_a_hundred_are_listed_and_one_is_read() {
        let unknown = Listing { allowed: true, size: None };
        assert_eq!(plan(100, unknown, pages), Plan::List { limit: 99 * 25 });
        assert_eq!(plan(1, unknown, pages), Plan::Gets);
        assert_eq!(plan(2, unknown, pages), Plan::List { limit: 25 });
        assert_eq!(plan(2, Listing { allowed: true, size: Some(26) }, pages), Plan::Gets);
        assert_eq!(plan(100, Listing { allowed: false, size: None }, pages), Plan::Gets);
    }

    #[test]
    fn a_line_is_believed_only_when_it_is_known_enabled_and_older_than_the_last_read() {
        let at = Duration::from_secs;
        let held = Held { updated: Some(at(100)), listed: Some(at(90)), read: Some(at(200)) };
        assert!(!changed(Some(&line(true, Some(100))), &held));
        assert!(!changed(Some(&line(true, Some(90))), &held));
        assert!(changed(Some(&line(true, Some(101))), &held));
        assert!(changed(Some(&line(false, Some(100))), &held));
        assert!(changed(Some(&line(true, None)), &held));
        assert!(changed(None, &held));
        assert!(changed(Some(&line(true, Some(100))), &Held { read: None, ..held }));
    }

    proptest! {
        #[test]
        fn a_listing_is_chosen_only_when_it_is_cheaper_and_its_limit_is_the_last_cheaper_one(
            watched in 1usize..3_000,
            allowed in any::<bool>(),
            size in proptest::option::of(0usize..100_000),
        ) {
            let known = size.unwrap_or(watched).max(watched);
            match plan(watched, Listing { allowed, size }, pages) {
                Plan::List { limit } => {
                    prop_assert!(allowed && pages(known) < watched && limit >= known);
                    prop_assert!(pages(limit) < watched && pages(limit + 1) >= watched);
                }
                Plan::Gets => prop_assert!(!allowed || pages(known) >= watched),
            }
        }

        #[test]
        fn a_write_in_the_second_of_the_last_read_or_the_five_before_is_in_doubt(read in 1_000u64..2_000, before in 0u64..20) {
            let updated = Duration::from_secs(read - before);
            let held = Held { updated: Some(updated), listed: Some(updated), read: Some(Duration::from_secs(read)) };
            prop_assert_eq!(changed(Some(&line(true, Some(read - before))), &held), before <= 5);
        }
    }
}
