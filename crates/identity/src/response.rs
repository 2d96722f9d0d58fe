use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use keyward_core::{Code, Error, Result, SecretBytes, UnixTime};
use serde::de::{Deserialize, Deserializer, Visitor};
use zeroize::Zeroizing;

use crate::Issued;

/// No answer of a token endpoint is larger, bytes.
pub(crate) const ANSWER_LIMIT: usize = 64 * 1024;

/// Reads the answer of a token endpoint or metadata service; `now` is wall time.
///
/// Lenient where peers differ: times are numbers or decimal strings, `expires_in` or `expires_on` may be missing,
/// `token_type` and `resource` too. Where both times are there the earlier end counts, unless `expires_on` lies in the
/// past, which only tells that one of the clocks is wrong.
///
/// # Errors
/// `KW_TOKEN_PROTOCOL`, without a word of the answer.
pub fn parse_token_response(body: &[u8], now: UnixTime) -> Result<Issued> {
    let bad = |what: &str| Error::new(Code::TokenProtocol, format!("the token endpoint's answer {what}"));
    if body.len() > ANSWER_LIMIT {
        return Err(bad("is larger than 64 KiB"));
    }
    let answer: Answer<'_> = serde_json::from_slice(body).map_err(|_| bad("is not a token in JSON"))?;
    let token = answer.access_token.0;
    // RFC 6750 §2.1: what may stand in an Authorization header.
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if token.is_empty() || !token.bytes().all(allowed) {
        return Err(bad("holds a token that cannot be sent"));
    }
    if answer.token_type.is_some_and(|kind| !kind.eq_ignore_ascii_case("Bearer")) {
        return Err(bad("holds a token that is not a bearer token"));
    }
    let until = answer.expires_on.and_then(|on| on.0.checked_sub(now)).filter(|left| !left.is_zero());
    let lifetime = match (answer.expires_in.map(|seconds| seconds.0), until) {
        (Some(lifetime), Some(until)) => lifetime.min(until),
        (Some(lifetime), None) => lifetime,
        (None, Some(until)) => until,
        (None, None) => return Err(bad("does not say how long the token lives")),
    };
    if lifetime.is_zero() {
        return Err(bad("holds a token that has expired"));
    }
    Ok(Issued {
        secret: SecretBytes::copy_from(token.as_bytes()),
        lifetime: lifetime.min(LONGEST),
        refresh_in: answer.refresh_in.map(|seconds| seconds.0).filter(|seconds| !seconds.is_zero()),
    })
}

/// Nothing that Azure issues lives longer; keeps sums of times small.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);

#[derive(serde::Deserialize)]
struct Answer<'a> {
    access_token: Wiped,
    #[serde(borrow)]
    token_type: Option<Cow<'a, str>>,
    expires_in: Option<Seconds>,
    expires_on: Option<Seconds>,
    refresh_in: Option<Seconds>,
}

struct Wiped(Zeroizing<String>);

impl<'de> Deserialize<'de> for Wiped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// Whole seconds, as a number or as text.
struct Seconds(Duration);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Lenient;
        impl Visitor<'_> for Lenient {
            type Value = Seconds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("seconds")
            }

            fn visit_u64<E>(self, value: u64) -> std::result::Result<Seconds, E> {
                Ok(Seconds(Duration::from_secs(value)))
            }

            fn visit_i64<E>(self, value: i64) -> std::result::Result<Seconds, E> {
                Ok(Seconds(Duration::from_secs(u64::try_from(value).unwrap_or(0))))
            }

            fn visit_f64<E>(self, value: f64) -> std::result::Result<Seconds, E> {
                Ok(Seconds(Duration::try_from_secs_f64(value.trunc()).unwrap_or_default()))
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> std::result::Result<Seconds, E> {
                value
                    .trim()
                    .parse()
                    .map(|seconds| Seconds(Duration::from_secs(seconds)))
                    .map_err(|_| E::custom("seconds"))
            }
        }
        deserializer.deserialize_any(Lenient)
    }
}

/// What a refusal says in words that may be repeated: numbers and short names, never its description.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenError {
    /// The OAuth error, such as `invalid_client`, when it is a plain word.
    pub error: Option<String>,
    /// The first AADSTS number.
    pub code: Option<u32>,
    /// Entra's id of the request, for its support.
    pub trace_id: Option<String>,
}

/// Reads the body of a refusal. What cannot be read is left out, so that a proxy's page gives an empty one.
#[must_use]
pub fn parse_token_error(body: &[u8]) -> TokenError {
    #[derive(serde::Deserialize)]
    struct Body<'a> {
        #[serde(borrow, default)]
        error: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        error_description: Option<Cow<'a, str>>,
        #[serde(default)]
        error_codes: Option<Vec<u32>>,
        #[serde(borrow, default)]
        trace_id: Option<Cow<'a, str>>,
    }
    if body.len() > ANSWER_LIMIT {
        return TokenError::default();
    }
    let Ok(body) = serde_json::from_slice::<Body<'_>>(body) else { return TokenError::default() };
    let described = || aadsts(body.error_description.as_deref()?);
    TokenError {
        code: body.error_codes.as_ref().and_then(|codes| codes.first().copied()).or_else(described),
        error: body.error.as_deref().and_then(word),
        trace_id: body.trace_id.as_deref().and_then(word),
    }
}

/// The number in `AADSTS700213: …`.
fn aadsts(description: &str) -> Option<u32> {
    let digits = description.trim_start().strip_prefix("AADSTS")?;
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn word(text: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (!text.is_empty() && text.len() <= 64 && text.bytes().all(plain)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: UnixTime = Duration::from_secs(1_800_000_000);

    fn lifetime(json: &str) -> Result<Duration> {
        parse_token_response(json.as_bytes(), NOW).map(|issued| issued.lifetime)
    }

    #[test]
    fn limit_4_times_may_be_strings_or_numbers_and_type_and_resource_may_be_missing() {
        for times in [
            r#""expires_in":3599"#,
            r#""expires_in":"3599""#,
            r#""expires_on":1800003599"#,
            r#""expires_on":"1800003599""#,
            r#""expires_in":"3599","expires_on":1800003599.0,"not_before":"1","refresh_token":"","ext_expires_in":3599"#,
        ] {
            let body = format!(r#"{{"access_token":"eyJ.a.b",{times}}}"#);
            assert_eq!(lifetime(&body).unwrap(), Duration::from_secs(3599), "{body}");
        }
    }

    #[test]
    fn the_earlier_end_counts_but_a_past_expires_on_only_tells_of_a_wrong_clock() {
        let both = |on: u64| {
            lifetime(&format!(r#"{{"access_token":"t","expires_in":3600,"expires_on":{on}}}"#)).unwrap()
        };
        assert_eq!(both(1_800_000_100), Duration::from_secs(100));
        assert_eq!(both(1_900_000_000), Duration::from_secs(3600));
        assert_eq!(both(1_000_000_000), Duration::from_secs(3600));
    }

    #[test]
    fn what_is_no_token_is_a_protocol_error_that_repeats_nothing() {
        for body in [
            "",
            "<html>hunter2</html>",
            "{}",
            r#"{"access_token":"hunter2"}"#,
            r#"{"access_token":"","expires_in":1}"#,
            r#"{"access_token":"hunter2\nx: y","expires_in":1}"#,
            r#"{"access_token":"hunter2","expires_in":0}"#,
            r#"{"access_token":"hunter2","expires_in":"soon"}"#,
            r#"{"access_token":"hunter2","expires_in":60,"token_type":"pop"}"#,
            r#"{"access_token":{"hunter2":1},"expires_in":60}"#,
        ] {
            let error = lifetime(body).unwrap_err();
            assert_eq!(error.code(), Code::TokenProtocol, "{body}");
            assert!(!format!("{error} {:?}", error.internal_detail()).contains("hunter2"), "{error}");
        }
        assert!(
            lifetime(&format!(r#"{{"access_token":"{}","expires_in":1}}"#, "a".repeat(ANSWER_LIMIT)))
                .is_err()
        );
    }

    #[test]
    fn a_refusal_is_read_for_its_numbers_and_not_for_its_words() {
        let body = br#"{"error":"invalid_client","error_description":"AADSTS700213: hunter2","error_codes":[700213,1],"trace_id":"0a-1b"}"#;
        let read = parse_token_error(body);
        assert_eq!(
            (read.error.as_deref(), read.code, read.trace_id.as_deref()),
            (Some("invalid_client"), Some(700_213), Some("0a-1b"))
        );
        let described =
            parse_token_error(br#"{"error":"bad words!","error_description":"AADSTS7000215: x"}"#);
        assert_eq!(described, TokenError { error: None, code: Some(7_000_215), trace_id: None });
        assert_eq!(parse_token_error(b"<html>"), TokenError::default());
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_token_response(&body, NOW);
            let _ = parse_token_error(&body);
        }

        #[test]
        fn any_times_give_a_life_between_nothing_and_a_week(expires_in in any::<f64>(), expires_on in any::<i64>(), refresh_in in any::<u64>()) {
            let body = serde_json::json!({"access_token": "t", "expires_in": expires_in, "expires_on": expires_on, "refresh_in": refresh_in}).to_string();
            if let Ok(issued) = parse_token_response(body.as_bytes(), NOW) {
                prop_assert!(!issued.lifetime.is_zero() && issued.lifetime <= LONGEST);
            }
        }

        #[test]
        fn a_refusal_never_yields_more_than_short_words(error in "\\PC{0,80}", trace in "\\PC{0,80}") {
            let body = serde_json::json!({"error": error, "trace_id": trace}).to_string();
            let read = parse_token_error(body.as_bytes());
            for word in [read.error, read.trace_id].into_iter().flatten() {
                prop_assert!(word.len() <= 64 && word.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }
}
