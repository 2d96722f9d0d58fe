//! AADSTS errors.

use http::StatusCode;
use serde_json::json;

use crate::engine::Core;
use crate::reply::Reply;

/// A refusal by its AADSTS number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EntraError {
    code: u32,
    detail: String,
}

impl EntraError {
    pub(super) const fn of(code: u32) -> Self {
        Self { code, detail: String::new() }
    }

    /// Names what the refusal is about; never a secret or an assertion.
    pub(super) fn about(self, detail: &str) -> Self {
        Self { detail: format!(": {detail}"), ..self }
    }

    #[cfg(test)]
    pub(super) fn code(&self) -> u32 {
        self.code
    }

    pub(super) fn into_reply(self, core: &Core, now: i64) -> Reply {
        let (status, error, text) = known(self.code);
        let (trace, correlation) = (core.rng.uuid(), core.rng.uuid());
        let at = timestamp(now);
        let description = format!(
            "AADSTS{}: {text}{} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {at}",
            self.code, self.detail
        );
        Reply::json(
            status,
            &json!({
                "error": error,
                "error_description": description,
                "error_codes": [self.code],
                "timestamp": at,
                "trace_id": trace,
                "correlation_id": correlation,
                "error_uri": format!("https://login.microsoftonline.com/error?code={}", self.code),
            }),
        )
    }
}

fn timestamp(now: i64) -> String {
    let format = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
    time::OffsetDateTime::from_unix_timestamp(now)
        .ok()
        .and_then(|at| at.format(&format).ok())
        .unwrap_or_default()
}

/// Status, OAuth error and text of an AADSTS number.
fn known(code: u32) -> (StatusCode, &'static str, &'static str) {
    const BAD: StatusCode = StatusCode::BAD_REQUEST;
    const UNAUTHORIZED: StatusCode = StatusCode::UNAUTHORIZED;
    match code {
        50_027 => (BAD, "invalid_request", "JWT token is invalid or malformed."),
        50_196 => (
            StatusCode::TOO_MANY_REQUESTS,
            "invalid_grant",
            "The server terminated an operation because it encountered a client request loop. Please contact your app vendor.",
        ),
        53_003 => (
            BAD,
            "interaction_required",
            "Access has been blocked by Conditional Access policies. The access policy does not allow token issuance.",
        ),
        70_003 => (BAD, "unsupported_grant_type", "The app requested an unsupported grant type."),
        70_021 => {
            (BAD, "invalid_request", "No matching federated identity record found for presented assertion.")
        }
        90_002 => (
            BAD,
            "invalid_request",
            "Tenant not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud",
        ),
        90_033 => (
            StatusCode::SERVICE_UNAVAILABLE,
            "temporarily_unavailable",
            "A transient error has occurred. Please try again.",
        ),
        500_011 => (BAD, "invalid_resource", "The resource principal was not found in the tenant"),
        700_016 => (BAD, "unauthorized_client", "Application with identifier was not found in the directory"),
        700_024 => (UNAUTHORIZED, "invalid_client", "Client assertion is not within its valid time range."),
        700_027 => (
            UNAUTHORIZED,
            "invalid_client",
            "The certificate with identifier used to sign the client assertion is not registered on application, or the signature is invalid.",
        ),
        700_030 => (
            UNAUTHORIZED,
            "invalid_client",
            "Invalid certificate assertion: the subject must be the application.",
        ),
        700_211 => (
            UNAUTHORIZED,
            "invalid_client",
            "No matching federated identity record found for presented assertion issuer",
        ),
        700_212 => (
            UNAUTHORIZED,
            "invalid_client",
            "No matching federated identity record found for presented assertion audience",
        ),
        700_213 => (
            UNAUTHORIZED,
            "invalid_client",
            "No matching federated identity record found for presented assertion subject",
        ),
        900_144 => (BAD, "invalid_request", "The request body must contain the following parameter"),
        900_561 => (BAD, "invalid_request", "The endpoint only accepts POST requests."),
        1_002_012 => (
            BAD,
            "invalid_scope",
            "The provided value for scope is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier",
        ),
        7_000_215 => (
            UNAUTHORIZED,
            "invalid_client",
            "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID.",
        ),
        7_000_218 => (
            UNAUTHORIZED,
            "invalid_client",
            "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
        ),
        7_000_222 => (UNAUTHORIZED, "invalid_client", "The provided client secret keys are expired."),
        7_002_138 => (
            UNAUTHORIZED,
            "invalid_client",
            "The subject of the presented assertion matches a federated identity record only when case is ignored",
        ),
        7_002_381 => {
            (UNAUTHORIZED, "invalid_client", "The audience of the client assertion is not the token endpoint")
        }
        _ => (BAD, "invalid_request", "The request is refused."),
    }
}
