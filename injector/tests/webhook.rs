//! The program itself, against a Kubernetes API of our own making: what it shows, what it answers, how it ends.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

#[path = "webhook/hostile.rs"]
mod hostile;
#[path = "webhook/limits.rs"]
mod limits;
#[path = "webhook/rig.rs"]
mod rig;

use std::time::Duration;

use keyward_test_support::fake_api::{LEASES, SECRETS};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use rig::*;

#[tokio::test]
async fn a_pod_is_answered_with_a_patch_under_the_certificate_that_the_api_server_is_told_to_trust() {
    let (api, directory) = cluster();
    let injector = Injector::start(&directory);
    let mut sender = client(&injector, &api).await;
    let answer = ask(&mut sender, &good()).await;
    assert_eq!((&answer["allowed"], &answer["patchType"]), (&json!(true), &json!("JSONPatch")));
    let args = patched(&good(), &answer)["spec"]["initContainers"][0]["args"].to_string();
    assert!(args.contains("--identity-client-id=11111111-1111-1111-1111-111111111111"), "{args}");

    let answer = ask(&mut sender, &pod(&json!({"keyward.dev/secret-db": "kv://shop/nothing/db"}))).await;
    assert_eq!((&answer["allowed"], &answer["status"]["code"]), (&json!(false), &json!(422)));
    assert!(
        answer["status"]["message"].as_str().unwrap().starts_with("KW_OBJECT_INVALID: keyward.dev/secret-db")
    );

    // Nothing was asked of the API that is not in the chart's rights.
    for request in api.requests() {
        let allowed = [
            "/version",
            "/serviceaccounts/web",
            "/secrets/keyward-injector-tls",
            "/leases/keyward-injector",
            "/mutatingwebhookconfigurations/keyward-injector",
        ];
        assert!(allowed.iter().any(|part| request.ends_with(part)), "{request}");
    }
}

#[tokio::test]
async fn trust_anchors_reach_every_container_of_ours_also_where_nothing_else_is_looked_up() {
    let (api, directory) = cluster();
    let roots = directory.path().join("ca.pem");
    std::fs::write(&roots, "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n").unwrap();
    let injector = Injector::start_with(&directory, &["--tls-extra-roots-file", roots.to_str().unwrap()]);
    let mut sender = client(&injector, &api).await;
    for via in ["init", "sidecar"] {
        let asked = pod(&json!({
            "keyward.dev/via": via,
            "keyward.dev/secret-db": "kv://shop/secrets/db",
            "keyward.dev/client-id": "11111111-1111-1111-1111-111111111111",
            "keyward.dev/tenant-id": "22222222-2222-2222-2222-222222222222",
        }));
        let made = patched(&asked, &ask(&mut sender, &asked).await);
        let args = made["spec"]["initContainers"][0]["args"].to_string();
        assert!(args.contains("--tls-extra-roots="), "{via}: {args}");
    }
}

#[tokio::test]
async fn it_leaves_no_core_and_can_gain_no_privileges() {
    let (_api, directory) = cluster();
    let injector = Injector::start(&directory);
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", injector.child.id())).unwrap();
    let limits = read("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"]);
    assert!(read("status").lines().any(|line| line == "NoNewPrivs:\t1"));
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let (api, directory) = cluster();
    let injector = Injector::start(&directory);
    client(&injector, &api).await;
    let bundle = trusted(&api).await;
    assert!(connect(injector.address, tls(&bundle, &rustls::version::TLS12)).await.is_err());
}

#[tokio::test]
async fn replicas_share_one_certificate_and_take_up_a_new_authority_beside_the_old_one() {
    let (api, directory) = cluster();
    let (one, two) = (Injector::start(&directory), Injector::start(&directory));
    let bundle_before = trusted(&api).await;
    for injector in [&one, &two] {
        assert_eq!(
            ask(&mut client_that_trusts(injector, &api, &bundle_before).await, &good()).await["allowed"],
            true
        );
    }
    // An administrator who wants a new authority takes the old one's key away.
    let mut secret = api.object(SECRETS, NAMESPACE, "keyward-injector-tls").unwrap();
    secret["data"].as_object_mut().unwrap().remove("ca.key").unwrap();
    api.put(SECRETS, secret);
    api.until("both authorities trusted", |api| {
        bundle(api).is_some_and(|pem| CertificateDer::pem_slice_iter(&pem).count() == 2)
    })
    .await;
    let both = bundle(&api).unwrap();
    assert!(String::from_utf8_lossy(&both).contains(String::from_utf8_lossy(&bundle_before).trim()));
    for injector in [&one, &two] {
        // What is shown is from the old one still, and trusted by whoever has not heard of the new one.
        assert_eq!(
            ask(&mut client_that_trusts(injector, &api, &bundle_before).await, &good()).await["allowed"],
            true
        );
        assert_eq!(ask(&mut client_that_trusts(injector, &api, &both).await, &good()).await["allowed"], true);
    }
    let lease = api.object(LEASES, NAMESPACE, "keyward-injector").unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "", "it was given back");
    assert_eq!(lease["spec"]["leaseTransitions"], 2);
}

#[tokio::test]
async fn without_the_api_server_a_pod_is_refused_for_now_and_answered_afterwards() {
    let (api, directory) = cluster();
    let injector = Injector::start(&directory);
    let mut sender = client(&injector, &api).await;
    api.down();
    let answer = ask(&mut sender, &good()).await;
    assert_eq!((&answer["allowed"], &answer["status"]["code"]), (&json!(false), &json!(503)));
    let message = answer["status"]["message"].as_str().unwrap();
    assert!(message.contains("KW_KUBERNETES_UNAVAILABLE") && message.contains("tries again"), "{message}");
    // What needs nothing from it is answered all the same.
    let volume = pod(&json!({"keyward.dev/secret-db": "kv://shop/secrets/db", "keyward.dev/via": "csi"}));
    assert_eq!(ask(&mut sender, &volume).await["allowed"], true);
    api.up();
    assert_eq!(ask(&mut sender, &good()).await["allowed"], true);
}

#[tokio::test]
async fn what_is_no_question_is_refused_and_harms_nobody() {
    let (api, directory) = cluster();
    let injector = Injector::start(&directory);
    let mut sender = client(&injector, &api).await;
    let path = sender.path.clone();
    for (body, status) in [
        (b"not json".to_vec(), 400),
        (br#"{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}"#.to_vec(), 400),
        (br#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}"#.to_vec(), 400),
    ] {
        assert_eq!(post(&mut sender, &path, body).await.0, status);
    }
    let large = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 4000000\r\n\r\n");
    let said = raw(&sender, large.as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
    let not_a_pod = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {"uid": "1", "kind": {"group": "apps", "kind": "Deployment"}, "operation": "CREATE", "object": good()},
    });
    let (_, body) = post(&mut sender, &path, not_a_pod.to_string().into_bytes()).await;
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["response"], json!({"uid": "1", "allowed": true}));
    assert_eq!(ask(&mut sender, &good()).await["allowed"], true);
}

#[tokio::test]
async fn it_ends_on_sigterm_when_every_question_is_answered_those_of_new_connections_too() {
    let (api, directory) = cluster();
    let mut injector = Injector::start(&directory);
    let mut before = client(&injector, &api).await;
    injector.terminate();
    assert_eq!(ask(&mut before, &good()).await["allowed"], true);
    // The API server may not have heard yet that this replica goes.
    assert_eq!(ask(&mut client(&injector, &api).await, &good()).await["allowed"], true);
    let status = tokio::task::spawn_blocking(move || {
        let status = injector.child.wait();
        drop(injector);
        status
    });
    let status =
        tokio::time::timeout(Duration::from_secs(30), status).await.expect("it ends").unwrap().unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_probe_tells_a_server_with_a_certificate_from_one_without() {
    let (api, directory) = cluster();
    // Without the Secret there is none.
    api.delete(SECRETS, NAMESPACE, "keyward-injector-tls");
    let injector = Injector::start(&directory);
    let answer = injector.probe();
    assert!(!answer.status.success());
    assert!(String::from_utf8_lossy(&answer.stderr).contains("shows no certificate yet"), "{answer:?}");
    api.put(SECRETS, json!({"metadata": {"name": "keyward-injector-tls", "namespace": NAMESPACE}}));
    client(&injector, &api).await;
    assert!(injector.probe().status.success());
}
