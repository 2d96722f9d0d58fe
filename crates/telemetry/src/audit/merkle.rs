//! The Merkle tree of RFC 6962 §2.1 (kept by RFC 9162 §2.1) with SHA-256: roots, proofs and their verification.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "numbers of records below 2^64, compared before they are subtracted; a tree of that size has never been written"
)]

use std::ops::Range;

use aws_lc_rs::digest::{Context, SHA256, digest};

/// A leaf, node or root.
pub type Hash = [u8; 32];

/// The hash of a leaf's bytes: SHA-256(0x00 ‖ bytes).
#[must_use]
pub fn leaf_hash(bytes: &[u8]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&[0]);
    context.update(bytes);
    hash(context.finish().as_ref())
}

/// The hash of an inner node: SHA-256(0x01 ‖ left ‖ right).
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&[1]);
    context.update(left);
    context.update(right);
    hash(context.finish().as_ref())
}

#[expect(clippy::expect_used, reason = "the length is the algorithm's")]
fn hash(bytes: &[u8]) -> Hash {
    bytes.try_into().expect("SHA-256 gives 32 bytes")
}

/// A growing tree of which only the roots of its complete subtrees are kept: at most 64 hashes for any size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// One root for each bit set in `size`, the largest subtree first.
    roots: Vec<Hash>,
}

impl Frontier {
    /// Adds one leaf by its hash.
    #[expect(clippy::expect_used, reason = "there is a root for each bit set in the size")]
    pub fn push(&mut self, leaf: Hash) {
        let mut node = leaf;
        let mut size = self.size;
        while size & 1 == 1 {
            let left = self.roots.pop().expect("a set bit of the size has a root");
            node = node_hash(&left, &node);
            size >>= 1;
        }
        self.roots.push(node);
        self.size += 1;
    }

    /// How many leaves there are.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root of the whole tree; SHA-256 of nothing for an empty one.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.roots
            .iter()
            .rev()
            .copied()
            .reduce(|right, left| node_hash(&left, &right))
            .unwrap_or_else(|| hash(digest(&SHA256, b"").as_ref()))
    }
}

/// Computes the roots of given ranges of leaves while the leaves stream by, so that a proof from a long log costs
/// O(log² n) memory.
#[derive(Debug)]
pub struct RangeRoots {
    ranges: Vec<(Range<u64>, Frontier)>,
    next: u64,
}

impl RangeRoots {
    /// For the subtrees that prove leaf `index` in a tree of `size`, leaf to root; `None` when there is no such leaf.
    #[must_use]
    pub fn inclusion(index: u64, size: u64) -> Option<Self> {
        if index >= size {
            return None;
        }
        let (mut low, mut high) = (0, size);
        let mut ranges = Vec::new();
        while high - low > 1 {
            let middle = low + split(high - low);
            if index < middle {
                ranges.push(middle..high);
                high = middle;
            } else {
                ranges.push(low..middle);
                low = middle;
            }
        }
        Some(Self::new(ranges))
    }

    /// For the subtrees that prove that the tree of `first` leaves is a prefix of the tree of `second`; `None` unless
    /// `1 ≤ first ≤ second`.
    #[must_use]
    pub fn consistency(first: u64, second: u64) -> Option<Self> {
        if first == 0 || first > second {
            return None;
        }
        let (mut low, mut high) = (0, second);
        let mut ranges = Vec::new();
        while high != first {
            let middle = low + split(high - low);
            if first <= middle {
                ranges.push(middle..high);
                high = middle;
            } else {
                ranges.push(low..middle);
                low = middle;
            }
        }
        // The verifier holds the first root already when the first tree is the left-most subtree itself.
        if low != 0 {
            ranges.push(low..high);
        }
        Some(Self::new(ranges))
    }

    fn new(mut ranges: Vec<Range<u64>>) -> Self {
        ranges.reverse();
        Self { ranges: ranges.into_iter().map(|range| (range, Frontier::default())).collect(), next: 0 }
    }

    /// Takes the next leaf of the log, from leaf 0 on.
    pub fn push(&mut self, leaf: Hash) {
        if let Some((_, frontier)) = self.ranges.iter_mut().find(|(range, _)| range.contains(&self.next)) {
            frontier.push(leaf);
        }
        self.next += 1;
    }

    /// The proof; `None` when leaves are missing.
    #[must_use]
    pub fn finish(self) -> Option<Vec<Hash>> {
        self.ranges
            .iter()
            .map(|(range, frontier)| (frontier.size() == range.end - range.start).then(|| frontier.root()))
            .collect()
    }
}

/// The largest power of two strictly below `size`, which is at least 2.
fn split(size: u64) -> u64 {
    1 << (63 - (size - 1).leading_zeros())
}

/// Whether `proof` shows that `leaf` is number `index` of the tree of `size` leaves with `root` (RFC 9162 §2.1.3.2).
#[must_use]
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut node, mut last, mut result) = (index, size - 1, *leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            result = node_hash(sibling, &result);
            (node, last) = skip_left_edges(node, last);
        } else {
            result = node_hash(&result, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    last == 0 && result == *root
}

/// Whether `proof` shows that the tree of `first` leaves and root `old` is a prefix of the tree of `second` leaves and
/// root `new` (RFC 9162 §2.1.4.2). An empty first tree is a prefix of every tree.
#[must_use]
pub fn verify_consistency(first: u64, second: u64, old: &Hash, new: &Hash, proof: &[Hash]) -> bool {
    if first > second {
        return false;
    }
    if first == second {
        return proof.is_empty() && old == new;
    }
    if first == 0 {
        return proof.is_empty() && *old == Frontier::default().root();
    }
    let (start, rest) = if first.is_power_of_two() {
        (old, proof)
    } else {
        match proof.split_first() {
            Some(split) => split,
            None => return false,
        }
    };
    let trailing = (first - 1).trailing_ones();
    let (mut node, mut last) = (first.wrapping_sub(1) >> trailing, (second - 1) >> trailing);
    let (mut old_root, mut new_root) = (*start, *start);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            old_root = node_hash(sibling, &old_root);
            new_root = node_hash(sibling, &new_root);
            (node, last) = skip_left_edges(node, last);
        } else {
            new_root = node_hash(&new_root, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    last == 0 && old_root == *old && new_root == *new
}

/// A node without a right sibling rises unchanged until it is a right child.
fn skip_left_edges(node: u64, last: u64) -> (u64, u64) {
    if node == 0 {
        return (node, last);
    }
    let steps = node.trailing_zeros();
    (node >> steps, last >> steps)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Leaves and roots of certificate-transparency's own test data, as every implementation of RFC 6962 has them.
    const LEAVES: [&[u8]; 8] =
        [b"", b"\x00", b"\x10", b" !", b"01", b"@ABC", b"PQRSTUVW", b"`abcdefghijklmno"];
    const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    fn tree(size: u64) -> Frontier {
        let mut tree = Frontier::default();
        (0..size).for_each(|i| tree.push(leaf_hash(&i.to_be_bytes())));
        tree
    }

    fn proof(mut ranges: RangeRoots, size: u64) -> Vec<Hash> {
        (0..size).for_each(|i| ranges.push(leaf_hash(&i.to_be_bytes())));
        ranges.finish().unwrap()
    }

    #[test]
    fn the_roots_of_the_known_leaves_are_the_published_ones() {
        let mut tree = Frontier::default();
        let hex = |hash: Hash| hash.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(tree.root()), ROOTS[0]);
        for (leaf, root) in LEAVES.iter().zip(&ROOTS[1..]) {
            tree.push(leaf_hash(leaf));
            assert_eq!(hex(tree.root()), *root);
        }
    }

    #[test]
    fn every_leaf_of_every_small_tree_is_proved_and_no_other_leaf_is() {
        for size in 1..=33 {
            for index in 0..size {
                let path = proof(RangeRoots::inclusion(index, size).unwrap(), size);
                let leaf = leaf_hash(&index.to_be_bytes());
                let root = tree(size).root();
                assert!(verify_inclusion(&leaf, index, size, &path, &root), "{index} of {size}");
                for wrong in (0..size).filter(|wrong| *wrong != index) {
                    assert!(
                        !verify_inclusion(&leaf, wrong, size, &path, &root),
                        "{index} as {wrong} of {size}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_small_tree_is_proved_to_be_a_prefix_of_every_larger_one() {
        for second in 1..=33 {
            for first in 1..=second {
                let path = proof(RangeRoots::consistency(first, second).unwrap(), second);
                let (old, new) = (tree(first).root(), tree(second).root());
                assert!(verify_consistency(first, second, &old, &new, &path), "{first} in {second}");
                if first < second {
                    assert!(!verify_consistency(first, second, &new, &new, &path), "{first} in {second}");
                    assert!(!verify_consistency(first, second, &old, &old, &path), "{first} in {second}");
                }
            }
        }
    }

    #[test]
    fn there_is_no_proof_for_what_is_not_in_the_tree() {
        assert!(RangeRoots::inclusion(3, 3).is_none());
        assert!(RangeRoots::consistency(0, 3).is_none());
        assert!(RangeRoots::consistency(4, 3).is_none());
        assert!(RangeRoots::inclusion(0, 2).unwrap().finish().is_none(), "leaves are missing");
    }

    proptest! {
        #[test]
        fn a_changed_proof_proves_nothing(size in 2u64..200, pick: prop::sample::Index, at: prop::sample::Index, bit in 0usize..256) {
            let index = pick.index(usize::try_from(size).unwrap()) as u64;
            let mut path = proof(RangeRoots::inclusion(index, size).unwrap(), size);
            let (leaf, root) = (leaf_hash(&index.to_be_bytes()), tree(size).root());
            prop_assert!(verify_inclusion(&leaf, index, size, &path, &root));
            let at = at.index(path.len());
            path[at][bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!verify_inclusion(&leaf, index, size, &path, &root));
        }

        #[test]
        fn any_numbers_are_verified_without_a_panic(first: u64, second: u64, hashes: Vec<Hash>) {
            let root = [0; 32];
            prop_assert!(!verify_inclusion(&root, first, second, &hashes, &root) || hashes.is_empty());
            let _ = verify_consistency(first, second, &root, &root, &hashes);
            let _ = RangeRoots::inclusion(first, second);
            let _ = RangeRoots::consistency(first, second);
        }
    }
}
