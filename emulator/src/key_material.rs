//! RSA and EC keys: generation, import, and their public part as a JWK.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256K1_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING,
    ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Which key to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA with this many bits: 2048, 3072 or 4096.
    Rsa(u16),
    /// An elliptic curve.
    Ec(Curve),
}

/// The curves of Key Vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the curves say it all")]
pub enum Curve {
    P256,
    P256K,
    P384,
    P521,
}

const CURVES: [Curve; 4] = [Curve::P256, Curve::P256K, Curve::P384, Curve::P521];

impl Curve {
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        CURVES.into_iter().find(|curve| curve.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P256K => "P-256K",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    fn algorithm(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_ASN1_SIGNING,
            Self::P256K => &ECDSA_P256K1_SHA256_ASN1_SIGNING,
            Self::P384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
            Self::P521 => &ECDSA_P521_SHA512_ASN1_SIGNING,
        }
    }
}

/// A private key in PKCS#8 with its public part as SPKI. No `Debug`: it holds the key.
#[derive(Clone)]
pub(crate) struct KeyMaterial {
    pub(crate) kind: KeyKind,
    pub(crate) pkcs8: Vec<u8>,
    pub(crate) spki: Vec<u8>,
}

impl KeyMaterial {
    /// Makes a key; none for sizes that Key Vault does not offer.
    pub(crate) fn generate(kind: KeyKind) -> Option<Self> {
        match kind {
            KeyKind::Rsa(bits) => {
                let size = match bits {
                    2048 => KeySize::Rsa2048,
                    3072 => KeySize::Rsa3072,
                    4096 => KeySize::Rsa4096,
                    _ => return None,
                };
                Self::of_rsa(&RsaKeyPair::generate(size).ok()?)
            }
            KeyKind::Ec(curve) => Self::of_ec(curve, &EcdsaKeyPair::generate(curve.algorithm()).ok()?),
        }
    }

    /// Reads a PKCS#8 key of a kind that Key Vault takes.
    pub(crate) fn from_pkcs8(der: &[u8]) -> Option<Self> {
        if let Ok(pair) = RsaKeyPair::from_pkcs8(der) {
            return Self::of_rsa(&pair);
        }
        CURVES.into_iter().find_map(|curve| {
            let pair = EcdsaKeyPair::from_pkcs8(curve.algorithm(), der).ok()?;
            Self::of_ec(curve, &pair)
        })
    }

    fn of_rsa(pair: &RsaKeyPair) -> Option<Self> {
        let pkcs8: Pkcs8V1Der<'_> = pair.as_der().ok()?;
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().ok()?;
        let bits = u16::try_from(pair.public_modulus_len() * 8).ok()?;
        Some(Self { kind: KeyKind::Rsa(bits), pkcs8: pkcs8.as_ref().to_vec(), spki: spki.as_ref().to_vec() })
    }

    fn of_ec(curve: Curve, pair: &EcdsaKeyPair) -> Option<Self> {
        let pkcs8 = pair.to_pkcs8v1().ok()?;
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().ok()?;
        Some(Self { kind: KeyKind::Ec(curve), pkcs8: pkcs8.as_ref().to_vec(), spki: spki.as_ref().to_vec() })
    }

    /// The public members of the JWK, without `kid`, `use` or `key_ops`.
    pub(crate) fn public_jwk(&self) -> Map<String, Value> {
        let mut jwk = Map::new();
        let mut put = |name: &str, value: &str| jwk.insert(name.to_owned(), value.into());
        match (self.kind, public_members(&self.spki)) {
            (KeyKind::Rsa(_), Some(PublicMembers::Rsa { n, e })) => {
                put("kty", "RSA");
                put("n", &URL_SAFE_NO_PAD.encode(n));
                put("e", &URL_SAFE_NO_PAD.encode(e));
            }
            (KeyKind::Ec(curve), Some(PublicMembers::Ec { x, y })) => {
                put("kty", "EC");
                put("crv", curve.name());
                put("x", &URL_SAFE_NO_PAD.encode(x));
                put("y", &URL_SAFE_NO_PAD.encode(y));
            }
            _ => {}
        }
        jwk
    }
}

/// The numbers of a public key.
pub(crate) enum PublicMembers {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    Ec { x: Vec<u8>, y: Vec<u8> },
}

/// Takes a SubjectPublicKeyInfo apart.
pub(crate) fn public_members(spki: &[u8]) -> Option<PublicMembers> {
    let (_, info) = SubjectPublicKeyInfo::from_der(spki).ok()?;
    match info.parsed().ok()? {
        PublicKey::RSA(rsa) => Some(PublicMembers::Rsa {
            n: without_leading_zeros(rsa.modulus),
            e: without_leading_zeros(rsa.exponent),
        }),
        PublicKey::EC(point) => {
            let coordinates = point.data().strip_prefix(&[4])?;
            let (x, y) = coordinates.split_at(coordinates.len() / 2);
            Some(PublicMembers::Ec { x: x.to_vec(), y: y.to_vec() })
        }
        _ => None,
    }
}

fn without_leading_zeros(number: &[u8]) -> Vec<u8> {
    let start = number.iter().position(|b| *b != 0).unwrap_or(number.len());
    number[start..].to_vec()
}

/// SHA-1 of a certificate, as in `x5t`. It names a certificate, it protects nothing.
pub(crate) fn sha1(data: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, data).as_ref().to_vec()
}

pub(crate) fn sha256(data: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, data).as_ref().to_vec()
}

/// A PKCS#8 P-256 key for signing tokens.
pub(crate) fn token_signing_key() -> KeyMaterial {
    KeyMaterial::generate(KeyKind::Ec(Curve::P256)).expect("P-256 generation fails only without entropy")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_curve_and_rsa_survive_a_round_trip_through_pkcs8() {
        let kinds = CURVES.into_iter().map(KeyKind::Ec).chain([KeyKind::Rsa(2048)]);
        for kind in kinds {
            let made = KeyMaterial::generate(kind).expect("offered");
            let read = KeyMaterial::from_pkcs8(&made.pkcs8).expect("own output");
            assert_eq!(read.kind, kind);
            assert_eq!(read.spki, made.spki);
            assert_eq!(read.public_jwk(), made.public_jwk());
            assert!(read.public_jwk().len() >= 3, "{kind:?}");
        }
    }

    #[test]
    fn sizes_that_key_vault_does_not_offer_are_refused() {
        assert!(KeyMaterial::generate(KeyKind::Rsa(1024)).is_none());
    }
}
