use std::time::Duration;

use keyward_core::ErrorKind;
use keyward_emulator::{Effect, Fault};

use crate::world::{HOUR, MINUTE};

/// One fault, and what it does to reads.
pub(crate) struct Row {
    pub(crate) fault: Fault,
    /// What a reader without any value may be told; `None` when the fault leaves reads alone.
    pub(crate) first: Option<&'static [ErrorKind]>,
    /// How long it lasts in the test.
    pub(crate) lasts: Duration,
    /// The latest time at which a rotation shows while it lasts; `None` when reads are blocked.
    pub(crate) visible: Option<Duration>,
}

impl Row {
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.fault.operation, describe(&self.fault.effect))
    }
}

fn blocks(operation: &str, effect: Effect, first: &'static [ErrorKind]) -> Row {
    // A token in hand lasts for an hour, and only then does its endpoint's failure show.
    let lasts = if operation.starts_with("token") { HOUR * 2 } else { MINUTE * 40 };
    Row { fault: Fault::on(operation, effect), first: Some(first), lasts, visible: None }
}

fn leaves_alone(operation: &str, effect: Effect, visible: Duration) -> Row {
    Row { fault: Fault::on(operation, effect), first: None, lasts: MINUTE * 40, visible: Some(visible) }
}

/// Every effect that the emulator has, where it can hit.
pub(crate) fn rows() -> Vec<Row> {
    use ErrorKind::{Forbidden, Protocol, Throttled, Timeout, Unauthenticated, Unavailable};
    let status = |status, retry_after: Option<&str>| Effect::Status {
        status,
        retry_after: retry_after.map(str::to_owned),
    };
    let throttle =
        |retry_after: Option<&str>| Effect::Throttle { retry_after: retry_after.map(str::to_owned) };
    let soon = MINUTE * 3;
    // Where a listing cannot tell that something changed, every tenth check is a full read.
    let late = MINUTE * 13;
    vec![
        blocks("vault.*", throttle(None), &[Throttled]),
        blocks("vault.*", throttle(Some("7")), &[Throttled]),
        blocks("vault.*", throttle(Some("7200")), &[Throttled]),
        blocks("vault.*", status(500, None), &[Unavailable]),
        blocks("vault.*", status(503, None), &[Unavailable]),
        blocks("vault.*", status(503, Some("30")), &[Unavailable, Throttled]),
        blocks("vault.*", Effect::Forbidden { inner_code: "ForbiddenByRbac".to_owned() }, &[Forbidden]),
        blocks("vault.*", Effect::Forbidden { inner_code: "ForbiddenByFirewall".to_owned() }, &[Forbidden]),
        blocks("vault.*", Effect::Unauthorized, &[Unauthenticated]),
        blocks("vault.*", Effect::Hang, &[Timeout]),
        blocks("vault.*", Effect::Reset, &[Unavailable]),
        blocks("vault.*", Effect::TruncatedBody { keep: 16 }, &[Protocol]),
        blocks("vault.*", Effect::WrongContentType, &[Protocol]),
        blocks("vault.*", Effect::GarbageJson, &[Protocol]),
        blocks("vault.*", Effect::HugeBody { bytes: 200 << 20 }, &[Protocol]),
        blocks("vault.*", Effect::ClockSkew { seconds: 4 * 3600 }, &[Unauthenticated]),
        blocks("vault.*", Effect::Latency { millis: 11_000, jitter_millis: 0 }, &[Timeout]),
        blocks(
            "vault.*",
            Effect::RateLimit { transactions: 0, creates: 0, window_seconds: 10 },
            &[Throttled],
        ),
        blocks("token.*", status(503, None), &[Unavailable]),
        blocks("token.*", status(500, Some("60")), &[Unavailable]),
        blocks("token.*", throttle(Some("10")), &[Throttled]),
        blocks("token.*", Effect::TokenError { code: 700_213 }, &[Unauthenticated]),
        blocks("token.*", Effect::TokenError { code: 90_033 }, &[Unavailable]),
        blocks("token.*", Effect::Hang, &[Timeout]),
        blocks("token.*", Effect::Reset, &[Unavailable]),
        blocks("token.*", Effect::TruncatedBody { keep: 16 }, &[Protocol]),
        blocks("token.*", Effect::GarbageJson, &[Protocol]),
        blocks("token.*", Effect::HugeBody { bytes: 200 << 20 }, &[Protocol]),
        leaves_alone("vault.*", Effect::Latency { millis: 2_000, jitter_millis: 3_000 }, soon),
        leaves_alone("token.*", Effect::Latency { millis: 2_000, jitter_millis: 3_000 }, soon),
        // What counts is whether the body is a token answer.
        leaves_alone("token.*", Effect::WrongContentType, soon),
        leaves_alone(
            "vault.*",
            Effect::RateLimit { transactions: 30, creates: 10, window_seconds: 10 },
            soon,
        ),
        leaves_alone("vault.*", Effect::EmptyPages, soon),
        leaves_alone("secrets.list", status(503, None), soon),
        leaves_alone("secrets.list", Effect::Hang, soon),
        leaves_alone("secrets.list", Effect::Forbidden { inner_code: "ForbiddenByRbac".to_owned() }, soon),
        leaves_alone(
            "secrets.list",
            Effect::ForeignNextLink { origin: "https://evil.example".to_owned() },
            soon,
        ),
        leaves_alone("secrets.list", Effect::EndlessNextLink, soon),
        leaves_alone("secrets.list", Effect::LaggingList { millis: 30 * 60 * 1000 }, late),
        leaves_alone("vault.*", Effect::FrozenSecond, late),
        leaves_alone("vault.*", Effect::ClockSkew { seconds: -120 }, late),
    ]
}

/// No arm for the rest: a new effect of the emulator has to find its row.
fn describe(effect: &Effect) -> String {
    match effect {
        Effect::Latency { millis, .. } => format!("{millis} ms of latency"),
        Effect::Throttle { retry_after } => format!("429, Retry-After {retry_after:?}"),
        Effect::Status { status, retry_after } => format!("{status}, Retry-After {retry_after:?}"),
        Effect::Forbidden { inner_code } => format!("403 {inner_code}"),
        Effect::Unauthorized => "401".to_owned(),
        Effect::TokenError { code } => format!("AADSTS{code}"),
        Effect::Hang => "hang".to_owned(),
        Effect::Reset => "reset".to_owned(),
        Effect::TruncatedBody { .. } => "truncated body".to_owned(),
        Effect::WrongContentType => "wrong content type".to_owned(),
        Effect::GarbageJson => "garbage".to_owned(),
        Effect::HugeBody { bytes } => format!("{} MiB of body", bytes >> 20),
        Effect::ForeignNextLink { .. } => "foreign nextLink".to_owned(),
        Effect::EndlessNextLink => "endless nextLink".to_owned(),
        Effect::EmptyPages => "empty pages".to_owned(),
        Effect::LaggingList { millis } => format!("listing lags by {} s", millis / 1000),
        Effect::FrozenSecond => "all writes within one second".to_owned(),
        Effect::ClockSkew { seconds } => format!("clock off by {seconds} s"),
        Effect::RateLimit { transactions, .. } => format!("{transactions} transactions in 10 s"),
    }
}

/// Every effect has a row.
#[test]
fn every_effect_of_the_emulator_has_a_row() {
    let kind = |effect: &Effect| serde_json::to_value(effect).unwrap()["kind"].as_str().unwrap().to_owned();
    let mut kinds: Vec<_> = rows().iter().map(|row| kind(&row.fault.effect)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds.len(), 19, "{kinds:?}");
}
