//! Managed identity: the instance metadata service (IMDS) and the App Service endpoint.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::engine::{Asked, Core, ListenerKind};
use crate::faults::ShortCircuit;
use crate::identities::{Identity, IdentityKind};
use crate::reply::Reply;

/// A refusal: status, `error`, `error_description`.
type Refusal = (StatusCode, &'static str, String);

const BAD: StatusCode = StatusCode::BAD_REQUEST;

/// Answers a token request of either kind. All times are decimal strings.
pub(crate) fn token(core: &Core, asked: &Asked<'_>, now: i64) -> Reply {
    let is_imds = asked.kind == ListenerKind::Imds;
    let checked = if is_imds { check_imds(asked) } else { check_app_service(core, asked) };
    let issued = checked.and_then(|()| {
        let resource = resource(core, asked)?;
        Ok((select(core, asked, is_imds)?, resource))
    });
    match issued {
        Ok((identity, resource)) => {
            let lifetime = core.managed_token_lifetime;
            let mut body = json!({
                "access_token": core.access_token(&identity, resource.trim_end_matches('/'), now, lifetime),
                "client_id": identity.client_id,
                "expires_on": (now + lifetime).to_string(),
                "resource": resource,
                "token_type": "Bearer",
            });
            if is_imds {
                body["refresh_token"] = "".into();
                body["expires_in"] = (lifetime - 1).to_string().into();
                body["ext_expires_in"] = (lifetime - 1).to_string().into();
                body["not_before"] = now.to_string().into();
            }
            Reply::json(StatusCode::OK, &body)
        }
        Err((status, error, description)) => refusal(is_imds, status, error, &description),
    }
}

fn refusal(is_imds: bool, status: StatusCode, error: &str, description: &str) -> Reply {
    let body: Value = if is_imds {
        json!({ "error": error, "error_description": description })
    } else {
        json!({ "statusCode": status.as_u16(), "message": description })
    };
    Reply::json(status, &body)
}

fn check_imds(asked: &Asked<'_>) -> Result<(), Refusal> {
    if asked.path != "/metadata/identity/oauth2/token" {
        return Err((StatusCode::NOT_FOUND, "not_found", "The requested resource was not found".to_owned()));
    }
    if asked.method != Method::GET {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "invalid_request", "Use GET".to_owned()));
    }
    if asked.header("metadata") != Some("true") {
        return Err((BAD, "bad_request_102", "Required metadata header not specified".to_owned()));
    }
    // A proxy adds this header; the service wants no proxy in between.
    if asked.header("x-forwarded-for").is_some() {
        return Err((BAD, "bad_request_103", "X-Forwarded-For header is not allowed".to_owned()));
    }
    match asked.query.get("api-version").map(String::as_str) {
        Some("2018-02-01" | "2019-11-01") => Ok(()),
        _ => Err((
            BAD,
            "bad_request_104",
            "Required query variable 'api-version' is missing or unknown".to_owned(),
        )),
    }
}

fn check_app_service(core: &Core, asked: &Asked<'_>) -> Result<(), Refusal> {
    if asked.header("x-identity-header") != Some(core.app_service_secret.as_str()) {
        return Err((
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "Bad or missing X-IDENTITY-HEADER".to_owned(),
        ));
    }
    match asked.query.get("api-version").map(String::as_str) {
        Some("2019-08-01") => Ok(()),
        _ => Err((BAD, "invalid_request", "Unsupported api-version".to_owned())),
    }
}

fn resource<'a>(core: &Core, asked: &'a Asked<'_>) -> Result<&'a str, Refusal> {
    let resource = asked.query.get("resource").map(String::as_str).filter(|resource| !resource.is_empty());
    let resource = resource.ok_or_else(|| {
        (BAD, "invalid_request", "Required query variable 'resource' is missing".to_owned())
    })?;
    if core.resources.iter().any(|known| known == resource.trim_end_matches('/')) {
        Ok(resource)
    } else {
        let text =
            format!("AADSTS500011: The resource principal named {resource} was not found in the tenant");
        Err((BAD, "invalid_resource", text))
    }
}

/// Picks the identity by client id, object id or resource id; without a selector the system-assigned one, or the only
/// one there is.
fn select(core: &Core, asked: &Asked<'_>, is_imds: bool) -> Result<Identity, Refusal> {
    let assigned: Vec<Identity> =
        core.identities.list().into_iter().filter(|i| i.kind != IdentityKind::Application).collect();
    let resource_id = if is_imds { "msi_res_id" } else { "mi_res_id" };
    let selectors: Vec<(&str, &String)> = ["client_id", "object_id", resource_id]
        .into_iter()
        .filter_map(|name| asked.query.get(name).map(|value| (name, value)))
        .collect();
    let found = match selectors.as_slice() {
        [] => {
            let system = assigned.iter().find(|identity| identity.kind == IdentityKind::SystemAssigned);
            match (system, assigned.as_slice()) {
                (Some(system), _) => Some(system),
                (None, [only]) => Some(only),
                (None, []) => None,
                (None, _) => {
                    let text = "Multiple user assigned identities exist, please specify the clientId / resourceId of \
                                the identity in the token request";
                    return Err((BAD, "invalid_request", text.to_owned()));
                }
            }
        }
        [(name, value)] => assigned.iter().find(|identity| {
            let known = match (*name, &identity.kind) {
                ("client_id", _) => &identity.client_id,
                ("object_id", _) => &identity.object_id,
                (_, IdentityKind::UserAssigned { resource_id }) => resource_id,
                _ => return false,
            };
            known.eq_ignore_ascii_case(value)
        }),
        _ => {
            let text = "Only one of client_id, object_id and the resource id may be given";
            return Err((BAD, "invalid_request", text.to_owned()));
        }
    };
    found.cloned().ok_or_else(|| (BAD, "invalid_request", "Identity not found".to_owned()))
}

/// The refusal that a fault asks for.
pub(crate) fn refuse_by_fault(fault: &ShortCircuit) -> Option<Reply> {
    let (status, retry_after) = match fault {
        ShortCircuit::Status { status, retry_after } => {
            (StatusCode::from_u16(*status).ok()?, retry_after.as_deref())
        }
        ShortCircuit::Unauthorized => (StatusCode::UNAUTHORIZED, None),
        ShortCircuit::Forbidden { .. } => (StatusCode::FORBIDDEN, None),
        ShortCircuit::TokenError(_) => (BAD, None),
        ShortCircuit::Hang | ShortCircuit::Reset => return None,
    };
    let error =
        if status == StatusCode::TOO_MANY_REQUESTS { "too_many_requests" } else { "service_unavailable" };
    let reply = refusal(true, status, error, "The request could not be served.");
    Some(match retry_after {
        Some(value) => reply.with_header("retry-after", value),
        None => reply,
    })
}
