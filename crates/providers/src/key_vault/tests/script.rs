use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use azure_core::http::headers::Headers;
use azure_core::http::{AsyncRawResponse, HttpClient, Request, StatusCode};
use keyward_core::{AccessToken, Error, IdentityKey, Priority, Result, SecretBytes, TokenSource};
use keyward_test_support::TokioClock;
use parking_lot::Mutex;

use super::super::{KeyVault, KeyVaultSettings};

pub(super) const TENANT: &str = "11111111-2222-3333-4444-555555555555";

/// A vault that answers every signed request as it is told, and every unsigned one with a challenge.
pub(super) struct Script {
    transport: Arc<Transport>,
    pub(super) tokens: Arc<Tokens>,
}

/// One answer.
pub(super) struct Reply {
    status: u16,
    headers: HashMap<&'static str, String>,
    body: String,
}

/// One request as it was sent.
#[derive(Clone)]
pub(super) struct Sent {
    pub(super) url: String,
    pub(super) token: Option<String>,
    pub(super) request_id: Option<String>,
    pub(super) headers: Vec<String>,
    /// Whose share a look-up of the vault's name would take.
    pub(super) asker: Option<Arc<str>>,
}

pub(super) fn reply(status: u16, body: &str) -> Reply {
    Reply {
        status,
        headers: HashMap::from([("content-type", "application/json".to_owned())]),
        body: body.to_owned(),
    }
}

impl Reply {
    pub(super) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.to_owned());
        self
    }
}

impl Script {
    pub(super) fn answering(answer: impl Fn(&Sent) -> Reply + Send + Sync + 'static) -> Self {
        let transport = Transport {
            answer: Box::new(answer),
            challenge: Mutex::new(format!(
                r#"Bearer authorization="https://login.windows.net/{TENANT}", resource="https://vault.azure.net""#
            )),
            latency: Mutex::default(),
            failure: Mutex::default(),
            log: Mutex::default(),
        };
        Self { transport: Arc::new(transport), tokens: Arc::new(Tokens::default()) }
    }

    pub(super) fn challenging(self, challenge: &str) -> Self {
        challenge.clone_into(&mut self.transport.challenge.lock());
        self
    }

    pub(super) fn taking(self, latency: Duration) -> Self {
        *self.transport.latency.lock() = latency;
        self
    }

    /// Every request fails so, after the latency.
    pub(super) fn failing(self, error: Error) -> Self {
        *self.transport.failure.lock() = Some(error);
        self
    }

    pub(super) fn provider(&self) -> Arc<KeyVault> {
        self.provider_with(|_| {})
    }

    pub(super) fn provider_with(&self, change: impl FnOnce(&mut KeyVaultSettings)) -> Arc<KeyVault> {
        let mut settings = KeyVaultSettings::new("https://vault.azure.net");
        settings.seed = Some(1);
        change(&mut settings);
        let transport = Arc::clone(&self.transport);
        let tokens: Arc<dyn TokenSource> = Arc::clone(&self.tokens) as _;
        KeyVault::with_transport(
            settings,
            move |_| Arc::clone(&transport),
            tokens,
            Arc::new(TokioClock::new()),
        )
    }

    pub(super) fn log(&self) -> Vec<Sent> {
        self.transport.log.lock().clone()
    }

    /// Requests without a token.
    pub(super) fn unsigned(&self) -> usize {
        self.log().iter().filter(|sent| sent.token.is_none()).count()
    }
}

struct Transport {
    answer: Box<dyn Fn(&Sent) -> Reply + Send + Sync>,
    challenge: Mutex<String>,
    latency: Mutex<Duration>,
    failure: Mutex<Option<Error>>,
    log: Mutex<Vec<Sent>>,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport")
    }
}

#[async_trait::async_trait]
impl HttpClient for Transport {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let header = |name: &str| {
            let found = request.headers().iter().find(|(key, _)| key.as_str() == name);
            found.map(|(_, value)| value.as_str().to_owned())
        };
        let sent = Sent {
            url: request.url().to_string(),
            token: header("authorization").map(|value| value.strip_prefix("Bearer ").unwrap().to_owned()),
            request_id: header("x-ms-client-request-id"),
            headers: request.headers().iter().map(|(name, _)| name.as_str().to_owned()).collect(),
            asker: Priority::current().asker(),
        };
        self.log.lock().push(sent.clone());
        let latency = *self.latency.lock();
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        if let Some(error) = self.failure.lock().clone() {
            return Err(azure_core::Error::new(azure_core::error::ErrorKind::Other, error));
        }
        let reply = if sent.token.is_some() {
            (self.answer)(&sent)
        } else {
            reply(
                401,
                r#"{"error":{"code":"Unauthorized","message":"AKV10000: Request is missing a token."}}"#,
            )
            .with("www-authenticate", &self.challenge.lock())
        };
        let mut headers = Headers::new();
        for (name, value) in reply.headers {
            headers.insert(name, value);
        }
        Ok(AsyncRawResponse::from_bytes(StatusCode::from(reply.status), headers, reply.body))
    }
}

/// Tokens `token-1`, `token-2`, …: a new one after each rejection.
pub(super) struct Tokens {
    identity: IdentityKey,
    state: Mutex<TokenState>,
}

#[derive(Default)]
struct TokenState {
    exchanges: usize,
    held: bool,
    latency: Duration,
    failure: Option<Error>,
    resources: Vec<String>,
}

impl Default for Tokens {
    fn default() -> Self {
        let identity = IdentityKey {
            method: "workload-identity",
            authority: "https://login.microsoftonline.com".to_owned(),
            tenant: "tenant".to_owned(),
            client: "ours".to_owned(),
        };
        Self { identity, state: Mutex::default() }
    }
}

impl Tokens {
    pub(super) fn of_tenant(tenant: &str) -> Self {
        let mut tokens = Self::default();
        tenant.clone_into(&mut tokens.identity.tenant);
        tokens
    }

    pub(super) fn exchanges(&self) -> usize {
        self.state.lock().exchanges
    }

    pub(super) fn resources(&self) -> Vec<String> {
        self.state.lock().resources.clone()
    }

    pub(super) fn set_latency(&self, latency: Duration) {
        self.state.lock().latency = latency;
    }

    pub(super) fn set_failure(&self, failure: Option<Error>) {
        self.state.lock().failure = failure;
    }
}

#[async_trait::async_trait]
impl TokenSource for Tokens {
    fn identity(&self) -> &IdentityKey {
        &self.identity
    }

    async fn token(&self, resource: &str) -> Result<AccessToken> {
        let latency = self.state.lock().latency;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let mut state = self.state.lock();
        state.resources.push(resource.to_owned());
        if let Some(error) = &state.failure {
            return Err(error.clone());
        }
        if !state.held {
            state.exchanges += 1;
            state.held = true;
        }
        Ok(AccessToken {
            secret: SecretBytes::from(format!("token-{}", state.exchanges)),
            expires_boot: Duration::from_secs(1_000_000),
            expires_wall: Duration::from_secs(2_000_000_000),
        })
    }

    fn reject(&self, _resource: &str, token: &AccessToken) {
        let mut state = self.state.lock();
        if token.secret.expose() == format!("token-{}", state.exchanges).as_bytes() {
            state.held = false;
        }
    }
}
