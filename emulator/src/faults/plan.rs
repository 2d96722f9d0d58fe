//! What the faults in force, taken together, do to one request.

use std::time::Duration;

use super::Effect;
use crate::rng::Rng;
use crate::vault::RateLimits;

/// The sum of all effects that hit one request.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) latency: Duration,
    /// The first effect that decides the answer by itself.
    pub(crate) short_circuit: Option<ShortCircuit>,
    pub(crate) body: Option<BodyFault>,
    pub(crate) listing: ListingFaults,
    pub(crate) skew_millis: i64,
    pub(crate) frozen_millis: Option<i64>,
    pub(crate) rate_limit: Option<RateLimits>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ShortCircuit {
    Hang,
    Reset,
    Status { status: u16, retry_after: Option<String> },
    Forbidden { inner_code: String },
    Unauthorized,
    TokenError(u32),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum BodyFault {
    Truncated { keep: usize },
    WrongContentType,
    Garbage,
    Huge { bytes: u64 },
}

#[derive(Debug, Default, Clone)]
pub(crate) struct ListingFaults {
    pub(crate) foreign_origin: Option<String>,
    pub(crate) endless: bool,
    pub(crate) empty_pages: bool,
    pub(crate) lag_millis: i64,
}

impl Plan {
    pub(super) fn add(&mut self, effect: &Effect, rng: &Rng) {
        match effect {
            Effect::Latency { millis, jitter_millis } => {
                let jitter = match jitter_millis {
                    0 => 0,
                    most => rng.next() % (most + 1),
                };
                self.latency += Duration::from_millis(millis + jitter);
            }
            Effect::Throttle { retry_after } => {
                self.decide(ShortCircuit::Status { status: 429, retry_after: retry_after.clone() });
            }
            Effect::Status { status, retry_after } => {
                self.decide(ShortCircuit::Status { status: *status, retry_after: retry_after.clone() });
            }
            Effect::Forbidden { inner_code } => {
                self.decide(ShortCircuit::Forbidden { inner_code: inner_code.clone() });
            }
            Effect::Unauthorized => self.decide(ShortCircuit::Unauthorized),
            Effect::TokenError { code } => self.decide(ShortCircuit::TokenError(*code)),
            Effect::Hang => self.decide(ShortCircuit::Hang),
            Effect::Reset => self.decide(ShortCircuit::Reset),
            Effect::TruncatedBody { keep } => self.body = Some(BodyFault::Truncated { keep: *keep }),
            Effect::WrongContentType => self.body = Some(BodyFault::WrongContentType),
            Effect::GarbageJson => self.body = Some(BodyFault::Garbage),
            Effect::HugeBody { bytes } => self.body = Some(BodyFault::Huge { bytes: *bytes }),
            Effect::ForeignNextLink { origin } => self.listing.foreign_origin = Some(origin.clone()),
            Effect::EndlessNextLink => self.listing.endless = true,
            Effect::EmptyPages => self.listing.empty_pages = true,
            Effect::LaggingList { millis } => self.listing.lag_millis = *millis,
            // Its moment is remembered by the fault itself.
            Effect::FrozenSecond => {}
            Effect::ClockSkew { seconds } => self.skew_millis += seconds * 1000,
            Effect::RateLimit { transactions, creates, window_seconds } => {
                self.rate_limit = Some(RateLimits {
                    transactions: *transactions,
                    creates: *creates,
                    window: Duration::from_secs(*window_seconds),
                });
            }
        }
    }

    fn decide(&mut self, outcome: ShortCircuit) {
        self.short_circuit.get_or_insert(outcome);
    }
}

/// Effects on the connection or the clock do not look at tokens; made-up answers wait for one.
pub(super) fn hits_unauthenticated(effect: &Effect) -> bool {
    matches!(effect, Effect::Latency { .. } | Effect::Hang | Effect::Reset | Effect::ClockSkew { .. })
}
