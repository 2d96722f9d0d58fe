//! What Key Vault answers, parsed leniently in form and strictly in what we build on.
//!
//! Plain functions over bytes, so that a fuzz target can call them. Unknown members are ignored, absent ones are
//! absent, times may be numbers or texts; but an object without an identifier, or a secret without a value, is no
//! answer. No error quotes what was read.

mod jwk;
mod lenient;
mod text;

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use keyward_core::{Code, Collection, Error, ObjectRef, Result, SecretBytes, UnixTime, VaultHost, Version};
use serde::Deserialize;
use serde_json::value::RawValue;

pub use jwk::KeyBody;

/// Largest body that is looked at, in bytes: a secret of 25 KB, fully escaped, and a listing page with every tag full
/// (25 × 15 × 1 KB) both fit twice.
pub const MAX_BODY: usize = 1024 * 1024;

/// `GET /secrets/{name}/{version}`.
#[derive(Clone)]
pub struct SecretBody {
    /// The object with its version.
    pub id: ObjectRef,
    /// The value.
    pub value: SecretBytes,
    /// Content type, at most 255 characters.
    pub content_type: Option<String>,
    /// Attributes.
    pub attributes: Attributes,
    /// Whether `kid` is present: the secret backs a certificate.
    pub backs_certificate: bool,
}

/// `GET /certificates/{name}/{version}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateBody {
    /// The object with its version.
    pub id: ObjectRef,
    /// The leaf certificate, DER.
    pub leaf_der: Vec<u8>,
    /// The backing secret with its version.
    pub secret: Option<ObjectRef>,
    /// Attributes.
    pub attributes: Attributes,
}

/// `attributes` of any object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub struct Attributes {
    /// Absent means enabled.
    #[serde(default)]
    pub enabled: Option<bool>,
    /// Not to be used before.
    #[serde(default, rename = "nbf", deserialize_with = "lenient::seconds")]
    pub not_before: Option<UnixTime>,
    /// Not to be used after.
    #[serde(default, rename = "exp", deserialize_with = "lenient::seconds")]
    pub expires: Option<UnixTime>,
    /// When the version was made.
    #[serde(default, deserialize_with = "lenient::seconds")]
    pub created: Option<UnixTime>,
    /// When it was last changed.
    #[serde(default, deserialize_with = "lenient::seconds")]
    pub updated: Option<UnixTime>,
}

impl Attributes {
    /// Whether the object may be given out.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled != Some(false)
    }
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The lines of this page; a page may be empty though more follow.
    pub items: Vec<PageItem>,
    /// Where the next page is, as written; at most 4096 bytes.
    pub next: Option<String>,
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageItem {
    /// The object; with a version only in listings of versions.
    pub id: ObjectRef,
    /// Attributes.
    pub attributes: Attributes,
}

/// The body of a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorBody {
    /// `error.code`, `[A-Za-z0-9]{1,64}` only.
    pub code: Option<String>,
    /// The codes of `innererror` (or `innerError`), outermost first.
    pub inner: Vec<String>,
    /// The number that messages of refused tokens begin with, such as `AKV10022`.
    pub akv: Option<String>,
}

/// Parses a secret bundle.
///
/// # Errors
/// `KW_VAULT_PROTOCOL` when it is not JSON of that shape, or has no value or no versioned identifier.
pub fn parse_secret(body: &[u8]) -> Result<SecretBody> {
    #[derive(Deserialize)]
    struct Raw<'a> {
        #[serde(borrow)]
        id: Option<Cow<'a, str>>,
        #[serde(borrow)]
        value: Option<&'a RawValue>,
        #[serde(rename = "contentType", borrow)]
        content_type: Option<Cow<'a, str>>,
        #[serde(default)]
        attributes: Option<Attributes>,
        #[serde(borrow)]
        kid: Option<Cow<'a, str>>,
    }
    let raw: Raw<'_> = json(body)?;
    let value = raw.value.ok_or_else(|| nonsense("the secret has no value"))?;
    Ok(SecretBody {
        id: versioned_id(raw.id.as_deref(), Collection::Secrets)?,
        value: text::secret(value.get()).ok_or_else(|| nonsense("the secret's value is not a text"))?,
        content_type: raw.content_type.as_deref().map(printable),
        attributes: raw.attributes.unwrap_or_default(),
        backs_certificate: raw.kid.is_some_and(|kid| !kid.is_empty()),
    })
}

/// Parses a key bundle and keeps the public members of its JSON Web Key only.
///
/// # Errors
/// `KW_VAULT_PROTOCOL` when it is not JSON of that shape or a member is missing, `KW_CONTENT_INVALID` when the key has
/// no public part.
pub fn parse_key(body: &[u8]) -> Result<KeyBody> {
    jwk::parse(body)
}

/// Parses a certificate bundle.
///
/// # Errors
/// `KW_VAULT_PROTOCOL` when it is not JSON of that shape, or the certificate or its identifier is missing.
pub fn parse_certificate(body: &[u8]) -> Result<CertificateBody> {
    #[derive(Deserialize)]
    struct Raw<'a> {
        #[serde(borrow)]
        id: Option<Cow<'a, str>>,
        #[serde(borrow)]
        sid: Option<Cow<'a, str>>,
        #[serde(borrow)]
        cer: Option<Cow<'a, str>>,
        #[serde(default)]
        attributes: Option<Attributes>,
    }
    let raw: Raw<'_> = json(body)?;
    let cer = raw.cer.ok_or_else(|| nonsense("the certificate is missing"))?;
    let leaf_der = STANDARD
        .decode(cer.as_bytes())
        .or_else(|_| URL_SAFE_NO_PAD.decode(cer.trim_end_matches('=').as_bytes()))
        .ok()
        .filter(|der| !der.is_empty())
        .ok_or_else(|| nonsense("the certificate is not base64"))?;
    let secret = match raw.sid.as_deref().filter(|sid| !sid.is_empty()) {
        Some(sid) => Some(versioned_id(Some(sid), Collection::Secrets)?),
        None => None,
    };
    Ok(CertificateBody {
        id: versioned_id(raw.id.as_deref(), Collection::Certificates)?,
        leaf_der,
        secret,
        attributes: raw.attributes.unwrap_or_default(),
    })
}

/// Parses one page of a listing of objects or versions, of any collection (`kid` is what keys are listed by).
///
/// # Errors
/// `KW_VAULT_PROTOCOL` when it is not JSON of that shape or a line has no identifier.
pub fn parse_page(body: &[u8]) -> Result<Page> {
    #[derive(Deserialize)]
    struct RawItem<'a> {
        #[serde(borrow)]
        id: Option<Cow<'a, str>>,
        #[serde(borrow)]
        kid: Option<Cow<'a, str>>,
        #[serde(default)]
        attributes: Option<Attributes>,
    }
    #[derive(Deserialize)]
    struct Raw<'a> {
        #[serde(borrow)]
        value: Option<Vec<RawItem<'a>>>,
        #[serde(rename = "nextLink", borrow)]
        next: Option<Cow<'a, str>>,
    }
    let raw: Raw<'_> = json(body)?;
    let items = raw.value.ok_or_else(|| nonsense("the listing has no lines"))?;
    let next = raw.next.filter(|next| !next.is_empty()).map(Cow::into_owned);
    if next.as_ref().is_some_and(|next| next.len() > 4096) {
        return Err(nonsense("the link to the next page is too long"));
    }
    let items = items
        .into_iter()
        .map(|item| {
            let id = item.id.or(item.kid).and_then(|id| parse_id(&id));
            Ok(PageItem {
                id: id.ok_or_else(|| nonsense("a line of the listing has no identifier"))?,
                attributes: item.attributes.unwrap_or_default(),
            })
        })
        .collect::<Result<_>>()?;
    Ok(Page { items, next })
}

/// Parses the body of a refusal: the codes and nothing of the message but an `AKV` number.
///
/// # Errors
/// `KW_VAULT_PROTOCOL` when it is not Key Vault's shape: something else answered.
pub fn parse_error_body(body: &[u8]) -> Result<ErrorBody> {
    #[derive(Deserialize)]
    struct Inner<'a> {
        #[serde(borrow)]
        code: Option<Cow<'a, str>>,
        #[serde(alias = "innerError")]
        innererror: Option<Box<Inner<'a>>>,
    }
    #[derive(Deserialize)]
    struct Detail<'a> {
        #[serde(borrow)]
        code: Option<Cow<'a, str>>,
        #[serde(borrow)]
        message: Option<Cow<'a, str>>,
        #[serde(alias = "innerError")]
        innererror: Option<Box<Inner<'a>>>,
    }
    #[derive(Deserialize)]
    struct Raw<'a> {
        #[serde(borrow)]
        error: Detail<'a>,
    }
    let raw: Raw<'_> = json(body)?;
    let mut inner = Vec::new();
    let mut next = raw.error.innererror;
    while let Some(level) = next {
        inner.extend(level.code.as_deref().and_then(quotable));
        next = level.innererror;
    }
    Ok(ErrorBody {
        code: raw.error.code.as_deref().and_then(quotable),
        inner,
        akv: raw.error.message.as_deref().and_then(akv_number),
    })
}

/// Reads an object's identifier: a URL compared without regard to case, with empty path segments skipped and the query
/// ignored, as the official clients do.
#[must_use]
pub fn parse_id(text: &str) -> Option<ObjectRef> {
    if text.len() > 1024 {
        return None;
    }
    let (scheme, rest) = text.split_at_checked(8)?;
    if !scheme.eq_ignore_ascii_case("https://") {
        return None;
    }
    let rest = rest.split(['?', '#']).next()?;
    let mut parts = rest.split('/').filter(|part| !part.is_empty());
    let host = VaultHost::parse(parts.next()?).ok()?;
    let collection = match parts.next()?.to_ascii_lowercase().as_str() {
        "secrets" => Collection::Secrets,
        "keys" => Collection::Keys,
        "certificates" => Collection::Certificates,
        _ => return None,
    };
    let name = parts.next()?;
    let version = match parts.next() {
        Some(version) => Some(Version::parse(version).ok()?),
        None => None,
    };
    if parts.next().is_some() {
        return None;
    }
    ObjectRef::new(host, collection, name, version).ok()
}

fn versioned_id(text: Option<&str>, collection: Collection) -> Result<ObjectRef> {
    text.and_then(parse_id)
        .filter(|id| id.collection() == collection && id.version().is_some())
        .ok_or_else(|| nonsense("the object's identifier is missing or not one"))
}

/// Decodes JSON; the error tells where, never what.
fn json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T> {
    if body.len() > MAX_BODY {
        return Err(Error::new(Code::ResponseTooLarge, "the vault's answer is longer than 1 MiB"));
    }
    serde_json::from_slice(body).map_err(|error| {
        nonsense("it is not the JSON that Key Vault writes").detail(format_args!(
            "{:?} error at line {} column {}",
            error.classify(),
            error.line(),
            error.column()
        ))
    })
}

fn nonsense(what: &str) -> Error {
    Error::new(Code::VaultProtocol, format!("the vault's answer makes no sense: {what}"))
}

/// A peer's code as far as it may be quoted: letters and digits, at most 64.
fn quotable(code: &str) -> Option<String> {
    ((1..=64).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        .then(|| code.to_owned())
}

fn akv_number(message: &str) -> Option<String> {
    let number = message.split([':', ' ']).next()?;
    let digits = number.strip_prefix("AKV")?;
    ((4..=6).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| number.to_owned())
}

/// At most 255 characters, the service's own limit, and none that would upset a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(255).collect()
}

#[cfg(test)]
mod tests;
