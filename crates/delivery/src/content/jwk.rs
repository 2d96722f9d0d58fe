use aws_lc_rs::signature::{self, ParsedPublicKey};
use base64::Engine;
use keyward_core::Result;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::asn1::{self, BIT_STRING, NULL, OID, SEQUENCE, oid};
use super::decode::BASE64_URL;
use super::invalid;

/// The members of a public JSON Web Key that matter (RFC 7517, RFC 7518 §6).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

/// Turns a public JSON Web Key into a SubjectPublicKeyInfo (RFC 5280), DER, after the crypto library accepted it.
///
/// # Errors
/// `KW_CONTENT_INVALID` for what is no JWK, for a symmetric key, and for curves other than P-256, P-384 and P-521.
pub fn spki_from_jwk(jwk: &[u8]) -> Result<Vec<u8>> {
    let key: Jwk =
        serde_json::from_slice(jwk).map_err(|_| invalid("the key is no JSON Web Key with a public part"))?;
    let spki = match key.kty.as_str() {
        "RSA" | "RSA-HSM" => rsa(&key),
        "EC" | "EC-HSM" => ec(&key),
        "oct" | "oct-HSM" => Err(invalid("a symmetric key has no public part; use `format: jwk`")),
        _ => Err(invalid("the key's type is not supported: RSA and EC are")),
    }?;
    Ok(spki.to_vec())
}

fn rsa(key: &Jwk) -> Result<Zeroizing<Vec<u8>>> {
    let (modulus, exponent) = (member(key.n.as_deref())?, member(key.e.as_deref())?);
    let digits = asn1::without_zeros(&modulus);
    let unused = digits.first().map_or(0, |byte| byte.leading_zeros() as usize);
    let bits = digits.len().saturating_mul(8).saturating_sub(unused);
    if !(2048..=8192).contains(&bits) {
        return Err(invalid("the RSA key is not of 2048 to 8192 bits"));
    }
    let public = asn1::element(SEQUENCE, &[&asn1::unsigned(&modulus), &asn1::unsigned(&exponent)]);
    ParsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, public.as_slice())
        .map_err(|_| invalid("the RSA key is damaged"))?;
    Ok(spki(&asn1::algorithm(oid::RSA, &asn1::element(NULL, &[])), &public))
}

fn ec(key: &Jwk) -> Result<Zeroizing<Vec<u8>>> {
    let (curve, size, algorithm) = match key.crv.as_deref() {
        Some("P-256") => (oid::P256, 32, &signature::ECDSA_P256_SHA256_ASN1),
        Some("P-384") => (oid::P384, 48, &signature::ECDSA_P384_SHA384_ASN1),
        Some("P-521") => (oid::P521, 66, &signature::ECDSA_P521_SHA512_ASN1),
        Some("P-256K" | "secp256k1") => {
            return Err(invalid("the curve P-256K is not supported in this format; use `format: jwk`"));
        }
        _ => return Err(invalid("the key's curve is not supported: P-256, P-384 and P-521 are")),
    };
    let mut point = vec![4];
    for coordinate in [&key.x, &key.y] {
        let digits = member(coordinate.as_deref())?;
        let padding = usize::checked_sub(size, digits.len())
            .ok_or_else(|| invalid("a coordinate of the EC key is longer than its curve"))?;
        point.extend(std::iter::repeat_n(0, padding));
        point.extend_from_slice(&digits);
    }
    ParsedPublicKey::new(algorithm, &point).map_err(|_| invalid("the EC key is no point of its curve"))?;
    Ok(spki(&asn1::algorithm(oid::EC, &asn1::element(OID, &[curve])), &point))
}

fn member(text: Option<&str>) -> Result<Vec<u8>> {
    let text = text.ok_or_else(|| invalid("a member of the JSON Web Key is missing"))?;
    if text.len() > 4096 {
        return Err(invalid("a member of the JSON Web Key is too long"));
    }
    BASE64_URL.decode(text).map_err(|_| invalid("a member of the JSON Web Key is not base64url"))
}

fn spki(algorithm: &[u8], key: &[u8]) -> Zeroizing<Vec<u8>> {
    asn1::element(SEQUENCE, &[algorithm, &asn1::element(BIT_STRING, &[&[0], key])])
}
