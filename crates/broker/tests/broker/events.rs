//! What is told for metrics.

use keyward_core::observe::{Event, Lookup};
use keyward_core::{Code, ErrorKind};
use keyward_test_support::Fault;

use crate::bench::{Bench, MINUTE, names, refs, settings, wait};

#[tokio::test(start_paused = true)]
async fn lookups_are_told_as_hit_stale_miss_or_refused() {
    let bench = Bench::new(settings());
    let _watch = bench.watch(&["db"]).await;
    bench.vault.set("other", "first");
    bench.events.take();
    for name in ["db", "other", "other", "missing"] {
        let _ = bench.value(name).await;
    }
    bench.vault.fail(Some(Fault::Code(Code::VaultUnavailable)));
    wait(MINUTE * 2).await;
    let _ = bench.value("db").await;
    let lookups: Vec<_> = bench
        .events
        .take()
        .into_iter()
        .filter_map(|event| match event {
            Event::Lookup { outcome } => Some(outcome),
            _ => None,
        })
        .collect();
    assert_eq!(lookups, [Lookup::Hit, Lookup::Miss, Lookup::Hit, Lookup::Refused, Lookup::Stale]);
}

#[tokio::test(start_paused = true)]
async fn a_rotation_is_told_with_its_lag_and_a_check_with_its_cost() {
    let bench = Bench::new(settings());
    let names = names(100);
    let _watch = bench.watch(&refs(&names)).await;
    wait(MINUTE / 2).await;
    bench.events.take();
    bench.vault.set(&names[0], "second");
    wait(MINUTE).await;
    let told = bench.events.take();
    assert!(told.contains(&Event::Rotated { lag: Some(MINUTE / 2) }), "{told:?}");
    assert!(told.contains(&Event::Check { objects: 100, requests: 5, error: None }), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn states_are_told_when_they_change_and_a_storm_when_it_begins_and_ends() {
    let bench = Bench::new(settings());
    let names = names(4);
    let _watch = bench.watch(&refs(&names)).await;
    wait(MINUTE / 2).await;
    let told = bench.events.take();
    assert_eq!(told.last(), Some(&Event::States { fresh: 4, stale: 0, refused: 0, pending: 0 }), "{told:?}");
    bench.vault.fail(Some(Fault::Code(Code::VaultForbidden)));
    wait(MINUTE * 11).await;
    let told = bench.events.take();
    assert_eq!(told.iter().filter(|event| **event == Event::Storm { active: true }).count(), 1);
    assert!(told.contains(&Event::States { fresh: 0, stale: 4, refused: 0, pending: 0 }));
    assert!(told.iter().any(|event| matches!(event, Event::Check { error: Some(ErrorKind::Forbidden), .. })));
    bench.vault.fail(None);
    wait(MINUTE * 2).await;
    assert_eq!(
        bench.events.take().iter().filter(|event| **event == Event::Storm { active: false }).count(),
        1
    );
}
