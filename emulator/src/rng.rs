//! A small seeded generator (SplitMix64), so that a schedule or a simulation replays identically everywhere.
//!
//! Library generators may change their streams between releases; this one is fixed by its definition.
//! It is no source of key material.

use parking_lot::Mutex;

/// A shared stream of numbers that depends on its seed alone.
pub(crate) struct Rng(Mutex<u64>);

impl Rng {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    /// Seeded by the operating system, for runs that nobody replays.
    pub(crate) fn from_system() -> Self {
        let mut seed = [0u8; 8];
        // A failing system generator leaves the zero seed, which is as good as any for identifiers.
        let _ = aws_lc_rs::rand::fill(&mut seed);
        Self::seeded(u64::from_le_bytes(seed))
    }

    pub(crate) fn next(&self) -> u64 {
        let mut state = self.0.lock();
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0.0..1.0`.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit exactly")]
    pub(crate) fn unit(&self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// 32 lower-case hex digits: the form of a Key Vault version.
    pub(crate) fn version(&self) -> String {
        format!("{:016x}{:016x}", self.next(), self.next())
    }

    /// A random UUID in its usual form.
    pub(crate) fn uuid(&self) -> String {
        let (high, low) = (self.next(), self.next());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0x0fff,
            0x8000 | ((low >> 48) & 0x3fff),
            low & 0xffff_ffff_ffff
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_streams_and_the_stream_is_the_published_one() {
        let (one, other) = (Rng::seeded(1_234_567), Rng::seeded(1_234_567));
        // The reference values of SplitMix64 for this seed.
        assert_eq!(one.next(), 6_457_827_717_110_365_317);
        assert_eq!(one.next(), 3_203_168_211_198_807_973);
        assert_eq!(other.next(), 6_457_827_717_110_365_317);
    }

    #[test]
    fn versions_and_uuids_have_the_forms_azure_uses() {
        let rng = Rng::seeded(7);
        let version = rng.version();
        assert_eq!(version.len(), 32);
        assert!(version.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()));
        let uuid = rng.uuid();
        assert_eq!(uuid.len(), 36);
        assert_eq!(uuid.as_bytes()[14], b'4');
    }
}
