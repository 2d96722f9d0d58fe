use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keyward_core::observe::Observer;
use keyward_core::{AccessToken, Clock, Code, Error, IdentityKey, Result, TokenSource, UnixTime};
use keyward_egress::Egress;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::settings::{SharedSettings, check_resource};
use crate::{Credential, TokenCache};

mod presented;
mod proofs;

use presented::{Presented, Way, awaited};
use proofs::{Key, Known, Proofs};

/// One cloud identity that many pods use, each by its own proof.
///
/// A pod proves it with [`Self::prove`]: one exchange with exactly the credential that it brought, good for ten
/// minutes. The token that comes of it joins the identity's one [`TokenCache`], so that the reads that follow need no
/// exchange of their own. The cache's background refresh uses what pods [present](Self::present) as long as they live;
/// a token in the cache is never a proof for anybody.
pub struct SharedIdentity {
    presented: Arc<Presented>,
    cache: Arc<TokenCache>,
    proofs: Arc<Mutex<Proofs>>,
    clock: Arc<dyn Clock>,
    tasks: Mutex<JoinSet<()>>,
}

impl SharedIdentity {
    /// Nothing is read or sent before the first proof or token is asked for.
    ///
    /// # Errors
    /// `KW_CONFIG_INVALID` when a setting cannot be right.
    pub fn new(
        settings: SharedSettings,
        egress: Arc<Egress>,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> Result<Arc<Self>> {
        settings.check()?;
        let identity = settings.identity_key();
        let presented = Arc::new(Presented::new(Way::new(settings, egress, &clock)?, Arc::clone(&clock)));
        let exchange = Box::new(Arc::clone(&presented));
        let cache = Arc::new(TokenCache::new(identity, exchange, Arc::clone(&clock), observer));
        Ok(Arc::new(Self { presented, cache, proofs: Arc::default(), clock, tasks: Mutex::default() }))
    }

    /// Returns when this very credential has proved the identity for `resource` within the last ten minutes: at once
    /// when it has, otherwise after one exchange with it and with nothing else. However many callers wait, one exchange
    /// runs; it goes on when they give up. A failure is not remembered.
    ///
    /// # Errors
    /// `KW_TOKEN_REFUSED` and the other errors of an exchange, with the identity; `KW_TOKEN_AWAITED` for a token that
    /// has expired, which is not sent; `KW_CONFIG_INVALID` for a credential of another kind than the identity takes.
    pub async fn prove(&self, credential: &Credential, resource: &str) -> Result<()> {
        let named = |error: Error| error.identity(self.identity());
        check_resource(resource)?;
        self.presented.way.check(credential).map_err(named)?;
        let mut outcome = {
            let key: Key = (credential.fingerprint(), resource.to_owned());
            let mut proofs = self.proofs.lock();
            match proofs.known(&key, self.clock.boot()) {
                Known::Proved => return Ok(()),
                Known::UnderWay(flight) => flight,
                Known::Nothing => {
                    if credential.expires().is_some_and(|end| end <= self.clock.wall()) {
                        return Err(named(awaited("the token that kubelet passed has expired")));
                    }
                    let (done, flight) = proofs.begin(&key, self.clock.boot()).map_err(named)?;
                    self.exchange(key, credential.clone(), done);
                    flight
                }
            }
        };
        let ended = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        ended.unwrap_or_else(|| Err(Error::new(Code::ShuttingDown, "the token exchange was ended")))
    }

    /// Whether [`Self::prove`] would return at once.
    #[must_use]
    pub fn is_proved(&self, credential: &Credential, resource: &str) -> bool {
        let key = (credential.fingerprint(), resource.to_owned());
        matches!(self.proofs.lock().known(&key, self.clock.boot()), Known::Proved)
    }

    /// How long [`Self::is_proved`] will still hold by itself; `None` when it does not.
    #[must_use]
    pub fn proof_lasts(&self, credential: &Credential, resource: &str) -> Option<Duration> {
        let key = (credential.fingerprint(), resource.to_owned());
        self.proofs.lock().lasts(&key, self.clock.boot())
    }

    /// Forgets what `credential` has proved; an exchange under way proves nothing any more.
    pub fn forget(&self, credential: &Credential) {
        self.proofs.lock().forget(credential.fingerprint());
    }

    /// From now on `holder` (a volume) lends `credential` to the background refresh, instead of what it lent before.
    /// Returns whether there was nothing to refresh with before: then what waited for a token should be tried again.
    /// Call it within the runtime.
    pub fn present(&self, holder: &str, credential: Credential) -> bool {
        if self.presented.way.check(&credential).is_err() {
            return false;
        }
        let (is_new, was_empty) = self.presented.present(holder, credential);
        if is_new {
            self.cache.retry_refused();
        }
        was_empty
    }

    /// `holder` is gone, and what it lent with it.
    pub fn withdraw(&self, holder: &str) {
        self.presented.withdraw(holder);
    }

    /// When the first of the tokens in hand ends, wall time; `None` without a token.
    #[must_use]
    pub fn expires(&self) -> Option<UnixTime> {
        self.cache.expires()
    }

    /// The exchange belongs to the identity, not to the caller.
    fn exchange(&self, key: Key, credential: Credential, done: proofs::Landing) {
        let (presented, cache) = (Arc::clone(&self.presented), Arc::clone(&self.cache));
        let (proofs, clock) = (Arc::clone(&self.proofs), Arc::clone(&self.clock));
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let started = clock.boot();
            let issued = presented.way.exchange(&credential, &key.1).await;
            // The token is in the cache before anybody hears of the proof, so that nobody makes a second exchange.
            let outcome = cache.take_in(&key.1, issued, started);
            proofs.lock().land(&key, &done, outcome.is_ok().then_some(started));
            done.send_replace(Some(outcome));
        });
    }
}

#[async_trait]
impl TokenSource for SharedIdentity {
    fn identity(&self) -> &IdentityKey {
        self.cache.identity()
    }

    async fn token(&self, resource: &str) -> Result<AccessToken> {
        self.cache.token(resource).await
    }

    fn reject(&self, resource: &str, token: &AccessToken) {
        self.cache.reject(resource, token);
    }
}
