//! Judging client assertions: of applications that sign with a certificate, and of workloads in clusters.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::error::EntraError;
use crate::engine::{Core, ENTRA_HOSTS};
use crate::identities::{FederatedCredential, Identity};
use crate::issuer::IDENTITY_BINDING_AUDIENCE;
use crate::jwt::{
    UncheckedToken, decoding_key, has_audience, seconds, signature_holds, signed_by_one_of, text,
};
use crate::key_material::{sha1, sha256};
use crate::pki::spki;

/// What Entra grants clocks, in seconds.
const LEEWAY: i64 = 300;

/// An assertion that the application signed with its certificate's key.
pub(super) fn check_certificate(
    core: &Core,
    identity: &Identity,
    assertion: &str,
    parsed: &UncheckedToken,
    now: i64,
) -> Result<(), EntraError> {
    check_times(parsed, now)?;
    if text(&parsed.claims, "sub") != Some(identity.client_id.as_str()) {
        return Err(EntraError::of(700_030));
    }
    let for_this_endpoint = ENTRA_HOSTS.iter().any(|host| {
        let tenant = &identity.tenant_id;
        [format!("https://{host}/{tenant}/oauth2/v2.0/token"), format!("https://{host}/{tenant}/v2.0")]
            .iter()
            .any(|url| has_audience(&parsed.claims, url))
    });
    if !for_this_endpoint && !audience_is_local(parsed, &identity.tenant_id) {
        return Err(EntraError::of(7_002_381));
    }
    let certificates = core.identities.with(&identity.client_id, |entry| entry.certificates.clone());
    let signed = certificates.unwrap_or_default().iter().any(|der| {
        names(parsed, der)
            && spki(der)
                .and_then(|spki| decoding_key(&spki))
                .is_some_and(|key| signature_holds(assertion, parsed.algorithm, &key))
    });
    if signed { Ok(()) } else { Err(EntraError::of(700_027)) }
}

/// `https://localhost:PORT/…` or the bare address, where Entra answers when nobody overrides name resolution.
fn audience_is_local(parsed: &UncheckedToken, tenant: &str) -> bool {
    let audience = text(&parsed.claims, "aud").unwrap_or_default();
    let local =
        ["https://localhost:", "https://127.0.0.1:"].iter().find_map(|front| audience.strip_prefix(front));
    let path = local.and_then(|rest| rest.split_once('/')).map(|(_, path)| path);
    path == Some(&format!("{tenant}/oauth2/v2.0/token")) || path == Some(&format!("{tenant}/v2.0"))
}

fn names(parsed: &UncheckedToken, der: &[u8]) -> bool {
    let is = |said: &Option<String>, digest: Vec<u8>| {
        said.as_deref().map(|said| said.trim_end_matches('=') == URL_SAFE_NO_PAD.encode(digest))
    };
    is(&parsed.thumbprint_sha256, sha256(der))
        .or_else(|| is(&parsed.thumbprint_sha1, sha1(der)))
        .unwrap_or(false)
}

/// An assertion of an issuer that the identity trusts for this subject.
pub(super) fn check_federated(
    core: &Core,
    identity: &Identity,
    assertion: &str,
    parsed: &UncheckedToken,
    at_proxy: bool,
    now: i64,
) -> Result<(), EntraError> {
    let issuer = text(&parsed.claims, "iss").unwrap_or_default();
    let subject = text(&parsed.claims, "sub").unwrap_or_default();
    let credentials: Vec<FederatedCredential> = core
        .identities
        .with(&identity.client_id, |entry| entry.federated.clone())
        .unwrap_or_default()
        .into_iter()
        .filter(|credential| (credential.audience == IDENTITY_BINDING_AUDIENCE) == at_proxy)
        .collect();
    match_credential(&credentials, issuer, subject, parsed)?;
    let keys = core.issuer.keys_of(issuer).ok_or(EntraError::of(50_027).about(issuer))?;
    if !signed_by_one_of(&keys, assertion, parsed) {
        return Err(EntraError::of(700_027));
    }
    check_times(parsed, now)
}

/// Issuer, audience and subject must match one credential exactly; the first that none has is reported.
fn match_credential(
    credentials: &[FederatedCredential],
    issuer: &str,
    subject: &str,
    parsed: &UncheckedToken,
) -> Result<(), EntraError> {
    let of_issuer: Vec<_> = credentials.iter().filter(|credential| credential.issuer == issuer).collect();
    if of_issuer.is_empty() {
        return Err(EntraError::of(700_211).about(&format!("'{issuer}'")));
    }
    let for_audience: Vec<_> = of_issuer
        .into_iter()
        .filter(|credential| has_audience(&parsed.claims, &credential.audience))
        .collect();
    if for_audience.is_empty() {
        return Err(EntraError::of(700_212));
    }
    if for_audience.iter().any(|credential| credential.subject == subject) {
        return Ok(());
    }
    let but_for_case = for_audience.iter().any(|credential| credential.subject.eq_ignore_ascii_case(subject));
    Err(EntraError::of(if but_for_case { 7_002_138 } else { 700_213 }).about(&format!("'{subject}'")))
}

fn check_times(parsed: &UncheckedToken, now: i64) -> Result<(), EntraError> {
    let expired = seconds(&parsed.claims, "exp").is_none_or(|exp| exp + LEEWAY <= now);
    let early = seconds(&parsed.claims, "nbf").is_some_and(|nbf| nbf - LEEWAY > now);
    if expired || early { Err(EntraError::of(700_024)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(audience: &str) -> UncheckedToken {
        let claims = json!({ "aud": [audience] });
        UncheckedToken {
            algorithm: jsonwebtoken::Algorithm::ES256,
            key_id: None,
            thumbprint_sha1: None,
            thumbprint_sha256: None,
            claims: claims.as_object().cloned().expect("object"),
        }
    }

    #[test]
    fn the_first_thing_that_does_not_match_is_reported() {
        let credentials = [FederatedCredential {
            issuer: "https://cluster/".to_owned(),
            subject: "system:serviceaccount:shop:web".to_owned(),
            audience: "api://x".to_owned(),
        }];
        let code = |issuer, subject, audience| {
            match_credential(&credentials, issuer, subject, &token(audience)).map_err(|e| e.code())
        };
        let subject = "system:serviceaccount:shop:web";
        assert_eq!(code("https://cluster/", subject, "api://x"), Ok(()));
        assert_eq!(code("https://cluster", subject, "api://x"), Err(700_211));
        assert_eq!(code("https://cluster/", subject, "api://y"), Err(700_212));
        assert_eq!(code("https://cluster/", "system:serviceaccount:shop:db", "api://x"), Err(700_213));
        assert_eq!(code("https://cluster/", "system:serviceaccount:Shop:web", "api://x"), Err(7_002_138));
    }
}
