//! The public part of a key.

use std::borrow::Cow;

use keyward_core::{Code, Collection, Error, ObjectRef, Result};
use serde::Deserialize;

use super::{Attributes, json, nonsense, versioned_id};

/// Longest member in characters: the modulus of a 16,384-bit RSA key.
const MAX_MEMBER: usize = 2731;

/// `GET /keys/{name}/{version}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyBody {
    /// The object with its version.
    pub id: ObjectRef,
    /// JSON Web Key (RFC 7517) with public members only, compact, members in a fixed order. Key types and curves are
    /// written as the registry knows them: `RSA-HSM` is `RSA`, and `P-256K` is `secp256k1` (RFC 8812).
    pub jwk: String,
    /// Attributes.
    pub attributes: Attributes,
}

pub(super) fn parse(body: &[u8]) -> Result<KeyBody> {
    #[derive(Deserialize)]
    struct Jwk<'a> {
        #[serde(borrow)]
        kid: Option<Cow<'a, str>>,
        #[serde(borrow)]
        kty: Option<Cow<'a, str>>,
        #[serde(borrow)]
        n: Option<Cow<'a, str>>,
        #[serde(borrow)]
        e: Option<Cow<'a, str>>,
        #[serde(borrow)]
        crv: Option<Cow<'a, str>>,
        #[serde(borrow)]
        x: Option<Cow<'a, str>>,
        #[serde(borrow)]
        y: Option<Cow<'a, str>>,
    }
    #[derive(Deserialize)]
    struct Raw<'a> {
        #[serde(borrow)]
        key: Option<Jwk<'a>>,
        #[serde(default)]
        attributes: Option<Attributes>,
    }
    let raw: Raw<'_> = json(body)?;
    let key = raw.key.ok_or_else(|| nonsense("the key is missing"))?;
    let id = versioned_id(key.kid.as_deref(), Collection::Keys)?;
    let jwk = match key.kty.as_deref() {
        Some("RSA" | "RSA-HSM") => {
            let (n, e) = (member(key.n.as_deref())?, member(key.e.as_deref())?);
            format!(r#"{{"kty":"RSA","kid":"{id}","n":"{n}","e":"{e}"}}"#)
        }
        Some("EC" | "EC-HSM") => {
            let curve = match key.crv.as_deref() {
                Some(curve @ ("P-256" | "P-384" | "P-521")) => curve,
                Some("P-256K" | "SECP256K1") => "secp256k1",
                _ => return Err(nonsense("the key's curve is not one of Key Vault's")),
            };
            let (x, y) = (member(key.x.as_deref())?, member(key.y.as_deref())?);
            format!(r#"{{"kty":"EC","kid":"{id}","crv":"{curve}","x":"{x}","y":"{y}"}}"#)
        }
        Some("oct" | "oct-HSM") => {
            return Err(Error::new(
                Code::ContentInvalid,
                "the key is symmetric: it has no public part, and the vault never gives out the rest",
            ));
        }
        _ => return Err(nonsense("the key's type is not one of Key Vault's")),
    };
    Ok(KeyBody { id, jwk, attributes: raw.attributes.unwrap_or_default() })
}

/// A base64url member; padding, which RFC 7515 leaves out, is taken off.
fn member(text: Option<&str>) -> Result<&str> {
    text.map(|text| text.trim_end_matches('='))
        .filter(|text| {
            (1..=MAX_MEMBER).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        })
        .ok_or_else(|| nonsense("a member of the key is missing or not base64url"))
}
