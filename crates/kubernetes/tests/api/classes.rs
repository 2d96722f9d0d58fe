use std::time::Duration;

use keyward_core::Code;
use keyward_kubernetes::{ClassLimits, Lookup};
use keyward_test_support::fake_api::{CLASSES, FakeApi};
use serde_json::json;

use crate::{PATIENCE, cluster, cluster_with, until};

#[tokio::test]
async fn a_class_is_seen_as_it_appears_changes_and_goes() {
    let api = FakeApi::start();
    let cluster = cluster(&api).await;
    let classes = cluster.classes();
    until(&cluster, "shop", "vault", |l| matches!(l, Lookup::Absent)).await;

    api.put_class("shop", "vault", "azure", &[("keyvaultName", "one")]);
    let first = classes.wait_for("shop", "vault", PATIENCE).await.unwrap();
    assert_eq!((first.provider.as_str(), first.parameters["keyvaultName"].as_str()), ("azure", "one"));
    assert!(matches!(classes.get("other", "vault"), Lookup::Absent), "a class belongs to its namespace");

    api.put_class("shop", "vault", "azure", &[("keyvaultName", "two")]);
    let edited = |l: &Lookup| matches!(l, Lookup::Found(c) if c.parameters["keyvaultName"] == "two");
    let Lookup::Found(second) = until(&cluster, "shop", "vault", edited).await else { panic!() };
    assert!(second.revision > first.revision);

    api.delete(CLASSES, "shop", "vault");
    until(&cluster, "shop", "vault", |l| matches!(l, Lookup::Absent)).await;
}

#[tokio::test]
async fn a_change_of_labels_alone_moves_nothing() {
    let api = FakeApi::start();
    api.put_class("shop", "vault", "azure", &[("a", "1")]);
    let cluster = cluster(&api).await;
    let classes = cluster.classes();
    let before = classes.wait_for("shop", "vault", PATIENCE).await.unwrap();
    let mut object = api.object(CLASSES, "shop", "vault").unwrap();
    object["metadata"]["labels"] = json!({ "team": "shop" });
    api.put(CLASSES, object);
    api.put_class("shop", "later", "azure", &[]);
    classes.wait_for("shop", "later", PATIENCE).await.unwrap();
    let Lookup::Found(after) = classes.get("shop", "vault") else { panic!() };
    assert!(std::sync::Arc::ptr_eq(&before, &after));
}

#[tokio::test]
async fn classes_of_any_text_are_watched_beside_good_ones_and_none_ends_the_watch() {
    use proptest::strategy::{Strategy as _, ValueTree as _};
    use proptest::test_runner::TestRunner;
    let api = FakeApi::start();
    let cluster = cluster(&api).await;
    let classes = cluster.classes();
    let mut runner = TestRunner::deterministic();
    let mut text = || keyward_test_support::any_text().new_tree(&mut runner).unwrap().current();
    for round in 0..60 {
        let name = format!("class-{round}");
        let spec = match round % 4 {
            0 => json!({ "provider": text(), "parameters": { text(): text(), "objects": text() } }),
            1 => json!({ "provider": "azure", "parameters": { "keyvaultName": text(), "objects": text() } }),
            2 => json!({ text(): text(), "parameters": text() }),
            _ => json!(text()),
        };
        api.put_class_spec("shop", &name, spec);
        if let Err(error) = classes.wait_for("shop", &name, PATIENCE).await {
            assert_eq!(error.code(), Code::ClassInvalid, "{name}");
            assert!(keyward_test_support::is_tidy(error.message()), "{:?}", error.message());
        }
    }
    api.put_class("shop", "good", "azure", &[("a", "1")]);
    classes.wait_for("shop", "good", PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_broken_class_stands_beside_good_ones() {
    let api = FakeApi::start();
    api.put_class("shop", "good", "azure", &[("a", "1")]);
    api.put_class_spec("shop", "no-parameters", json!({ "provider": "azure" }));
    api.put_class_spec("shop", "number", json!({ "provider": "azure", "parameters": { "a": 1 } }));
    api.put_class_spec("shop", "nothing", json!(7));
    let cluster = cluster(&api).await;
    let classes = cluster.classes();
    classes.wait_for("shop", "good", PATIENCE).await.unwrap();
    for name in ["no-parameters", "number", "nothing"] {
        let error = classes.wait_for("shop", name, PATIENCE).await.unwrap_err();
        assert_eq!(error.code(), Code::ClassInvalid, "{name}");
        assert!(error.message().contains(name));
    }
    api.put_class("shop", "number", "azure", &[("a", "1")]);
    until(&cluster, "shop", "number", |l| matches!(l, Lookup::Found(_))).await;
}

#[tokio::test]
async fn a_class_that_is_awaited_is_returned_when_it_appears_and_named_when_it_does_not() {
    let api = FakeApi::start();
    let cluster = cluster(&api).await;
    let classes = cluster.classes();
    let waiting = {
        let classes = cluster.classes();
        tokio::spawn(async move { classes.wait_for("shop", "late", PATIENCE).await })
    };
    until(&cluster, "shop", "late", |l| matches!(l, Lookup::Absent)).await;
    api.put_class("shop", "late", "azure", &[]);
    assert_eq!(waiting.await.unwrap().unwrap().name, "late");

    let error = classes.wait_for("shop", "never", Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.code(), Code::ClassNotFound);
    assert!(error.message().contains("`never`") && error.message().contains("`shop`"), "{error}");
    let error = classes.wait_for("shop", "../../secrets/x", PATIENCE).await.unwrap_err();
    assert_eq!(error.code(), Code::ConfigInvalid);
}

#[tokio::test]
async fn a_definition_that_is_installed_later_is_found_and_its_absence_is_said() {
    let api = FakeApi::start();
    api.uninstall(CLASSES);
    api.put_class("shop", "vault", "azure", &[]);
    let cluster = cluster(&api).await;
    let classes = cluster.classes();
    let error = classes.wait_for("shop", "vault", Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(error.code(), Code::ClassNotFound);
    assert!(error.message().contains("not installed"), "{error}");
    api.install(CLASSES);
    classes.wait_for("shop", "vault", PATIENCE).await.unwrap();
    api.uninstall(CLASSES);
    until(&cluster, "shop", "vault", |l| matches!(l, Lookup::Absent)).await;
}

#[tokio::test]
async fn the_older_version_is_read_where_the_newer_is_not_served() {
    let api = FakeApi::start();
    api.serve_versions(&["v1alpha1"]);
    api.put_class("shop", "vault", "azure", &[]);
    let cluster = cluster(&api).await;
    cluster.classes().wait_for("shop", "vault", PATIENCE).await.unwrap();
    api.put_class("shop", "other", "azure", &[]);
    cluster.classes().wait_for("shop", "other", PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_watch_that_is_cut_goes_on_without_a_new_list() {
    let api = FakeApi::start();
    api.put_class("shop", "one", "azure", &[]);
    let cluster = cluster(&api).await;
    cluster.classes().wait_for("shop", "one", PATIENCE).await.unwrap();
    api.cut_watches();
    api.put_class("shop", "two", "azure", &[]);
    cluster.classes().wait_for("shop", "two", PATIENCE).await.unwrap();
    let lists = api.requests().iter().filter(|r| !r.contains("watch=true")).count();
    assert_eq!(lists, 1);
}

#[tokio::test]
async fn an_expired_watch_is_followed_by_a_new_list() {
    let api = FakeApi::start();
    api.put_class("shop", "one", "azure", &[]);
    api.put_class("shop", "two", "azure", &[]);
    let cluster = cluster(&api).await;
    cluster.classes().wait_for("shop", "one", PATIENCE).await.unwrap();
    api.down();
    api.delete(CLASSES, "shop", "two");
    api.put_class("shop", "three", "azure", &[]);
    api.expire();
    api.up();
    cluster.classes().wait_for("shop", "three", PATIENCE).await.unwrap();
    assert!(matches!(cluster.classes().get("shop", "two"), Lookup::Absent));
    assert!(matches!(cluster.classes().get("shop", "one"), Lookup::Found(_)));
}

#[tokio::test]
async fn what_is_known_stays_known_while_the_server_is_away() {
    let api = FakeApi::start();
    api.down();
    api.put_class("shop", "one", "azure", &[]);
    let cluster = cluster(&api).await;
    let classes = cluster.classes();
    assert!(matches!(classes.get("shop", "one"), Lookup::NotSynced));
    let error = classes.wait_for("shop", "one", Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(error.code(), Code::KubernetesUnavailable);
    api.up();
    classes.wait_for("shop", "one", PATIENCE).await.unwrap();
    api.down();
    api.put_class("shop", "two", "azure", &[]);
    assert!(matches!(classes.get("shop", "one"), Lookup::Found(_)));
    api.up();
    classes.wait_for("shop", "two", PATIENCE).await.unwrap();
}

#[tokio::test]
async fn pages_are_put_together() {
    let api = FakeApi::start();
    api.page_by(3);
    for n in 0..10 {
        api.put_class("shop", &format!("class-{n}"), "azure", &[]);
    }
    let cluster = cluster(&api).await;
    cluster.classes().wait_for("shop", "class-9", PATIENCE).await.unwrap();
    assert_eq!(cluster.classes().count(), 10);
}

#[tokio::test]
async fn classes_too_large_for_one_page_are_asked_for_in_smaller_ones() {
    let api = FakeApi::start();
    for n in 0..12 {
        api.put_class("shop", &format!("class-{n}"), "azure", &[("objects", &"x".repeat(1_000_000))]);
    }
    let cluster = cluster(&api).await;
    let class = cluster.classes().wait_for("shop", "class-11", PATIENCE).await.unwrap();
    assert_eq!(class.parameters["objects"].len(), 1_000_000);
    assert!(cluster.classes().count() < 6, "the rest is fetched when it is asked for");
    cluster.classes().wait_for("shop", "class-9", PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_class_beyond_the_limits_is_fetched_when_it_is_asked_for_and_followed_from_there() {
    let api = FakeApi::start();
    for n in 0..5 {
        api.put_class("shop", &format!("class-{n}"), "azure", &[("a", "1")]);
    }
    let limits = ClassLimits { count: 2, ..ClassLimits::default() };
    let cluster = cluster_with(&api, limits).await;
    let classes = cluster.classes();
    classes.wait_for("shop", "class-0", PATIENCE).await.unwrap();
    assert_eq!(classes.count(), 3, "two, and the one that is wanted");
    assert_eq!(classes.wait_for("shop", "class-4", PATIENCE).await.unwrap().parameters["a"], "1");
    api.put_class("shop", "class-4", "azure", &[("a", "2")]);
    until(&cluster, "shop", "class-4", |l| matches!(l, Lookup::Found(c) if c.parameters["a"] == "2")).await;
    until(&cluster, "shop", "class-3", |l| matches!(l, Lookup::Found(_))).await;
}

#[tokio::test]
async fn a_class_that_is_too_large_is_broken_and_no_other() {
    let api = FakeApi::start();
    api.put_class("shop", "small", "azure", &[]);
    api.put_class("shop", "large", "azure", &[("objects", &"x".repeat(2000))]);
    let limits = ClassLimits { bytes: 1000, ..ClassLimits::default() };
    let cluster = cluster_with(&api, limits).await;
    cluster.classes().wait_for("shop", "small", PATIENCE).await.unwrap();
    let error = cluster.classes().wait_for("shop", "large", PATIENCE).await.unwrap_err();
    assert!(error.message().contains("larger than 1000 bytes"), "{error}");
}

#[tokio::test]
async fn a_missing_right_is_named_without_the_servers_words() {
    let api = FakeApi::start();
    api.forbid("list", CLASSES);
    let cluster = cluster(&api).await;
    let error = cluster.classes().wait_for("shop", "x", Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(error.code(), Code::KubernetesForbidden);
    assert!(error.message().contains("`list secretproviderclasses`"), "{error}");
    assert!(!error.to_string().contains("words of the server"));
    api.allow_all();
    api.put_class("shop", "x", "azure", &[]);
    cluster.classes().wait_for("shop", "x", PATIENCE).await.unwrap();
}

#[tokio::test]
async fn failures_of_the_server_are_outlived() {
    let api = FakeApi::start();
    api.put_class("shop", "x", "azure", &[]);
    api.fail_next(2, 500);
    let cluster = cluster(&api).await;
    cluster.classes().wait_for("shop", "x", PATIENCE).await.unwrap();
}
