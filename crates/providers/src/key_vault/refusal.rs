//! What a status other than 200 means: one of the closed codes, and the next step in words. The vault's own message is
//! never passed on, only its codes.

use std::time::Duration;

use keyward_core::{Code, Collection, Error};

use super::wire::{ErrorBody, parse_error_body};

/// What was asked, for the words of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    collection: Collection,
    permission: &'static str,
}

impl Asked {
    /// Told from the path of a request: `/secrets` and `/secrets/{name}/versions` list, everything else gets.
    pub(super) fn from_path(path: &str) -> Self {
        let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
        let collection = match parts.first() {
            Some(&"keys") => Collection::Keys,
            Some(&"certificates") => Collection::Certificates,
            _ => Collection::Secrets,
        };
        let lists = matches!(parts.as_slice(), [_] | [_, _, "versions"]);
        Self { collection, permission: if lists { "list" } else { "get" } }
    }

    fn role(self) -> &'static str {
        match self.collection {
            Collection::Secrets => "Key Vault Secrets User",
            Collection::Keys => "Key Vault Crypto User",
            Collection::Certificates => "Key Vault Certificate User",
        }
    }
}

/// The error for an answer with `status` other than 200 and 401.
pub(super) fn refusal(status: u16, asked: Asked, body: &[u8], wait: Option<Duration>) -> Error {
    // Throttling and failures are told by their status alone: gateways in front of the vault answer so too.
    match status {
        429 => {
            return Error::new(Code::VaultThrottled, "the vault throttles this caller").retry_after(wait);
        }
        408 | 500.. => {
            return Error::new(Code::VaultUnavailable, format!("the vault answered with status {status}"))
                .retry_after(wait);
        }
        _ => {}
    }
    let Ok(error) = parse_error_body(body) else {
        return Error::new(
            Code::VaultProtocol,
            format!("something answered with status {status} that is not Key Vault; is a proxy in the way?"),
        );
    };
    match status {
        403 => forbidden(asked, &error),
        404 if error.code.as_deref().is_some_and(|code| code.ends_with("NotFound")) => Error::new(
            Code::ObjectNotFound,
            format!(
                "the vault has no such object or version, or it is deleted ({}); check the name, or recover it",
                quoted(&error)
            ),
        ),
        400..=499 => Error::new(
            Code::VaultBadRequest,
            format!("the vault rejected the request with status {status} ({})", quoted(&error)),
        ),
        _ => Error::new(Code::VaultProtocol, format!("the vault answered with status {status}")),
    }
}

/// The error for a second 401, after a fresh token.
pub(super) fn unauthenticated(body: &[u8], tenants: Option<(&str, &str)>) -> Error {
    let akv = parse_error_body(body).ok().and_then(|error| error.akv);
    let akv = akv.map(|akv| format!(" ({akv})")).unwrap_or_default();
    Error::new(
        Code::VaultUnauthenticated,
        match tenants {
            Some((theirs, ours)) => format!(
                "the vault refused our token{akv}: it trusts tenant {theirs}, but the token is from tenant {ours}; \
                 use an identity of the vault's tenant"
            ),
            None => format!(
                "the vault refused our token{akv}, and a fresh one too; check the cloud's audience and the \
                 identity's tenant"
            ),
        },
    )
}

fn forbidden(asked: Asked, error: &ErrorBody) -> Error {
    let codes: Vec<_> = error.inner.iter().chain(&error.code).map(String::as_str).collect();
    let has = |code: &str| codes.contains(&code);
    let collection = asked.collection.as_str();
    let permission = asked.permission;
    if codes.iter().any(|code| code.ends_with("Disabled")) {
        return disabled(&quoted(error));
    }
    let next = if has("ForbiddenByRbac") {
        format!("assign the role {} on the vault to this identity, and allow some minutes", asked.role())
    } else if has("AccessDenied") || has("ForbiddenByPolicy") {
        format!(
            "add the permission {permission} for {collection} to this identity in the vault's access policies"
        )
    } else if has("ForbiddenByFirewall") {
        "add the cluster's outbound address to the vault's firewall, or reach the vault by a private endpoint"
            .to_owned()
    } else if has("ForbiddenByConnection") {
        "public network access is off: reach the vault by an approved private endpoint".to_owned()
    } else {
        format!(
            "check that this identity may {permission} {collection} in this vault, and the vault's network rules"
        )
    };
    Error::new(
        Code::VaultForbidden,
        format!("the vault refused `{collection} {permission}` ({}); {next}", quoted(error)),
    )
}

/// The error for an object whose version is switched off.
pub(super) fn disabled(code: &str) -> Error {
    Error::new(
        Code::ObjectDisabled,
        format!("the object's version is disabled ({code}); enable it, or set a new version"),
    )
}

/// The most telling of the vault's codes.
fn quoted(error: &ErrorBody) -> String {
    error.inner.last().or(error.code.as_ref()).cloned().unwrap_or_else(|| "no code".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(status: u16, path: &str, code: &str, inner: &str) -> Error {
        let body = format!(
            r#"{{"error":{{"code":"{code}","message":"Caller: appid=1; do not show","innererror":{{"code":"{inner}"}}}}}}"#
        );
        refusal(status, Asked::from_path(path), body.as_bytes(), Some(Duration::from_secs(3)))
    }

    #[test]
    fn each_refusal_has_its_code_and_names_the_next_step() {
        for (path, inner, code, words) in [
            ("/secrets/db/", "SecretDisabled", Code::ObjectDisabled, "enable it"),
            ("/secrets/db/", "ForbiddenByRbac", Code::VaultForbidden, "role Key Vault Secrets User"),
            ("/keys/db/", "ForbiddenByRbac", Code::VaultForbidden, "role Key Vault Crypto User"),
            ("/certificates/db/", "ForbiddenByRbac", Code::VaultForbidden, "role Key Vault Certificate User"),
            ("/secrets", "ForbiddenByPolicy", Code::VaultForbidden, "permission list for secrets"),
            ("/secrets/db/versions", "AccessDenied", Code::VaultForbidden, "permission list for secrets"),
            ("/secrets/versions/", "AccessDenied", Code::VaultForbidden, "permission get for secrets"),
            ("/secrets/db/", "ForbiddenByFirewall", Code::VaultForbidden, "firewall"),
            ("/secrets/db/", "ForbiddenByConnection", Code::VaultForbidden, "private endpoint"),
            ("/secrets/db/", "Another", Code::VaultForbidden, "may get secrets"),
        ] {
            let error = error(403, path, "Forbidden", inner);
            assert_eq!(error.code(), code, "{inner}");
            assert!(error.message().contains(words), "{error}");
            assert!(error.message().contains(inner), "{error}");
            assert!(!error.to_string().contains("do not show"));
        }
    }

    #[test]
    fn statuses_without_a_code_of_their_own_are_told_by_number() {
        for (status, code, expected) in [
            (404, "SecretNotFound", Code::ObjectNotFound),
            (404, "CertificateNotFound", Code::ObjectNotFound),
            (404, "ResourceMoved", Code::VaultBadRequest),
            (400, "BadParameter", Code::VaultBadRequest),
            (409, "Conflict", Code::VaultBadRequest),
            (429, "Throttled", Code::VaultThrottled),
            (408, "RequestTimeout", Code::VaultUnavailable),
            (500, "InternalServerError", Code::VaultUnavailable),
            (503, "ServiceUnavailable", Code::VaultUnavailable),
            (302, "Moved", Code::VaultProtocol),
        ] {
            assert_eq!(error(status, "/secrets/db/", code, "x").code(), expected, "{status} {code}");
        }
        assert_eq!(error(429, "/secrets/db/", "Throttled", "x").wait(), Some(Duration::from_secs(3)));
    }

    #[test]
    fn a_proxys_page_is_never_a_definite_no() {
        for status in [400, 403, 404] {
            let error = refusal(status, Asked::from_path("/secrets/db/"), b"<html>Blocked</html>", None);
            assert_eq!(error.code(), Code::VaultProtocol);
            assert!(!error.kind().is_definite_no() && !error.to_string().contains("Blocked"));
        }
    }

    #[test]
    fn a_refused_token_of_another_tenant_is_explained() {
        let body =
            br#"{"error":{"code":"Unauthorized","message":"AKV10032: Invalid issuer. Expected one of x"}}"#;
        let error = unauthenticated(body, Some(("theirs", "ours")));
        assert!(error.message().contains("tenant theirs") && error.message().contains("AKV10032"));
        assert!(!error.message().contains("Invalid issuer"));
        assert_eq!(unauthenticated(b"", None).code(), Code::VaultUnauthenticated);
    }

    proptest! {
        #[test]
        fn any_status_and_body_map_to_an_error_that_quotes_nothing_but_codes(status in 300u16..600, body in proptest::collection::vec(any::<u8>(), 0..200), path in "\\PC{0,30}", message in "[a-z ]{12,40}") {
            let asked = Asked::from_path(&path);
            refusal(status, asked, &body, None);
            let body = format!(r#"{{"error":{{"code":"Forbidden","message":"Q{message}Q"}}}}"#);
            let shown = refusal(status, asked, body.as_bytes(), None).to_string();
            let quote = format!("Q{message}Q");
            prop_assert!(!shown.contains(&quote));
        }
    }
}
