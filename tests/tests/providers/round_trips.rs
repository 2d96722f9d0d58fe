//! How many times the distance to the vault is paid before fifty objects are there.

use std::time::Duration;

use futures::future::join_all;
use keyward_core::{FetchRequest, Provider};
use keyward_emulator::{Effect, Fault};
use tokio::time::Instant;

use crate::rig::{Rig, read};

/// Long beside the time that fifty handshakes and parses take on a busy machine.
const LATENCY: Duration = Duration::from_millis(500);

/// Reads fifty objects from cold, and tells how many times the latency passed.
async fn cold_start(http2: bool) -> (Rig, f64) {
    let rig = Rig::with(|builder| builder.http2(http2), |_| {}).await;
    let requests: Vec<FetchRequest> = (0..50)
        .map(|number| {
            rig.vault().set_secret(&format!("s{number}"), "x");
            read(&format!("kv://shop/secrets/s{number}"))
        })
        .collect();
    let millis = u64::try_from(LATENCY.as_millis()).expect("short");
    rig.emulator.faults().set(Fault::on("vault.*", Effect::Latency { millis, jitter_millis: 0 }));
    rig.tokens.set_latency(LATENCY);
    let begun = Instant::now();
    let reads = join_all(requests.iter().map(|request| rig.provider.fetch(request))).await;
    let passed = begun.elapsed().div_duration_f64(LATENCY);
    for read in reads {
        read.unwrap_or_else(|error| panic!("{error}"));
    }
    // One challenge for all, then each object once.
    assert_eq!(rig.emulator.counters().with_status("*", 401), 1);
    assert_eq!(rig.emulator.counters().requests("vault.*"), 51);
    (rig, passed)
}

#[tokio::test]
async fn fifty_cold_objects_take_at_most_seven_round_trips_over_http1_and_sixteen_connections() {
    let (rig, passed) = cold_start(false).await;
    assert!(rig.emulator.counters().connections().peak <= 16);
    assert!(passed <= 7.0, "{passed} round trips");
}

#[tokio::test]
async fn fifty_cold_objects_take_at_most_four_round_trips_over_http2_and_one_connection() {
    let (rig, passed) = cold_start(true).await;
    assert_eq!(rig.emulator.counters().connections().peak, 1);
    assert!(passed <= 4.0, "{passed} round trips");
}
