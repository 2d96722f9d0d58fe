//! Promise 3's table, row by row.

use keyward_broker::{BrokerSettings, WatchItem};
use keyward_core::{Code, ErrorKind, State};
use keyward_test_support::Fault;

use crate::bench::{Bench, MINUTE, names, refs, settings, text, wait};

fn ok(state: State) -> Result<(String, State), ErrorKind> {
    Ok(("first".to_owned(), state))
}

#[tokio::test(start_paused = true)]
async fn a_failing_object_younger_than_the_limit_is_given_as_stale_and_recovers_by_itself() {
    for code in
        [Code::VaultThrottled, Code::VaultUnavailable, Code::Timeout, Code::Connect, Code::TokenUnavailable]
    {
        let bench = Bench::new(settings());
        let watch = bench.watch(&["db"]).await;
        bench.vault.fail(Some(Fault::Code(code)));
        wait(MINUTE * 60 * 23).await;
        assert_eq!(bench.value("db").await, ok(State::Stale), "{code:?}");
        assert_eq!(watch.snapshots()[0].error.as_ref().unwrap().code(), code);
        bench.vault.fail(None);
        wait(MINUTE * 5).await;
        assert_eq!(bench.value("db").await, ok(State::Fresh), "{code:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_object_older_than_the_limit_is_refused_by_the_api_while_its_content_stays_for_files() {
    let bench = Bench::new(settings());
    let mut watch = bench.watch(&["db"]).await;
    bench.vault.fail(Some(Fault::Code(Code::VaultUnavailable)));
    wait(MINUTE * 60 * 24 - MINUTE).await;
    assert_eq!(bench.state("db"), State::Stale);
    watch.changed().await;
    watch.changed().await;
    assert_eq!(watch.snapshots()[0].state, State::Expired, "the limit itself is a change");
    let error = bench.broker.get(&bench.key("db")).await.err().unwrap();
    assert_eq!(error.code(), Code::StaleLimit);
    assert!(error.to_string().contains("KW_VAULT_UNAVAILABLE") && error.object_name().is_some());
    assert_eq!(text(&watch.snapshots()[0]), "first");
    bench.vault.fail(None);
    wait(MINUTE * 5).await;
    assert_eq!(bench.value("db").await, ok(State::Fresh));
}

#[tokio::test(start_paused = true)]
async fn a_single_definite_no_leaves_the_value_as_stale() {
    for deny in [Deny::Forbid, Deny::Disable, Deny::Delete] {
        let bench = Bench::new(settings());
        let watch = bench.watch(&["db"]).await;
        deny.switch(&bench, "db", true);
        wait(MINUTE + MINUTE / 2).await;
        assert_eq!(bench.value("db").await, ok(State::Stale));
        assert_eq!(watch.snapshots()[0].error.as_ref().unwrap().kind(), deny.kind());
        deny.switch(&bench, "db", false);
        wait(MINUTE).await;
        assert_eq!(bench.value("db").await, ok(State::Fresh));
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_definite_no_on_every_check_for_fifteen_minutes_is_believed() {
    for deny in [Deny::Forbid, Deny::Disable, Deny::Delete] {
        let bench = Bench::new(settings());
        let watch = bench.watch(&["db"]).await;
        deny.switch(&bench, "db", true);
        wait(MINUTE * 15 + MINUTE / 2).await;
        assert_eq!(bench.value("db").await, ok(State::Stale));
        wait(MINUTE).await;
        assert_eq!(bench.value("db").await, Err(deny.kind()));
        assert_eq!(watch.snapshots()[0].state, State::Revoked);
        assert_eq!(text(&watch.snapshots()[0]), "first", "files are kept unless their owner says otherwise");
        bench.vault.fail(Some(Fault::Code(Code::Connect)));
        wait(MINUTE * 5).await;
        assert_eq!(bench.value("db").await, Err(deny.kind()), "an outage takes no believed no back");
        bench.vault.fail(None);
        wait(MINUTE * 5).await;
        deny.switch(&bench, "db", false);
        wait(MINUTE).await;
        assert_eq!(bench.value("db").await, ok(State::Fresh));
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_in_between_starts_the_fifteen_minutes_anew() {
    let bench = Bench::new(settings());
    let _watch = bench.watch(&["db"]).await;
    bench.vault.enable("db", false);
    for _ in 0..4 {
        wait(MINUTE * 10).await;
        bench.vault.fail(Some(Fault::Code(Code::VaultUnavailable)));
        wait(MINUTE + MINUTE / 2).await;
        bench.vault.fail(None);
    }
    assert_eq!(bench.value("db").await, ok(State::Stale));
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_forbidden_is_an_outage_however_long_it_lasts() {
    let bench = Bench::new(settings());
    let names = names(10);
    let _watch = bench.watch(&refs(&names)).await;
    for name in &names[..3] {
        bench.vault.forbid(name, true);
        wait(MINUTE * 5).await;
    }
    wait(MINUTE * 60 * 4).await;
    for name in &names {
        assert!(bench.value(name).await.is_ok(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_whole_vault_forbidden_for_four_hours_turns_no_lookup_into_a_refusal() {
    let bench = Bench::new(settings());
    let names = names(3);
    let _watch = bench.watch(&refs(&names)).await;
    bench.vault.fail(Some(Fault::Code(Code::VaultForbidden)));
    for _ in 0..240 {
        wait(MINUTE).await;
        for name in &names {
            assert!(bench.value(name).await.is_ok());
        }
    }
    wait(MINUTE * 60 * 21).await;
    assert_eq!(
        bench.value(&names[0]).await,
        Err(ErrorKind::StaleLimit),
        "a storm is bounded by the stale limit"
    );
}

#[tokio::test(start_paused = true)]
async fn success_of_other_objects_of_the_vault_excuses_a_forbidden_one_but_not_a_disabled_one() {
    let bench = Bench::new(settings());
    let names = names(12);
    let _watch = bench.watch(&refs(&names)).await;
    bench.vault.forbid(&names[0], true);
    bench.vault.enable(&names[1], false);
    wait(MINUTE * 60).await;
    assert_eq!(bench.value(&names[0]).await, ok(State::Stale));
    assert_eq!(bench.value(&names[1]).await, Err(ErrorKind::Disabled));
}

#[tokio::test(start_paused = true)]
async fn a_forbidden_object_that_is_checked_often_is_not_believed_before_the_others_were_asked() {
    let bench = Bench::new(BrokerSettings { interval: MINUTE * 120, ..settings() });
    let others = bench.watch(&["mail", "web"]).await;
    bench.vault.set("db", "first");
    let item = WatchItem { key: bench.key("db"), refresh: Some(MINUTE) };
    let watch = bench.broker.watch(vec![item]);
    watch.ready().await;
    wait(MINUTE * 10).await;
    bench.vault.forbid("db", true);
    wait(MINUTE * 60).await;
    assert_eq!(bench.value("db").await, ok(State::Stale));
    drop(others);
}

#[tokio::test(start_paused = true)]
async fn a_refused_identity_is_a_failure_and_revokes_nothing() {
    let bench = Bench::new(settings());
    let _watch = bench.watch(&["db"]).await;
    bench.vault.fail(Some(Fault::Code(Code::TokenRefused)));
    wait(MINUTE * 60 * 10).await;
    assert_eq!(bench.value("db").await, ok(State::Stale));
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_still_shows_an_object_does_not_make_a_forbidden_one_fresh() {
    let bench = Bench::new(settings());
    let names = names(30);
    let _watch = bench.watch(&refs(&names)).await;
    bench.vault.forbid(&names[0], true);
    wait(MINUTE * 11).await;
    for _ in 0..20 {
        assert_eq!(bench.state(&names[0]), State::Stale);
        wait(MINUTE).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_an_outage_values_come_back_stale_with_their_age_until_they_are_confirmed() {
    let before = Bench::new(settings());
    let watch = before.watch(&["db"]).await;
    let (clock, vault) = (before.clock.clone(), before.vault.clone());
    vault.fail(Some(Fault::Code(Code::Connect)));
    wait(MINUTE * 60 * 20).await;
    let saved = before.broker.export();
    drop((watch, before));

    let after = Bench::over(settings(), clock, vault);
    after.broker.restore(saved);
    let watch = after.broker.watch(after.items(&["db"]));
    watch.ready().await;
    assert_eq!(after.value("db").await, ok(State::Stale));
    wait(MINUTE * 60 * 5).await;
    assert_eq!(after.value("db").await, Err(ErrorKind::StaleLimit));
    after.vault.fail(None);
    wait(MINUTE * 5).await;
    assert_eq!(after.value("db").await, ok(State::Fresh));
}

#[tokio::test(start_paused = true)]
async fn of_several_values_that_outlived_a_restart_the_one_confirmed_last_stays_in_whatever_order_they_come()
{
    let before = Bench::new(settings());
    let watch = before.watch(&["db"]).await;
    let first = before.broker.export();
    before.vault.set("db", "second");
    wait(MINUTE * 5).await;
    let second = before.broker.export();
    drop(watch);
    before.vault.fail(Some(Fault::Code(Code::Connect)));
    for order in [[&first, &second, &first], [&second, &first, &second]] {
        let after = Bench::over(settings(), before.clock.clone(), before.vault.clone());
        let given: Vec<_> = order.map(|saved| after.broker.restore(saved.clone())).into_iter().collect();
        let restored = after.broker.peek(&after.key("db")).unwrap();
        assert_eq!(
            (text(&restored), restored.state, restored.asked),
            ("second".to_owned(), State::Stale, None)
        );
        // Equal content is held once.
        let of = |saved: &[keyward_broker::Saved]| std::sync::Arc::as_ptr(&saved[0].fetched);
        let shared = restored.fetched.as_ref().map(std::sync::Arc::as_ptr);
        assert_eq!(Some(of(&given[if std::ptr::eq(order[1], &second) { 1 } else { 2 }])), shared);
    }
    // What this process has read itself is never replaced.
    let after = Bench::over(settings(), before.clock.clone(), before.vault.clone());
    before.vault.fail(None);
    let _watch = after.watch(&["db"]).await;
    wait(MINUTE * 2).await;
    after.broker.restore(second);
    let held = after.broker.peek(&after.key("db")).unwrap();
    assert!(held.asked.is_some() && text(&held) == "first");
}

#[tokio::test(start_paused = true)]
async fn a_restart_gives_no_revoked_value_back() {
    let before = Bench::new(settings());
    let watch = before.watch(&["db", "web"]).await;
    before.vault.enable("db", false);
    wait(MINUTE * 20).await;
    assert_eq!(before.state("db"), State::Revoked);
    let saved = before.broker.export();
    let names: Vec<_> = saved.iter().map(|saved| saved.key.request.object.name().to_owned()).collect();
    assert_eq!(names, ["web"]);
    drop(watch);
}

#[tokio::test(start_paused = true)]
async fn a_restored_value_is_given_to_its_own_identity_only() {
    let before = Bench::new(settings());
    let watch = before.watch(&["db"]).await;
    let saved = before.broker.export();
    let vault = before.vault.clone();
    let newcomer = keyward_test_support::ModelVault::identity("newcomer");
    let after = Bench::over(settings(), before.clock.clone(), vault.clone());
    drop((watch, before));
    after.broker.restore(saved);
    vault.fail(Some(Fault::Code(Code::Connect)));
    after.broker.attach(newcomer.clone(), vault.clone());
    assert!(after.broker.peek(&vault.key(&newcomer, "db")).is_none());
    assert_eq!(
        after.broker.get(&vault.key(&newcomer, "db")).await.err().unwrap().kind(),
        ErrorKind::Unavailable
    );
}

#[derive(Clone, Copy)]
enum Deny {
    Forbid,
    Disable,
    Delete,
}

impl Deny {
    fn switch(self, bench: &Bench, name: &str, on: bool) {
        match self {
            Self::Forbid => bench.vault.forbid(name, on),
            Self::Disable => bench.vault.enable(name, !on),
            Self::Delete => bench.vault.present(name, !on),
        }
    }

    fn kind(self) -> ErrorKind {
        match self {
            Self::Forbid => ErrorKind::Forbidden,
            Self::Disable => ErrorKind::Disabled,
            Self::Delete => ErrorKind::NotFound,
        }
    }
}
