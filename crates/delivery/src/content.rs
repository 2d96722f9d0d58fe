//! The content pipeline: from what the provider returned to what the file holds.
//!
//! Byte for byte, unless the declaration asks for a conversion: `decode` first, then `key` or `format`. [`convert`] is
//! a pure function: the same input gives the same bytes, key stores included, so that a file is rewritten only when its
//! object changed. Input and output are at most [`MAX_CONTENT`] bytes.

mod decode;
mod pointer;

use keyward_core::spec::{Format, ObjectSource};
use keyward_core::{Code, Content, Error, Fetched, Result, SecretBytes};

pub use decode::decode;
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

/// Converts what was fetched as `source` asks; `password` protects the key store to write.
///
/// # Errors
/// `KW_CONTENT_INVALID`, naming the object and what to change.
pub fn convert(
    source: &ObjectSource,
    fetched: &Fetched,
    password: Option<&SecretBytes>,
) -> Result<Converted> {
    let _ = password;
    let converted = match &fetched.content {
        Content::Secret { value, .. } => check_size(value)
            .and_then(|()| decode(value, source.decode))
            .and_then(|value| match (&source.key, source.format) {
                (Some(key), _) => pick(&value, key),
                (None, Format::Raw) => Ok(value),
                _ => Err(invalid("this format is not available")),
            })
            .map(|value| Converted { value, pair: None }),
        _ => Err(invalid("this format is not available")),
    };
    converted
        .and_then(|converted| check_size(&converted.value).map(|()| converted))
        .map_err(|error| error.object(&source.object))
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
