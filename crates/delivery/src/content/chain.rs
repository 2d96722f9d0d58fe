#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "numbers of certificates, all taken from the list that they index"
)]

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use keyward_core::Result;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::signature_algorithm::RsaSsaPssParams;

use super::asn1::oid;
use super::invalid;
use crate::conversions::Turn;

/// Most certificates of one bundle, duplicates apart.
const MAX_CERTIFICATES: usize = 64;

/// Certificates in the order that TLS servers need (RFC 8446 §4.4.2).
pub struct Chain<'a> {
    /// Leaf first, each certified by the next; ends at a root, or where the bundle has no further issuer.
    pub path: Vec<&'a [u8]>,
    /// Certificates that are no part of the path, in their original order. They follow the path in PEM, so that
    /// nothing stored is lost, and are left out of key stores, whose readers take the whole list for one path.
    pub others: Vec<&'a [u8]>,
}

/// Which certificate is the leaf.
pub enum Leaf<'a> {
    /// The one with this public key (`subjectPublicKey`).
    WithKey(&'a [u8]),
    /// This one.
    Is(&'a [u8]),
    /// The one that certifies no other; one that is no authority, then the first, when there are several.
    Unknown,
}

/// Orders certificates leaf to root: by name, key identifiers where both sides have them, and signature where its
/// algorithm is known (others are taken at their word). Duplicates are dropped, a missing root or issuer is fine. A
/// self-signed issuer is preferred to a cross-signed one, then the one valid longest.
///
/// # Errors
/// What ends a [`Turn`] early; `KW_CONTENT_INVALID` for a damaged certificate, more than 64, no certificate for the key, or a circle of issuers.
pub fn order<'a>(turn: &Turn, certificates: &[&'a [u8]], leaf: Leaf<'_>) -> Result<Chain<'a>> {
    let mut unique: Vec<&'a [u8]> = Vec::new();
    for der in certificates {
        if !unique.contains(der) {
            unique.push(der);
        }
    }
    if unique.len() > MAX_CERTIFICATES {
        return Err(invalid(format!("the bundle has more than {MAX_CERTIFICATES} certificates")));
    }
    let all: Vec<Certificate<'a>> =
        unique.iter().map(|der| Certificate::parse(der)).collect::<Result<_>>()?;
    if all.is_empty() {
        return Ok(Chain { path: Vec::new(), others: Vec::new() });
    }
    let mut path = vec![find_leaf(turn, &all, &leaf)?];
    loop {
        let last = &all[path[path.len() - 1]];
        if last.is_certified_by(last) {
            break;
        }
        let mut issuers = Vec::new();
        for (at, issuer) in all.iter().enumerate() {
            // A signature takes up to a millisecond.
            turn.check()?;
            if last.is_certified_by(issuer) {
                issuers.push(at);
            }
        }
        let next = issuers
            .iter()
            .copied()
            .filter(|at| !path.contains(at))
            .max_by_key(|at| (all[*at].is_certified_by(&all[*at]), all[*at].not_after(), all[*at].der));
        match next {
            Some(next) => path.push(next),
            None if issuers.is_empty() => break,
            None => return Err(circle()),
        }
    }
    let others = (0..all.len()).filter(|at| !path.contains(at)).map(|at| all[at].der).collect();
    Ok(Chain { path: path.into_iter().map(|at| all[at].der).collect(), others })
}

/// The order in which every certificate is certified by the next, told by key identifiers alone and without a look at
/// names, signatures or repetitions: what the Azure provider goes by. `None` unless one chain holds them all, each
/// once.
pub(super) fn by_key_ids(certificates: &[&[u8]]) -> Option<Vec<usize>> {
    if certificates.is_empty() || certificates.len() > MAX_CERTIFICATES {
        return None;
    }
    let all: Vec<Certificate<'_>> =
        certificates.iter().map(|der| Certificate::parse(der).ok()).collect::<Option<_>>()?;
    let issuer = |at: usize| {
        let wanted = all[at].authority_key_id()?;
        (0..all.len()).find(|other| *other != at && all[*other].subject_key_id() == Some(wanted))
    };
    let issuers: Vec<Option<usize>> = (0..all.len()).map(issuer).collect();
    let leaf = (0..all.len()).find(|at| !issuers.contains(&Some(*at)))?;
    let path: Vec<usize> = std::iter::successors(Some(leaf), |at| issuers[*at]).take(all.len() + 1).collect();
    (path.len() == all.len()).then_some(path)
}

fn find_leaf(turn: &Turn, all: &[Certificate<'_>], leaf: &Leaf<'_>) -> Result<usize> {
    match leaf {
        // Renewed certificates of one key: the one valid longest.
        Leaf::WithKey(public) => (0..all.len())
            .filter(|at| all[*at].public() == *public)
            .max_by_key(|at| (all[*at].not_after(), all[*at].der))
            .ok_or_else(|| invalid("none of the certificates belongs to the private key")),
        Leaf::Is(der) => (0..all.len())
            .find(|at| all[*at].der == *der)
            .ok_or_else(|| invalid("the bundle does not hold the object's own certificate")),
        Leaf::Unknown => {
            let certifies_none = |at: &usize| {
                // Whatever is found once the turn is over, the next step ends it.
                let certified = |child: usize| turn.check().is_ok() && all[child].is_certified_by(&all[*at]);
                (0..all.len()).all(|child| child == *at || !certified(child))
            };
            let ends: Vec<usize> = (0..all.len()).filter(certifies_none).collect();
            turn.check()?;
            ends.iter().find(|at| !all[**at].x509.is_ca()).or(ends.first()).copied().ok_or_else(circle)
        }
    }
}

fn circle() -> keyward_core::Error {
    invalid("the certificates certify one another in a circle")
}

/// Checks that `der` is one certificate and gives its public key as `subjectPublicKey` holds it.
pub(super) fn public_key(der: &[u8]) -> Result<Vec<u8>> {
    Certificate::parse(der).map(|certificate| certificate.public().to_vec())
}

struct Certificate<'a> {
    der: &'a [u8],
    x509: X509Certificate<'a>,
}

impl<'a> Certificate<'a> {
    fn parse(der: &'a [u8]) -> Result<Self> {
        match X509Certificate::from_der(der) {
            Ok(([], x509)) => Ok(Self { der, x509 }),
            _ => Err(invalid("a certificate is damaged")),
        }
    }

    fn public(&self) -> &[u8] {
        &self.x509.public_key().subject_public_key.data
    }

    fn not_after(&self) -> i64 {
        self.x509.validity().not_after.timestamp()
    }

    fn subject_key_id(&self) -> Option<&[u8]> {
        self.x509.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
            _ => None,
        })
    }

    fn authority_key_id(&self) -> Option<&[u8]> {
        self.x509.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0),
            _ => None,
        })
    }

    fn is_certified_by(&self, issuer: &Self) -> bool {
        let same_id = match (self.authority_key_id(), issuer.subject_key_id()) {
            (Some(wanted), Some(has)) => wanted == has,
            _ => true,
        };
        self.x509.issuer().as_raw() == issuer.x509.subject().as_raw()
            && same_id
            && self.is_signed_by(issuer).unwrap_or(true)
    }

    /// `None` when the algorithm is not known here.
    fn is_signed_by(&self, issuer: &Self) -> Option<bool> {
        let algorithm = self.verification(issuer)?;
        let key = UnparsedPublicKey::new(algorithm, issuer.public());
        Some(key.verify(self.x509.tbs_certificate.as_ref(), &self.x509.signature_value.data).is_ok())
    }

    fn verification(&self, issuer: &Self) -> Option<&'static dyn VerificationAlgorithm> {
        let written = &self.x509.signature_algorithm;
        let name = written.algorithm.as_bytes();
        let key = &issuer.x509.public_key().algorithm;
        if name == oid::SHA1_WITH_RSA {
            Some(&signature::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY)
        } else if name == oid::SHA256_WITH_RSA {
            Some(&signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY)
        } else if name == oid::SHA384_WITH_RSA {
            Some(&signature::RSA_PKCS1_2048_8192_SHA384)
        } else if name == oid::SHA512_WITH_RSA {
            Some(&signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY)
        } else if name == oid::ED25519 {
            Some(&signature::ED25519)
        } else if name == oid::RSA_PSS {
            let parameters = RsaSsaPssParams::try_from(written.parameters.as_ref()?).ok()?;
            let hash = parameters.hash_algorithm_oid().as_bytes();
            if hash == oid::SHA256 {
                Some(&signature::RSA_PSS_2048_8192_SHA256)
            } else if hash == oid::SHA384 {
                Some(&signature::RSA_PSS_2048_8192_SHA384)
            } else if hash == oid::SHA512 {
                Some(&signature::RSA_PSS_2048_8192_SHA512)
            } else {
                None
            }
        } else {
            let curve = key.parameters.as_ref()?.as_oid().ok()?;
            ecdsa(curve.as_bytes(), name)
        }
    }
}

fn ecdsa(curve: &[u8], name: &[u8]) -> Option<&'static dyn VerificationAlgorithm> {
    let hash =
        [oid::ECDSA_SHA256, oid::ECDSA_SHA384, oid::ECDSA_SHA512].iter().position(|known| *known == name)?;
    let by_curve: [&'static dyn VerificationAlgorithm; 3] = if curve == oid::P256 {
        [
            &signature::ECDSA_P256_SHA256_ASN1,
            &signature::ECDSA_P256_SHA384_ASN1,
            &signature::ECDSA_P256_SHA512_ASN1,
        ]
    } else if curve == oid::P384 {
        [
            &signature::ECDSA_P384_SHA256_ASN1,
            &signature::ECDSA_P384_SHA384_ASN1,
            &signature::ECDSA_P384_SHA512_ASN1,
        ]
    } else if curve == oid::P521 {
        [
            &signature::ECDSA_P521_SHA256_ASN1,
            &signature::ECDSA_P521_SHA384_ASN1,
            &signature::ECDSA_P521_SHA512_ASN1,
        ]
    } else {
        return None;
    };
    Some(by_curve[hash])
}
