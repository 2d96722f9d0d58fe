//! A JSON string straight into secret bytes. `serde_json` would unescape through a scratch buffer that nobody wipes.

use keyward_core::SecretBytes;
use zeroize::Zeroizing;

/// Decodes a JSON string, quotes included, whose syntax a JSON parser has accepted already. `None` when it is another
/// kind of value, or an escape stands for no character.
pub(super) fn secret(raw: &str) -> Option<SecretBytes> {
    let raw = raw.trim_ascii();
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    let mut rest = inner.as_bytes();
    // Never longer than the escaped form, so the buffer never moves and leaves nothing behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(rest.len()));
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        let (plain, escaped) = rest.split_at_checked(at)?;
        bytes.extend_from_slice(plain);
        let (decoded, behind) = escape(escaped.get(1..)?)?;
        bytes.extend_from_slice(decoded.encode_utf8(&mut [0; 4]).as_bytes());
        rest = behind;
    }
    bytes.extend_from_slice(rest);
    Some(SecretBytes::copy_from(&bytes))
}

/// What stands after a backslash: the character, and what follows it.
fn escape(text: &[u8]) -> Option<(char, &[u8])> {
    let (first, rest) = text.split_first()?;
    let simple = match *first {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unicode(rest),
        _ => return None,
    };
    Some((simple, rest))
}

/// Four hexadecimal digits, or two such escapes that make a surrogate pair.
fn unicode(text: &[u8]) -> Option<(char, &[u8])> {
    let (high, rest) = four_digits(text)?;
    if let Some(decoded) = char::from_u32(high.into()) {
        return Some((decoded, rest));
    }
    let (low, rest) = four_digits(rest.strip_prefix(b"\\u")?)?;
    let pair = char::decode_utf16([high, low]).next()?.ok()?;
    Some((pair, rest))
}

fn four_digits(text: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, rest) = text.split_at_checked(4)?;
    let value = digits.iter().try_fold(0_u16, |sum, digit| {
        let digit = u16::try_from(char::from(*digit).to_digit(16)?).ok()?;
        sum.checked_mul(16)?.checked_add(digit)
    })?;
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_that_stand_for_no_character_are_refused() {
        for raw in
            [r#""\ud800""#, r#""\ud800x""#, r#""\ud800\ud800""#, r#""\udc00""#, "12", "null", "{}", "\""]
        {
            assert!(secret(raw).is_none(), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn any_text_survives_json_whether_escaped_or_not(text in "\\PC{0,40}", odd in proptest::collection::vec(any::<char>(), 0..20)) {
            let text: String = text.chars().chain(odd).collect();
            let plain = serde_json::to_string(&text).unwrap();
            prop_assert!(secret(&plain).unwrap().expose() == text.as_bytes());
            let mut escaped = String::from("\"");
            for unit in text.encode_utf16() {
                escaped.push_str(&format!("\\u{unit:04X}"));
            }
            escaped.push('"');
            prop_assert!(secret(&escaped).unwrap().expose() == text.as_bytes());
        }

        #[test]
        fn any_text_at_all_is_decoded_as_serde_json_would_or_refused(raw in "\"(\\PC|\\\\[\"\\\\/bfnrtu0-9a-fA-F]){0,20}\"") {
            if let Ok(expected) = serde_json::from_str::<String>(&raw) {
                prop_assert!(secret(&raw).unwrap().expose() == expected.as_bytes());
            } else {
                let _ = secret(&raw);
            }
        }
    }
}
