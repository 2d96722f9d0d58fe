//! What happens around tokens: refused ones, missing ones, other tenants.

use std::time::Duration;

use futures::future::join_all;

use super::script::{Reply, TENANT, Tokens};
use super::*;

const OTHER_TENANT: &str = "99999999-2222-3333-4444-555555555555";

fn unauthorized() -> Reply {
    reply(401, r#"{"error":{"code":"Unauthorized","message":"AKV10032: Invalid issuer."}}"#).with(
        "www-authenticate",
        &format!(
            r#"Bearer authorization="https://login.windows.net/{TENANT}", resource="https://vault.azure.net""#
        ),
    )
}

fn only_token(good: &'static str) -> Script {
    Script::answering(move |sent| {
        if sent.token.as_deref() == Some(good) {
            reply(200, &secret_body("db", VERSION, "x"))
        } else {
            unauthorized()
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_replaced_once_and_the_read_succeeds() {
    let script = only_token("token-2");
    script.provider().fetch(&read("kv://shop/secrets/db")).await.unwrap_or_else(|e| panic!("{e}"));
    let tokens: Vec<_> = script.log().iter().map(|sent| sent.token.clone()).collect();
    assert_eq!(tokens, [None, Some("token-1".to_owned()), Some("token-2".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn twenty_refused_reads_share_one_fresh_token() {
    let script = only_token("token-2").taking(Duration::from_millis(20));
    let provider = script.provider();
    let request = read("kv://shop/secrets/db");
    let reads = join_all((0..20).map(|_| provider.fetch(&request))).await;
    assert!(reads.iter().all(Result::is_ok));
    assert_eq!(script.tokens.exchanges(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_fresh_token_that_is_refused_too_ends_the_read_and_is_not_replaced_for_a_minute() {
    let script = only_token("token-9");
    let provider = script.provider();
    let request = read("kv://shop/secrets/db");
    let error = error_of(provider.fetch(&request).await);
    assert_eq!(error.code(), Code::VaultUnauthenticated);
    assert!(error.message().contains("AKV10032") && !error.message().contains("issuer"), "{error}");
    assert_eq!((script.log().len(), script.tokens.exchanges()), (3, 2));
    error_of(provider.fetch(&request).await);
    assert_eq!((script.log().len(), script.tokens.exchanges()), (4, 2));
    tokio::time::advance(Duration::from_secs(61)).await;
    error_of(provider.fetch(&request).await);
    assert_eq!((script.log().len(), script.tokens.exchanges()), (6, 3));
}

#[tokio::test(start_paused = true)]
async fn a_vault_of_another_tenant_is_explained_by_name() {
    let mut script = only_token("token-9");
    script.tokens = Arc::new(Tokens::of_tenant(OTHER_TENANT));
    let error = error_of(script.provider().fetch(&read("kv://shop/secrets/db")).await);
    assert_eq!(error.code(), Code::VaultUnauthenticated);
    assert!(error.message().contains(&format!("trusts tenant {TENANT}")), "{error}");
    assert!(error.message().contains(&format!("from tenant {OTHER_TENANT}")), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_token_exchange_is_told_as_it_is_and_not_repeated_here() {
    let script = only_token("token-1");
    script.tokens.set_failure(Some(Error::new(Code::TokenUnavailable, "the token endpoint is down")));
    let error = error_of(script.provider().fetch(&read("kv://shop/secrets/db")).await);
    assert_eq!((error.code(), script.tokens.resources().len()), (Code::TokenUnavailable, 1));
    assert!(error.object_name().is_some() && error.identity_name().is_some());
    assert!(script.log().iter().all(|sent| sent.token.is_none()));
}

#[tokio::test(start_paused = true)]
async fn slow_failing_token_exchanges_hold_nobody_up_in_turn() {
    let script = only_token("token-1");
    script.tokens.set_latency(Duration::from_secs(2));
    script.tokens.set_failure(Some(Error::new(Code::TokenUnavailable, "down")));
    let provider = script.provider();
    let request = read("kv://shop/secrets/db");
    let begun = Instant::now();
    let reads = join_all((0..10).map(|_| provider.fetch(&request))).await;
    assert!(reads.iter().all(Result::is_err));
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_managed_hsm_gets_a_token_of_the_audience_that_its_challenge_names() {
    let id = format!("https://vault1.managedhsm.azure.net/keys/k/{VERSION}");
    let body = format!(r#"{{"key":{{"kid":"{id}","kty":"EC-HSM","crv":"P-256","x":"AA","y":"AA"}}}}"#);
    let script = Script::answering(move |_| reply(200, &body))
        .challenging(r#"Bearer authorization="https://x.y/t", resource="https://managedhsm.azure.net""#);
    let request = read("https://vault1.managedhsm.azure.net/keys/k");
    script.provider().fetch(&request).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(script.tokens.resources().last().map(String::as_str), Some("https://managedhsm.azure.net"));
}
