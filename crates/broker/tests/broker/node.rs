//! What a node needs of the broker: many identities, pods that come and go, starts before refreshes.

use std::sync::Arc;
use std::time::Duration;

use keyward_broker::{Broker, Watch, WatchItem};
use keyward_core::{Code, IdentityKey, Priority, State, Urgency};
use keyward_test_support::{Fault, ModelVault};

use crate::bench::{Bench, MINUTE, names, refs, settings, text, wait};

impl Bench {
    /// Another identity that reads the same vault.
    fn attach(&self, client: &str) -> Arc<IdentityKey> {
        let identity = ModelVault::identity(client);
        self.broker.attach(identity.clone(), self.vault.clone());
        identity
    }

    fn watch_as(&self, identity: &Arc<IdentityKey>, names: &[&str]) -> Watch {
        let item = |name: &&str| WatchItem { key: self.vault.key(identity, name), refresh: None };
        self.broker.watch(names.iter().map(item).collect())
    }
}

fn held(broker: &Arc<Broker>, bench: &Bench, identity: &Arc<IdentityKey>, name: &str) -> bool {
    broker.peek(&bench.vault.key(identity, name)).is_some()
}

#[tokio::test(start_paused = true)]
async fn three_identities_of_one_vault_cost_their_distinct_objects_once_and_a_check_a_listing_each() {
    let bench = Bench::new(settings());
    let names = names(100);
    for name in &names {
        bench.vault.set(name, "first");
    }
    wait(Duration::from_secs(10)).await;
    let identities = [bench.identity.clone(), bench.attach("second"), bench.attach("third")];
    let mut pods = Vec::new();
    for _ in 0..20 {
        for identity in &identities {
            let pod = bench.watch_as(identity, &refs(&names));
            pod.ready().await;
            pods.push(pod);
        }
    }
    assert_eq!(bench.vault.counts().gets, 3 * 100, "once for each identity, whatever the number of pods");
    wait(MINUTE / 2).await;
    bench.vault.set(&names[7], "second");
    let before = bench.vault.counts().requests();
    wait(MINUTE).await;
    let cost = bench.vault.counts().requests() - before;
    assert!(cost <= 3 * (100 / 25 + 1), "{cost} requests");
    assert!(pods.iter().all(|pod| text(&pod.snapshots()[7]) == "second"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_leaves_keeps_what_it_fetched_for_a_retry_and_forgetting_its_identity_frees_it_at_once() {
    let bench = Bench::new(settings());
    let other = bench.attach("second");
    bench.vault.set("db", "first");
    let stays = bench.watch_as(&bench.identity, &["db"]);
    let leaves = bench.watch_as(&other, &["db"]);
    stays.ready().await;
    leaves.ready().await;
    let weight = bench.broker.weight();
    drop(leaves);
    let retry = bench.watch_as(&other, &["db"]);
    retry.ready().await;
    assert_eq!(bench.vault.counts().gets, 2, "the retry finds what was fetched");
    drop(retry);
    bench.broker.forget(&other);
    assert!(!held(&bench.broker, &bench, &other, "db") && held(&bench.broker, &bench, &bench.identity, "db"));
    assert_eq!(bench.broker.weight() * 2, weight);
    let error = bench.broker.get(&bench.vault.key(&other, "db")).await.err().unwrap();
    assert_eq!(error.code(), Code::ConfigInvalid);
}

#[tokio::test(start_paused = true)]
async fn what_only_a_departed_pod_used_leaves_memory_after_a_quarter_of_an_hour() {
    let bench = Bench::new(settings());
    for name in ["shared", "own"] {
        bench.vault.set(name, "first");
    }
    let stays = bench.watch_as(&bench.identity, &["shared"]);
    let leaves = bench.watch_as(&bench.identity, &["shared", "own"]);
    leaves.ready().await;
    drop(leaves);
    wait(MINUTE * 14).await;
    assert!(held(&bench.broker, &bench, &bench.identity, "own"));
    wait(MINUTE * 2).await;
    assert!(!held(&bench.broker, &bench, &bench.identity, "own"));
    assert!(held(&bench.broker, &bench, &bench.identity, "shared"));
    drop(stays);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_starts_hears_of_a_grant_at_once_and_not_what_was_refused_before() {
    let bench = Bench::new(settings());
    bench.vault.set("db", "first");
    bench.vault.forbid("db", true);
    let refused = bench.watch_as(&bench.identity, &["db"]);
    refused.ready().await;
    assert_eq!(refused.snapshots()[0].error.as_ref().unwrap().code(), Code::VaultForbidden);
    bench.vault.forbid("db", false);
    wait(Duration::from_secs(6)).await;
    bench.vault.delay(Duration::from_millis(20), Duration::from_millis(20));
    let granted = bench.watch_as(&bench.identity, &["db"]);
    granted.ready().await;
    assert_eq!(text(&granted.snapshots()[0]), "first");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_starts_is_given_the_newest_value_and_not_the_one_that_a_departed_pod_left() {
    let bench = Bench::new(settings());
    drop(bench.watch(&["db"]).await);
    wait(MINUTE * 5).await;
    bench.vault.set("db", "second");
    bench.vault.delay(Duration::from_millis(20), Duration::from_millis(20));
    let pod = bench.watch_as(&bench.identity, &["db"]);
    pod.ready().await;
    assert_eq!(text(&pod.snapshots()[0]), "second");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_starts_during_an_outage_takes_a_stale_value_without_waiting() {
    let bench = Bench::new(settings());
    let first = bench.watch(&["db"]).await;
    bench.vault.fail(Some(Fault::Code(Code::VaultUnavailable)));
    wait(MINUTE * 2).await;
    bench.vault.delay(MINUTE, MINUTE);
    let start = tokio::time::Instant::now();
    let second = bench.watch_as(&bench.identity, &["db"]);
    second.ready().await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(
        (second.snapshots()[0].state, text(&second.snapshots()[0])),
        (State::Stale, "first".to_owned())
    );
    drop(first);
}

/// Notes how urgent each read is, when it begins and when it ends.
struct Noting(Arc<ModelVault>, parking_lot::Mutex<Vec<(Urgency, Urgency)>>);

#[async_trait::async_trait]
impl keyward_core::Provider for Noting {
    fn name(&self) -> &'static str {
        "noting"
    }

    async fn fetch(
        &self,
        request: &keyward_core::FetchRequest,
    ) -> keyward_core::Result<keyward_core::Fetched> {
        let begun = Priority::current().urgency();
        let fetched = self.0.fetch(request).await;
        self.1.lock().push((begun, Priority::current().urgency()));
        fetched
    }

    async fn list(
        &self,
        host: &keyward_core::VaultHost,
        collection: keyward_core::Collection,
        limit: usize,
    ) -> keyward_core::Result<Vec<keyward_core::ObjectMetadata>> {
        assert_eq!(Priority::current().urgency(), Urgency::Refresh);
        self.0.list(host, collection, limit).await
    }

    async fn versions(
        &self,
        object: &keyward_core::ObjectRef,
        limit: usize,
    ) -> keyward_core::Result<Vec<keyward_core::VersionInfo>> {
        self.0.versions(object, limit).await
    }

    fn list_cost(&self, count: usize) -> usize {
        self.0.list_cost(count)
    }

    async fn warm_up(&self, host: &keyward_core::VaultHost) {
        self.0.warm_up(host).await;
    }
}

#[tokio::test(start_paused = true)]
async fn first_reads_are_starts_checks_are_refreshes_and_a_check_that_somebody_waits_for_is_hurried() {
    let bench = Bench::new(settings());
    let noting = Arc::new(Noting(bench.vault.clone(), parking_lot::Mutex::default()));
    let identity = ModelVault::identity("noting");
    bench.broker.attach(identity.clone(), noting.clone());
    let taken = || std::mem::take(&mut *noting.1.lock());
    bench.vault.set("db", "first");

    let watch = bench.watch_as(&identity, &["db"]);
    watch.ready().await;
    assert_eq!(taken(), [(Urgency::Start, Urgency::Start)]);

    wait(MINUTE + MINUTE / 2).await;
    assert_eq!(taken(), [(Urgency::Refresh, Urgency::Refresh)]);

    let second = Duration::from_secs(1);
    bench.vault.delay(second, second);
    wait(MINUTE / 2 + second / 2).await;
    let key = bench.vault.key(&identity, "db");
    assert!(bench.broker.refresh(&key).await.is_ok());
    assert_eq!(taken(), [(Urgency::Refresh, Urgency::Start), (Urgency::Start, Urgency::Start)]);
}
