//! Hides what looks like a credential.

#![expect(clippy::arithmetic_side_effects, reason = "places in a line that is in memory")]

use std::borrow::Cow;

/// What stands in its place.
const MASK: &[u8] = b"[masked]";
/// After one of these words (in any case) and a separator, a run of token characters is hidden.
const KEYS: &[&[u8]] = &[
    b"bearer",
    b"basic",
    b"client_secret",
    b"client_assertion",
    b"assertion",
    b"access_token",
    b"refresh_token",
    b"id_token",
    b"x-identity-header",
    b"sig",
];
/// The separator between key and value: `=`, `: `, `":"`, `\":\"`, `%3D` as one, …
const MAX_SEPARATOR: usize = 8;
/// Every JSON Web Token begins with this: `{"` in base64.
const JWT: &[u8] = b"eyJ";
/// Shorter runs are words of prose.
const MIN_RUN: usize = 8;

/// `line` with JSON Web Tokens, bearer tokens and client credentials replaced by `[masked]`.
#[must_use]
pub fn mask(line: &[u8]) -> Cow<'_, [u8]> {
    let mut masked: Option<Vec<u8>> = None;
    let (mut at, mut copied) = (0, 0);
    while at < line.len() {
        let Some((start, end)) = credential(line, at) else {
            at += 1;
            continue;
        };
        let out = masked.get_or_insert_with(|| Vec::with_capacity(line.len()));
        out.extend_from_slice(line.get(copied..start).unwrap_or_default());
        out.extend_from_slice(MASK);
        (at, copied) = (end, end);
    }
    match masked {
        None => Cow::Borrowed(line),
        Some(mut out) => {
            out.extend_from_slice(line.get(copied..).unwrap_or_default());
            Cow::Owned(out)
        }
    }
}

/// The credential that begins at `at`, or after a key that begins there.
fn credential(line: &[u8], at: usize) -> Option<(usize, usize)> {
    let (before, rest) = line.split_at_checked(at)?;
    if before.last().is_some_and(u8::is_ascii_alphanumeric) {
        return None;
    }
    if rest.starts_with(JWT) {
        let length = run(rest);
        return (length >= MIN_RUN).then_some((at, at + length));
    }
    let (key, after) = KEYS.iter().find_map(|key| {
        let (begins, after) = rest.split_at_checked(key.len())?;
        (!after.is_empty() && begins.eq_ignore_ascii_case(key)).then_some((key, after))
    })?;
    let gap = after.iter().take(MAX_SEPARATOR).take_while(|byte| b" \t=:\"'\\".contains(byte)).count();
    let length = run(after.get(gap..)?);
    let start = at + key.len() + gap;
    (gap > 0 && length >= MIN_RUN).then_some((start, start + length))
}

/// How many characters of a token, of any base64 or percent-encoding, follow.
fn run(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=%".contains(byte)).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(text: &str) -> String {
        String::from_utf8(mask(text.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn tokens_are_hidden_in_every_form_that_they_travel_in() {
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl-_x";
        for (text, shown) in [
            (format!("got {jwt} back"), "got [masked] back"),
            (format!("{{\"token\":\"{jwt}\"}}"), "{\"token\":\"[masked]\"}"),
            ("Authorization: Bearer abcDEF123456==".to_owned(), "Authorization: Bearer [masked]"),
            ("authorization: BEARER abcDEF123456".to_owned(), "authorization: BEARER [masked]"),
            (
                "client_id=x&client_secret=s3cr3t%2Bvalue&scope=y".to_owned(),
                "client_id=x&client_secret=[masked]&scope=y",
            ),
            (format!("client_assertion={jwt}&a=b"), "client_assertion=[masked]&a=b"),
            (
                r#"{"access_token":"opaque-0123456789","expires_in":1}"#.to_owned(),
                r#"{"access_token":"[masked]","expires_in":1}"#,
            ),
            (
                r#"{"m":"{\"refresh_token\": \"opaque-0123456789\"}"}"#.to_owned(),
                r#"{"m":"{\"refresh_token\": \"[masked]\"}"}"#,
            ),
        ] {
            assert_eq!(masked(&text), shown);
        }
    }

    #[test]
    fn prose_is_left_alone() {
        for text in [
            "the bearer of news",
            "no token",
            "basic rule",
            "KW_TOKEN_REFUSED: client 1111",
            "eyJ",
            "sigterm",
        ] {
            assert_eq!(masked(text), text);
        }
    }

    proptest! {
        #[test]
        fn no_token_survives_wherever_it_stands(
            before in "[ -~]{0,30}[ \"=:&]", payload in "[A-Za-z0-9_-]{8,60}", after in "([ \"&,}][ -~]{0,30})?",
        ) {
            let token = format!("eyJ{payload}.eyJ{payload}.{payload}");
            let line = masked(&format!("{before}{token}{after}"));
            prop_assert!(!line.contains(&payload));
        }

        #[test]
        fn any_bytes_are_masked_without_a_panic_and_masking_twice_changes_nothing(bytes: Vec<u8>) {
            let once = mask(&bytes).into_owned();
            prop_assert_eq!(mask(&once).into_owned(), once);
        }
    }
}
