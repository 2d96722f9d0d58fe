//! The emulator without sockets: a request goes in, its outcome comes out.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use parking_lot::RwLock;

use crate::clock::OffsetClock;
use crate::counters::Counters;
use crate::faults::{BodyFault, Call, Faults, Plan, ShortCircuit};
use crate::form::parse_form;
use crate::identities::Identities;
use crate::issuer::Issuer;
use crate::jwt::TokenSigner;
use crate::operation::Operation;
use crate::reply::{HandlerOutcome, Reply, ReplyBody};
use crate::rng::Rng;
use crate::vault::{
    PathError, RateLimits, Vault, VaultPath, Visit, parse_vault_path, refuse_by_fault, serve,
};
use crate::{admin, entra, managed_identity};

/// Through which door a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListenerKind {
    /// TLS: all vaults and Entra, told apart by their host names.
    Https,
    /// Plain HTTP: the instance metadata service.
    Imds,
    /// Plain HTTP: the App Service identity endpoint.
    AppService,
    /// TLS with a CA of its own: the identity-binding token proxy.
    TokenProxy,
    /// Plain HTTP: faults, counters and objects, for whoever runs the emulator.
    Admin,
}

/// Everything the emulator knows.
pub(crate) struct Core {
    pub(crate) clock: Arc<OffsetClock>,
    pub(crate) rng: Arc<Rng>,
    pub(crate) tenant_id: String,
    pub(crate) region: String,
    /// Resources that tokens are issued for, without a trailing slash; the first is that of new vaults.
    pub(crate) resources: Vec<String>,
    pub(crate) signer: TokenSigner,
    pub(crate) identities: Identities,
    pub(crate) issuer: Issuer,
    pub(crate) faults: Faults,
    pub(crate) counters: Counters,
    pub(crate) vaults: RwLock<BTreeMap<String, Arc<Vault>>>,
    /// Lower-case host, or host and port, to the vault's name.
    pub(crate) hosts: RwLock<BTreeMap<String, String>>,
    pub(crate) limits: Option<RateLimits>,
    pub(crate) settle_millis: i64,
    pub(crate) token_lifetime: i64,
    pub(crate) managed_token_lifetime: i64,
    pub(crate) app_service_secret: String,
    pub(crate) ca_pem: RwLock<String>,
}

/// Names under which Entra answers on the TLS listener.
pub(crate) const ENTRA_HOSTS: [&str; 7] = [
    "login.microsoftonline.com",
    "login.windows.net",
    "sts.windows.net",
    "login.microsoftonline.us",
    "login.chinacloudapi.cn",
    "login.partner.microsoftonline.cn",
    "localhost",
];

enum Target {
    Vault(Arc<Vault>, Result<VaultPath, PathError>),
    Entra(entra::TokenRequest),
    Discovery,
    ManagedIdentity,
    Nowhere,
}

/// The parts of a request that handlers look at.
pub(crate) struct Asked<'a> {
    pub(crate) kind: ListenerKind,
    pub(crate) method: &'a http::Method,
    /// Host and port as the client wrote them.
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: &'a BTreeMap<String, String>,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a [u8],
}

impl Asked<'_> {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn bearer(&self) -> Option<&str> {
        let value = self.headers.get(AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    }
}

impl Core {
    pub(crate) async fn handle(
        self: &Arc<Self>,
        kind: ListenerKind,
        request: Request<Bytes>,
    ) -> HandlerOutcome {
        let (parts, body) = request.into_parts();
        let authority = parts.uri.authority().map(ToString::to_string);
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        let authority =
            authority.or_else(|| host.map(str::to_owned)).unwrap_or_default().to_ascii_lowercase();
        let Some(query) = parse_form(parts.uri.query().unwrap_or_default().as_bytes()) else {
            return HandlerOutcome::Reply(Reply::empty(StatusCode::BAD_REQUEST));
        };
        let asked = Asked {
            kind,
            method: &parts.method,
            authority: &authority,
            path: parts.uri.path(),
            query: &query,
            headers: &parts.headers,
            body: &body,
        };
        if kind == ListenerKind::Admin {
            return HandlerOutcome::Reply(admin::handle(self, &asked));
        }
        let (call, target) = self.route(&asked);
        let _in_flight = self.counters.begin();
        let plan = self.faults.plan(&call, self.clock.unix_millis());
        if !plan.latency.is_zero() {
            tokio::time::sleep(plan.latency).await;
        }
        let outcome = self.outcome(&asked, &target, &plan);
        let status = match &outcome {
            HandlerOutcome::Reply(reply) => reply.status.as_u16(),
            HandlerOutcome::Hang | HandlerOutcome::Reset => 0,
        };
        self.counters.record(call.operation, &call.site, status);
        tracing::info!(
            operation = %call.operation, site = %call.site, object = call.object.as_deref(), status, "request"
        );
        outcome
    }

    fn route(&self, asked: &Asked<'_>) -> (Call, Target) {
        let call = |operation, site: &str| Call {
            operation,
            site: site.to_owned(),
            object: None,
            authenticated: true,
        };
        match asked.kind {
            ListenerKind::Imds => (call(Operation::ImdsToken, "imds"), Target::ManagedIdentity),
            ListenerKind::AppService => {
                (call(Operation::AppServiceToken, "app-service"), Target::ManagedIdentity)
            }
            ListenerKind::TokenProxy => {
                let request = entra::TokenRequest::read(asked);
                (call(request.operation(true), "token-proxy"), Target::Entra(request))
            }
            ListenerKind::Https | ListenerKind::Admin => {
                let host = without_port(asked.authority);
                // By its bare address the listener is a vault, but nothing in a vault has such a path.
                let by_address = host.parse::<std::net::IpAddr>().is_ok() && entra::is_entra_path(asked.path);
                let vault = if by_address { None } else { self.vault_at(asked.authority) };
                if let Some(vault) = vault {
                    let path = parse_vault_path(asked.method, asked.path);
                    let operation = match &path {
                        Ok(path) => Operation::Vault(path.collection, path.action),
                        Err(_) => Operation::UnknownVaultRequest,
                    };
                    let call = Call {
                        object: path.as_ref().ok().and_then(|path| path.name.clone()),
                        authenticated: asked.bearer().is_some(),
                        ..call(operation, &vault.name)
                    };
                    (call, Target::Vault(vault, path))
                } else if by_address || ENTRA_HOSTS.contains(&host) {
                    if entra::is_discovery(asked) {
                        return (call(Operation::Discovery, "entra"), Target::Discovery);
                    }
                    let request = entra::TokenRequest::read(asked);
                    (call(request.operation(false), "entra"), Target::Entra(request))
                } else {
                    (call(Operation::UnknownVaultRequest, "nowhere"), Target::Nowhere)
                }
            }
        }
    }

    fn outcome(&self, asked: &Asked<'_>, target: &Target, plan: &Plan) -> HandlerOutcome {
        match &plan.short_circuit {
            Some(ShortCircuit::Hang) => return HandlerOutcome::Hang,
            Some(ShortCircuit::Reset) => return HandlerOutcome::Reset,
            _ => {}
        }
        let faulted = plan.short_circuit.as_ref().and_then(|fault| match target {
            Target::Vault(vault, _) => refuse_by_fault(vault, fault),
            Target::Entra(_) | Target::Discovery => entra::refuse_by_fault(self, fault),
            Target::ManagedIdentity => managed_identity::refuse_by_fault(fault),
            Target::Nowhere => None,
        });
        // The vault's clock may be off, in what it makes of tokens and in what it stamps on objects.
        let now_millis = self.clock.unix_millis() + plan.skew_millis;
        let reply = faulted.unwrap_or_else(|| match target {
            Target::Vault(vault, path) => self.ask_vault(asked, vault, path.as_ref(), plan, now_millis),
            Target::Entra(request) => entra::token(self, asked, request, now_millis / 1000),
            Target::Discovery => entra::discovery(self, asked),
            Target::ManagedIdentity => managed_identity::token(self, asked, now_millis / 1000),
            Target::Nowhere => {
                Reply::bytes(StatusCode::MISDIRECTED_REQUEST, "text/plain", "No vault has this host name.\n")
            }
        });
        let reply = match target {
            Target::Vault(vault, _) => self.with_vault_headers(asked, vault, reply),
            _ => reply,
        };
        HandlerOutcome::Reply(match &plan.body {
            Some(fault) => spoil(reply, fault),
            None => reply,
        })
    }

    fn ask_vault(
        &self,
        asked: &Asked<'_>,
        vault: &Vault,
        path: Result<&VaultPath, &PathError>,
        plan: &Plan,
        now_millis: i64,
    ) -> Reply {
        let path = match path {
            Ok(path) => path,
            Err(PathError::BadName(name)) => {
                return crate::vault::bad_name(name);
            }
            Err(PathError::Unknown) => return crate::vault::unknown_request(),
        };
        serve(&Visit {
            vault,
            authority: asked.authority,
            path: asked.path,
            asked: path,
            query: asked.query,
            body: asked.body,
            bearer: asked.bearer(),
            now_millis,
            write_millis: plan.frozen_millis.unwrap_or(now_millis),
            settle_millis: self.settle_millis,
            listing: &plan.listing,
            limits: plan.rate_limit.or(self.limits),
            rng: &self.rng,
            signer: &self.signer,
        })
    }

    fn with_vault_headers(&self, asked: &Asked<'_>, vault: &Vault, mut reply: Reply) -> Reply {
        if let Some(id) = asked.headers.get("x-ms-client-request-id") {
            reply.headers.insert(HeaderName::from_static("x-ms-client-request-id"), id.clone());
        }
        reply
            .with_header("x-ms-keyvault-region", &vault.region)
            .with_header("x-ms-keyvault-service-version", "1.9.640.1")
            .with_header(
                "x-ms-keyvault-network-info",
                "conn_type=Ipv4;addr=127.0.0.1;act_addr_fam=InterNetwork;",
            )
            .with_header("x-ms-request-id", &self.rng.uuid())
    }

    fn vault_at(&self, authority: &str) -> Option<Arc<Vault>> {
        let hosts = self.hosts.read();
        let name = hosts.get(authority).or_else(|| hosts.get(without_port(authority)))?;
        self.vaults.read().get(name).cloned()
    }

    /// Adds a vault, or finds the one of this name.
    pub(crate) fn vault(&self, name: &str, host: &str, resource: &str) -> Arc<Vault> {
        let mut vaults = self.vaults.write();
        if let Some(vault) = vaults.get(name) {
            return vault.clone();
        }
        let vault = Arc::new(Vault::new(name, host, &self.tenant_id, resource, &self.region));
        vaults.insert(name.to_owned(), vault.clone());
        let mut hosts = self.hosts.write();
        hosts.insert(host.to_ascii_lowercase(), name.to_owned());
        if !name.contains('.') {
            hosts.insert(format!("{name}.vault.localhost").to_ascii_lowercase(), name.to_owned());
        }
        vault
    }

    pub(crate) fn alias(&self, authority: &str, vault: &str) {
        self.hosts.write().insert(authority.to_ascii_lowercase(), vault.to_owned());
    }

    /// The moment that a write by a test bears, faults considered.
    pub(crate) fn write_moment(&self, vault: &str) -> i64 {
        self.faults.write_moment(vault, self.clock.unix_millis())
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// Spoils the body of an answer that would have been good.
fn spoil(mut reply: Reply, fault: &BodyFault) -> Reply {
    if !reply.status.is_success() {
        return reply;
    }
    reply.headers.remove(CONTENT_LENGTH);
    match fault {
        BodyFault::Truncated { keep } => {
            if let ReplyBody::Bytes(whole) = &reply.body {
                let sent = whole.slice(..whole.len().min(*keep));
                reply.body = ReplyBody::Truncated { sent, declared: whole.len() as u64 };
            }
        }
        BodyFault::WrongContentType => {
            reply.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
        }
        BodyFault::Garbage => {
            reply.body = ReplyBody::Bytes(Bytes::from_static(b"{\"value\": <!doctype nonsense"));
        }
        BodyFault::Huge { bytes } => {
            let (prefix, suffix) = (Bytes::from_static(b"{\"value\":\""), Bytes::from_static(b"\"}"));
            let filler = bytes.saturating_sub((prefix.len() + suffix.len()) as u64);
            reply.body = ReplyBody::Filler { prefix, filler, suffix };
        }
    }
    reply
}
