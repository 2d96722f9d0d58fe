use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// No part of a claim longer than this is shown, bytes.
const SHOWN: usize = 200;

/// No name in Kubernetes is longer, bytes; a longer one is taken for none.
const NAME_LIMIT: usize = 253;

/// Of more audiences than that the rest are not looked at, nor one that is longer than this, bytes.
const AUDIENCES: usize = 16;
const AUDIENCE_LIMIT: usize = 1024;

/// Whose assertion it is, as it says itself: what a federated credential is matched by. None of it is secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AssertionClaims {
    /// `iss`, the cluster's OIDC issuer; its trailing slash counts. For people: cut and cleaned.
    pub issuer: String,
    /// `sub`, such as `system:serviceaccount:NAMESPACE:NAME`. For people: cut and cleaned.
    pub subject: String,
    /// `aud`, the first if there are several. For people: cut and cleaned.
    pub audience: String,
    /// Every `aud`, to the letter.
    pub audiences: Vec<String>,
    /// `exp`, seconds since 1970.
    pub expires: Option<u64>,
    /// The namespace by the `kubernetes.io` claim, to the letter, like all that follow.
    pub namespace: Option<String>,
    /// The service account's name.
    pub service_account: Option<String>,
    /// The service account's UID.
    pub service_account_uid: Option<String>,
    /// The name of the pod that the token is bound to.
    pub pod_name: Option<String>,
    /// The UID of that pod.
    pub pod_uid: Option<String>,
}

impl AssertionClaims {
    /// For error messages.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("issuer `{}`, subject `{}`, audience `{}`", self.issuer, self.subject, self.audience)
    }
}

/// Reads the claims of a JWT (RFC 7519) without checking its signature: they are good for error messages, and for
/// refusing a token whose own words do not fit the pod that it came with. Who trusts a token has to ask Entra.
///
/// What is for people is cut to 200 bytes and to printable ASCII. `None` for what is not a JWT of at most 64 KiB.
#[must_use]
pub fn parse_assertion_claims(token: &[u8]) -> Option<AssertionClaims> {
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
    let audiences = match claims.aud {
        Some(Audience::One(one)) => vec![one],
        Some(Audience::Several(several)) => several,
        None => Vec::new(),
    };
    let bound = claims.kubernetes.unwrap_or_default();
    let (account, pod) = (bound.serviceaccount.unwrap_or_default(), bound.pod.unwrap_or_default());
    Some(AssertionClaims {
        issuer: shown(&claims.iss),
        subject: shown(&claims.sub),
        audience: audiences.first().map(|audience| shown(audience)).unwrap_or_default(),
        audiences: audiences
            .into_iter()
            .take(AUDIENCES)
            .filter(|audience| audience.len() <= AUDIENCE_LIMIT)
            .collect(),
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float casts saturate")]
        expires: claims.exp.map(|seconds| seconds as u64),
        namespace: name(bound.namespace),
        service_account: name(account.name),
        service_account_uid: name(account.uid),
        pod_name: name(pod.name),
        pod_uid: name(pod.uid),
    })
}

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
    #[serde(default, rename = "kubernetes.io")]
    kubernetes: Option<Kubernetes>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// The private claim of the API server's own tokens.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Kubernetes {
    namespace: Option<String>,
    serviceaccount: Option<Named>,
    pod: Option<Named>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Named {
    name: Option<String>,
    uid: Option<String>,
}

fn name(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty() && text.len() <= NAME_LIMIT)
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

    #[test]
    fn the_pod_and_service_account_are_read_to_the_letter() {
        let claims = parse_assertion_claims(&jwt(
            r#"{"aud":["a","b"],"kubernetes.io":{"namespace":"shop","serviceaccount":{"name":"web","uid":"u1"},
                "pod":{"name":"web-1","uid":"u2"},"node":{"name":"n"},"warnafter":1}}"#,
        ))
        .unwrap();
        assert_eq!(claims.audiences, ["a", "b"]);
        assert_eq!(claims.namespace.as_deref(), Some("shop"));
        assert_eq!(claims.service_account.as_deref(), Some("web"));
        assert_eq!(claims.service_account_uid.as_deref(), Some("u1"));
        assert_eq!((claims.pod_name.as_deref(), claims.pod_uid.as_deref()), (Some("web-1"), Some("u2")));
    }

    #[test]
    fn a_name_that_no_name_can_be_is_none_and_is_not_cut_to_one_that_fits() {
        let long = "x".repeat(NAME_LIMIT + 1);
        let claims = parse_assertion_claims(&jwt(&format!(
            r#"{{"kubernetes.io":{{"namespace":"{long}","serviceaccount":{{"name":""}},"pod":null}}}}"#
        )))
        .unwrap();
        assert_eq!((claims.namespace, claims.service_account, claims.pod_uid), (None, None, None));
        assert!(parse_assertion_claims(&jwt(r#"{"kubernetes.io":{"namespace":7}}"#)).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), claims in "\\PC{0,200}") {
            let _ = parse_assertion_claims(&bytes);
            let _ = parse_assertion_claims(&jwt(&claims));
        }
    }
}
