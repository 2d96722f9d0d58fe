//! Signed tokens: what the emulator signs itself, and checking what others signed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Map, Value, json};

use crate::key_material::{KeyMaterial, PublicMembers, public_members, sha256, token_signing_key};

/// Tokens longer than this many bytes are not looked at.
const LONGEST_TOKEN: usize = 32 * 1024;

/// A token's claims.
pub type Claims = Map<String, Value>;

/// A token taken apart, but not checked in any way.
#[derive(Clone)]
pub struct UncheckedToken {
    /// The signature algorithm that the header names.
    pub algorithm: Algorithm,
    /// `kid`
    pub key_id: Option<String>,
    /// `x5t`: base64url SHA-1 of the signer's certificate.
    pub thumbprint_sha1: Option<String>,
    /// `x5t#S256`: base64url SHA-256 of the signer's certificate.
    pub thumbprint_sha256: Option<String>,
    /// The payload.
    pub claims: Claims,
}

/// Takes a compact JWT apart. None for anything that is not three base64url parts with JSON objects in the first
/// two, names an unknown algorithm, or is longer than 32 KiB.
#[must_use]
pub fn parse_unchecked(token: &[u8]) -> Option<UncheckedToken> {
    if token.len() > LONGEST_TOKEN || token.iter().filter(|b| **b == b'.').count() != 2 {
        return None;
    }
    let token = std::str::from_utf8(token).ok()?;
    let header = jsonwebtoken::decode_header(token).ok()?;
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims = serde_json::from_slice(&payload).ok()?;
    Some(UncheckedToken {
        algorithm: header.alg,
        key_id: header.kid,
        thumbprint_sha1: header.x5t,
        thumbprint_sha256: header.x5t_s256,
        claims,
    })
}

/// Checks only the signature; times, issuer and audience are the caller's business, who knows the time.
pub(crate) fn signature_holds(token: &str, algorithm: Algorithm, key: &DecodingKey) -> bool {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    jsonwebtoken::decode::<Value>(token, key, &validation).is_ok()
}

/// The verification key in a SubjectPublicKeyInfo.
pub(crate) fn decoding_key(spki: &[u8]) -> Option<DecodingKey> {
    match public_members(spki)? {
        PublicMembers::Rsa { n, e } => Some(DecodingKey::from_rsa_raw_components(&n, &e)),
        PublicMembers::Ec { x, y } => {
            DecodingKey::from_ec_components(&URL_SAFE_NO_PAD.encode(x), &URL_SAFE_NO_PAD.encode(y)).ok()
        }
    }
}

/// Whether a key of `set` signed the token. A `kid` in the header must name a key of the set.
pub(crate) fn signed_by_one_of(set: &JwkSet, token: &str, parsed: &UncheckedToken) -> bool {
    set.keys
        .iter()
        .filter(|jwk| parsed.key_id.is_none() || jwk.common.key_id == parsed.key_id)
        .filter_map(|jwk| DecodingKey::from_jwk(jwk).ok())
        .any(|key| signature_holds(token, parsed.algorithm, &key))
}

/// Reads an integer claim, which some issuers send as a float.
#[expect(clippy::cast_possible_truncation, reason = "seconds since 1970 fit")]
pub(crate) fn seconds(claims: &Claims, name: &str) -> Option<i64> {
    let value = claims.get(name)?;
    value.as_i64().or_else(|| value.as_f64().map(|f| f as i64))
}

/// Reads a text claim.
pub(crate) fn text<'a>(claims: &'a Claims, name: &str) -> Option<&'a str> {
    claims.get(name)?.as_str()
}

/// Whether `aud`, a string or an array of strings, names `audience`.
pub(crate) fn has_audience(claims: &Claims, audience: &str) -> bool {
    match claims.get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(several)) => several.iter().any(|one| one == audience),
        _ => false,
    }
}

/// A P-256 key that signs tokens with ES256.
pub(crate) struct TokenSigner {
    key_id: String,
    material: KeyMaterial,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

impl TokenSigner {
    pub(crate) fn generate() -> Self {
        let material = token_signing_key();
        let encoding = EncodingKey::from_ec_der(&material.pkcs8);
        let decoding = decoding_key(&material.spki).expect("own key");
        let key_id = URL_SAFE_NO_PAD.encode(&sha256(&material.spki)[..20]);
        Self { key_id, material, encoding, decoding }
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.key_id.clone());
        jsonwebtoken::encode(&header, claims, &self.encoding).expect("a P-256 key signs any JSON")
    }

    /// The claims of a token that this key signed.
    pub(crate) fn verify(&self, token: &str) -> Option<Claims> {
        let parsed = parse_unchecked(token.as_bytes())?;
        let own =
            parsed.algorithm == Algorithm::ES256 && signature_holds(token, Algorithm::ES256, &self.decoding);
        own.then_some(parsed.claims)
    }

    /// The public key as a JSON Web Key Set.
    pub(crate) fn jwks(&self) -> Value {
        let mut jwk = self.material.public_jwk();
        for (name, value) in [("use", "sig"), ("alg", "ES256"), ("kid", &self.key_id)] {
            jwk.insert(name.to_owned(), value.into());
        }
        json!({ "keys": [jwk] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_accepted_only_with_its_own_signature() {
        let (signer, other) = (TokenSigner::generate(), TokenSigner::generate());
        let token = signer.sign(&json!({"aud": "x"}));
        assert!(signer.verify(&token).is_some());
        assert!(other.verify(&token).is_none());
        let set: JwkSet = serde_json::from_value(signer.jwks()).expect("own output");
        let parsed = parse_unchecked(token.as_bytes()).expect("own output");
        assert!(signed_by_one_of(&set, &token, &parsed));

        let (head, rest) = token.split_once('.').expect("three parts");
        let (_, signature) = rest.split_once('.').expect("three parts");
        let forged = format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode(r#"{"aud":"y"}"#));
        assert!(signer.verify(&forged).is_none());
        let unsigned =
            format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode("{}"));
        assert!(signer.verify(&unsigned).is_none());
    }
}
