//! Faults that decide or spoil an answer.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use keyward_emulator::{Effect, Emulator, Fault, RateLimits, TokioClock};

use crate::client::{World, in_process, world};

async fn with_secret() -> World {
    let world = world().await;
    world.emulator.vault("shop").set_secret("db", "value");
    world
}

#[tokio::test]
async fn throttling_comes_with_and_without_retry_after_and_ends_when_it_is_spent() {
    let world = with_secret().await;
    for retry_after in [None, Some("7".to_owned()), Some("Mon, 23 Nov 2026 10:00:00 GMT".to_owned())] {
        world
            .emulator
            .faults()
            .set(Fault::on("secrets.get", Effect::Throttle { retry_after: retry_after.clone() }).times(1));
        // A request without a token meets its challenge and does not use the fault up.
        assert_eq!(world.get_without_token("/secrets/db").await.status, 401);
        let answer = world.get("/secrets/db").await;
        assert_eq!((answer.status, answer.codes().0.as_str()), (429, "Throttled"));
        assert_eq!(
            answer.headers.get("retry-after").map(|v| v.to_str().expect("text").to_owned()),
            retry_after
        );
        assert_eq!(world.get("/secrets/db").await.status, 200);
    }
}

#[tokio::test]
async fn server_errors_refusals_and_rejected_tokens_look_as_azure_sends_them() {
    let world = with_secret().await;
    for (effect, status, code, inner) in [
        (Effect::Status { status: 500, retry_after: None }, 500, "InternalServerError", ""),
        (Effect::Status { status: 503, retry_after: None }, 503, "ServiceUnavailable", ""),
        (
            Effect::Forbidden { inner_code: "ForbiddenByFirewall".into() },
            403,
            "Forbidden",
            "ForbiddenByFirewall",
        ),
        (Effect::Unauthorized, 401, "Unauthorized", ""),
    ] {
        let id = world.emulator.faults().set(Fault::on("secrets.get", effect));
        let answer = world.get("/secrets/db").await;
        assert_eq!((answer.status, answer.codes()), (status, (code.to_owned(), inner.to_owned())));
        assert!(world.emulator.faults().clear(id));
    }
    assert_eq!(world.get("/secrets/db").await.status, 200);
}

#[tokio::test]
async fn a_fault_hits_only_its_operation_vault_object_and_share() {
    let world = with_secret().await;
    let shop = world.emulator.vault("shop");
    shop.set_secret("other", "x");
    let faults = world.emulator.faults();
    let effect = || Effect::Status { status: 503, retry_after: None };
    faults.set(Fault::on("secrets.get", effect()).for_object("db"));
    assert_eq!((world.status("/secrets/db").await, world.status("/secrets/other").await), (503, 200));
    assert_eq!(world.status("/secrets").await, 200);
    faults.clear_all();
    faults.set(Fault::on("vault.*", effect()).at_vault("another"));
    assert_eq!(world.status("/secrets/db").await, 200);
    faults.clear_all();
    faults.set(Fault::on("*", effect()).share(0.25));
    let mut hit = 0;
    for _ in 0..400 {
        hit += u32::from(world.status("/secrets/db").await == 503);
    }
    assert!((60..140).contains(&hit), "{hit} of 400");
}

#[tokio::test]
async fn wrong_types_and_garbage_come_with_status_200() {
    let world = with_secret().await;
    let faults = world.emulator.faults();
    let id = faults.set(Fault::on("secrets.get", Effect::WrongContentType));
    let answer = world.get("/secrets/db").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/html"));
    assert_eq!(answer.json()["value"], "value");
    faults.clear(id);
    faults.set(Fault::on("secrets.get", Effect::GarbageJson));
    let answer = world.get("/secrets/db").await;
    assert_eq!(answer.status, 200);
    assert!(serde_json::from_slice::<serde_json::Value>(&answer.body).is_err());
}

#[tokio::test]
async fn a_body_of_200_mib_is_announced_and_streamed_over_both_protocols() {
    let mut world = with_secret().await;
    for (http2, bytes) in [(false, 200 * 1024 * 1024_u64), (true, 4 * 1024 * 1024)] {
        world.http2 = http2;
        let id = world.emulator.faults().set(Fault::on("secrets.get", Effect::HugeBody { bytes }));
        let response = world
            .open(http::Method::GET, "/secrets/db", serde_json::Value::Null, true)
            .await
            .expect("answer");
        assert_eq!(response.headers()["content-length"], bytes.to_string());
        let mut body = response.into_body();
        let (mut read, mut first, mut last) = (0, None, None);
        while let Some(frame) = body.frame().await {
            let data = frame.expect("whole").into_data().expect("data");
            first = first.or(data.first().copied());
            last = data.last().copied().or(last);
            read += data.len() as u64;
        }
        assert_eq!((read, first, last), (bytes, Some(b'{'), Some(b'}')));
        world.emulator.faults().clear(id);
    }
}

#[tokio::test(start_paused = true)]
async fn the_vaults_own_rate_limit_is_azures_and_can_be_replaced() {
    let clock = Arc::new(TokioClock::starting_at(1_800_000_000));
    let world = in_process(Emulator::builder().clock(clock).rate_limits(Some(RateLimits::AZURE)));
    world.emulator.vault("shop").set_secret("db", "x");
    for n in 0..4_000 {
        assert_eq!(world.status("/secrets/db").await, 200, "{n}");
    }
    assert_eq!(world.status("/secrets/db").await, 429);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(world.status("/secrets/db").await, 200);
    world
        .emulator
        .faults()
        .set(Fault::on("vault.*", Effect::RateLimit { transactions: 2, creates: 1, window_seconds: 10 }));
    assert_eq!(world.status("/secrets/db").await, 200);
    assert_eq!(world.status("/secrets/db").await, 429);
}

#[tokio::test(start_paused = true)]
async fn a_skewed_vault_misjudges_tokens_and_stamps_what_it_writes() {
    let clock = Arc::new(TokioClock::starting_at(1_800_000_000));
    let world = in_process(Emulator::builder().clock(clock));
    let shop = world.emulator.vault("shop");
    shop.set_secret("db", "x");
    let ahead = world.emulator.faults().set(Fault::on("vault.*", Effect::ClockSkew { seconds: 3_600 }));
    assert_eq!(world.status("/secrets/db").await, 401);
    shop.set_secret("db", "y");
    world.emulator.faults().clear(ahead);
    world.emulator.faults().set(Fault::on("vault.*", Effect::ClockSkew { seconds: -301 }));
    assert_eq!(world.status("/secrets/db").await, 401, "issued in this vault's future");
    world.emulator.faults().clear_all();
    let reply = world.handle("/secrets/db").await.reply().expect("reply");
    let body: serde_json::Value =
        serde_json::from_slice(reply.complete_body().expect("whole")).expect("JSON");
    assert_eq!(body["attributes"]["updated"], 1_800_003_600);
}
