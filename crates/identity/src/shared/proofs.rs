use std::collections::HashMap;
use std::time::Duration;

use keyward_core::{Code, Error, Result};
use tokio::sync::watch;

use crate::Fingerprint;

/// How long one exchange speaks for the credential that it was made with.
pub(super) const LIFETIME: Duration = Duration::from_secs(600);

/// Proofs that one identity remembers; a node runs far fewer pods.
const LIMIT: usize = 1024;

/// What was proved, and for which resource. Authority, tenant and client are the identity's own.
pub(super) type Key = (Fingerprint, String);

pub(super) type Flight = watch::Receiver<Option<Result<()>>>;
pub(super) type Landing = watch::Sender<Option<Result<()>>>;

/// Who proved the identity lately. All times are on the boot clock.
#[derive(Default)]
pub(super) struct Proofs(HashMap<Key, Proof>);

#[derive(Default)]
struct Proof {
    /// When the exchange began that proved it.
    at: Option<Duration>,
    flight: Option<Flight>,
}

pub(super) enum Known {
    Proved,
    UnderWay(Flight),
    Nothing,
}

impl Proof {
    fn is_young(&self, now: Duration) -> bool {
        self.at.is_some_and(|at| now.saturating_sub(at) < LIFETIME)
    }

    /// One whose task was lost does not count.
    fn flight(&self) -> Option<&Flight> {
        self.flight.as_ref().filter(|flight| flight.has_changed().is_ok())
    }
}

impl Proofs {
    pub(super) fn known(&self, key: &Key, now: Duration) -> Known {
        match self.0.get(key) {
            Some(proof) if proof.is_young(now) => Known::Proved,
            Some(proof) => proof.flight().map_or(Known::Nothing, |flight| Known::UnderWay(flight.clone())),
            None => Known::Nothing,
        }
    }

    /// How long a proof still counts; `None` without one.
    pub(super) fn lasts(&self, key: &Key, now: Duration) -> Option<Duration> {
        let at = self.0.get(key)?.at?;
        LIFETIME.checked_sub(now.saturating_sub(at)).filter(|left| !left.is_zero())
    }

    /// Makes room for one more exchange.
    ///
    /// # Errors
    /// `KW_LIMIT_EXCEEDED` when the table is full of exchanges under way.
    pub(super) fn begin(&mut self, key: &Key, now: Duration) -> Result<(Landing, Flight)> {
        self.0.retain(|_, proof| proof.is_young(now) || proof.flight().is_some());
        if self.0.len() >= LIMIT && !self.0.contains_key(key) {
            let oldest = self.0.iter().filter(|(_, proof)| proof.flight().is_none());
            let oldest = oldest.min_by_key(|(_, proof)| proof.at).map(|(key, _)| key.clone());
            let oldest = oldest.ok_or_else(|| {
                Error::new(Code::LimitExceeded, "too many pods are proving this identity at the same time")
            })?;
            self.0.remove(&oldest);
        }
        let (done, flight) = watch::channel(None);
        self.0.entry(key.clone()).or_default().flight = Some(flight.clone());
        Ok((done, flight))
    }

    /// The exchange ended, and proved the identity as of `at` or did not. One that was forgotten meanwhile proves
    /// nothing.
    pub(super) fn land(&mut self, key: &Key, done: &Landing, at: Option<Duration>) {
        let Some(proof) = self.0.get_mut(key) else { return };
        if !proof.flight.as_ref().is_some_and(|flight| flight.same_channel(&done.subscribe())) {
            return;
        }
        proof.flight = None;
        proof.at = at;
        if at.is_none() {
            self.0.remove(key);
        }
    }

    pub(super) fn forget(&mut self, fingerprint: Fingerprint) {
        self.0.retain(|key, _| key.0 != fingerprint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Credential;
    use keyward_core::SecretBytes;

    fn key(number: usize) -> Key {
        let token = SecretBytes::copy_from(number.to_string().as_bytes());
        (Credential::ServiceAccountToken(token).fingerprint(), "https://vault.azure.net".to_owned())
    }

    fn is_proved(proofs: &Proofs, number: usize, now: u64) -> bool {
        matches!(proofs.known(&key(number), Duration::from_secs(now)), Known::Proved)
    }

    #[test]
    fn the_table_is_bounded_and_the_oldest_proof_makes_room() {
        let mut proofs = Proofs::default();
        for number in 0..=LIMIT {
            let at = Duration::from_millis(number as u64);
            let (done, _flight) = proofs.begin(&key(number), at).unwrap();
            proofs.land(&key(number), &done, Some(at));
        }
        assert_eq!(proofs.0.len(), LIMIT);
        assert!(!is_proved(&proofs, 0, 2) && is_proved(&proofs, 1, 2) && is_proved(&proofs, LIMIT, 2));
    }

    #[test]
    fn a_table_full_of_exchanges_under_way_takes_no_more() {
        let mut proofs = Proofs::default();
        let flights: Vec<_> =
            (0..LIMIT).map(|number| proofs.begin(&key(number), Duration::ZERO).unwrap()).collect();
        assert_eq!(proofs.begin(&key(LIMIT), Duration::ZERO).err().unwrap().code(), Code::LimitExceeded);
        drop(flights);
        assert!(proofs.begin(&key(LIMIT), Duration::ZERO).is_ok(), "lost exchanges do not count");
    }

    #[test]
    fn a_proof_lapses_after_ten_minutes_and_leaves_the_table() {
        let mut proofs = Proofs::default();
        let (done, _flight) = proofs.begin(&key(1), Duration::ZERO).unwrap();
        proofs.land(&key(1), &done, Some(Duration::ZERO));
        assert!(is_proved(&proofs, 1, 599) && !is_proved(&proofs, 1, 600));
        let lasts = |seconds| proofs.lasts(&key(1), Duration::from_secs(seconds));
        assert_eq!([lasts(0), lasts(599)], [Some(LIFETIME), Some(Duration::from_secs(1))]);
        assert_eq!([lasts(600), proofs.lasts(&key(2), Duration::ZERO)], [None, None]);
        let _other = proofs.begin(&key(2), Duration::from_secs(600)).unwrap();
        assert_eq!(proofs.0.len(), 1);
    }

    #[test]
    fn an_exchange_that_was_forgotten_proves_nothing() {
        let mut proofs = Proofs::default();
        let (done, _flight) = proofs.begin(&key(1), Duration::ZERO).unwrap();
        proofs.forget(key(1).0);
        let (newer, _flight) = proofs.begin(&key(1), Duration::ZERO).unwrap();
        proofs.land(&key(1), &done, Some(Duration::ZERO));
        assert!(!is_proved(&proofs, 1, 0));
        proofs.land(&key(1), &newer, Some(Duration::ZERO));
        assert!(is_proved(&proofs, 1, 0));
    }
}
