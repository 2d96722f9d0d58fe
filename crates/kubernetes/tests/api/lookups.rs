use std::sync::Arc;

use keyward_core::{Code, SystemClock};
use keyward_kubernetes::{Cluster, ClusterSettings, DriverState};
use keyward_test_support::fake_api::{ACCOUNTS, DRIVERS, FakeApi};
use serde_json::json;

use crate::{DRIVER, PATIENCE, cluster};

#[tokio::test]
async fn the_driver_object_is_followed_and_what_it_lacks_is_said() {
    let api = FakeApi::start();
    api.put_usual_driver("another.driver", &["x"]);
    let cluster = cluster(&api).await;
    let driver = cluster.driver_object();
    let mut states = driver.subscribe();
    let mut until = async |wanted: fn(&DriverState) -> bool| {
        tokio::time::timeout(PATIENCE, states.wait_for(wanted)).await.unwrap().unwrap().clone()
    };
    until(|s| *s == DriverState::Absent).await;

    api.put_driver(DRIVER, json!({}));
    let DriverState::Found(facts) = until(|s| matches!(s, DriverState::Found(_))).await else { panic!() };
    assert_eq!(facts.problems().len(), 5, "the server's defaults suit nobody");

    api.put_usual_driver(DRIVER, &["api://AzureADTokenExchange"]);
    let good = until(|s| matches!(s, DriverState::Found(f) if f.problems().is_empty())).await;
    let DriverState::Found(facts) = good else { panic!() };
    assert!(facts.tokens_in_secrets && facts.token_audiences == ["api://AzureADTokenExchange"]);

    api.delete(DRIVERS, "", DRIVER);
    until(|s| *s == DriverState::Absent).await;
}

#[tokio::test]
async fn a_service_account_says_who_it_is_in_azure() {
    let api = FakeApi::start();
    let annotations =
        [("azure.workload.identity/client-id", " 1111 "), ("azure.workload.identity/tenant-id", "")];
    api.put_account("shop", "web", &annotations);
    let cluster = cluster(&api).await;
    let facts = cluster.service_account("shop", "web").await.unwrap().unwrap();
    assert_eq!((facts.client_id.as_deref(), facts.tenant_id), (Some("1111"), None));
    assert_eq!(cluster.service_account("shop", "nobody").await.unwrap(), None);
    let error = cluster.service_account("shop", "a/../../secrets").await.unwrap_err();
    assert_eq!(error.code(), Code::ConfigInvalid);

    api.forbid("get", ACCOUNTS);
    let error = cluster.service_account("shop", "web").await.unwrap_err();
    assert_eq!(error.code(), Code::KubernetesForbidden);
    assert!(error.message().contains("`get serviceaccounts`"), "{error}");

    api.down();
    let error = cluster.service_account("shop", "web").await.unwrap_err();
    assert_eq!(error.code(), Code::KubernetesUnavailable);
}

#[tokio::test]
async fn a_token_is_presented_and_a_wrong_one_is_named() {
    let api = FakeApi::start();
    api.require_token("good");
    api.put_account("shop", "web", &[]);
    cluster(&api).await.service_account("shop", "web").await.unwrap().unwrap();
    let stale = cluster(&api).await;
    api.require_token("other");
    let error = stale.service_account("shop", "web").await.unwrap_err();
    assert_eq!(error.code(), Code::KubernetesForbidden);
    assert!(error.message().contains("does not accept our credentials"), "{error}");
}

#[tokio::test]
async fn an_unsafe_kubeconfig_is_refused() {
    let refused = [
        json!({ "server": "http://cluster.example" }),
        json!({ "server": "https://cluster.example", "insecure-skip-tls-verify": true }),
        json!({ "server": "https://cluster.example", "proxy-url": "http://proxy.example" }),
    ];
    for cluster in refused {
        let error = connect(&cluster, &json!({})).await.err().expect("it is refused");
        assert_eq!(error.code(), Code::ConfigInvalid, "{cluster}");
    }
    let good = json!({ "server": "https://cluster.example" });
    connect(&good, &json!({})).await.expect("nobody is asked");
    let program =
        json!({ "exec": { "apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/false" } });
    let error = connect(&good, &program).await.err().expect("nothing is executed");
    assert!(error.message().contains("another program"), "{error}");
}

async fn connect(cluster: &serde_json::Value, user: &serde_json::Value) -> keyward_core::Result<Cluster> {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("kubeconfig");
    let config = json!({
        "current-context": "c",
        "clusters": [{ "name": "c", "cluster": cluster }],
        "users": [{ "name": "c", "user": user }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "c" } }],
    });
    std::fs::write(&file, config.to_string()).expect("the file is written");
    let settings = ClusterSettings { kubeconfig: Some(file), ..ClusterSettings::default() };
    Cluster::connect(&settings, Arc::new(SystemClock)).await
}
