//! Faults: what goes wrong, for which requests, how often.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::operation::Operation;
use crate::rng::Rng;

mod plan;
mod schedule;

pub(crate) use plan::{BodyFault, ListingFaults, Plan, ShortCircuit};
pub use schedule::{Phase, Schedule, ScheduleError};

/// One thing that goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// Which operations: see [`Operation::matches`]. Default: all.
    #[serde(default = "everything")]
    pub operation: String,
    /// Only requests to this vault, by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<String>,
    /// Only requests for the object of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The share of matching requests that are hit, from 0 to 1. Default: 1.
    #[serde(default = "always")]
    pub share: f64,
    /// How many requests are hit before the fault is spent. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// What happens.
    pub effect: Effect,
}

/// What happens to a request that a fault hits.
///
/// An answer made by a fault (a status, a body) replaces only answers to requests that carry a token: the challenge
/// to a request without one stays as it is, so that `times` counts real attempts. Latency, hangs and resets hit
/// every request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Effect {
    /// The answer comes later, by `millis` plus up to `jitter_millis`.
    Latency {
        /// Milliseconds.
        millis: u64,
        /// Up to this many milliseconds more, drawn evenly.
        #[serde(default)]
        jitter_millis: u64,
    },
    /// 429 `Throttled`; `retry_after` is sent verbatim (seconds or an HTTP date), or left out.
    Throttle {
        /// The header's value.
        #[serde(default)]
        retry_after: Option<String>,
    },
    /// Any other status, with the body the service sends along with it.
    Status {
        /// Such as 500, 503, or 404 and 410 for IMDS.
        status: u16,
        /// The value of `Retry-After`, if any.
        #[serde(default)]
        retry_after: Option<String>,
    },
    /// 403 with this inner code, whatever the identity may do.
    Forbidden {
        /// `ForbiddenByRbac`, `ForbiddenByFirewall`, `ForbiddenByPolicy`, `AccessDenied`, ….
        #[serde(default = "by_rbac")]
        inner_code: String,
    },
    /// 401: the vault refuses the token, although it is good.
    Unauthorized,
    /// An error of the token endpoint, by its AADSTS number.
    TokenError {
        /// Such as 700213.
        code: u32,
    },
    /// Never answered.
    Hang,
    /// The connection is reset.
    Reset,
    /// The body breaks off after `keep` bytes.
    TruncatedBody {
        /// Bytes that still arrive.
        #[serde(default = "some_bytes")]
        keep: usize,
    },
    /// The right body, labelled `text/html`.
    WrongContentType,
    /// 200 with a body that is no JSON.
    GarbageJson,
    /// 200 with a well-formed body of this many bytes, streamed.
    HugeBody {
        /// Default: 200 MiB.
        #[serde(default = "two_hundred_mebibytes")]
        bytes: u64,
    },
    /// Listings point to their next page at another origin.
    ForeignNextLink {
        /// Such as `https://evil.example`.
        #[serde(default = "evil_origin")]
        origin: String,
    },
    /// Each page of a listing names itself as the next one.
    EndlessNextLink,
    /// Pages without entries come before those with entries.
    EmptyPages,
    /// Listings show the vault as it was this long ago; gets do not lag.
    LaggingList {
        /// Milliseconds.
        millis: i64,
    },
    /// Every write while this is set bears the timestamp of the first one: two versions within one second.
    FrozenSecond,
    /// The service's clock is off by this much; it shows in timestamps and in what it thinks of tokens.
    ClockSkew {
        /// Positive: the service is ahead.
        seconds: i64,
    },
    /// Replaces the vault's own rate limit.
    RateLimit {
        /// Transactions within the window.
        transactions: u64,
        /// Creations and imports within the window.
        creates: u64,
        /// Seconds.
        #[serde(default = "ten_seconds")]
        window_seconds: u64,
    },
}

impl Fault {
    /// `effect` on every request that `operation` covers.
    #[must_use]
    pub fn on(operation: &str, effect: Effect) -> Self {
        Self { operation: operation.to_owned(), vault: None, object: None, share: 1.0, times: None, effect }
    }

    /// Hits only `share` (0 to 1) of the requests.
    #[must_use]
    pub fn share(self, share: f64) -> Self {
        Self { share, ..self }
    }

    /// Is spent after `times` requests.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self { times: Some(times), ..self }
    }

    /// Hits only this vault.
    #[must_use]
    pub fn at_vault(self, vault: &str) -> Self {
        Self { vault: Some(vault.to_owned()), ..self }
    }

    /// Hits only the object of this name.
    #[must_use]
    pub fn for_object(self, object: &str) -> Self {
        Self { object: Some(object.to_owned()), ..self }
    }

    /// Every token endpoint answers 503: Entra, the identity-binding proxy, IMDS and App Service.
    #[must_use]
    pub fn token_endpoints_down() -> Self {
        Self::on("token.*", Effect::Status { status: 503, retry_after: None })
    }
}

/// What a fault looks at to decide whether it is meant.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) operation: Operation,
    /// The vault's name, or the name of another site.
    pub(crate) site: String,
    pub(crate) object: Option<String>,
    /// Carries a token, or needs none.
    pub(crate) authenticated: bool,
}

/// The faults in force; shared by sockets, tests and the admin API.
pub struct Faults {
    region: String,
    rng: Rng,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next_id: u64,
    active: Vec<Active>,
    playing: Vec<schedule::Playing>,
}

struct Active {
    id: u64,
    fault: Fault,
    remaining: Option<u64>,
    frozen_millis: Option<i64>,
}

/// Names a fault that was set.
pub type FaultId = u64;

impl Faults {
    pub(crate) fn new(region: &str, rng: Rng) -> Self {
        Self { region: region.to_owned(), rng, state: Mutex::default() }
    }

    /// Sets a fault; it holds until it is cleared or spent.
    pub fn set(&self, fault: Fault) -> FaultId {
        let mut state = self.state.lock();
        state.next_id += 1;
        let id = state.next_id;
        let remaining = fault.times;
        state.active.push(Active { id, fault, remaining, frozen_millis: None });
        id
    }

    /// Lifts one fault; false when it was not there.
    pub fn clear(&self, id: FaultId) -> bool {
        let mut state = self.state.lock();
        let before = state.active.len();
        state.active.retain(|active| active.id != id);
        state.active.len() != before
    }

    /// Lifts all faults and stops all schedules.
    pub fn clear_all(&self) {
        let mut state = self.state.lock();
        state.active.clear();
        state.playing.clear();
    }

    /// The faults set, without those of schedules.
    #[must_use]
    pub fn list(&self) -> Vec<(FaultId, Fault)> {
        self.state.lock().active.iter().map(|active| (active.id, active.fault.clone())).collect()
    }

    pub(crate) fn play(&self, schedule: Arc<Schedule>, speed: f64, now_millis: i64) {
        self.state.lock().playing.push(schedule::Playing::new(schedule, speed, now_millis));
    }

    /// The names of the schedules that still have phases before them.
    pub(crate) fn playing(&self, now_millis: i64) -> Vec<String> {
        let state = self.state.lock();
        state.playing.iter().filter(|p| !p.finished(now_millis)).map(|p| p.name().to_owned()).collect()
    }

    /// The moment that a write to this vault bears: the present one, unless it is skewed or stands still.
    pub(crate) fn write_moment(&self, vault: &str, now_millis: i64) -> i64 {
        let mut moment = now_millis;
        let mut frozen = None;
        for active in &mut self.state.lock().active {
            if active.fault.vault.as_ref().is_some_and(|only| only != vault) {
                continue;
            }
            match active.fault.effect {
                Effect::FrozenSecond => frozen = Some(*active.frozen_millis.get_or_insert(now_millis)),
                Effect::ClockSkew { seconds } => moment += seconds * 1000,
                _ => {}
            }
        }
        frozen.unwrap_or(moment)
    }

    /// Decides what happens to one request; draws from the seeded stream and uses up `times`.
    pub(crate) fn plan(&self, call: &Call, now_millis: i64) -> Plan {
        let mut plan = Plan::default();
        let mut state = self.state.lock();
        for active in &mut state.active {
            if active.remaining == Some(0) || !concerns(&active.fault, call) || !hit(&active.fault, &self.rng)
            {
                continue;
            }
            if let Effect::FrozenSecond = active.fault.effect {
                plan.frozen_millis = Some(*active.frozen_millis.get_or_insert(now_millis));
            }
            plan.add(&active.fault.effect, &self.rng);
            if let Some(remaining) = &mut active.remaining {
                *remaining -= 1;
            }
        }
        for playing in &mut state.playing {
            for effect in playing.effects(call, &self.region, now_millis) {
                plan.add(&effect, &self.rng);
            }
        }
        state.active.retain(|active| active.remaining != Some(0));
        plan
    }
}

fn concerns(fault: &Fault, call: &Call) -> bool {
    call.operation.matches(&fault.operation)
        && fault.vault.as_ref().is_none_or(|vault| *vault == call.site)
        && fault.object.as_ref().is_none_or(|object| call.object.as_ref() == Some(object))
        && (call.authenticated || plan::hits_unauthenticated(&fault.effect))
}

fn hit(fault: &Fault, rng: &Rng) -> bool {
    fault.share >= 1.0 || rng.unit() < fault.share
}

fn everything() -> String {
    "*".to_owned()
}

fn always() -> f64 {
    1.0
}

fn by_rbac() -> String {
    "ForbiddenByRbac".to_owned()
}

fn evil_origin() -> String {
    "https://evil.example".to_owned()
}

fn some_bytes() -> usize {
    16
}

fn two_hundred_mebibytes() -> u64 {
    200 * 1024 * 1024
}

fn ten_seconds() -> u64 {
    10
}
