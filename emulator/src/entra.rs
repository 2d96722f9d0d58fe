//! The Entra token endpoint, in its own name and behind the identity-binding proxy.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::engine::{Asked, Core, ENTRA_HOSTS, ListenerKind};
use crate::faults::ShortCircuit;
use crate::form::parse_form;
use crate::identities::Identity;
use crate::jwt::{UncheckedToken, parse_unchecked, text};
use crate::operation::Operation;
use crate::reply::Reply;

mod assertion;
mod error;

use error::EntraError;

/// A post to the token endpoint, read but not judged.
pub(crate) struct TokenRequest {
    /// None when the path is not that of the token endpoint.
    tenant: Option<String>,
    form: Option<BTreeMap<String, String>>,
    assertion: Option<UncheckedToken>,
}

impl TokenRequest {
    pub(crate) fn read(asked: &Asked<'_>) -> Self {
        let tenant = (asked.method == Method::POST).then(|| tenant_of(asked.path)).flatten();
        let is_form = asked.header("content-type").is_some_and(|kind| {
            kind.trim().to_ascii_lowercase().starts_with("application/x-www-form-urlencoded")
        });
        let form = is_form.then(|| parse_form(asked.body)).flatten();
        let assertion = form
            .as_ref()
            .and_then(|form| form.get("client_assertion"))
            .and_then(|assertion| parse_unchecked(assertion.as_bytes()));
        Self { tenant, form, assertion }
    }

    pub(crate) fn operation(&self, at_proxy: bool) -> Operation {
        let (Some(_), Some(form)) = (&self.tenant, &self.form) else {
            return Operation::UnknownEntraRequest;
        };
        if at_proxy {
            Operation::ProxyToken
        } else if form.contains_key("client_assertion") {
            if self.is_certificate_assertion() {
                Operation::ClientCertificateToken
            } else {
                Operation::FederatedToken
            }
        } else if form.contains_key("client_secret") {
            Operation::ClientSecretToken
        } else {
            Operation::UnknownEntraRequest
        }
    }

    /// An application that signs for itself names itself as the issuer.
    fn is_certificate_assertion(&self) -> bool {
        let client_id = self.field("client_id");
        self.assertion.as_ref().is_some_and(|token| text(&token.claims, "iss") == client_id)
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.form.as_ref()?.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// `…/{tenant}/oauth2/v2.0/token`; the proxy's own path may come first.
fn tenant_of(path: &str) -> Option<String> {
    let front = path.strip_suffix("/oauth2/v2.0/token")?;
    front.rsplit('/').next().filter(|tenant| !tenant.is_empty()).map(str::to_owned)
}

/// Answers a token request.
pub(crate) fn token(core: &Core, asked: &Asked<'_>, request: &TokenRequest, now: i64) -> Reply {
    match issue(core, asked, request, now) {
        Ok(body) => Reply::json(StatusCode::OK, &body),
        Err(error) => error.into_reply(core, now),
    }
}

fn issue(core: &Core, asked: &Asked<'_>, request: &TokenRequest, now: i64) -> Result<Value, EntraError> {
    let tenant = request.tenant.as_deref().ok_or(EntraError::of(900_561))?;
    if request.form.is_none() {
        return Err(EntraError::of(900_144).about("The request body must be a form"));
    }
    if !core.identities.tenants().iter().any(|known| known.eq_ignore_ascii_case(tenant)) {
        return Err(EntraError::of(90_002).about(tenant));
    }
    match request.field("grant_type") {
        Some("client_credentials") => {}
        Some(_) => return Err(EntraError::of(70_003)),
        None => return Err(EntraError::of(900_144).about("'grant_type'")),
    }
    let client_id = request.field("client_id").ok_or(EntraError::of(900_144).about("'client_id'"))?;
    let resource = resource(core, request.field("scope"))?;
    let identity = core
        .identities
        .find(client_id)
        .filter(|identity| identity.tenant_id.eq_ignore_ascii_case(tenant))
        .ok_or(EntraError::of(700_016).about(client_id))?;

    let at_proxy = asked.kind == ListenerKind::TokenProxy;
    let lifetime = if let Some(assertion) = request.field("client_assertion") {
        let kind = request.field("client_assertion_type");
        if kind != Some("urn:ietf:params:oauth:client-assertion-type:jwt-bearer") {
            return Err(EntraError::of(900_144).about("'client_assertion_type'"));
        }
        let parsed = request.assertion.as_ref().ok_or(EntraError::of(50_027))?;
        if request.is_certificate_assertion() && !at_proxy {
            assertion::check_certificate(core, &identity, assertion, parsed, now)?;
            core.token_lifetime
        } else {
            assertion::check_federated(core, &identity, assertion, parsed, at_proxy, now)?;
            core.managed_token_lifetime
        }
    } else if let Some(secret) = request.field("client_secret").filter(|_| !at_proxy) {
        check_secret(core, client_id, secret, now)?;
        core.token_lifetime
    } else {
        return Err(EntraError::of(7_000_218));
    };
    Ok(json!({
        "token_type": "Bearer",
        "expires_in": lifetime - 1,
        "ext_expires_in": lifetime - 1,
        "access_token": core.access_token(&identity, &resource, now, lifetime),
    }))
}

fn resource(core: &Core, scope: Option<&str>) -> Result<String, EntraError> {
    let scope = scope.ok_or(EntraError::of(900_144).about("'scope'"))?;
    let resource = scope.strip_suffix("/.default").ok_or(EntraError::of(1_002_012).about(scope))?;
    let resource = resource.trim_end_matches('/');
    if core.resources.iter().any(|known| known == resource) {
        Ok(resource.to_owned())
    } else {
        Err(EntraError::of(500_011).about(resource))
    }
}

fn check_secret(core: &Core, client_id: &str, secret: &str, now: i64) -> Result<(), EntraError> {
    let found = core.identities.with(client_id, |entry| {
        entry.client_secrets.iter().find(|known| known.value == secret).map(|known| known.expires)
    });
    match found.flatten() {
        None => Err(EntraError::of(7_000_215)),
        Some(Some(expires)) if expires <= now => Err(EntraError::of(7_000_222)),
        Some(_) => Ok(()),
    }
}

impl Core {
    /// Signs an access token as Entra's v1 endpoint shapes it for Key Vault.
    pub(crate) fn access_token(
        &self,
        identity: &Identity,
        resource: &str,
        now: i64,
        lifetime: i64,
    ) -> String {
        let tenant = &identity.tenant_id;
        self.signer.sign(&json!({
            "aud": resource,
            "iss": format!("https://sts.windows.net/{tenant}/"),
            "iat": now,
            "nbf": now,
            "exp": now + lifetime,
            "appid": identity.client_id,
            "appidacr": "2",
            "idp": format!("https://sts.windows.net/{tenant}/"),
            "idtyp": "app",
            "oid": identity.object_id,
            "sub": identity.object_id,
            "tid": tenant,
            "uti": self.rng.version(),
            "ver": "1.0",
        }))
    }
}

/// Whether this asks for metadata rather than a token.
pub(crate) fn is_discovery(asked: &Asked<'_>) -> bool {
    asked.method == Method::GET && is_discovery_path(asked.path)
}

/// Whether only Entra has such a path.
pub(crate) fn is_entra_path(path: &str) -> bool {
    tenant_of(path).is_some() || is_discovery_path(path)
}

fn is_discovery_path(path: &str) -> bool {
    ["/.well-known/openid-configuration", "/discovery/v2.0/keys", "/discovery/instance"]
        .iter()
        .any(|ending| path.ends_with(ending))
}

/// OpenID configuration, signing keys, instance discovery.
pub(crate) fn discovery(core: &Core, asked: &Asked<'_>) -> Reply {
    let origin = format!("https://{}", asked.authority);
    let tenant = asked.path.split('/').nth(1).unwrap_or_default();
    if asked.path.ends_with("/keys") {
        return Reply::json(StatusCode::OK, &core.signer.jwks());
    }
    if asked.path.ends_with("/instance") {
        return Reply::json(
            StatusCode::OK,
            &json!({
                "tenant_discovery_endpoint": format!("{origin}/{}/v2.0/.well-known/openid-configuration", core.tenant_id),
                "api-version": "1.1",
                "metadata": [{ "preferred_network": ENTRA_HOSTS[0], "preferred_cache": ENTRA_HOSTS[1], "aliases": ENTRA_HOSTS }],
            }),
        );
    }
    if !core.identities.tenants().iter().any(|known| known.eq_ignore_ascii_case(tenant)) {
        return EntraError::of(90_002).about(tenant).into_reply(core, core.clock.unix_millis() / 1000);
    }
    Reply::json(
        StatusCode::OK,
        &json!({
            "issuer": format!("{origin}/{tenant}/v2.0"),
            "token_endpoint": format!("{origin}/{tenant}/oauth2/v2.0/token"),
            "authorization_endpoint": format!("{origin}/{tenant}/oauth2/v2.0/authorize"),
            "device_authorization_endpoint": format!("{origin}/{tenant}/oauth2/v2.0/devicecode"),
            "jwks_uri": format!("{origin}/{tenant}/discovery/v2.0/keys"),
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
            "response_types_supported": ["code", "id_token"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }),
    )
}

/// The refusal that a fault asks for, as Entra would word it.
pub(crate) fn refuse_by_fault(core: &Core, fault: &ShortCircuit) -> Option<Reply> {
    let now = core.clock.unix_millis() / 1000;
    match fault {
        ShortCircuit::Status { status, retry_after } => {
            let status = StatusCode::from_u16(*status).ok()?;
            let code = if status == StatusCode::TOO_MANY_REQUESTS { 50_196 } else { 90_033 };
            let mut reply = EntraError::of(code).into_reply(core, now);
            reply.status = status;
            Some(match retry_after {
                Some(value) => reply.with_header("retry-after", value),
                None => reply,
            })
        }
        ShortCircuit::TokenError(code) => Some(EntraError::of(*code).into_reply(core, now)),
        ShortCircuit::Unauthorized | ShortCircuit::Forbidden { .. } => {
            Some(EntraError::of(53_003).into_reply(core, now))
        }
        ShortCircuit::Hang | ShortCircuit::Reset => None,
    }
}
