use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keyward_core::observe::{Event, Observer};
use keyward_core::{AccessToken, Clock, Code, Error, IdentityKey, Result, TokenSource, UnixTime};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::exchange::{Exchange, Issued};
use crate::schedule;
use crate::settings::check_resource;

mod entry;

use entry::{Entry, Held};

/// Resources that one identity has tokens for; a process uses one or two.
const RESOURCES: usize = 16;

/// A vault's 401 leads to at most one fresh exchange in this time.
const REJECT_INTERVAL: Duration = Duration::from_secs(10);

/// The tokens of one identity, one for each resource: served while they are valid, refreshed in the background at half
/// their life.
///
/// However many callers wait, one exchange runs; it goes on when they give up, and ends when the cache is dropped.
/// When a refresh fails the token in hand serves until its true end, on the clock that counts suspended time. Without
/// a token, an error is given again for some seconds before the next exchange.
pub struct TokenCache {
    shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

struct Shared {
    identity: IdentityKey,
    exchange: Box<dyn Exchange>,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn Observer>,
    entries: Mutex<BTreeMap<String, Arc<Mutex<Entry>>>>,
}

/// Exchanges in a row whose tokens ended before they arrived.
const EXCHANGES: usize = 3;

/// What waiters of an exchange are given, once.
type Outcome = watch::Receiver<Option<Result<AccessToken>>>;

/// Where an exchange leaves its outcome.
type Landing = watch::Sender<Option<Result<AccessToken>>>;

impl TokenCache {
    /// An empty cache over `exchange`.
    #[must_use]
    pub fn new(
        identity: IdentityKey,
        exchange: Box<dyn Exchange>,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let entries = Mutex::default();
        let shared = Arc::new(Shared { identity, exchange, clock, observer, entries });
        Self { shared, tasks: Mutex::default() }
    }

    /// When the first of the tokens in hand ends, wall time; `None` without a token.
    #[must_use]
    pub fn expires(&self) -> Option<UnixTime> {
        let entries = self.shared.entries.lock();
        entries
            .values()
            .filter_map(|entry| entry.lock().held.as_ref().map(|held| held.token.expires_wall))
            .min()
    }

    /// A file that proves the identity has changed: refusals are forgotten, and tokens in hand are replaced in the
    /// background while they go on serving. Call it within the runtime.
    pub fn reload(&self) {
        let entries: Vec<_> = self
            .shared
            .entries
            .lock()
            .iter()
            .map(|(resource, entry)| (resource.clone(), Arc::clone(entry)))
            .collect();
        for (resource, entry) in entries {
            let mut state = entry.lock();
            state.forget_failures();
            if state.held.is_some() {
                self.flight(&resource, &entry, &mut state);
            }
        }
    }

    /// Takes in a token that was exchanged elsewhere for the same identity, or the failure to get one. The token that
    /// lives longer is kept; failures change nothing but the metrics.
    pub(crate) fn take_in(&self, resource: &str, result: Result<Issued>, started: Duration) -> Result<()> {
        let shared = &self.shared;
        let outcome = result.and_then(|issued| {
            let entry = self.entry(resource)?;
            let mut state = entry.lock();
            let ends = started.saturating_add(issued.lifetime);
            if state.valid(shared.clock.boot()).is_none_or(|held| held.token.expires_boot < ends) {
                shared.tell_success(&state);
                shared.hold(&mut state, issued, started);
            }
            if !std::mem::replace(&mut state.has_keeper, true) {
                let (shared, entry, resource) = (Arc::clone(shared), Arc::clone(&entry), resource.to_owned());
                self.spawn(async move { shared.keep_fresh(&resource, &entry).await });
            }
            Ok(())
        });
        let outcome = outcome.map_err(|error| error.identity(&shared.identity));
        let error = outcome.as_ref().err().map(Error::code);
        let expires_wall = self.expires();
        shared.observer.event(&Event::Token { method: shared.identity.method, error, expires_wall });
        outcome
    }

    /// Something new proves the identity: a refusal of what there was before, or of nothing, need not hold for it. What
    /// failed for want of the issuer still waits its time. Call it within the runtime.
    pub(crate) fn retry_refused(&self) {
        let entries: Vec<_> = self.shared.entries.lock().clone().into_iter().collect();
        for (resource, entry) in entries {
            let mut state = entry.lock();
            let is_refused = state
                .last_error()
                .is_some_and(|error| error.code() == Code::TokenAwaited || error.kind().is_definite_no());
            if is_refused {
                state.forget_failures();
                if state.is_due(self.shared.clock.boot()) {
                    self.flight(&resource, &entry, &mut state);
                }
            }
        }
    }

    /// From memory, or from one exchange.
    async fn token_once(&self, resource: &str) -> Result<AccessToken> {
        let entry = self.entry(resource)?;
        let mut outcome = {
            let mut state = entry.lock();
            let now = self.shared.clock.boot();
            if let Some(held) = state.valid(now) {
                let token = held.token.clone();
                // Normally the background is first; after a suspension its timer is late.
                if state.is_due(now) {
                    self.flight(resource, &entry, &mut state);
                }
                return Ok(token);
            }
            if let Some(error) = state.held_off(now) {
                return Err(error);
            }
            self.flight(resource, &entry, &mut state)
        };
        let ended = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        ended.unwrap_or_else(|| Err(Error::new(Code::ShuttingDown, "the token exchange was ended")))
    }

    fn entry(&self, resource: &str) -> Result<Arc<Mutex<Entry>>> {
        let mut entries = self.shared.entries.lock();
        if let Some(entry) = entries.get(resource) {
            return Ok(Arc::clone(entry));
        }
        check_resource(resource)?;
        if entries.len() >= RESOURCES {
            return Err(Error::new(Code::Internal, "one identity is asked for tokens of too many resources"));
        }
        let entry = Arc::<Mutex<Entry>>::default();
        entries.insert(resource.to_owned(), Arc::clone(&entry));
        Ok(entry)
    }

    /// The exchange under way, or a new one. It belongs to the cache, not to the caller.
    fn flight(&self, resource: &str, entry: &Arc<Mutex<Entry>>, state: &mut Entry) -> Outcome {
        if let Some(flight) = state.flight() {
            return flight;
        }
        let (done, outcome) = state.start_flight();
        let takes_over = !std::mem::replace(&mut state.has_keeper, true);
        let (shared, entry, resource) = (Arc::clone(&self.shared), Arc::clone(entry), resource.to_owned());
        self.spawn(async move {
            shared.run(&resource, &entry, done).await;
            if takes_over {
                shared.keep_fresh(&resource, &entry).await;
            }
        });
        outcome
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

#[async_trait]
impl TokenSource for TokenCache {
    fn identity(&self) -> &IdentityKey {
        &self.shared.identity
    }

    async fn token(&self, resource: &str) -> Result<AccessToken> {
        for _ in 0..EXCHANGES {
            let token = self.token_once(resource).await?;
            // The machine may have been suspended while it was fetched.
            if token.expires_boot > self.shared.clock.boot() {
                return Ok(token);
            }
        }
        let text = "every token ended before it arrived; is the machine suspended again and again?";
        Err(Error::new(Code::TokenUnavailable, text).identity(&self.shared.identity))
    }

    fn reject(&self, resource: &str, token: &AccessToken) {
        let Ok(entry) = self.entry(resource) else { return };
        entry.lock().reject(token, self.shared.clock.boot(), REJECT_INTERVAL);
    }
}

impl Shared {
    /// One exchange, from request to entry.
    async fn run(&self, resource: &str, entry: &Mutex<Entry>, done: Landing) {
        let started = self.clock.boot();
        let result = self.exchange.exchange(resource).await.map_err(|error| error.identity(&self.identity));
        let (outcome, error) = {
            let mut state = entry.lock();
            state.land();
            match result {
                Ok(issued) => {
                    self.tell_success(&state);
                    (Ok(self.hold(&mut state, issued, started)), None)
                }
                Err(error) => {
                    state.fail(&error, self.clock.boot(), fastrand::f64());
                    self.tell_failure(&state, resource, &error);
                    let code = error.code();
                    (Err(error), Some(code))
                }
            }
        };
        let held = || entry.lock().held.as_ref().map(|held| held.token.expires_wall);
        let expires_wall = outcome.as_ref().map_or_else(|_| held(), |token| Some(token.expires_wall));
        self.observer.event(&Event::Token { method: self.identity.method, error, expires_wall });
        done.send_replace(Some(outcome));
    }

    fn hold(&self, state: &mut Entry, issued: Issued, started: Duration) -> AccessToken {
        let Issued { secret, lifetime, refresh_in } = issued;
        let spent = self.clock.boot().saturating_sub(started);
        let token = AccessToken {
            secret,
            expires_boot: started.saturating_add(lifetime),
            expires_wall: self.clock.wall().saturating_add(lifetime.saturating_sub(spent)),
        };
        let refresh_at =
            started.saturating_add(schedule::refresh_after(lifetime, refresh_in, fastrand::f64()));
        state.succeed(Held { token: token.clone(), refresh_at });
        token
    }

    /// Refreshes one token for as long as there is one.
    async fn keep_fresh(&self, resource: &str, entry: &Mutex<Entry>) {
        loop {
            let next = {
                let mut state = entry.lock();
                let next = state.next_refresh();
                // Without a token the next caller's exchange brings a keeper of its own.
                state.has_keeper = next.is_some();
                next
            };
            let Some(next) = next else { return };
            // A timer does not count suspended time and may disagree with the clock: what is due is asked afterwards.
            tokio::time::sleep(next.saturating_sub(self.clock.boot())).await;
            match self.due(entry) {
                Due::Now(done) => self.run(resource, entry, done).await,
                Due::UnderWay(mut outcome) => drop(outcome.wait_for(Option::is_some).await),
                Due::Later => {}
            }
        }
    }

    fn due(&self, entry: &Mutex<Entry>) -> Due {
        let mut state = entry.lock();
        if let Some(flight) = state.flight() {
            return Due::UnderWay(flight);
        }
        if state.is_due(self.clock.boot()) { Due::Now(state.start_flight().0) } else { Due::Later }
    }

    fn tell_success(&self, state: &Entry) {
        if state.failures > 0 {
            tracing::info!(identity = %self.identity, failures = state.failures, "tokens can be had again");
        }
    }

    /// Three warnings, then silence until it works again.
    fn tell_failure(&self, state: &Entry, resource: &str, error: &Error) {
        let detail = error.internal_detail().unwrap_or_default();
        let serving = state.held.is_some();
        if state.failures <= 3 {
            tracing::warn!(%error, resource, serving, "a token exchange failed");
        } else {
            tracing::debug!(%error, detail, resource, serving, failures = state.failures, "a token exchange failed");
        }
    }
}

enum Due {
    Now(Landing),
    UnderWay(Outcome),
    Later,
}

#[cfg(test)]
mod tests;
