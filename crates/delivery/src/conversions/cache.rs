#![expect(
    clippy::arithmetic_side_effects,
    reason = "sizes of what the cache holds: each is added before it is taken away"
)]

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use aws_lc_rs::hmac;
use keyward_core::Result;

use crate::content::Converted;

/// Bytes of results that are remembered for all pods.
const BYTES: usize = 16 << 20;
/// Bytes of results that are remembered for one pod.
const BYTES_OF_POD: usize = 4 << 20;
/// Counted for each result beside its bytes, so that failures and small values are bounded too.
const OVERHEAD: usize = 1 << 10;

/// Names a conversion: a keyed hash over all that its result depends on. It tells nothing of a value.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 32]);

/// A key that no other process has.
#[expect(clippy::expect_used, reason = "without entropy there is no TLS either")]
pub(super) fn secret() -> hmac::Key {
    let random = aws_lc_rs::rand::SystemRandom::new();
    hmac::Key::generate(hmac::HMAC_SHA256, &random).expect("the system gives random bytes")
}

impl Key {
    /// Hashes `parts`, each with its length before it.
    pub(super) fn of<'a>(secret: &hmac::Key, parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut context = hmac::Context::with_key(secret);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut key = [0; 32];
        key.copy_from_slice(context.sign().as_ref());
        Self(key)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What was converted lately. Values are wiped when the last holder lets go. Each pod has results of its own, so that
/// nobody learns from a fast answer what another one holds; where room runs out, the pod with most bytes loses its oldest.
#[derive(Default)]
pub(super) struct Cache {
    pods: HashMap<Arc<str>, Results>,
    bytes: usize,
}

#[derive(Default)]
struct Results {
    known: HashMap<Key, Known>,
    /// The oldest first.
    order: VecDeque<(Key, usize)>,
    bytes: usize,
}

/// How a conversion went, and whether it was refused for its cost.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) result: Result<Converted>,
    pub(super) refused: bool,
}

impl Results {
    fn drop_oldest(&mut self) -> usize {
        let Some((key, size)) = self.order.pop_front() else { return 0 };
        self.known.remove(&key);
        self.bytes -= size;
        size
    }
}

impl Cache {
    pub(super) fn get(&self, pod: &str, key: &Key) -> Option<Known> {
        self.pods.get(pod)?.known.get(key).cloned()
    }

    pub(super) fn put(&mut self, pod: &Arc<str>, key: Key, known: Known) {
        let size = OVERHEAD + known.result.as_ref().map_or(0, bytes);
        if size > BYTES_OF_POD {
            return;
        }
        let own = self.pods.entry(Arc::clone(pod)).or_default();
        if own.known.insert(key, known).is_some() {
            return;
        }
        own.order.push_back((key, size));
        own.bytes += size;
        self.bytes += size;
        while own.bytes > BYTES_OF_POD {
            self.bytes -= own.drop_oldest();
        }
        while self.bytes > BYTES {
            // Among equals not who brought the newest.
            let largest = self.pods.iter_mut().max_by_key(|(name, it)| (it.bytes, *name != pod));
            let Some((largest, results)) = largest else { return };
            self.bytes -= results.drop_oldest();
            if results.order.is_empty() {
                let largest = Arc::clone(largest);
                self.pods.remove(&largest);
            }
        }
    }

    /// Forgets what a pod had converted.
    pub(super) fn forget(&mut self, pod: &str) {
        if let Some(results) = self.pods.remove(pod) {
            self.bytes -= results.bytes;
        }
    }
}

fn bytes(converted: &Converted) -> usize {
    let pair = converted.pair.as_ref().map_or(0, |(first, second)| first.len() + second.len());
    converted.value.len() + pair
}

#[cfg(test)]
mod tests {
    use keyward_core::SecretBytes;

    use super::*;

    fn value(length: usize) -> Known {
        let value = SecretBytes::copy_from(&vec![7; length]);
        Known { result: Ok(Converted { value, pair: None }), refused: false }
    }

    fn key(secret: &hmac::Key, number: usize) -> Key {
        Key::of(secret, [&number.to_be_bytes()[..]])
    }

    #[test]
    fn a_key_is_of_this_process_and_of_the_parts_as_they_are_cut() {
        let (one, other) = (secret(), secret());
        assert!(Key::of(&one, [&b"ab"[..], b"c"]) == Key::of(&one, [&b"ab"[..], b"c"]));
        assert!(Key::of(&one, [&b"ab"[..], b"c"]) != Key::of(&one, [&b"a"[..], b"bc"]));
        assert!(Key::of(&one, [&b"ab"[..]]) != Key::of(&other, [&b"ab"[..]]));
    }

    #[test]
    fn a_pod_loses_its_own_oldest_results_and_others_keep_theirs() {
        let (secret, mut cache) = (secret(), Cache::default());
        let (quiet, greedy): (Arc<str>, Arc<str>) = ("quiet".into(), "greedy".into());
        cache.put(&quiet, key(&secret, 0), value(100));
        for number in 0..10_000 {
            cache.put(&greedy, key(&secret, number), value(1 << 10));
            assert!(cache.pods[&greedy].bytes <= BYTES_OF_POD);
        }
        assert!(cache.get("quiet", &key(&secret, 0)).is_some());
        assert!(cache.get("greedy", &key(&secret, 0)).is_none(), "the oldest went, and is not another pod's");
        assert!(cache.get("greedy", &key(&secret, 9_999)).is_some());
        cache.forget("greedy");
        assert_eq!(cache.bytes, 100 + OVERHEAD);
    }

    #[test]
    fn all_pods_together_have_a_bound_and_the_greediest_pays() {
        let (secret, mut cache) = (secret(), Cache::default());
        let quiet: Arc<str> = "quiet".into();
        cache.put(&quiet, key(&secret, 0), value(100));
        for pod in 0..20 {
            let pod: Arc<str> = pod.to_string().into();
            for number in 0..5 {
                cache.put(&pod, key(&secret, number), value(1 << 20));
            }
        }
        assert!(cache.bytes <= BYTES);
        assert_eq!(cache.bytes, cache.pods.values().map(|results| results.bytes).sum::<usize>());
        assert!(cache.get("quiet", &key(&secret, 0)).is_some());
        assert!(cache.get("19", &key(&secret, 4)).is_some(), "there is room for who comes last");
    }
}
