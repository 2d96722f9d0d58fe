use std::sync::Arc;
use std::time::Duration;

use azure_core::http::headers::WWW_AUTHENTICATE;
use azure_core::http::{HttpClient, Method, Request, Url};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use keyward_core::{AccessToken, Clock, Code, Error, Hop, Result, SecretBytes, TokenSource, VaultHost};
use parking_lot::Mutex;

use super::challenge::{Challenge, parse_challenge};
use super::credential::TokenInHand;
use super::pipeline::{collect, header, sdk_failure};
use super::refusal::{Asked, refusal, unauthenticated};

/// A vault that refuses fresh tokens is not a reason for a token exchange with each read.
const FRESH_TOKEN_EVERY: Duration = Duration::from_secs(60);

/// Authentication at one vault: the challenge, asked for once, and the token in hand.
pub(super) struct Session {
    pub(super) host: VaultHost,
    pub(super) endpoint: Url,
    pub(super) in_hand: TokenInHand,
    pub(super) clock: Arc<dyn Clock>,
    audience: String,
    verify: bool,
    api_version: String,
    tokens: Arc<dyn TokenSource>,
    transport: Arc<dyn HttpClient>,
    challenge: Mutex<ChallengeState>,
    refused: Mutex<Option<(SecretBytes, Duration)>>,
}

/// One question in flight that any number of callers wait for; whoever is cancelled, the others drive it on. When all
/// are, it ends, and the next caller begins anew.
type Flight = BoxFuture<'static, Result<Arc<Known>>>;

enum ChallengeState {
    Unknown,
    Asking(WeakShared<Flight>),
    Known(Arc<Known>),
}

/// A challenge whose resource is one that this vault may have a token for.
pub(super) struct Known {
    pub(super) challenge: Challenge,
    pub(super) resource: String,
}

impl Session {
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one fact about the vault, and there is one caller"
    )]
    pub(super) fn new(
        host: VaultHost,
        endpoint: Url,
        audience: String,
        verify: bool,
        api_version: String,
        tokens: Arc<dyn TokenSource>,
        transport: Arc<dyn HttpClient>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            host,
            endpoint,
            in_hand: TokenInHand::default(),
            clock,
            audience,
            verify,
            api_version,
            tokens,
            transport,
            challenge: Mutex::new(ChallengeState::Unknown),
            refused: Mutex::new(None),
        }
    }

    /// Returns when a request can be signed: the challenge is known and a token is in hand. What is missing is asked
    /// for at once and in parallel, by one caller for all.
    pub(super) async fn ready(self: &Arc<Self>) -> Outcome<()> {
        let (known, token) = futures::join!(self.known(), self.tokens.token(&self.audience));
        let known = known?;
        let token = if known.resource == self.audience {
            token.map_err(Failed::finally)?
        } else {
            self.tokens.token(&known.resource).await.map_err(Failed::finally)?
        };
        self.in_hand.set(token);
        Ok(())
    }

    /// Learns the challenge. A failure is told by the reads that follow.
    pub(super) async fn prepare(self: &Arc<Self>) {
        drop(self.known().await);
    }

    /// The challenge to show to the SDK, with the resource that was verified here.
    pub(super) fn challenge_header(&self) -> Option<String> {
        match &*self.challenge.lock() {
            ChallengeState::Known(known) => {
                Some(format!("Bearer authorization=\"https://-/\", resource=\"{}\"", known.resource))
            }
            _ => None,
        }
    }

    /// The token to try once more with after a 401 to `sent`, or `None` when a fresh one was refused already.
    pub(super) async fn token_after_401(&self, sent: &str) -> Result<Option<AccessToken>> {
        let is_sent = |token: &SecretBytes| token.same_as(&SecretBytes::copy_from(sent.as_bytes()));
        let now = self.clock.boot();
        if let Some((refused, at)) = &*self.refused.lock()
            && is_sent(refused)
            && now.saturating_sub(*at) < FRESH_TOKEN_EVERY
        {
            return Ok(None);
        }
        let resource = self.resource();
        let held = match self.in_hand.get() {
            // Another request was refused first and has a newer token already.
            Some(newer) if !is_sent(&newer.secret) => return Ok(Some(newer)),
            Some(held) => held,
            None => self.tokens.token(&resource).await?,
        };
        self.tokens.reject(&resource, &held);
        let fresh = self.tokens.token(&resource).await?;
        self.in_hand.set(fresh.clone());
        Ok((!is_sent(&fresh.secret)).then_some(fresh))
    }

    /// The error for a vault that refuses even a fresh token, which is remembered.
    pub(super) fn refused(&self, sent: &str, challenge: Option<&str>, body: &[u8]) -> Error {
        let sent = SecretBytes::copy_from(sent.as_bytes());
        let mut refused = self.refused.lock();
        if !refused.as_ref().is_some_and(|(token, _)| token.same_as(&sent)) {
            *refused = Some((sent, self.clock.boot()));
        }
        drop(refused);
        let newest = challenge.and_then(|header| parse_challenge(header.as_bytes()).ok());
        let learned = match &*self.challenge.lock() {
            ChallengeState::Known(known) => Some(Arc::clone(known)),
            _ => None,
        };
        let challenge = newest.as_ref().or(learned.as_deref().map(|known| &known.challenge));
        let ours = self.tokens.identity().tenant.as_str();
        let theirs = challenge.and_then(|challenge| challenge.other_tenant(ours));
        unauthenticated(body, theirs.map(|theirs| (theirs, ours)))
    }

    fn resource(&self) -> String {
        match &*self.challenge.lock() {
            ChallengeState::Known(known) => known.resource.clone(),
            _ => self.audience.clone(),
        }
    }

    async fn known(self: &Arc<Self>) -> Outcome<Arc<Known>> {
        let flight = {
            let mut state = self.challenge.lock();
            let flying = match &*state {
                ChallengeState::Known(known) => return Ok(Arc::clone(known)),
                ChallengeState::Asking(flight) => flight.upgrade(),
                ChallengeState::Unknown => None,
            };
            flying.unwrap_or_else(|| {
                let session = Arc::clone(self);
                let flight: Shared<Flight> = async move { session.ask().await }.boxed().shared();
                *state = flight.downgrade().map_or(ChallengeState::Unknown, ChallengeState::Asking);
                flight
            })
        };
        let answer = flight.clone().await;
        let mut state = self.challenge.lock();
        let current = match &*state {
            ChallengeState::Asking(current) => {
                current.upgrade().is_some_and(|current| current.ptr_eq(&flight))
            }
            _ => false,
        };
        if current {
            *state = match &answer {
                Ok(known) => ChallengeState::Known(Arc::clone(known)),
                Err(_) => ChallengeState::Unknown,
            };
        }
        drop(state);
        answer.map_err(Failed::from)
    }

    /// Asks the vault without a token. `/keys` is the one collection that vaults and managed HSMs both have.
    async fn ask(&self) -> Result<Arc<Known>> {
        let mut url = self.endpoint.clone();
        url.set_path("/keys");
        url.query_pairs_mut().append_pair("api-version", &self.api_version).append_pair("maxresults", "1");
        let mut request = Request::new(url, Method::Get);
        request.insert_header("accept", "application/json");
        let answer = self.transport.execute_request(&request).await.map_err(|error| sdk_failure(&error))?;
        let (status, headers, body) = answer.deconstruct();
        let status = u16::from(status);
        if status == 200 {
            let message = "the vault answered a request that had no token; this is not Key Vault";
            return Err(Error::new(Code::VaultProtocol, message));
        }
        if status != 401 {
            let wait = keyward_egress::parse_retry_after(|name| header(&headers, name), self.clock.wall());
            let body = collect(body).await.map_err(|error| sdk_failure(&error))?;
            return Err(refusal(status, Asked::from_path("/keys"), &body, wait));
        }
        let challenge = headers.get_optional_str(&WWW_AUTHENTICATE).ok_or_else(|| {
            Error::new(Code::VaultProtocol, "the vault wants a token but does not say for what")
        })?;
        let challenge = parse_challenge(challenge.as_bytes())?;
        // Without verification the vault has no say in what token it gets.
        let resource = if self.verify { challenge.verify(&self.host)? } else { self.audience.clone() };
        Ok(Arc::new(Known { challenge, resource }))
    }
}

/// What one try gives.
pub(super) type Outcome<T> = std::result::Result<T, Failed>;

/// A failed try, and whether the same call may be tried again at once.
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) again: bool,
}

impl Failed {
    /// Of a token exchange: the token source has its own retries, and ours would multiply them.
    fn finally(error: Error) -> Self {
        Self { error, again: false }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        let pointless = [
            Code::ResponseTooLarge,
            Code::OriginRefused,
            Code::ChallengeMismatch,
            Code::TlsUntrusted,
            Code::TlsVersion,
        ];
        let of_token = matches!(error.hop(), Hop::Token | Hop::Identity);
        Self { again: !of_token && !pointless.contains(&error.code()), error }
    }
}
