//! Faults of the connection and of time.

use std::sync::Arc;

use http::Method;
use keyward_emulator::{Effect, Emulator, Fault, HandlerOutcome, TokioClock};
use serde_json::Value;

use crate::client::{World, in_process, read, world};

/// Whether an error, or one that caused it, is of this kind.
fn caused_by(error: &(dyn std::error::Error + 'static), kind: std::io::ErrorKind) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == kind) {
            return true;
        }
        next = error.source();
    }
    false
}

#[tokio::test]
async fn a_reset_reaches_the_peer_as_a_reset() {
    let mut world = world().await;
    world.emulator.vault("shop").set_secret("db", "x");
    for http2 in [false, true] {
        world.http2 = http2;
        world.emulator.faults().set(Fault::on("secrets.get", Effect::Reset).times(1));
        let error = world.try_get("/secrets/db").await.expect_err("no answer");
        assert!(caused_by(error.as_ref(), std::io::ErrorKind::ConnectionReset), "{error:?}");
        assert_eq!(world.get("/secrets/db").await.status, 200);
    }
}

#[tokio::test]
async fn a_truncated_body_announces_more_than_arrives() {
    let mut world = world().await;
    world.emulator.vault("shop").set_secret("db", "x");
    for http2 in [false, true] {
        world.http2 = http2;
        world.emulator.faults().set(Fault::on("secrets.get", Effect::TruncatedBody { keep: 5 }).times(1));
        let response = world.open(Method::GET, "/secrets/db", Value::Null, true).await.expect("headers");
        assert_eq!(response.status(), 200);
        let announced: u64 =
            response.headers()["content-length"].to_str().expect("text").parse().expect("number");
        assert!(announced > 5);
        assert!(read(response).await.is_err(), "http2: {http2}");
    }
}

#[tokio::test]
async fn a_hanging_request_ends_only_with_the_emulator() {
    let World { emulator, token, .. } = world().await;
    emulator.faults().set(Fault::on("secrets.get", Effect::Hang));
    let asking = World {
        emulator: emulator.clone(),
        token,
        identity: emulator.identities().list()[0].clone(),
        http2: true,
    };
    let waiting = tokio::spawn(async move { asking.try_get("/secrets/db").await.is_err() });
    while emulator.counters().requests("secrets.get") == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.is_finished());
    assert_eq!(emulator.counters().with_status("secrets.get", 0), 1);
    emulator.shutdown().await;
    assert!(waiting.await.expect("joined"), "the request fails once the emulator is gone");
}

#[tokio::test(start_paused = true)]
async fn latency_passes_in_tokios_time_and_jitter_stays_within_its_bound() {
    let clock = Arc::new(TokioClock::starting_at(1_800_000_000));
    let world = in_process(Emulator::builder().clock(clock).seed(1));
    world.emulator.vault("shop").set_secret("db", "x");
    world.emulator.faults().set(Fault::on("*", Effect::Latency { millis: 200, jitter_millis: 100 }));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let before = tokio::time::Instant::now();
        assert_eq!(world.status("/secrets/db").await, 200);
        seen.insert(before.elapsed().as_millis());
    }
    assert!(seen.iter().all(|took| (200..=301).contains(took)), "{seen:?}");
    assert!(seen.len() > 5, "it jitters: {seen:?}");
}

#[tokio::test]
async fn in_process_hangs_and_resets_are_outcomes_to_act_upon() {
    let world = in_process(Emulator::builder());
    for (effect, is_expected) in [
        (
            Effect::Hang,
            (|o: &HandlerOutcome| matches!(o, HandlerOutcome::Hang)) as fn(&HandlerOutcome) -> bool,
        ),
        (Effect::Reset, |o| matches!(o, HandlerOutcome::Reset)),
    ] {
        world.emulator.faults().clear_all();
        world.emulator.faults().set(Fault::on("vault.*", effect));
        assert!(is_expected(&world.handle("/secrets/db").await));
    }
}

#[tokio::test]
async fn shutdown_lets_a_slow_answer_finish_and_then_nobody_listens() {
    let World { emulator, token, identity, .. } = world().await;
    emulator.vault("shop").set_secret("db", "x");
    emulator.faults().set(Fault::on("secrets.get", Effect::Latency { millis: 100, jitter_millis: 0 }));
    let address = emulator.vault_addr();
    let asking = World { emulator: emulator.clone(), token, identity, http2: false };
    let slow = tokio::spawn(async move { asking.get("/secrets/db").await.status });
    while emulator.counters().in_flight() == 0 {
        tokio::task::yield_now().await;
    }
    emulator.shutdown().await;
    assert_eq!(slow.await.expect("joined"), 200);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}
