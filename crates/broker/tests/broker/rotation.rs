//! What rotation costs, and that it misses nothing.

use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use keyward_broker::{BrokerSettings, WatchItem};
use keyward_core::{Code, State};
use keyward_test_support::Fault;

use crate::bench::{Bench, MINUTE, names, refs, settings, text, wait};

#[tokio::test(start_paused = true)]
async fn a_check_of_a_hundred_objects_in_a_vault_of_a_hundred_costs_four_requests_when_nothing_changed() {
    let bench = Bench::new(BrokerSettings::default());
    let names = names(100);
    let _watch = bench.watch(&refs(&names)).await;
    assert_eq!(bench.vault.counts().requests(), 100);
    assert_eq!(bench.vault.counts().warm_ups, 1);
    wait(MINUTE + MINUTE / 5).await;
    assert_eq!(bench.vault.counts().requests(), 104);
}

#[tokio::test(start_paused = true)]
async fn only_what_changed_is_read_and_every_tenth_check_reads_all() {
    let bench = Bench::new(settings());
    let names = names(100);
    let watch = bench.watch(&refs(&names)).await;
    wait(MINUTE / 2).await;
    for name in &names[20..23] {
        bench.vault.set(name, "second");
    }
    wait(MINUTE).await;
    assert_eq!(bench.vault.counts().gets, 103);
    assert!(watch.snapshots()[20..23].iter().all(|snapshot| text(snapshot) == "second"));
    wait(MINUTE * 8).await;
    assert_eq!(bench.vault.counts().gets, 103);
    wait(MINUTE).await;
    assert_eq!(bench.vault.counts().gets, 103 + 100);
}

#[tokio::test(start_paused = true)]
async fn an_identity_that_may_not_list_reads_each_object_and_is_not_asked_to_list_for_an_hour() {
    let bench = Bench::new(settings());
    bench.vault.fail_list(Some(Fault::Code(Code::VaultForbidden)));
    let _watch = bench.watch(&refs(&names(30))).await;
    wait(MINUTE * 60).await;
    assert_eq!(bench.vault.counts().pages, 1);
    wait(MINUTE * 2).await;
    assert_eq!(bench.vault.counts().pages, 2);
    assert_eq!(bench.state("object-000"), State::Fresh);
    bench.vault.fail_list(None);
    wait(MINUTE * 60).await;
    assert!(bench.vault.counts().pages > 2, "a grant is noticed");
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_fails_while_reads_work_makes_nothing_stale() {
    let bench = Bench::new(settings());
    let names = names(30);
    let mut watch = bench.watch(&refs(&names)).await;
    bench.vault.fail_list(Some(Fault::Code(Code::VaultProtocol)));
    while watch.changed().now_or_never().is_some() {}
    let quiet = tokio::time::timeout(MINUTE * 30, watch.changed()).await;
    assert!(quiet.is_err());
    bench.vault.set(&names[0], "second");
    wait(MINUTE + MINUTE / 2).await;
    assert_eq!(bench.value(&names[0]).await.unwrap().0, "second");
}

#[tokio::test(start_paused = true)]
async fn a_vault_much_larger_than_what_is_watched_is_not_listed_again_for_an_hour() {
    let bench = Bench::new(settings());
    let names = names(1000);
    for name in &names {
        bench.vault.set(name, "first");
    }
    let _watch = bench.watch(&refs(&names[500..510])).await;
    wait(MINUTE * 30 + MINUTE / 2).await;
    let counts = bench.vault.counts();
    assert_eq!(counts.pages, 9, "one attempt, cut off before it costs as much as ten reads");
    assert_eq!(counts.gets, 10 + 30 * 10);
}

#[tokio::test(start_paused = true)]
async fn two_versions_within_one_second_are_both_seen_although_a_listing_cannot_tell_them_apart() {
    let bench = Bench::new(settings());
    let names = names(30);
    let _watch = bench.watch(&refs(&names)).await;
    wait(Duration::from_millis(59_900)).await;
    bench.vault.set(&names[3], "second");
    wait(Duration::from_millis(400)).await;
    assert_eq!(bench.value(&names[3]).await.unwrap().0, "second");
    bench.vault.set(&names[3], "third");
    wait(MINUTE).await;
    assert_eq!(bench.value(&names[3]).await.unwrap().0, "third");
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_lags_delays_a_rotation_by_its_lag_and_no_more() {
    let bench = Bench::new(settings());
    let names = names(30);
    let _watch = bench.watch(&refs(&names)).await;
    bench.vault.lag(MINUTE * 2);
    wait(MINUTE / 2).await;
    bench.vault.set(&names[3], "second");
    wait(MINUTE * 3).await;
    assert_eq!(bench.value(&names[3]).await.unwrap().0, "second");
}

#[tokio::test(start_paused = true)]
async fn objects_watched_at_different_times_are_soon_checked_together() {
    let bench = Bench::new(settings());
    let names = names(40);
    let mut watches = Vec::new();
    for some in names.chunks(10) {
        watches.push(bench.watch(&refs(some)).await);
        wait(Duration::from_secs(14)).await;
    }
    wait(MINUTE * 3).await;
    let before = bench.vault.counts();
    wait(MINUTE * 5).await;
    let after = bench.vault.counts();
    assert!(after.pages - before.pages <= 12, "two pages for each of five checks: {before:?} {after:?}");
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_vault_is_answered_with_a_few_requests_and_ever_fewer() {
    let bench = Bench::new(settings());
    let _watch = bench.watch(&refs(&names(100))).await;
    let before = bench.vault.counts().requests();
    bench.vault.fail(Some(Fault::Code(Code::VaultUnavailable)));
    wait(MINUTE * 60).await;
    let requests = bench.vault.counts().requests() - before;
    assert!((20..=125).contains(&requests), "{requests}");
    bench.vault.fail(None);
    wait(MINUTE * 4).await;
    assert!((0..100).all(|index| bench.state(&format!("object-{index:03}")) == State::Fresh));
}

#[tokio::test(start_paused = true)]
async fn one_bad_object_neither_freezes_nor_slows_the_others() {
    let bench = Bench::new(settings());
    let names = names(12);
    let _watch = bench.watch(&refs(&names)).await;
    bench.vault.fail_object(&names[0], Some(Fault::Hang));
    for round in 0..20 {
        wait(MINUTE / 2).await;
        bench.vault.set(&names[5], &format!("round {round}"));
        wait(MINUTE + MINUTE / 2).await;
        assert_eq!(bench.value(&names[5]).await.unwrap(), (format!("round {round}"), State::Fresh));
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_hangs_delays_no_read_of_the_others() {
    let bench = Bench::new(settings());
    let names = names(12);
    let _watch = bench.watch(&refs(&names)).await;
    for round in 0..20 {
        let value = format!("round {round}");
        bench.vault.fail_object(&names[5], Some(Fault::Hang));
        names.iter().for_each(|name| drop(bench.vault.set(name, &value)));
        let read = || async {
            let values = names.iter().map(|name| bench.value(name));
            join_all(values).await.into_iter().filter(|now| now.as_ref().unwrap().0 == value).count()
        };
        while read().await == 0 {
            wait(Duration::from_millis(100)).await;
        }
        wait(Duration::from_secs(1)).await;
        assert_eq!(read().await, names.len() - 1);
        bench.vault.fail_object(&names[5], None);
        wait(MINUTE * 6).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_object_that_works_among_many_that_do_not_is_read_by_the_third_check() {
    let bench = Bench::new(settings());
    let names = names(12);
    let _watch = bench.watch(&refs(&names)).await;
    for round in 0..20 {
        let fail = |fault| {
            names.iter().skip(1).for_each(|name| bench.vault.fail_object(name, fault));
        };
        fail(Some(Fault::Code(Code::VaultUnavailable)));
        names.iter().for_each(|name| drop(bench.vault.set(name, &format!("round {round}"))));
        // A whole interval and two retries.
        wait(Duration::from_secs(66 + 15 + 30 + 1)).await;
        assert_eq!(bench.value(&names[0]).await.unwrap(), (format!("round {round}"), State::Fresh));
        fail(None);
        wait(MINUTE * 6).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_with_its_own_interval_is_checked_at_that_and_a_pinned_version_at_a_tenth_of_the_pace() {
    let bench = Bench::new(settings());
    let version = bench.vault.set("pinned", "first");
    bench.vault.set("quick", "first");
    let mut pinned = bench.key("pinned");
    pinned.request.object = pinned.request.object.at(version);
    let quick = WatchItem { key: bench.key("quick"), refresh: Some(Duration::from_secs(10)) };
    let watch = bench.broker.watch(vec![quick]);
    watch.ready().await;
    wait(MINUTE * 10 + Duration::from_secs(5)).await;
    assert_eq!(bench.vault.counts().gets, 61);
    drop(watch);

    let watch = bench.broker.watch(vec![WatchItem { key: pinned.clone(), refresh: None }]);
    watch.ready().await;
    wait(MINUTE * 31).await;
    assert_eq!(bench.vault.counts().gets, 61 + 4);
    bench.vault.enable("pinned", false);
    wait(MINUTE * 10).await;
    assert_eq!(watch.snapshots()[0].state, State::Stale);
}

#[tokio::test(start_paused = true)]
async fn a_shorter_interval_applies_at_once() {
    let bench = Bench::new(BrokerSettings { interval: MINUTE * 60, ..settings() });
    let _watch = bench.watch(&["db"]).await;
    bench.vault.set("db", "second");
    bench.broker.configure(BrokerSettings { interval: MINUTE, ..settings() });
    wait(MINUTE + Duration::from_secs(1)).await;
    assert_eq!(bench.value("db").await.unwrap().0, "second");
}

#[tokio::test(start_paused = true)]
async fn a_provider_attached_later_is_asked_at_once() {
    let bench = Bench::new(settings());
    bench.broker.detach(&bench.identity);
    bench.vault.set("db", "first");
    let watch = bench.broker.watch(bench.items(&["db"]));
    watch.ready().await;
    wait(MINUTE * 10).await;
    assert_eq!(watch.snapshots()[0].state, State::Pending);
    bench.broker.attach(bench.identity.clone(), bench.vault.clone());
    wait(Duration::from_millis(10)).await;
    assert_eq!(watch.snapshots()[0].state, State::Fresh);
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_is_stopped_in_the_middle_of_a_check_loses_nothing_for_the_next() {
    let bench = Bench::new(settings());
    let names = names(30);
    let _watch = bench.watch(&refs(&names)).await;
    bench.vault.delay(Duration::from_secs(2), Duration::from_secs(2));
    let second = tokio::spawn(bench.broker.clone().run());
    wait(MINUTE + Duration::from_secs(1)).await;
    second.abort();
    bench.vault.set(&names[0], "second");
    wait(MINUTE * 2).await;
    assert_eq!(bench.value(&names[0]).await.unwrap().0, "second");
}
