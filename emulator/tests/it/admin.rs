//! The admin API and the state file.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use keyward_emulator::{Emulator, StateFile};
use serde_json::{Value, json};

use crate::client::{Answer, World, send_plain, world};

async fn admin(emulator: &Emulator, method: Method, path: &str, body: Value) -> Answer {
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    send_plain(&emulator.admin_url(), request.body(Full::new(body)).expect("request")).await.expect("answer")
}

#[tokio::test]
async fn faults_are_set_listed_and_lifted() {
    let world = world().await;
    let emulator = &world.emulator;
    world.emulator.vault("shop").set_secret("db", "x");
    let fault = json!({"operation": "secrets.get", "effect": {"kind": "status", "status": 503}});
    let set = admin(emulator, Method::POST, "/faults", fault).await;
    let id = set.json()["id"].as_u64().expect("id");
    assert_eq!(world.get("/secrets/db").await.status, 503);
    assert_eq!(
        admin(emulator, Method::GET, "/faults", Value::Null).await.json()[0]["fault"]["effect"]["kind"],
        "status"
    );
    assert_eq!(admin(emulator, Method::DELETE, &format!("/faults/{id}"), Value::Null).await.status, 204);
    assert_eq!(admin(emulator, Method::DELETE, &format!("/faults/{id}"), Value::Null).await.status, 404);
    assert_eq!(world.get("/secrets/db").await.status, 200);
    for bad in [
        json!({"effect": {"kind": "unheard-of"}}),
        json!({"operation": "x"}),
        json!({"effect": {"kind": "hang"}, "typo": 1}),
    ] {
        assert_eq!(admin(emulator, Method::POST, "/faults", bad).await.status, 400);
    }
}

#[tokio::test]
async fn secrets_identities_rights_and_tokens_come_without_a_library() {
    let mut world = world().await;
    let set = admin(&world.emulator, Method::PUT, "/vaults/shop/secrets/db", json!({"value": "v"})).await;
    assert_eq!(set.json()["version"].as_str().map(str::len), Some(32));
    let identity = json!({"federated": [{"subject": "system:serviceaccount:a:b", "audience": "api://AzureADTokenExchange"}]});
    let identity = admin(&world.emulator, Method::POST, "/identities", identity).await.json();
    let assignment =
        json!({"clientId": identity["clientId"], "vault": "shop", "permissions": ["secrets.get"]});
    assert_eq!(admin(&world.emulator, Method::POST, "/assignments", assignment).await.status, 204);
    let mint = json!({"namespace": "a", "serviceAccount": "b", "audience": "api://AzureADTokenExchange"});
    let token = admin(&world.emulator, Method::POST, "/issuer/token", mint).await;
    assert_eq!(token.header("content-type"), "application/jwt");
    assert!(keyward_emulator::parse_unchecked(&token.body).is_some());
    let registered =
        world.emulator.identities().find(identity["clientId"].as_str().expect("id")).expect("registered");
    world.token = world.emulator.mint_access_token(
        &registered,
        "https://vault.azure.net",
        std::time::Duration::from_secs(60),
    );
    assert_eq!(world.get("/secrets/db").await.json()["value"], "v");
    let pem = admin(&world.emulator, Method::GET, "/ca.pem", Value::Null).await;
    assert_eq!(pem.body, world.emulator.ca_pem());
}

#[tokio::test]
async fn counters_clock_and_schedules_answer() {
    let world = world().await;
    let emulator = &world.emulator;
    world.get("/secrets").await;
    let counters = admin(emulator, Method::GET, "/counters", Value::Null).await.json();
    assert_eq!(
        counters["requests"],
        json!([{"operation": "secrets.list", "site": "shop", "status": 200, "count": 1}])
    );
    assert_eq!(counters["connections"]["accepted"], 1);
    assert_eq!(admin(emulator, Method::DELETE, "/counters", Value::Null).await.status, 204);
    assert_eq!(emulator.counters().requests("*"), 0);
    let before = emulator.now();
    admin(emulator, Method::POST, "/clock", json!({"advanceSeconds": 7200})).await;
    assert!(emulator.now() >= before + 7200);
    assert_eq!(world.get("/secrets").await.status, 401, "tokens are two hours older");
    let play = admin(emulator, Method::POST, "/schedules", json!({"name": "ftvr-l9z", "speed": 60})).await;
    assert_eq!(play.json()["lastsSeconds"], 330.0);
    let schedules = admin(emulator, Method::GET, "/schedules", Value::Null).await.json();
    assert_eq!(schedules["playing"], json!(["ftvr-l9z"]));
    for bad in [json!({"name": "unknown"}), json!({}), json!({"name": "ftvr-l9z", "speed": 0})] {
        assert!(admin(emulator, Method::POST, "/schedules", bad).await.status >= 400);
    }
}

#[tokio::test]
async fn a_browser_is_turned_away() {
    let world = world().await;
    let request =
        Request::delete("/faults").header("host", "localhost").header("origin", "https://evil.example");
    let request = request.body(Full::new(Bytes::new())).expect("request");
    assert_eq!(send_plain(&world.emulator.admin_url(), request).await.expect("answer").status, 403);
}

#[tokio::test]
async fn a_state_file_is_applied_whole_or_refused_without_showing_a_value() {
    let json = json!({
        "vaults": [{"name": "shop", "aliases": ["kv.internal"], "secrets": [
            {"name": "db", "value": "v", "contentType": "text/plain"}, {"name": "off", "value": "v", "disabled": true},
        ]}],
        "identities": [{"clientId": "c", "clientSecrets": ["s"]}],
        "assignments": [{"clientId": "c", "vault": "shop", "object": "secrets/db", "permissions": ["secrets.get"]}],
    });
    let emulator = Emulator::builder().build();
    StateFile::parse(json.to_string().as_bytes()).expect("valid").apply(&emulator).expect("applies");
    let identity = emulator.identities().find("c").expect("registered");
    let token =
        emulator.mint_access_token(&identity, "https://vault.azure.net", std::time::Duration::from_secs(60));
    let world = World { emulator, identity, token, http2: true };
    assert_eq!((world.status("/secrets/db").await, world.status("/secrets/off").await), (200, 403));

    for bad in [
        json!({"vaults": [{"name": "shop", "secrets": [{"name": "a_b", "value": "hunter2"}]}]}),
        json!({"identities": [{"kind": "userAssigned"}]}),
        json!({"identities": [{"certificatesPem": ["hunter2"]}]}),
        json!({"assignments": [{"clientId": "nobody", "vault": "shop", "permissions": []}]}),
    ] {
        let emulator = Emulator::builder().build();
        let refused = StateFile::parse(bad.to_string().as_bytes()).expect("well formed").apply(&emulator);
        assert!(!refused.expect_err("refused").contains("hunter2"));
    }
    let Err(error) = StateFile::parse(br#"{"vaults": [{"name": "shop", "secrets": "hunter2"}]}"#) else {
        panic!("a string is no list");
    };
    assert!(error.contains("line 1 column") && !error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn the_state_file_and_the_fault_that_the_readme_shows_are_valid() {
    let readme = include_str!("../../README.md");
    let state =
        readme.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let emulator = Emulator::builder().build();
    StateFile::parse(state.as_bytes()).expect("valid").apply(&emulator).expect("applies");
    assert_eq!(emulator.identities().list().len(), 3);
    let fault =
        readme.split("/faults\" -d '").nth(1).and_then(|rest| rest.split('\'').next()).expect("an example");
    let fault: keyward_emulator::Fault = serde_json::from_str(fault).expect("valid");
    assert_eq!(fault.times, Some(2));
}
