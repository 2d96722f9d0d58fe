//! Lookups: one read for all, memory of a no, and a bounded cache.

use std::time::Duration;

use futures::future::join_all;
use keyward_broker::BrokerSettings;
use keyward_core::ledger::{Account, Held, Kind, Ledger, Limit, Limits};
use keyward_core::{Code, ErrorKind, ObjectKey, State};
use keyward_test_support::Fault;

use crate::bench::{Bench, MINUTE, names, settings, wait};

#[tokio::test(start_paused = true)]
async fn a_thousand_first_reads_of_one_object_are_one_request() {
    let bench = Bench::new(settings());
    bench.vault.set("db", "first");
    bench.vault.delay(Duration::from_millis(20), Duration::from_millis(20));
    let key = bench.key("db");
    let answers = join_all((0..1000).map(|_| bench.broker.get(&key))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(bench.vault.counts().gets, 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_goes_away_takes_nobodys_answer_along() {
    let bench = Bench::new(settings());
    bench.vault.set("db", "first");
    bench.vault.delay(Duration::from_secs(1), Duration::from_secs(1));
    let key = bench.key("db");
    let first = tokio::time::timeout(Duration::from_millis(500), bench.broker.get(&key)).await;
    assert!(first.is_err());
    assert!(bench.broker.get(&key).await.is_ok());
    assert_eq!(bench.vault.counts().gets, 1);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_does_not_settle_for_a_read_that_began_before_it() {
    let bench = Bench::new(settings());
    bench.vault.set("db", "first");
    bench.vault.delay(Duration::from_secs(1), Duration::from_secs(1));
    let (broker, key) = (bench.broker.clone(), bench.key("db"));
    let older = tokio::spawn(async move { broker.get(&key).await.is_ok() });
    wait(Duration::from_millis(500)).await;
    let key = bench.key("db");
    let answers = join_all((0..100).map(|_| bench.broker.refresh(&key))).await;
    assert!(older.await.unwrap() && answers.iter().all(Result::is_ok));
    assert_eq!(bench.vault.counts().gets, 2, "the older read, and one for all who asked for a fresh one");
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_says_why_and_leaves_the_value_in_place() {
    let bench = Bench::new(settings());
    let _watch = bench.watch(&["db"]).await;
    bench.vault.fail(Some(Fault::Code(Code::VaultUnavailable)));
    let error = bench.broker.refresh(&bench.key("db")).await.err().unwrap();
    assert_eq!(error.code(), Code::VaultUnavailable);
    assert_eq!(bench.value("db").await, Ok(("first".to_owned(), State::Stale)));
}

#[tokio::test(start_paused = true)]
async fn a_definite_no_is_remembered_for_seconds_and_a_failure_for_one() {
    let bench = Bench::new(settings());
    let ask = || bench.value("missing");
    assert_eq!(ask().await, Err(ErrorKind::NotFound));
    assert_eq!(ask().await, Err(ErrorKind::NotFound));
    assert_eq!(bench.vault.counts().gets, 1);
    wait(Duration::from_secs(6)).await;
    assert_eq!(ask().await, Err(ErrorKind::NotFound));
    assert_eq!(bench.vault.counts().gets, 2);

    bench.vault.fail(Some(Fault::Code(Code::VaultUnavailable)));
    for _ in 0..50 {
        assert_eq!(bench.value("other").await, Err(ErrorKind::Unavailable));
        wait(Duration::from_millis(100)).await;
    }
    assert!(bench.vault.counts().gets <= 2 + 6, "{:?}", bench.vault.counts());
    bench.vault.fail(None);
    bench.vault.set("other", "first");
    wait(Duration::from_secs(1)).await;
    assert!(bench.value("other").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_unwatched_object_is_current_for_one_interval_and_survives_an_outage_as_stale() {
    let bench = Bench::new(settings());
    bench.vault.set("db", "first");
    assert!(bench.value("db").await.is_ok() && bench.value("db").await.is_ok());
    assert_eq!(bench.vault.counts().gets, 1);
    bench.vault.set("db", "second");
    wait(MINUTE + Duration::from_secs(1)).await;
    assert_eq!(bench.value("db").await, Ok(("second".to_owned(), State::Fresh)));
    wait(MINUTE + Duration::from_secs(1)).await;
    bench.vault.fail(Some(Fault::Code(Code::VaultUnavailable)));
    assert_eq!(bench.value("db").await, Ok(("second".to_owned(), State::Stale)));
}

#[tokio::test(start_paused = true)]
async fn the_cache_keeps_within_its_capacity_and_drops_the_least_recently_used_but_never_a_watched_object() {
    let bench = Bench::new(BrokerSettings { capacity_bytes: 20_000, ..settings() });
    let _watch = bench.watch(&["watched"]).await;
    bench.vault.set("popular", "x");
    for name in names(200) {
        bench.vault.set(&name, "value");
        bench.broker.get(&bench.key(&name)).await.unwrap();
        wait(Duration::from_millis(10)).await;
        bench.broker.get(&bench.key("popular")).await.unwrap();
        assert!(bench.broker.weight() <= 20_000, "{}", bench.broker.weight());
    }
    assert!(bench.broker.peek(&bench.key("watched")).is_some());
    assert!(bench.broker.peek(&bench.key("popular")).is_some());
    assert!(bench.broker.peek(&bench.key("object-000")).is_none());
    assert!(bench.broker.peek(&bench.key("object-199")).is_some());
    assert_eq!(bench.vault.counts().gets, 202);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_nobody_watches_or_asks_for_leaves_memory() {
    let bench = Bench::new(settings());
    let watch = bench.watch(&["db"]).await;
    wait(MINUTE * 60).await;
    drop(watch);
    wait(MINUTE * 14).await;
    assert!(bench.broker.peek(&bench.key("db")).is_some());
    wait(MINUTE * 2).await;
    assert!(bench.broker.peek(&bench.key("db")).is_none());
    assert_eq!(bench.broker.weight(), 0);
}

#[tokio::test(start_paused = true)]
async fn entries_are_kept_apart_by_identity_and_version() {
    let bench = Bench::new(settings());
    let version = bench.vault.set("db", "first");
    bench.vault.set("db", "second");
    let current = bench.key("db");
    let mut pinned: ObjectKey = current.clone();
    pinned.request.object = current.request.object.at(version);
    assert_eq!(bench.value("db").await.unwrap().0, "second");
    assert_eq!(crate::bench::text(&bench.broker.get(&pinned).await.unwrap()), "first");
    let stranger = bench.vault.key(&keyward_test_support::ModelVault::identity("stranger"), "db");
    assert_eq!(bench.broker.get(&stranger).await.err().unwrap().code(), Code::ConfigInvalid);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_panics_answers_with_an_error_and_is_asked_again_later() {
    struct Broken;
    #[async_trait::async_trait]
    impl keyward_core::Provider for Broken {
        fn name(&self) -> &'static str {
            "broken"
        }
        async fn fetch(&self, _: &keyward_core::FetchRequest) -> keyward_core::Result<keyward_core::Fetched> {
            panic!("a defect")
        }
        async fn list(
            &self,
            _: &keyward_core::VaultHost,
            _: keyward_core::Collection,
            _: usize,
        ) -> keyward_core::Result<Vec<keyward_core::ObjectMetadata>> {
            panic!("a defect")
        }
        async fn versions(
            &self,
            _: &keyward_core::ObjectRef,
            _: usize,
        ) -> keyward_core::Result<Vec<keyward_core::VersionInfo>> {
            panic!("a defect")
        }
        fn list_cost(&self, _: usize) -> usize {
            1
        }
        async fn warm_up(&self, _: &keyward_core::VaultHost) {}
    }
    let bench = Bench::new(settings());
    bench.vault.set("db", "first");
    bench.broker.attach(bench.identity.clone(), std::sync::Arc::new(Broken));
    assert_eq!(bench.value("db").await, Err(ErrorKind::Internal));
    bench.broker.attach(bench.identity.clone(), bench.vault.clone());
    assert!(bench.value("db").await.is_ok());
}

/// What pods may hold: of versions two each and three together, and so many bytes.
fn ledger(bytes: usize) -> std::sync::Arc<Ledger> {
    let limit = |pod, node| Limit { pod, node, pod_setting: "limits.pod", ..Limit::NONE };
    Ledger::new(Limits::default().with_bytes(limit(bytes, bytes)).with(Kind::PinnedVersions, limit(2, 3)))
}

fn held(account: &Account) -> (usize, usize) {
    (account.held().of(Kind::PinnedVersions), account.held().bytes())
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_what_it_does_not_watch_pays_for_it_until_the_cache_drops_it() {
    let bench = Bench::new(settings());
    for name in ["a", "b", "c"] {
        bench.vault.set(name, "value");
    }
    let ledger = ledger(100_000);
    let (one, other) = (ledger.account("one"), ledger.account("other"));
    let get = async |name: &str, account: &Account| {
        let given = bench.broker.get_charged(&bench.key(name), account, 26_000).await;
        given.map(|snapshot| crate::bench::text(&snapshot)).map_err(|error| error.code())
    };
    assert_eq!(get("a", &one).await.as_deref(), Ok("value"));
    let weight = bench.broker.weight();
    assert_eq!(held(&one), (1, weight), "what the entry costs, not what was reserved");
    assert_eq!(get("a", &one).await.as_deref(), Ok("value"));
    assert_eq!(held(&one), (1, weight), "once, however often it asks");
    get("b", &one).await.unwrap();
    let asked = bench.vault.counts().gets;
    assert_eq!(get("c", &one).await, Err(Code::LimitExceeded));
    assert_eq!(
        (bench.vault.counts().gets, bench.broker.weight()),
        (asked, 2 * weight),
        "nothing was read or kept"
    );
    // Each pod pays in full, and the sum has a limit too.
    get("a", &other).await.unwrap();
    assert_eq!(held(&other), (1, weight));
    assert_eq!(get("b", &other).await, Err(Code::LimitExceeded));
    // A failure takes a place as well, for as long as it is remembered.
    drop(other);
    wait(MINUTE * 16).await;
    assert_eq!((ledger.held(), bench.broker.weight()), (Held::default(), 0), "gone, and given back");
    bench.vault.fail(Some(Fault::Code(Code::VaultUnavailable)));
    assert_eq!(get("c", &one).await, Err(Code::VaultUnavailable));
    assert_eq!(held(&one), (1, 512));
    bench.vault.fail(None);
    wait(Duration::from_secs(2)).await;
    get("c", &one).await.unwrap();
    assert_eq!(held(&one), (1, weight));
}

#[tokio::test(start_paused = true)]
async fn bytes_are_charged_before_a_value_is_read() {
    let bench = Bench::new(settings());
    bench.vault.set("a", "value");
    let account = ledger(25_999).account("one");
    let error = bench.broker.get_charged(&bench.key("a"), &account, 26_000).await.err().unwrap();
    assert_eq!((error.code(), bench.vault.counts().gets), (Code::NoSpace, 0));
    assert_eq!(account.held(), Held::default());
    bench.broker.get(&bench.key("a")).await.unwrap();
    // What is there costs what it is.
    bench.broker.get_charged(&bench.key("a"), &account, 26_000).await.unwrap();
    assert_eq!(account.held().bytes(), bench.broker.weight());
}
