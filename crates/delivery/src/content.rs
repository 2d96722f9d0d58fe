//! The content pipeline: from what the provider returned to what the file holds.
//!
//! Byte for byte, unless the declaration asks for a conversion: `decode` first, then `key` or `format`. [`convert`] is
//! a pure function: the same input gives the same bytes, key stores included, so that a file is rewritten only when its
//! object changed. Input and output are at most [`MAX_CONTENT`] bytes.

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

use keyward_core::spec::{Format, ObjectSource};
use keyward_core::{Code, Content, Error, Fetched, Result, SecretBytes};

pub use chain::{Chain, Leaf, order};
pub use decode::decode;
pub use jwk::spki_from_jwk;
pub use pem::{PemBlock, parse_pem};
pub use pfx::{MAX_ITERATIONS, Pfx, PfxCertificate, PfxKey, parse_pfx};
pub use pointer::pick;

/// Largest value that goes in or comes out, in bytes.
pub const MAX_CONTENT: usize = 1 << 20;

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
/// `KW_CONTENT_INVALID`, naming the object and what to change.
pub fn convert(
    source: &ObjectSource,
    fetched: &Fetched,
    password: Option<&SecretBytes>,
) -> Result<Converted> {
    let converted = match &fetched.content {
        Content::Secret { value, bundle } if matches!(source.format, Format::Azure | Format::AzurePfx) => {
            check_size(value)
                .and_then(|()| azure::secret(source, value, *bundle))
                .map(|value| Converted { value, pair: None })
        }
        Content::Secret { value, .. } => secret(source, fetched, value, password),
        Content::Key { jwk } => format::key(source, jwk),
        Content::Certificate(content) => format::certificate(source, fetched, content, password),
    };
    converted
        .and_then(|converted| check_size(&converted.value).map(|()| converted))
        .map_err(|error| error.object(&source.object))
}

fn secret(
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
        (None, _) => format::bundle_as(source, fetched, value.expose(), None, password),
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
