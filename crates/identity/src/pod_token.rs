use std::fmt;

use keyward_core::{Code, Error, Result, SecretBytes, UnixTime};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use crate::file::FILE_LIMIT;

/// All tokens that kubelet passes together are no larger, bytes.
const LIMIT: usize = 256 * 1024;

/// A CSIDriver object asks for no more audiences than that.
const AUDIENCES: usize = 16;

/// No audience is longer, bytes.
const AUDIENCE_LIMIT: usize = 1024;

/// One service-account token of a pod, as kubelet passed it. There is no `Debug`.
#[derive(Clone)]
pub struct PodToken {
    /// Whom it is for; empty for the cluster's own API server.
    pub audience: String,
    /// The token.
    pub token: SecretBytes,
    /// When it ends, wall time.
    pub expires: UnixTime,
}

/// Reads what kubelet writes under `csi.storage.k8s.io/serviceAccount.tokens`:
/// `{"AUDIENCE":{"token":"…","expirationTimestamp":"2026-01-01T00:00:00Z"}}`.
///
/// # Errors
/// `KW_IDENTITY_FILE` for anything else, without a word of it; also for an audience that is named twice, which no
/// honest writer does.
pub fn parse_service_account_tokens(bytes: &[u8]) -> Result<Vec<PodToken>> {
    let bad = |what: &str| {
        Error::new(Code::IdentityFile, format!("the service account tokens that kubelet passed {what}"))
    };
    if bytes.len() > LIMIT {
        return Err(bad("are larger than 256 KiB"));
    }
    let tokens: Tokens = serde_json::from_slice(bytes).map_err(|_| bad("are not what kubelet writes"))?;
    let mut read: Vec<PodToken> = Vec::with_capacity(tokens.0.len());
    for (audience, token) in tokens.0 {
        if audience.len() > AUDIENCE_LIMIT || audience.chars().any(char::is_control) {
            return Err(bad("name an audience that is none"));
        }
        if read.iter().any(|known| known.audience == audience) {
            return Err(bad("name one audience twice"));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let text = &token.token.0;
        if text.is_empty() || text.len() > FILE_LIMIT || !text.bytes().all(plain) {
            return Err(bad("hold a token that is none"));
        }
        let expires = OffsetDateTime::parse(&token.expires, &Rfc3339)
            .ok()
            .and_then(|at| u64::try_from(at.unix_timestamp()).ok())
            .ok_or_else(|| bad("do not say when they end"))?;
        let token = SecretBytes::copy_from(text.as_bytes());
        read.push(PodToken { audience, token, expires: UnixTime::from_secs(expires) });
    }
    Ok(read)
}

#[derive(serde::Deserialize)]
struct Token {
    token: Wiped,
    #[serde(rename = "expirationTimestamp")]
    expires: String,
}

struct Wiped(Zeroizing<String>);

impl<'de> Deserialize<'de> for Wiped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// In the order written, doubles and all.
struct Tokens(Vec<(String, Token)>);

impl<'de> Deserialize<'de> for Tokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct ByAudience;
        impl<'de> Visitor<'de> for ByAudience {
            type Value = Tokens;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tokens by audience")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Tokens, A::Error> {
                let mut tokens = Vec::new();
                while let Some(token) = map.next_entry()? {
                    if tokens.len() == AUDIENCES {
                        return Err(serde::de::Error::custom("too many audiences"));
                    }
                    tokens.push(token);
                }
                Ok(Tokens(tokens))
            }
        }
        deserializer.deserialize_map(ByAudience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tokens_are_read_as_kubelet_writes_them() {
        let text = r#"{"":{"token":"a.b.c","expirationTimestamp":"2026-01-01T00:00:00Z"},
            "api://AzureADTokenExchange":{"token":"eyJ.x-_9.y","expirationTimestamp":"2026-01-01T01:00:00+01:00"}}"#;
        let tokens = parse_service_account_tokens(text.as_bytes()).unwrap();
        assert_eq!(tokens.len(), 2);
        assert_eq!(
            (tokens[0].audience.as_str(), tokens[1].audience.as_str()),
            ("", "api://AzureADTokenExchange")
        );
        assert!(tokens[1].token.expose() == b"eyJ.x-_9.y");
        assert!(tokens.iter().all(|token| token.expires == UnixTime::from_secs(1_767_225_600)));
        assert!(parse_service_account_tokens(b"{}").unwrap().is_empty());
    }

    #[test]
    fn what_kubelet_does_not_write_is_refused_without_repeating_it() {
        let one =
            |token: &str, at: &str| format!(r#"{{"a":{{"token":"{token}","expirationTimestamp":"{at}"}}}}"#);
        let at = "2026-01-01T00:00:00Z";
        let many: Vec<_> =
            (0..17).map(|n| format!(r#""{n}":{{"token":"t","expirationTimestamp":"{at}"}}"#)).collect();
        for bad in [
            String::new(),
            "[]".to_owned(),
            "{\"a\":\"hunter2\"}".to_owned(),
            one("", at),
            one("hunter2 ", at),
            one("hunter2", "tomorrow"),
            one("hunter2", "1969-01-01T00:00:00Z"),
            one(&"t".repeat(FILE_LIMIT + 1), at),
            one("hunter2", at).replace("expirationTimestamp", "expiry"),
            format!("{{{}}}", many.join(",")),
            format!(
                "{{\"a\":{0},\"a\":{0}}}",
                r#"{"token":"hunter2","expirationTimestamp":"2026-01-01T00:00:00Z"}"#
            ),
            " ".repeat(LIMIT + 1),
        ] {
            let error = parse_service_account_tokens(bad.as_bytes()).err().unwrap();
            assert_eq!(error.code(), Code::IdentityFile);
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,200}") {
            let _ = parse_service_account_tokens(&bytes);
            let _ = parse_service_account_tokens(text.as_bytes());
        }

        #[test]
        fn what_was_written_is_read_back(audiences in proptest::collection::btree_set("[a-z:/]{0,20}", 0..16), token in "[A-Za-z0-9._-]{1,100}", seconds in 0i64..4_000_000_000) {
            let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap().format(&Rfc3339).unwrap();
            let entries: serde_json::Map<_, _> = audiences
                .iter()
                .map(|audience| (audience.clone(), serde_json::json!({"token": token, "expirationTimestamp": at})))
                .collect();
            let read = parse_service_account_tokens(&serde_json::to_vec(&entries).unwrap()).unwrap();
            prop_assert_eq!(read.len(), audiences.len());
            for (one, audience) in read.iter().zip(&audiences) {
                prop_assert!(&one.audience == audience && one.token.expose() == token.as_bytes());
                prop_assert_eq!(one.expires.as_secs(), u64::try_from(seconds).unwrap());
            }
        }
    }
}
