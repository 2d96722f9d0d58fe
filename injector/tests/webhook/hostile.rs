//! What pods, their authors and whoever is on the pod network can do to the injector: nothing to anybody else.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyward_test_support::fake_api::{CONFIG_MAPS, FakeApi, SECRETS};
use keyward_test_support::{any_text, is_tidy};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use super::rig::*;

/// A pod with more values than are looked at: 80,000 entries of env, 2.7 MB.
fn bomb() -> Value {
    let mut pod = good();
    let entry = |index: usize| json!({"name": format!("N{index}"), "value": "v".repeat(8)});
    pod["spec"]["containers"][0]["env"] = (0..80_000).map(entry).collect();
    pod
}

/// A pod that is looked at, and costs as much as one can: 3 MB, nearly 20,000 values, at the place where each of them was
/// once compared with another.
fn heavy() -> Value {
    let mut pod = good();
    let entry = |index: usize| json!({"name": "n".repeat(200), "value": format!("{index}").repeat(60)});
    let env: Vec<Value> = (0..3_000).map(entry).collect();
    let container = |name: &str| json!({"name": name, "image": "i", "env": env});
    pod["spec"]["initContainers"] = json!([container("one"), container("two")]);
    pod
}

/// Resident memory beside what is mapped from files, bytes: the highest that was, with the files that are.
fn memory(injector: &Injector) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", injector.child.id())).unwrap();
    let of = |key: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
    };
    of("VmHWM:") - of("RssFile:")
}

#[tokio::test]
async fn a_name_that_is_cut_inside_a_character_costs_nobody_the_injector() {
    let (api, directory) = cluster();
    let injector = Injector::start(&directory);
    let mut sender = client(&injector, &api).await;
    let mut asked = pod(&json!({"keyward.dev/secret-db": "kv://shop/secrets/db", "keyward.dev/via": "csi"}));
    let name = format!("{}é", "a".repeat(39));
    asked["spec"]["containers"][0] = json!({
        "name": name, "image": "web:1", "volumeMounts": [{"name": "keyward", "mountPath": "/x", "subPath": "y"}],
    });
    let answer = ask(&mut sender, &asked).await;
    assert_eq!(answer["allowed"], true);
    let warning = answer["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with(&format!("container {}: a subPath", "a".repeat(39))), "{warning}");
    assert_eq!(ask(&mut sender, &good()).await["allowed"], true);
}

#[tokio::test]
async fn any_text_in_a_review_is_answered_and_costs_nobody_the_injector() {
    let (api, directory) = cluster();
    let mut injector = Injector::start(&directory);
    let mut sender = client(&injector, &api).await;
    let mut runner = TestRunner::deterministic();
    let mut text = || any_text().new_tree(&mut runner).unwrap().current();
    let annotations =
        ["secret-db", "via", "file-db", "notify-db", "mount-path", "containers", "client-id", "config"];
    let path = sender.path.clone();
    let (mut refused, mut unread) = (0, 0);
    for round in 0..150 {
        let annotation = format!("keyward.dev/{}", annotations[round % annotations.len()]);
        let mut asked = pod(&json!({"keyward.dev/secret-db": "kv://shop/secrets/db", annotation: text()}));
        let mut namespace = "shop".to_owned();
        match round % 5 {
            0 => asked["spec"]["containers"][0]["name"] = json!(text()),
            1 => asked["spec"]["serviceAccountName"] = json!(text()),
            2 => asked["metadata"]["annotations"][format!("keyward.dev/{}", text())] = json!(text()),
            3 => namespace = text(),
            _ => {
                asked["spec"]["containers"][0]["volumeMounts"] =
                    json!([{"name": "keyward", "subPath": text()}]);
            }
        }
        let body = if round % 25 == 24 { text().into_bytes() } else { question(&asked, &namespace) };
        let (status, body) = post(&mut sender, &path, body).await;
        if status != 200 {
            assert!((400..500).contains(&status), "{round}: {status}");
            unread += 1;
            continue;
        }
        let answer: Value = serde_json::from_slice(&body).unwrap();
        if answer["response"]["allowed"] == false {
            let message = answer["response"]["status"]["message"].as_str().unwrap();
            assert!(is_tidy(message), "{round}: {message:?}");
            refused += 1;
        }
    }
    assert!(refused > 50 && unread > 2, "{refused} refused, {unread} not read");
    assert_eq!(injector.child.try_wait().unwrap(), None, "it has ended");
    assert_eq!(ask(&mut sender, &good()).await["allowed"], true);
}

#[tokio::test]
async fn a_pod_with_too_many_values_is_refused_before_it_is_a_tree_and_several_at_once_stay_within_the_memory()
 {
    let (api, directory) = cluster();
    let injector = Injector::start(&directory);
    let mut sender = client(&injector, &api).await;
    assert_eq!(ask(&mut sender, &good()).await["allowed"], true);
    let before = memory(&injector);
    let bombs = [bomb(), heavy()].map(|pod| question(&pod, "shop"));
    for bomb in &bombs {
        assert!((2_500_000..3_100_000).contains(&bomb.len()), "{}", bomb.len());
    }
    let mut asking = tokio::task::JoinSet::new();
    for index in 0..12 {
        let mut sender = client(&injector, &api).await;
        let bomb = bombs[index % 2].clone();
        asking.spawn(async move {
            let path = sender.path.clone();
            // One waits for its turn no longer than some seconds, and is then asked about again.
            for _ in 0..20 {
                let (status, body) = post(&mut sender, &path, bomb.clone()).await;
                if status != 503 && status != 408 {
                    assert_eq!(status, 200);
                    return (index % 2, body);
                }
            }
            panic!("its turn never came");
        });
    }
    while let Some(answered) = asking.join_next().await {
        let (kind, body) = answered.unwrap();
        let answer: Value = serde_json::from_slice(&body).unwrap();
        let answer = &answer["response"];
        assert_eq!(answer["allowed"], kind == 1, "{answer}");
        if kind == 0 {
            let message = answer["status"]["message"].as_str().unwrap();
            assert!(message.contains("more than the 20000 allowed"), "{message}");
        } else {
            // What was put in front of the pod's containers is the only one that the patch holds.
            assert!(body.len() < 20_000, "{}", body.len());
            assert_eq!(patched(&heavy(), answer)["spec"]["initContainers"][2]["name"], "two");
        }
    }
    let grown = memory(&injector) - before;
    assert!(grown < 32 << 20, "{} MiB more", grown >> 20);
    assert_eq!(ask(&mut sender, &good()).await["allowed"], true);
}

#[tokio::test]
async fn silent_connections_take_no_place_from_the_api_server_nor_from_a_probe() {
    let (api, directory) = cluster();
    let injector = Injector::start(&directory);
    let mut before = client(&injector, &api).await;
    assert_eq!(ask(&mut before, &good()).await["allowed"], true);
    let config = tls(&trusted(&api).await, &rustls::version::TLS13);
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(connect(injector.address, config.clone()).await.unwrap());
    }
    // Some that do not even begin a handshake.
    let mut raw = Vec::new();
    for _ in 0..300 {
        raw.push(tokio::net::TcpStream::connect(injector.address).await.unwrap());
    }
    assert_eq!(ask(&mut client(&injector, &api).await, &good()).await["allowed"], true);
    before.connection.ready().await.expect("the API server's connection is still open");
    assert_eq!(ask(&mut before, &good()).await["allowed"], true);
    assert!(injector.probe().status.success());
    // The oldest has gone.
    let gone = tokio::time::timeout(Duration::from_secs(30), silent[0].read(&mut [0])).await.unwrap();
    assert!(!matches!(gone, Ok(1..)));
    let grown = memory(&injector);
    assert!(grown < 40 << 20, "{} MiB", grown >> 20);
}

#[tokio::test]
async fn whoever_does_not_know_the_path_is_told_nothing_and_nothing_is_looked_up() {
    let (api, directory) = cluster();
    let injector = Injector::start(&directory);
    let mut api_server = client(&injector, &api).await;
    let mut stranger = client(&injector, &api).await;
    let looked_up =
        |api: &FakeApi| api.requests().iter().filter(|path| path.contains("serviceaccounts")).count();
    let path = stranger.path.clone();
    assert_eq!(path.len(), "/mutate/".len() + 43);
    let swapped = format!("{}{}", &path[..path.len() - 1], if path.ends_with('A') { 'B' } else { 'A' });
    let other = format!("/mutate/{}", "A".repeat(43));
    let longer = format!("{path}/");
    for path in ["/", "/mutate", "/mutate/", &swapped, &other, &longer, "/livez", "*"] {
        let (status, body) = post(&mut stranger, path, question(&good(), "shop")).await;
        assert_eq!((status, body.as_slice()), (404, &b"not found\n"[..]), "{path}");
    }
    // The body is not waited for, nor read.
    let said = raw(&stranger, b"POST /mutate HTTP/1.1\r\nhost: x\r\ncontent-length: 3000000\r\n\r\n").await;
    assert!(said.starts_with("HTTP/1.1 404"), "{said}");
    assert_eq!(looked_up(&api), 0);
    assert_eq!(ask(&mut api_server, &good()).await["allowed"], true);
    assert_eq!(looked_up(&api), 1);
}

#[tokio::test]
async fn a_new_path_is_told_to_the_api_server_and_the_old_one_is_answered_at_for_a_while() {
    let (api, directory) = cluster();
    let (one, two) = (Injector::start(&directory), Injector::start(&directory));
    let mut senders = [client(&one, &api).await, client(&two, &api).await];
    let old = senders[0].path.clone();
    assert_eq!(senders[1].path, old, "replicas share it");
    // As if the path had been made two hours ago, and the next one an hour ago.
    let written = |api: &FakeApi| {
        let secret = api.object(SECRETS, NAMESPACE, "keyward-injector-tls").unwrap();
        let text = |key: &str| STANDARD.decode(secret["data"][key].as_str().unwrap()).unwrap();
        (String::from_utf8(text("paths")).unwrap(), String::from_utf8(text("paths.since")).unwrap())
    };
    let (before, since) = written(&api);
    assert_eq!(format!("/mutate/{before}"), old);
    let mut secret = api.object(SECRETS, NAMESPACE, "keyward-injector-tls").unwrap();
    let newer = "n".repeat(43);
    let three_minutes_ago =
        time::OffsetDateTime::parse(&since, &time::format_description::well_known::Rfc3339).unwrap()
            - time::Duration::minutes(3);
    let three_minutes_ago = three_minutes_ago.format(&time::format_description::well_known::Rfc3339).unwrap();
    secret["data"]["paths"] = json!(STANDARD.encode(format!("{newer}\n{before}")));
    secret["data"]["paths.since"] = json!(STANDARD.encode(three_minutes_ago));
    api.put(SECRETS, secret);
    api.until("the new path told", |api| path(api).is_some_and(|path| path.ends_with(&newer))).await;
    for sender in &mut senders {
        // Each replica reads the Secret within ten seconds; both paths are answered at.
        let new = format!("/mutate/{newer}");
        let end = tokio::time::Instant::now() + Duration::from_secs(30);
        while post(sender, &new, question(&good(), "shop")).await.0 != 200 {
            assert!(tokio::time::Instant::now() < end, "the new path is not answered at");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(post(sender, &old, question(&good(), "shop")).await.0, 200);
    }
}

#[tokio::test]
async fn a_certificate_of_others_leaves_the_path_and_only_the_path_to_the_injector() {
    let (api, directory) = cluster();
    // As cert-manager would make one.
    let made = rcgen::generate_simple_self_signed([format!("keyward-injector.{NAMESPACE}.svc")]).unwrap();
    std::fs::write(directory.path().join("tls.crt"), made.cert.pem()).unwrap();
    std::fs::write(directory.path().join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    api.put(SECRETS, json!({"metadata": {"name": "keyward-injector-path", "namespace": NAMESPACE}}));
    let files = directory.path().to_str().unwrap();
    let words = ["--certificates-mode", "files", "--certificates-directory", files];
    let injector = Injector::start_with(&directory, &words);
    api.until("a path", |api| path(api).is_some()).await;
    assert!(bundle(&api).is_none(), "cert-manager writes it");
    let mut sender = client_that_trusts(&injector, &api, made.cert.pem().as_bytes()).await;
    assert_eq!(ask(&mut sender, &good()).await["allowed"], true);
    let secret = api.object(SECRETS, NAMESPACE, "keyward-injector-path").unwrap();
    let keys: Vec<_> = secret["data"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["paths", "paths.since"]);
}

#[tokio::test]
async fn pods_of_excluded_namespaces_are_left_alone_and_nothing_is_looked_up_about_them() {
    let (api, directory) = cluster();
    let injector = Injector::start_with(&directory, &["--excluded-namespaces", "[kube-system, vip]"]);
    let mut sender = client(&injector, &api).await;
    for namespace in ["kube-system", "vip", NAMESPACE] {
        let answer = ask_in(&mut sender, namespace, &good()).await;
        assert_eq!(answer, json!({"uid": "7", "allowed": true}), "{namespace}");
    }
    assert!(!api.requests().iter().any(|path| path.contains("serviceaccounts")));
    assert!(ask_in(&mut sender, "shop", &good()).await["patch"].is_string());
}

#[tokio::test]
async fn a_refusal_repeats_nothing_of_a_config_map() {
    let (api, directory) = cluster();
    let injector = Injector::start(&directory);
    let mut sender = client(&injector, &api).await;
    let asked = pod(&json!({"keyward.dev/config": "settings"}));
    for text in [
        "objects: [kv://xyzzy/secrets/db]\nxyzzy: 1\n",
        "files: {xyzzy: 1}\nobjects: [kv://shop/secrets/db]\n",
        "objects: [{from: 'https://xyzzy.example/secrets/db'}]\n",
        "objects: [{from: kv://shop/secrets/db, xyzzy: 1}]\n",
        "objects: [{from: kv://shop/secrets/db, name: xyzzy, uid: 77}]\n",
        "objects: [{from: kv://shop/secrets/db, name: xyzzy, notify: {exec: [xyzzy]}}]\n",
        "rotation: {interval: xyzzy}\nobjects: [kv://shop/secrets/db]\n",
        "xyzzy: [",
    ] {
        let map =
            json!({"metadata": {"name": "settings", "namespace": "shop"}, "data": {"config.yaml": text}});
        api.put(CONFIG_MAPS, map);
        let answer = ask(&mut sender, &asked).await;
        assert_eq!(answer["allowed"], false, "{text}");
        let message = answer["status"]["message"].as_str().unwrap();
        assert!(message.contains("ConfigMap settings") && message.contains("--explain"), "{message}");
        assert!(!answer.to_string().contains("xyzzy") && !message.contains("77"), "{message}");
    }
}
