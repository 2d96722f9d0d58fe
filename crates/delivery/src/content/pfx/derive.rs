#![expect(
    clippy::arithmetic_side_effects,
    reason = "lengths of passwords, salts and blocks, which are bounded; the carry of two bytes and one fits"
)]

use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use keyward_core::{Error, Result, SecretBytes};
use zeroize::Zeroizing;

use super::super::asn1::{INTEGER, OCTET_STRING, Reader, SEQUENCE, oid};
use super::super::invalid;
use super::MAX_ITERATIONS;
use crate::conversions::Turn;

/// A password in the two ways that PKCS#12 uses it.
pub(super) struct Password {
    utf8: Zeroizing<Vec<u8>>,
    /// UTF-16, big endian, with a terminating zero; nothing at all for the absent password.
    bmp: Zeroizing<Vec<u8>>,
}

impl Password {
    pub(super) fn new(password: &SecretBytes) -> Result<Self> {
        let text =
            password.expose_str().ok_or_else(|| invalid("the password of the key store is not text"))?;
        let mut bmp = Zeroizing::new(Vec::with_capacity(2 * text.len() + 2));
        bmp.extend(text.encode_utf16().chain([0]).flat_map(u16::to_be_bytes));
        Ok(Self { utf8: Zeroizing::new(text.as_bytes().to_vec()), bmp })
    }

    /// The password that was never set, which some writers mean by an empty one.
    pub(super) fn absent() -> Self {
        Self { utf8: Zeroizing::new(Vec::new()), bmp: Zeroizing::new(Vec::new()) }
    }
}

/// Iterations between two looks at the time: a few milliseconds.
const STEP: u32 = 4096;
/// Iterations that are derived in one go by the library: some tens of milliseconds. What tools write has far fewer.
const WHOLE: u32 = 50_000;

/// What the key of a derivation is for (RFC 7292 appendix B.3).
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    Key = 1,
    Iv = 2,
    Mac = 3,
}

/// Derives keys, and counts what it costs.
pub(super) struct Derive<'a> {
    turn: &'a Turn,
    password: &'a Password,
    left: u64,
}

impl<'a> Derive<'a> {
    pub(super) fn new(turn: &'a Turn, password: &'a Password) -> Self {
        Self { turn, password, left: MAX_ITERATIONS }
    }

    /// What is left of the file's iterations, for a second attempt with another password.
    pub(super) fn again(self, password: &'a Password) -> Self {
        Self { password, ..self }
    }

    /// Counts a derivation of `blocks` hash blocks before it is done.
    pub(super) fn spend(&mut self, iterations: u64, blocks: usize) -> Result<NonZeroU32> {
        let left = iterations.checked_mul(blocks as u64).and_then(|cost| self.left.checked_sub(cost));
        self.left = left.ok_or_else(|| {
            self.turn.refuse();
            invalid(format!(
                "the key store asks for more key-derivation iterations than the {MAX_ITERATIONS} allowed in one file; write it again with fewer"
            ))
        })?;
        u32::try_from(iterations)
            .ok()
            .and_then(NonZeroU32::new)
            .ok_or_else(|| invalid("the key store asks for no key-derivation iterations"))
    }

    /// The key derivation of PKCS#12 itself (RFC 7292 appendix B.2).
    pub(super) fn pkcs12(
        &mut self,
        hash: &'static digest::Algorithm,
        salt: &[u8],
        iterations: u64,
        purpose: Purpose,
        length: usize,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let iterations = self.spend(iterations, length.div_ceil(hash.output_len()))?.get();
        let block = hash.block_len();
        let diversifier = vec![purpose as u8; block];
        let mut input =
            Zeroizing::new(Vec::with_capacity(2 * block + salt.len() + self.password.bmp.len() + block));
        for part in [salt, &self.password.bmp] {
            input.extend(part.iter().cycle().take(part.len().div_ceil(block) * block));
        }
        let mut derived = Zeroizing::new(Vec::with_capacity(length + hash.output_len()));
        while derived.len() < length {
            let mut context = digest::Context::new(hash);
            context.update(&diversifier);
            context.update(&input);
            let mut link = context.finish();
            for number in 1..iterations {
                if number % STEP == 0 {
                    self.turn.check()?;
                }
                link = digest::digest(hash, link.as_ref());
            }
            derived.extend_from_slice(link.as_ref());
            add_to_blocks(&mut input, link.as_ref(), block);
        }
        derived.truncate(length);
        Ok(derived)
    }

    /// PBKDF2 as its AlgorithmIdentifier describes it (RFC 8018 appendix A.2); `length` is what the cipher needs, so
    /// that a length written in the file has no say.
    pub(super) fn pbkdf2(&mut self, mut algorithm: Reader<'_>, length: usize) -> Result<Zeroizing<Vec<u8>>> {
        if algorithm.oid()? != oid::PBKDF2 {
            return Err(unsupported());
        }
        let mut parameters = algorithm.inside(SEQUENCE)?;
        let salt = parameters.expect(OCTET_STRING)?.content;
        let iterations = parameters.number()?;
        parameters.optional(INTEGER)?;
        let prf = match parameters.optional(SEQUENCE)? {
            Some(prf) => prf.inside().oid()?,
            None => oid::HMAC_SHA1,
        };
        let (prf, whole) = if prf == oid::HMAC_SHA1 {
            (hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, pbkdf2::PBKDF2_HMAC_SHA1)
        } else if prf == oid::HMAC_SHA256 {
            (hmac::HMAC_SHA256, pbkdf2::PBKDF2_HMAC_SHA256)
        } else if prf == oid::HMAC_SHA384 {
            (hmac::HMAC_SHA384, pbkdf2::PBKDF2_HMAC_SHA384)
        } else if prf == oid::HMAC_SHA512 {
            (hmac::HMAC_SHA512, pbkdf2::PBKDF2_HMAC_SHA512)
        } else {
            return Err(unsupported());
        };
        let iterations = self.spend(iterations, length.div_ceil(prf.digest_algorithm().output_len()))?;
        self.turn.check()?;
        let mut key = Zeroizing::new(vec![0; length]);
        if iterations.get() <= WHOLE {
            pbkdf2::derive(whole, iterations, salt, &self.password.utf8, &mut key);
        } else {
            self.in_steps(prf, salt, iterations.get(), &mut key)?;
        }
        Ok(key)
    }

    /// PBKDF2 (RFC 8018 §5.2) that can be interrupted, which the library's cannot.
    fn in_steps(&self, prf: hmac::Algorithm, salt: &[u8], iterations: u32, key: &mut [u8]) -> Result<()> {
        let hash = hmac::Key::new(prf, &self.password.utf8);
        for (index, block) in (1u32..).zip(key.chunks_mut(prf.digest_algorithm().output_len())) {
            let mut context = hmac::Context::with_key(&hash);
            context.update(salt);
            context.update(&index.to_be_bytes());
            let mut link = context.sign();
            add(block, link.as_ref());
            for number in 1..iterations {
                if number % STEP == 0 {
                    self.turn.check()?;
                }
                link = hmac::sign(&hash, link.as_ref());
                add(block, link.as_ref());
            }
        }
        Ok(())
    }
}

/// Adds without carrying.
fn add(block: &mut [u8], link: &[u8]) {
    block.iter_mut().zip(link).for_each(|(byte, other)| *byte ^= other);
}

/// Adds `link`, repeated to a block, plus one to every block of `input`.
#[expect(clippy::indexing_slicing, reason = "the remainder is below the length, which is a digest's")]
fn add_to_blocks(input: &mut [u8], link: &[u8], block: usize) {
    for chunk in input.chunks_exact_mut(block) {
        let mut carry = 1u16;
        for (index, byte) in chunk.iter_mut().enumerate().rev() {
            carry += u16::from(*byte) + u16::from(link[index % link.len()]);
            *byte = carry as u8;
            carry >>= 8;
        }
    }
}

/// The hash that an AlgorithmIdentifier of a MAC names.
pub(super) fn hash(name: &[u8]) -> Result<(&'static digest::Algorithm, hmac::Algorithm)> {
    if name == oid::SHA1 {
        Ok((&digest::SHA1_FOR_LEGACY_USE_ONLY, hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY))
    } else if name == oid::SHA256 {
        Ok((&digest::SHA256, hmac::HMAC_SHA256))
    } else if name == oid::SHA384 {
        Ok((&digest::SHA384, hmac::HMAC_SHA384))
    } else if name == oid::SHA512 {
        Ok((&digest::SHA512, hmac::HMAC_SHA512))
    } else {
        Err(unsupported())
    }
}

pub(super) fn unsupported() -> Error {
    invalid(
        "the key store uses a cipher, derivation or digest that is not supported; write it anew with AES-256 and SHA-256",
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::conversions::apart;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(6))]
        /// The steps give what the library gives, for every hash and length in use.
        #[test]
        fn a_derivation_in_steps_gives_the_same_key(
            password in "[a-z]{0,80}", salt in prop::collection::vec(any::<u8>(), 0..40), iterations in 1u32..9000,
        ) {
            let password = Password::new(&SecretBytes::copy_from(password.as_bytes())).unwrap();
            let algorithms = [
                (hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, pbkdf2::PBKDF2_HMAC_SHA1),
                (hmac::HMAC_SHA256, pbkdf2::PBKDF2_HMAC_SHA256),
                (hmac::HMAC_SHA384, pbkdf2::PBKDF2_HMAC_SHA384),
                (hmac::HMAC_SHA512, pbkdf2::PBKDF2_HMAC_SHA512),
            ];
            for (prf, whole) in algorithms {
                for length in [16, 24, 32] {
                    let mut wanted = vec![0; length];
                    let times = NonZeroU32::new(iterations).unwrap();
                    pbkdf2::derive(whole, times, &salt, &password.utf8, &mut wanted);
                    let mut made = vec![0; length];
                    apart(|turn| Derive::new(turn, &password).in_steps(prf, &salt, iterations, &mut made))
                        .unwrap()
                        .unwrap();
                    prop_assert_eq!(&made, &wanted);
                }
            }
        }
    }
}
