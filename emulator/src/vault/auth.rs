//! Who asks, and may they.

use std::collections::BTreeMap;

use http::StatusCode;

use super::Vault;
use super::error::VaultError;
use super::request::VaultPath;
use super::service::Visit;
use crate::access::data_action;
use crate::faults::ShortCircuit;
use crate::jwt::{has_audience, seconds, text};
use crate::reply::Reply;

/// Versions of the protocol that are answered.
const API_VERSIONS: [&str; 11] = [
    "2016-10-01",
    "7.0",
    "7.1",
    "7.2",
    "7.3",
    "7.4",
    "7.5",
    "7.6",
    "2025-07-01",
    "2026-03-01-preview",
    "2026-04-01",
];

/// Who a good token says it is.
pub(super) struct Caller {
    pub(super) client_id: String,
    pub(super) object_id: String,
    issuer: String,
}

pub(super) fn check_api_version(query: &BTreeMap<String, String>) -> Result<(), VaultError> {
    match query.get("api-version") {
        None => Err(VaultError::bad_parameter("api-version must be specified.")),
        Some(version) if API_VERSIONS.contains(&version.as_str()) => Ok(()),
        Some(_) => Err(VaultError::bad_parameter(
            "The specified version is not recognized. Consider using the latest supported version.",
        )),
    }
}

pub(super) fn authenticate(visit: &Visit<'_>) -> Result<Caller, VaultError> {
    let vault = visit.vault;
    let token = visit
        .bearer
        .ok_or_else(|| VaultError::unauthorized("AKV10000: Request is missing a Bearer or PoP token."))?;
    let claims = visit.signer.verify(token).ok_or_else(|| {
        VaultError::unauthorized("AKV10046: Unable to resolve the key used for signature validation.")
    })?;
    let now = visit.now_millis / 1000;
    // Five minutes of leeway at the beginning, none at the end.
    if seconds(&claims, "exp").is_none_or(|exp| exp <= now)
        || seconds(&claims, "nbf").is_some_and(|nbf| nbf > now + 300)
    {
        return Err(VaultError::unauthorized(
            "[BearerReadAccessTokenFailed] Error validating token: IDX10223: Lifetime validation failed. The token \
             is expired or not yet valid.",
        ));
    }
    if !has_audience(&claims, &vault.resource) {
        let found = text(&claims, "aud").unwrap_or_default();
        return Err(VaultError::unauthorized(format!(
            "AKV10022: Invalid audience. Expected {}, found: {found}.",
            vault.resource
        )));
    }
    let expected = format!("https://sts.windows.net/{}/", vault.tenant_id);
    let issuer = text(&claims, "iss").unwrap_or_default();
    if issuer != expected {
        return Err(VaultError::unauthorized(format!(
            "AKV10032: Invalid issuer. Expected one of {expected}, found {issuer}."
        )));
    }
    let claim = |name| text(&claims, name).unwrap_or_default().to_owned();
    Ok(Caller { client_id: claim("appid"), object_id: claim("oid"), issuer: expected })
}

/// 401 with the header that tells clients where to get a token and for what.
pub(super) fn challenge(vault: &Vault, error: VaultError) -> Reply {
    let header = format!(
        "Bearer authorization=\"https://{}/{}\", resource=\"{}\"",
        login_host(&vault.resource),
        vault.tenant_id,
        vault.resource
    );
    error.into_reply().with_header("www-authenticate", &header)
}

/// The cloud's login host, under the name that Key Vault uses for it.
fn login_host(resource: &str) -> &'static str {
    match resource {
        "https://vault.azure.cn" => "login.chinacloudapi.cn",
        "https://vault.usgovcloudapi.net" => "login.microsoftonline.us",
        _ => "login.windows.net",
    }
}

pub(super) fn forbidden_by_rbac(visit: &Visit<'_>, caller: &Caller) -> VaultError {
    let VaultPath { collection, action, name, .. } = visit.asked;
    let vault = &visit.vault.name;
    let action = data_action(*collection, *action);
    let object = name.as_ref().map(|name| format!("/{}/{name}", collection.as_str())).unwrap_or_default();
    VaultError::forbidden(
        "ForbiddenByRbac",
        format!(
            "Caller is not authorized to perform action on resource.\r\nIf role assignments, deny assignments or role \
             definitions were changed recently, please observe propagation time.\r\nCaller: \
             appid={};oid={};iss={}\r\nAction: '{action}'\r\nResource: \
             '/subscriptions/00000000-0000-0000-0000-000000000000/resourcegroups/emulator/providers/\
             microsoft.keyvault/vaults/{vault}{object}'\r\nAssignment: (not found)\r\nDenyAssignmentId: \
             null\r\nDecisionReason: null \r\nVault: {vault};location={}\r\n",
            caller.client_id, caller.object_id, caller.issuer, visit.vault.region
        ),
    )
}

/// The refusal that a fault asks for, in the words of a real one.
pub(crate) fn refuse_by_fault(vault: &Vault, fault: &ShortCircuit) -> Option<Reply> {
    match fault {
        ShortCircuit::Status { status, retry_after } => {
            let status = StatusCode::from_u16(*status).ok()?;
            let reply = VaultError::of_status(status).into_reply();
            Some(match retry_after {
                Some(value) => reply.with_header("retry-after", value),
                None => reply,
            })
        }
        ShortCircuit::Forbidden { inner_code } => {
            let message = "Caller is not authorized to perform action on resource.\r\nIf role assignments, deny \
                           assignments or role definitions were changed recently, please observe propagation time.";
            Some(VaultError::forbidden(inner_code, message).into_reply())
        }
        ShortCircuit::Unauthorized => Some(challenge(
            vault,
            VaultError::unauthorized("AKV10046: Unable to resolve the key used for signature validation."),
        )),
        ShortCircuit::Hang | ShortCircuit::Reset | ShortCircuit::TokenError(_) => None,
    }
}
