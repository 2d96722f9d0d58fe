use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// No part of a claim longer than this is shown, bytes.
const SHOWN: usize = 200;

/// Whose assertion it is, as it says itself: what a federated credential is matched by. None of it is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssertionClaims {
    /// `iss`, the cluster's OIDC issuer; its trailing slash counts.
    pub issuer: String,
    /// `sub`, such as `system:serviceaccount:NAMESPACE:NAME`.
    pub subject: String,
    /// `aud`, the first if there are several.
    pub audience: String,
    /// `exp`, seconds since 1970.
    pub expires: Option<u64>,
}

impl AssertionClaims {
    /// For error messages.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("issuer `{}`, subject `{}`, audience `{}`", self.issuer, self.subject, self.audience)
    }
}

/// Reads the claims of a JWT (RFC 7519) without checking anything: they are for error messages only.
///
/// Values are cut to 200 bytes and to printable ASCII. `None` for what is not a JWT of at most 64 KiB.
#[must_use]
pub fn parse_assertion_claims(token: &[u8]) -> Option<AssertionClaims> {
    #[derive(Deserialize)]
    struct Claims {
        #[serde(default)]
        iss: String,
        #[serde(default)]
        sub: String,
        #[serde(default)]
        aud: Option<Audience>,
        #[serde(default)]
        exp: Option<f64>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Several(Vec<String>),
    }
    if token.len() > crate::file::FILE_LIMIT {
        return None;
    }
    let mut parts = token.split(|byte| *byte == b'.');
    let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    let audience = match claims.aud {
        Some(Audience::One(one)) => one,
        Some(Audience::Several(several)) => several.into_iter().next().unwrap_or_default(),
        None => String::new(),
    };
    Some(AssertionClaims {
        issuer: shown(&claims.iss),
        subject: shown(&claims.sub),
        audience: shown(&audience),
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float casts saturate")]
        expires: claims.exp.map(|seconds| seconds as u64),
    })
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).map(|c| if c.is_ascii_graphic() && c != '`' { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn jwt(claims: &str) -> Vec<u8> {
        format!("eyJhbGciOiJub25lIn0.{}.c2ln", URL_SAFE_NO_PAD.encode(claims)).into_bytes()
    }

    #[test]
    fn issuer_subject_and_audience_are_read_whether_the_audience_is_one_or_a_list() {
        for aud in [r#""api://AzureADTokenExchange""#, r#"["api://AzureADTokenExchange","x"]"#] {
            let claims = parse_assertion_claims(&jwt(&format!(
                r#"{{"iss":"https://o/","sub":"system:serviceaccount:a:b","aud":{aud},"exp":1800000000}}"#
            )))
            .unwrap();
            assert_eq!(
                claims.describe(),
                "issuer `https://o/`, subject `system:serviceaccount:a:b`, audience `api://AzureADTokenExchange`"
            );
            assert_eq!(claims.expires, Some(1_800_000_000));
        }
    }

    #[test]
    fn hostile_claims_are_cut_and_cleaned() {
        let long = format!(r#"{{"iss":"{}","sub":"a\n`b","aud":[]}}"#, "x".repeat(5000));
        let claims = parse_assertion_claims(&jwt(&long)).unwrap();
        assert_eq!(
            (claims.issuer.len(), claims.subject.as_str(), claims.audience.as_str()),
            (SHOWN, "a??b", "")
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), claims in "\\PC{0,200}") {
            let _ = parse_assertion_claims(&bytes);
            let _ = parse_assertion_claims(&jwt(&claims));
        }
    }
}
