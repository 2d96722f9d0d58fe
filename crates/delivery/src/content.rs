//! The content pipeline: from what the provider returned to what the file holds.
//!
//! Byte for byte, unless the declaration asks for a conversion: `decode` first, then `key` or `format`. [`convert`] gives
//! the same for the same input: the same input gives the same bytes, key stores included, so that a file is rewritten only when its
//! object changed. It costs time, so it needs a [`Turn`] of the pool of conversions. Input and output are at most
//! [`MAX_CONTENT`] bytes.

mod asn1;
mod azure;
mod chain;
mod decode;
mod format;
mod jks;
mod jwk;
mod key;
mod material;
mod pem;
mod pfx;
mod pointer;
mod salt;
pub(crate) mod wiped;

use std::sync::Arc;

use keyward_core::spec::{Decode, Format, ObjectSource};
use keyward_core::{Code, Content, Error, Fetched, Parts, Result, SecretBytes};

use crate::conversions::Turn;
pub use chain::{Chain, Leaf, order};
pub use decode::decode;
pub use jwk::spki_from_jwk;
pub use pem::{PemBlock, parse_pem};
pub use pfx::{MAX_ITERATIONS, Pfx, PfxCertificate, PfxKey, parse_pfx};
pub use pointer::pick;

/// Largest value that goes in or comes out, in bytes.
pub const MAX_CONTENT: usize = 1 << 20;
/// Largest copy that costs no more than counting references, in bytes.
const SMALL: usize = 16 << 10;

/// What one object became.
#[derive(Clone)]
pub struct Converted {
    /// What gRPC serves and the file holds.
    pub value: SecretBytes,
    /// For [`Format::PemPair`]: what `<file>.crt` and `<file>.key` hold.
    pub pair: Option<(SecretBytes, SecretBytes)>,
}

/// Converts what was fetched as `source` asks; `password` protects the key store to write. Without one a PKCS#12 gets
/// the empty password, as Key Vault's own have, and a Java key store `changeit`, as Java's own have.
///
/// Certificates come out leaf first, each certified by the next ([`order`]); a private key is written only beside the
/// certificate that it belongs to, as PKCS#8.
///
/// # Errors
/// `KW_CONTENT_INVALID`, naming the object and what to change, and what ends a [`Turn`] early.
pub fn convert(
    turn: &Turn,
    source: &ObjectSource,
    fetched: &Arc<Fetched>,
    password: Option<&SecretBytes>,
) -> Result<Converted> {
    match as_it_is(source, fetched) {
        Some(converted) => converted,
        None => turn.once(source, fetched, password, || convert_now(turn, source, fetched, password)),
    }
}

/// What was fetched, where it is to be delivered as the provider gives it, so that there is nothing to compute. `None`
/// where it must be converted.
#[must_use]
pub fn as_it_is(source: &ObjectSource, fetched: &Fetched) -> Option<Result<Converted>> {
    if source.key.is_some() || source.decode != Decode::None {
        return None;
    }
    let small = |bytes: &[u8]| (bytes.len() <= SMALL).then(|| Ok(SecretBytes::copy_from(bytes)));
    let value = match (&fetched.content, source.format) {
        (Content::Secret { value, .. }, Format::Raw)
        | (Content::Secret { value, bundle: None }, Format::Azure | Format::AzurePfx) => {
            Some(check_size(value).map(|()| value.clone()).map_err(|error| error.object(&source.object)))
        }
        (Content::Certificate(content), Format::Raw | Format::Der) if source.parts() == Parts::Object => {
            small(&content.leaf_der)
        }
        (Content::Key { jwk }, Format::Raw | Format::Jwk) => small(jwk.as_bytes()),
        _ => None,
    };
    value.map(|value| value.map(|value| Converted { value, pair: None }))
}

fn convert_now(
    turn: &Turn,
    source: &ObjectSource,
    fetched: &Fetched,
    password: Option<&SecretBytes>,
) -> Result<Converted> {
    let converted = match &fetched.content {
        Content::Secret { value, bundle } if matches!(source.format, Format::Azure | Format::AzurePfx) => {
            check_size(value)
                .and_then(|()| azure::secret(turn, source, value, *bundle))
                .map(|value| Converted { value, pair: None })
        }
        Content::Secret { value, .. } => secret(turn, source, fetched, value, password),
        Content::Key { jwk } => format::key(source, jwk),
        Content::Certificate(content) => format::certificate(turn, source, fetched, content, password),
    };
    converted
        .and_then(|converted| check_size(&converted.value).map(|()| converted))
        .map_err(|error| error.object(&source.object))
}

fn secret(
    turn: &Turn,
    source: &ObjectSource,
    fetched: &Fetched,
    value: &SecretBytes,
    password: Option<&SecretBytes>,
) -> Result<Converted> {
    check_size(value)?;
    let value = decode(value, source.decode)?;
    match (&source.key, source.format) {
        (Some(key), _) => Ok(Converted { value: pick(&value, key)?, pair: None }),
        (None, Format::Raw) => Ok(Converted { value, pair: None }),
        (None, _) => format::bundle_as(turn, source, fetched, value.expose(), None, password),
    }
}

fn check_size(value: &SecretBytes) -> Result<()> {
    if value.len() > MAX_CONTENT {
        return Err(invalid(format!("{} bytes are more than the {MAX_CONTENT} allowed", value.len())));
    }
    Ok(())
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::ContentInvalid, message)
}

/// What is suspicious about a value that is delivered as it is, for a warning in the log; never quotes it.
#[must_use]
pub fn advice(source: &ObjectSource, fetched: &Fetched) -> Option<&'static str> {
    let Content::Secret { value, .. } = &fetched.content else { return None };
    (source.format == Format::Raw && source.key.is_none() && has_literal_line_ends(value.expose()))
        .then_some(LITERAL_LINE_ENDS)
}

const LITERAL_LINE_ENDS: &str = "the PEM holds the two characters \\n where its lines should end; store it again from \
                                 a file, such as `az keyvault secret set --file key.pem`";

/// Whether a PEM text was stored on one line, its line ends written as backslash and n.
fn has_literal_line_ends(value: &[u8]) -> bool {
    contains(value, b"-----BEGIN ") && contains(value, b"-----\\n")
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
