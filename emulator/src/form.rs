//! Form bodies and query strings.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

/// Longest form or query read, in bytes. A federated assertion takes up to a few KiB.
const LONGEST: usize = 64 * 1024;
const MOST_FIELDS: usize = 64;

/// Reads `application/x-www-form-urlencoded` text. None when it is too long, has too many fields or one field twice,
/// or is not UTF-8 after decoding: Entra refuses those as malformed.
#[must_use]
pub fn parse_form(body: &[u8]) -> Option<BTreeMap<String, String>> {
    if body.len() > LONGEST {
        return None;
    }
    let text = std::str::from_utf8(body).ok()?;
    let mut fields = BTreeMap::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let repeated = fields.insert(decode(name)?, decode(value)?).is_some();
        if repeated || fields.len() > MOST_FIELDS {
            return None;
        }
    }
    Some(fields)
}

fn decode(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}
