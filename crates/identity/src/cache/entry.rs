use std::time::Duration;

use keyward_core::{AccessToken, Error};

use tokio::sync::watch;

use super::{Landing, Outcome};
use crate::schedule;

/// A token counts as ended this much before its end, so that it does not end on its way.
const MARGIN: Duration = Duration::from_secs(5);

/// The token of one resource, and what is known about getting the next one. All times are on the boot clock.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) held: Option<Held>,
    /// A token that the vault refused while nothing better is known.
    set_aside: Option<Held>,
    flight: Option<Outcome>,
    /// Whether a task looks after the refresh of this entry.
    pub(super) has_keeper: bool,
    /// Exchanges that failed in a row.
    pub(super) failures: u32,
    /// The last failure, and until when it is given again instead of trying.
    refusal: Option<(Error, Duration)>,
    /// No background refresh before this.
    not_before: Duration,
    last_reject: Option<Duration>,
}

/// A token in hand.
pub(super) struct Held {
    pub(super) token: AccessToken,
    pub(super) refresh_at: Duration,
}

impl Held {
    fn is_valid(&self, now: Duration) -> bool {
        now.saturating_add(MARGIN) < self.token.expires_boot
    }
}

impl Entry {
    /// The exchange under way. One whose task was lost does not count.
    pub(super) fn flight(&self) -> Option<Outcome> {
        self.flight.clone().filter(|flight| flight.has_changed().is_ok())
    }

    pub(super) fn start_flight(&mut self) -> (Landing, Outcome) {
        let (done, outcome) = watch::channel(None);
        self.flight = Some(outcome.clone());
        (done, outcome)
    }

    pub(super) fn land(&mut self) {
        self.flight = None;
    }

    /// The token, if it can be used now.
    pub(super) fn valid(&self, now: Duration) -> Option<&Held> {
        self.held.as_ref().filter(|held| held.is_valid(now))
    }

    /// Whether it is time to refresh the token in hand.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.flight().is_none() && self.next_refresh().is_some_and(|at| at <= now)
    }

    /// When the background refreshes next; `None` gives up the task.
    pub(super) fn next_refresh(&self) -> Option<Duration> {
        self.held.as_ref().map(|held| held.refresh_at.max(self.not_before))
    }

    /// The last error, while it is too early to try again without a token.
    pub(super) fn held_off(&self, now: Duration) -> Option<Error> {
        self.refusal.as_ref().filter(|(_, until)| now < *until).map(|(error, _)| error.clone())
    }

    /// The last error, when the last exchange failed.
    pub(super) fn last_error(&self) -> Option<&Error> {
        self.refusal.as_ref().map(|(error, _)| error)
    }

    pub(super) fn succeed(&mut self, held: Held) {
        self.held = Some(held);
        self.set_aside = None;
        self.forget_failures();
    }

    pub(super) fn fail(&mut self, error: &Error, now: Duration, random: f64) {
        self.failures = self.failures.saturating_add(1);
        self.refusal =
            Some((error.clone(), now.saturating_add(schedule::hold_off(self.failures, error, random))));
        self.not_before = now.saturating_add(schedule::retry_after_failure(self.failures, error, random));
        // A token that one 401 spoke against is better than none while no other can be had.
        if self.held.is_none() && error.kind().is_transient() {
            self.held = self.set_aside.take().filter(|held| held.is_valid(now));
        }
    }

    pub(super) fn forget_failures(&mut self) {
        self.failures = 0;
        self.refusal = None;
        self.not_before = Duration::ZERO;
    }

    /// The vault answered 401 to `token`.
    pub(super) fn reject(&mut self, token: &AccessToken, now: Duration, interval: Duration) {
        let is_ours = self.held.as_ref().is_some_and(|held| held.token.secret.same_as(&token.secret));
        let too_soon = self.last_reject.is_some_and(|last| now < last.saturating_add(interval));
        if is_ours && !too_soon {
            self.last_reject = Some(now);
            self.set_aside = self.held.take();
            self.refusal = None;
        }
    }
}
