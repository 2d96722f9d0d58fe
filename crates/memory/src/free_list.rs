#![expect(clippy::arithmetic_side_effects, reason = "places in one arena, below its capacity")]

use std::collections::BTreeMap;

/// Smallest unit handed out, in bytes; also the alignment of every range.
pub(crate) const GRANULE: usize = 32;

/// First-fit free ranges of a region, coalesced on release. Offsets and lengths in bytes, multiples of [`GRANULE`].
///
/// A process holds hundreds of values, so a linear search is cheaper than anything clever.
#[derive(Debug)]
pub(crate) struct FreeList {
    ranges: BTreeMap<usize, usize>,
}

impl FreeList {
    pub(crate) fn new(capacity: usize) -> Self {
        let mut ranges = BTreeMap::new();
        if capacity >= GRANULE {
            ranges.insert(0, capacity - capacity % GRANULE);
        }
        Self { ranges }
    }

    /// The offset of a free range of `round_up(len)` bytes, or `None` when nothing is large enough.
    pub(crate) fn take(&mut self, len: usize) -> Option<usize> {
        let need = round_up(len)?;
        let (&offset, &available) = self.ranges.iter().find(|(_, available)| **available >= need)?;
        self.ranges.remove(&offset);
        if available > need {
            self.ranges.insert(offset + need, available - need);
        }
        Some(offset)
    }

    /// Gives back what [`Self::take`] handed out for the same `len`.
    pub(crate) fn release(&mut self, offset: usize, len: usize) {
        let Some(mut length) = round_up(len) else { return };
        let mut start = offset;
        if let Some(next) = self.ranges.remove(&(offset + length)) {
            length += next;
        }
        if let Some((&before, &before_len)) = self.ranges.range(..start).next_back()
            && before + before_len == start
        {
            self.ranges.remove(&before);
            start = before;
            length += before_len;
        }
        self.ranges.insert(start, length);
    }
}

/// `len` rounded up to whole granules, at least one.
pub(crate) fn round_up(len: usize) -> Option<usize> {
    len.max(1).checked_next_multiple_of(GRANULE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_full_region_refuses_and_recovers_after_a_release() {
        let mut list = FreeList::new(64);
        let first = list.take(33).unwrap();
        assert_eq!(list.take(1), None);
        list.release(first, 33);
        assert_eq!(list.take(64), Some(0));
    }

    proptest! {
        #[test]
        fn live_ranges_never_overlap_and_everything_comes_back(ops in proptest::collection::vec((0usize..300, any::<bool>()), 1..200)) {
            let mut list = FreeList::new(4096);
            let mut live: Vec<(usize, usize)> = Vec::new();
            for (len, free) in ops {
                if free && !live.is_empty() {
                    let (offset, len) = live.swap_remove(len % live.len());
                    list.release(offset, len);
                } else if let Some(offset) = list.take(len) {
                    let end = offset + round_up(len).unwrap();
                    prop_assert!(end <= 4096);
                    for (other, other_len) in &live {
                        prop_assert!(end <= *other || other + round_up(*other_len).unwrap() <= offset);
                    }
                    live.push((offset, len));
                }
            }
            for (offset, len) in live {
                list.release(offset, len);
            }
            prop_assert_eq!(list.take(4096), Some(0));
        }
    }
}
