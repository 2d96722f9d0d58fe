use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaKeyPair,
};
use keyward_core::{Error, Result};
use zeroize::Zeroizing;

use super::asn1::{
    self, BIT_STRING, CONTEXT_0, CONTEXT_1, INTEGER, NULL, OCTET_STRING, OID, Reader, SEQUENCE, oid,
};
use super::invalid;

/// A private key that the crypto library accepts: RSA of 2048 to 8192 bits, EC P-256, P-384, P-521, or Ed25519.
pub(super) struct PrivateKey {
    pkcs8: Zeroizing<Vec<u8>>,
    public: Vec<u8>,
}

impl PrivateKey {
    /// Reads PKCS#8 (RFC 5958), kept byte for byte.
    pub(super) fn from_pkcs8(der: &[u8]) -> Result<Self> {
        let mut info = Reader::new(der).inside(SEQUENCE)?;
        info.number()?;
        let mut algorithm = info.inside(SEQUENCE)?;
        let kind = algorithm.oid()?;
        let rejected = |_| invalid("the private key is damaged, or is of a size that is not supported");
        let public = if kind == oid::RSA {
            RsaKeyPair::from_pkcs8(der).map_err(rejected)?.public_key().as_ref().to_vec()
        } else if kind == oid::EC {
            let curve = curve(algorithm.oid()?)?;
            EcdsaKeyPair::from_pkcs8(curve, der).map_err(rejected)?.public_key().as_ref().to_vec()
        } else if kind == oid::ED25519 {
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(rejected)?.public_key().as_ref().to_vec()
        } else {
            return Err(unsupported());
        };
        Ok(Self { pkcs8: Zeroizing::new(der.to_vec()), public })
    }

    /// Reads PKCS#1 (RFC 8017), the form of `RSA PRIVATE KEY`.
    pub(super) fn from_pkcs1(der: &[u8]) -> Result<Self> {
        Self::from_pkcs8(&pkcs8(oid::RSA, &asn1::element(NULL, &[]), der))
    }

    /// Reads SEC 1 (RFC 5915), the form of `EC PRIVATE KEY`; the curve must be named in it.
    pub(super) fn from_sec1(der: &[u8]) -> Result<Self> {
        let mut key = Reader::new(der).inside(SEQUENCE)?;
        key.number()?;
        key.octets()?;
        let curve = key
            .optional(CONTEXT_0)?
            .ok_or_else(|| invalid("the EC private key does not name its curve; store it as PKCS#8"))?
            .inside()
            .oid()?;
        Self::from_pkcs8(&pkcs8(oid::EC, &asn1::element(OID, &[curve]), der))
    }

    /// PKCS#8, DER.
    pub(super) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public key as a certificate's `subjectPublicKey` holds it.
    pub(super) fn public(&self) -> &[u8] {
        &self.public
    }
}

/// A private key's PKCS#8 in the one form that Go writes: without attributes (Windows adds them), RSA with a NULL, EC
/// with its public key and its curve named once. A key of another type stays as it is.
///
/// # Errors
/// `KW_CONTENT_INVALID` for damage, or an EC key on a curve that is not supported.
pub(super) fn portable_pkcs8(der: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let mut info = Reader::new(der).inside(SEQUENCE)?;
    info.number()?;
    let mut algorithm = info.inside(SEQUENCE)?;
    let kind = algorithm.oid()?;
    let inner = info.octets()?;
    if kind == oid::RSA {
        return Ok(pkcs8(oid::RSA, &asn1::element(NULL, &[]), &inner));
    }
    if kind != oid::EC {
        return Ok(Zeroizing::new(der.to_vec()));
    }
    let name = algorithm.oid()?;
    let public = PrivateKey::from_pkcs8(der)?.public;
    let mut key = Reader::new(&inner).inside(SEQUENCE)?;
    key.number()?;
    // As long as a coordinate, of which the uncompressed point has two.
    let mut scalar = Zeroizing::new(vec![0; public.len().saturating_sub(1) / 2]);
    let digits = key.octets()?;
    let padding = scalar.len().checked_sub(digits.len()).ok_or_else(asn1::damaged)?;
    scalar.iter_mut().skip(padding).zip(digits.iter()).for_each(|(to, from)| *to = *from);
    let sec1 = asn1::element(
        SEQUENCE,
        &[
            &asn1::element(INTEGER, &[&[1]]),
            &asn1::element(OCTET_STRING, &[&scalar]),
            &asn1::element(CONTEXT_1, &[&asn1::element(BIT_STRING, &[&[0], &public])]),
        ],
    );
    Ok(pkcs8(oid::EC, &asn1::element(OID, &[name]), &sec1))
}

fn pkcs8(kind: &[u8], parameters: &[u8], key: &[u8]) -> Zeroizing<Vec<u8>> {
    asn1::element(
        SEQUENCE,
        &[
            &asn1::element(INTEGER, &[&[0]]),
            &asn1::algorithm(kind, parameters),
            &asn1::element(OCTET_STRING, &[key]),
        ],
    )
}

fn curve(name: &[u8]) -> Result<&'static EcdsaSigningAlgorithm> {
    if name == oid::P256 {
        Ok(&signature::ECDSA_P256_SHA256_ASN1_SIGNING)
    } else if name == oid::P384 {
        Ok(&signature::ECDSA_P384_SHA384_ASN1_SIGNING)
    } else if name == oid::P521 {
        Ok(&signature::ECDSA_P521_SHA512_ASN1_SIGNING)
    } else {
        Err(unsupported())
    }
}

fn unsupported() -> Error {
    invalid("the private key's type is not supported: RSA, EC P-256, P-384, P-521 and Ed25519 are")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::pem::parse_pem;

    fn fixture(name: &str) -> Zeroizing<Vec<u8>> {
        let path = format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
        parse_pem(&std::fs::read(path).unwrap()).unwrap().remove(0).der
    }

    /// The key as Windows and Java may write it: no public part, the curve named inside, attributes behind.
    fn odd_ec(portable: &[u8], curve: &[u8]) -> Zeroizing<Vec<u8>> {
        let mut info = Reader::new(portable).inside(SEQUENCE).unwrap();
        info.number().unwrap();
        info.inside(SEQUENCE).unwrap();
        let inner = info.octets().unwrap();
        let mut key = Reader::new(&inner).inside(SEQUENCE).unwrap();
        key.number().unwrap();
        let scalar = key.octets().unwrap();
        let sec1 = asn1::element(
            SEQUENCE,
            &[
                &asn1::element(INTEGER, &[&[1]]),
                &asn1::element(OCTET_STRING, &[&scalar]),
                &asn1::element(CONTEXT_0, &[&asn1::element(OID, &[curve])]),
            ],
        );
        pkcs8(oid::EC, &asn1::element(OID, &[curve]), &sec1)
    }

    #[test]
    fn a_key_has_one_portable_form_whoever_wrote_it() {
        for (name, curve) in [("p256", oid::P256), ("p384", oid::P384), ("p521", oid::P521)] {
            let key = fixture(&format!("{name}.key.pem"));
            assert_eq!(portable_pkcs8(&key).unwrap(), key, "{name}");
            assert_eq!(portable_pkcs8(&odd_ec(&key, curve)).unwrap(), key, "{name}");
        }
        for name in ["rsa.key.pem", "ed25519.key.pem"] {
            let key = fixture(name);
            assert_eq!(portable_pkcs8(&key).unwrap(), key, "{name}");
        }
        assert!(portable_pkcs8(b"\x30\x00").is_err());
    }
}
