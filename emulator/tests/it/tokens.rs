//! What a vault makes of tokens, and of identities without rights.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use keyward_emulator::{Collection, Emulator, Permission, Registration, TokioClock};
use serde_json::Value;

use crate::client::{in_process, world};

#[tokio::test(start_paused = true)]
async fn a_token_expires_when_its_time_is_up() {
    let clock = Arc::new(TokioClock::starting_at(1_800_000_000));
    let world = in_process(Emulator::builder().clock(clock));
    world.emulator.vault("shop").set_secret("db", "x");
    assert_eq!(world.status("/secrets/db").await, 200);
    tokio::time::sleep(Duration::from_secs(3599)).await;
    assert_eq!(world.status("/secrets/db").await, 200);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.status("/secrets/db").await, 401);
}

#[tokio::test]
async fn tokens_for_another_audience_or_tenant_or_by_another_signer_are_refused_by_number() {
    let mut world = world().await;
    world.emulator.vault("shop").set_secret("db", "x");
    let hour = Duration::from_secs(3600);
    let stranger = world.emulator.identities().register(Registration::application().tenant("other-tenant"));
    let elsewhere = Emulator::builder().build();
    let tokens = [
        (world.emulator.mint_access_token(&world.identity, "https://management.azure.com", hour), "AKV10022"),
        (world.emulator.mint_access_token(&stranger, "https://vault.azure.net", hour), "AKV10032"),
        (elsewhere.mint_access_token(&world.identity, "https://vault.azure.net", hour), "AKV10046"),
        ("nonsense".to_owned(), "AKV10046"),
    ];
    for (token, number) in tokens {
        world.token = token;
        let answer = world.get("/secrets/db").await;
        assert_eq!(answer.status, 401);
        assert!(
            answer.json()["error"]["message"].as_str().is_some_and(|text| text.starts_with(number)),
            "{number}"
        );
        assert!(answer.header("www-authenticate").starts_with("Bearer authorization="));
    }
}

#[tokio::test]
async fn rights_are_checked_per_operation_and_per_object() {
    let mut world = world().await;
    let shop = world.emulator.vault("shop");
    shop.set_secret("db", "x");
    shop.set_secret("other", "x");
    let reader = world.emulator.identities().register(Registration::application());
    world.token =
        world.emulator.mint_access_token(&reader, "https://vault.azure.net", Duration::from_secs(3600));
    let refused = world.get("/secrets/db").await;
    assert_eq!(refused.codes(), ("Forbidden".to_owned(), "ForbiddenByRbac".to_owned()));
    let message = refused.json()["error"]["message"].as_str().expect("text").to_owned();
    for line in [
        format!("Caller: appid={};oid={};iss=https://sts.windows.net/", reader.client_id, reader.object_id),
        "Action: 'Microsoft.KeyVault/vaults/secrets/getSecret/action'".to_owned(),
        "Vault: shop;location=westeurope".to_owned(),
    ] {
        assert!(message.contains(&line), "{message}");
    }
    shop.assign_object(&reader, Collection::Secrets, "db", [Permission::SECRETS_GET]);
    assert_eq!(world.get("/secrets/db").await.status, 200);
    assert_eq!(world.get("/secrets/other").await.status, 403);
    assert_eq!(world.get("/secrets").await.status, 403);
    shop.assign(&reader, [Permission::SECRETS_LIST]);
    assert_eq!(world.get("/secrets").await.status, 200);
    assert_eq!(world.call(Method::DELETE, "/secrets/db", Value::Null).await.status, 403);
    shop.revoke(&reader);
    assert_eq!(world.get("/secrets/db").await.status, 403);
}

#[tokio::test]
async fn requests_are_counted_by_operation_site_and_status() {
    let world = world().await;
    world.emulator.vault("shop").set_secret("db", "x");
    world.get_without_token("/secrets/db").await;
    world.get("/secrets/db").await;
    world.get("/secrets/absent").await;
    world.get("/secrets").await;
    let counters = world.emulator.counters();
    assert_eq!(counters.requests("secrets.get"), 3);
    assert_eq!(counters.with_status("secrets.get", 200), 1);
    assert_eq!(counters.with_status("*", 401), 1);
    assert_eq!(counters.at("shop", "vault.*"), 4);
    assert_eq!(counters.connections().accepted, 4);
    counters.reset();
    assert_eq!(counters.requests("*"), 0);
}
