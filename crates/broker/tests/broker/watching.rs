//! Watches: ready, changed, and nobody waits for a slow one.

use std::time::Duration;

use futures::FutureExt;
use keyward_core::{Code, State};
use keyward_test_support::Fault;

use crate::bench::{Bench, MINUTE, names, refs, settings, text, wait};

#[tokio::test(start_paused = true)]
async fn fifty_first_reads_take_one_warm_up_and_one_round_trip() {
    let bench = Bench::new(settings());
    let names = names(50);
    for name in &names {
        bench.vault.set(name, "first");
    }
    bench.vault.delay(Duration::from_millis(20), Duration::from_millis(20));
    let start = tokio::time::Instant::now();
    let watch = bench.broker.watch(bench.items(&refs(&names)));
    watch.ready().await;
    assert!(start.elapsed() <= Duration::from_millis(45), "{:?}", start.elapsed());
    assert_eq!((bench.vault.counts().warm_ups, bench.vault.counts().most_at_once), (1, 50));
    assert!(watch.snapshots().iter().all(|snapshot| snapshot.state == State::Fresh));
}

#[tokio::test(start_paused = true)]
async fn a_watch_is_ready_when_each_object_was_tried_and_the_missing_come_later() {
    let bench = Bench::new(settings());
    bench.vault.set("db", "first");
    let mut watch = bench.broker.watch(bench.items(&["db", "later"]));
    watch.ready().await;
    let states: Vec<_> = watch.snapshots().iter().map(|snapshot| snapshot.state).collect();
    assert_eq!(states, [State::Fresh, State::Pending]);
    assert_eq!(watch.snapshots()[1].error.as_ref().unwrap().code(), Code::ObjectNotFound);
    while watch.changed().now_or_never().is_some() {}
    bench.vault.set("later", "here");
    tokio::time::timeout(MINUTE * 2, watch.changed()).await.unwrap();
    assert_eq!(text(&watch.snapshots()[1]), "here");
}

#[tokio::test(start_paused = true)]
async fn changes_coalesce_and_a_watch_that_never_looks_delays_nobody() {
    let bench = Bench::new(settings());
    let mut slow = bench.watch(&["db"]).await;
    let mut quick = bench.broker.watch(bench.items(&["db"]));
    while slow.changed().now_or_never().is_some() {}
    for round in 0..5 {
        bench.vault.set("db", &format!("round {round}"));
        tokio::time::timeout(MINUTE * 2, quick.changed()).await.unwrap();
        assert_eq!(text(&quick.snapshots()[0]), format!("round {round}"));
    }
    assert!(slow.changed().now_or_never().is_some());
    assert_eq!(text(&slow.snapshots()[0]), "round 4");
    assert!(slow.changed().now_or_never().is_none(), "five changes are one");
}

#[tokio::test(start_paused = true)]
async fn a_change_is_not_lost_when_waiting_for_it_is_given_up() {
    let bench = Bench::new(settings());
    let mut watch = bench.watch(&["db"]).await;
    while watch.changed().now_or_never().is_some() {}
    assert!(tokio::time::timeout(MINUTE / 2, watch.changed()).await.is_err());
    bench.vault.set("db", "second");
    wait(MINUTE).await;
    assert!(watch.changed().now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn the_sequence_moves_on_a_change_of_content_or_state_and_not_on_a_redelivery() {
    let bench = Bench::new(settings());
    let watch = bench.watch(&["db"]).await;
    let sequence = || watch.snapshots()[0].sequence;
    let (first, generation) = (sequence(), watch.generation());
    wait(MINUTE * 30).await;
    assert_eq!((sequence(), watch.generation()), (first, generation));
    assert!(watch.snapshots()[0].confirmed.unwrap() > keyward_test_support::TokioClock::EPOCH + MINUTE * 28);
    bench.vault.set("db", "second");
    wait(MINUTE).await;
    let second = sequence();
    assert!(second > first);
    bench.vault.fail(Some(Fault::Code(Code::VaultUnavailable)));
    wait(MINUTE * 30).await;
    let third = sequence();
    assert!(third > second && watch.snapshots()[0].state == State::Stale);
    wait(MINUTE * 30).await;
    assert_eq!(sequence(), third, "one more failure is no change");
}

#[tokio::test(start_paused = true)]
async fn the_same_object_watched_twice_is_read_once_and_let_go_once() {
    let bench = Bench::new(settings());
    bench.vault.set("db", "first");
    let watch = bench.broker.watch(bench.items(&["db", "db"]));
    watch.ready().await;
    assert_eq!((watch.snapshots().len(), bench.vault.counts().gets), (1, 1));
    let other = bench.broker.watch(bench.items(&["db"]));
    drop(watch);
    wait(MINUTE * 20).await;
    assert_eq!(other.snapshots()[0].state, State::Fresh);
    assert!(bench.vault.counts().gets >= 20);
    drop(other);
    let gets = bench.vault.counts().gets;
    wait(MINUTE * 10).await;
    assert_eq!(bench.vault.counts().gets, gets, "what nobody watches is not checked");
}

#[tokio::test(start_paused = true)]
async fn a_watch_over_restored_values_is_ready_while_the_vault_is_away() {
    let before = Bench::new(settings());
    let watch = before.watch(&["db"]).await;
    let saved = before.broker.export();
    let after = Bench::over(settings(), before.clock.clone(), before.vault.clone());
    drop(watch);
    after.vault.fail(Some(Fault::Hang));
    after.broker.restore(saved);
    let mut watch = after.broker.watch(after.items(&["db"]));
    tokio::time::timeout(Duration::from_millis(1), watch.ready()).await.unwrap();
    assert_eq!((text(&watch.snapshots()[0]).as_str(), watch.snapshots()[0].state), ("first", State::Stale));
    after.vault.fail(None);
    after.vault.set("db", "second");
    tokio::time::timeout(MINUTE, watch.changed()).await.unwrap();
    assert_eq!((text(&watch.snapshots()[0]).as_str(), watch.snapshots()[0].state), ("second", State::Fresh));
}

#[tokio::test(start_paused = true)]
async fn who_asks_again_is_told_of_the_next_good_answer_although_it_says_nothing_new() {
    let bench = Bench::new(settings());
    let mut watch = bench.watch(&["db"]).await;
    watch.changed().await;
    let before = watch.snapshots()[0].asked.unwrap();
    let request = bench.key("db").request;
    bench.vault.fail(Some(Fault::Code(Code::VaultUnavailable)));
    watch.ask_again(&request);
    watch.changed().await;
    assert_eq!((watch.snapshots()[0].state, watch.snapshots()[0].asked), (State::Stale, Some(before)));
    bench.vault.fail(None);
    watch.changed().await;
    let asked = watch.snapshots()[0].asked.unwrap();
    assert!(asked > before);
    // Once healthy, it takes neither a change nor the whole interval.
    wait(Duration::from_secs(5)).await;
    let begun = tokio::time::Instant::now();
    watch.ask_again(&request);
    watch.changed().await;
    assert!(begun.elapsed() < Duration::from_secs(1) && watch.snapshots()[0].asked.unwrap() > asked);
    assert!(
        tokio::time::timeout(MINUTE * 10, watch.changed()).await.is_err(),
        "later answers without news wake nobody"
    );
}
