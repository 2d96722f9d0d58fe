//! The provider on a scripted transport: what is sent, how often, and what becomes of each answer, in paused time.
//!
//! Tests named `limit_NN` each hold one limit of the SDK down that a broker cannot live with; `limits` says which.

mod limits;
mod script;
mod tokens;

use keyward_core::cloud::Cloud;

use super::*;
use script::{Script, reply};

const VERSION: &str = "0123456789abcdef0123456789abcdef";
const OTHER_VERSION: &str = "fedcba9876543210fedcba9876543210";

fn object(text: &str) -> ObjectRef {
    ObjectRef::parse(text, &Cloud::public()).unwrap().0
}

fn read(text: &str) -> FetchRequest {
    FetchRequest { object: object(text), parts: Parts::Object }
}

fn secret_body(name: &str, version: &str, value: &str) -> String {
    serde_json::json!({"value": value, "id": format!("https://shop.vault.azure.net/secrets/{name}/{version}"),
        "attributes": {"enabled": true, "created": 1, "updated": 2}})
    .to_string()
}

fn error_of<T>(result: Result<T>) -> Error {
    result.err().expect("this has to fail")
}

#[tokio::test(start_paused = true)]
async fn a_read_names_the_request_id_that_the_vault_can_find_it_by() {
    let script = Script::answering(|_| reply(200, &secret_body("db", VERSION, "x")));
    let fetched =
        script.provider().fetch(&read("kv://shop/secrets/db")).await.unwrap_or_else(|e| panic!("{e}"));
    let sent = script.log().last().and_then(|sent| sent.request_id.clone());
    assert!(sent.is_some() && fetched.request_id == sent);
}

#[tokio::test(start_paused = true)]
async fn every_request_asks_for_the_configured_api_version() {
    let script = Script::answering(|_| reply(200, &secret_body("db", VERSION, "x")));
    script.provider().fetch(&read("kv://shop/secrets/db")).await.unwrap_or_else(|e| panic!("{e}"));
    assert!(script.log().iter().all(|sent| sent.url.contains("api-version=7.4")));
    let newer = Script::answering(|_| reply(200, &secret_body("db", VERSION, "x")));
    let provider = newer.provider_with(|settings| settings.api_version = Some("2025-07-01".to_owned()));
    provider.fetch(&read("kv://shop/secrets/db")).await.unwrap_or_else(|e| panic!("{e}"));
    assert!(newer.log().iter().all(|sent| sent.url.contains("api-version=2025-07-01")));
}

#[tokio::test(start_paused = true)]
async fn an_answer_about_another_object_is_no_answer() {
    for id in [
        format!("https://other.vault.azure.net/secrets/db/{VERSION}"),
        format!("https://shop.vault.azure.net/secrets/other/{VERSION}"),
        format!("https://shop.vault.azure.net/keys/db/{VERSION}"),
        format!("https://shop.vault.azure.net/secrets/db/{OTHER_VERSION}"),
    ] {
        let script = Script::answering(move |_| reply(200, &format!(r#"{{"value":"x","id":"{id}"}}"#)));
        let error =
            error_of(script.provider().fetch(&read(&format!("kv://shop/secrets/db/{VERSION}"))).await);
        assert_eq!(error.code(), Code::VaultProtocol);
        assert_eq!(error.object_name(), Some(&*format!("https://shop.vault.azure.net/secrets/db/{VERSION}")));
        assert_eq!(error.identity_name(), Some("workload-identity client ours tenant tenant"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_bundle_is_read_at_the_version_that_the_certificate_names() {
    let script = Script::answering(|request| {
        if request.url.contains("/certificates/") {
            reply(
                200,
                &serde_json::json!({"id": format!("https://shop.vault.azure.net/certificates/tls/{VERSION}"),
                "sid": format!("https://shop.vault.azure.net/secrets/tls/{OTHER_VERSION}"), "cer": "AQID"})
                .to_string(),
            )
        } else {
            reply(200, &serde_json::json!({"id": format!("https://shop.vault.azure.net/secrets/tls/{OTHER_VERSION}"),
                "kid": "k", "contentType": "application/x-pkcs12", "value": "AA=="}).to_string())
        }
    });
    let request = FetchRequest { object: object("kv://shop/certificates/tls"), parts: Parts::Bundle };
    let fetched = script.provider().fetch(&request).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(fetched.version.as_str(), VERSION);
    let Content::Certificate(content) = fetched.content else { panic!("a certificate") };
    assert!(matches!(content.bundle, Some((BundleType::Pfx, _))));
    let last = script.log().last().map(|sent| sent.url.clone()).unwrap();
    assert!(last.contains(&format!("/secrets/tls/{OTHER_VERSION}")), "{last}");
}

#[tokio::test(start_paused = true)]
async fn a_disabled_key_or_certificate_is_not_given_out_though_the_vault_shows_it() {
    let script = Script::answering(|request| {
        let (body, collection) = if request.url.contains("/keys/") {
            (r#""key":{"kty":"RSA","n":"AQAB","e":"AQAB","kid":"@"}"#, "keys")
        } else {
            (r#""cer":"AQID","id":"@""#, "certificates")
        };
        let id = format!("https://shop.vault.azure.net/{collection}/tls/{VERSION}");
        reply(200, &format!("{{{},\"attributes\":{{\"enabled\":false}}}}", body.replace('@', &id)))
    });
    for collection in ["keys", "certificates"] {
        let error = error_of(script.provider().fetch(&read(&format!("kv://shop/{collection}/tls"))).await);
        assert_eq!(error.code(), Code::ObjectDisabled);
    }
}

#[tokio::test(start_paused = true)]
async fn warming_up_asks_for_challenge_and_token_and_nothing_else() {
    let script = Script::answering(|_| reply(200, &secret_body("db", VERSION, "x")));
    let provider = script.provider();
    provider.warm_up(&VaultHost::parse("shop.vault.azure.net").unwrap()).await;
    assert_eq!((script.log().len(), script.tokens.exchanges()), (1, 1));
    provider.fetch(&read("kv://shop/secrets/db")).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((script.log().len(), script.tokens.exchanges()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn no_request_looks_a_vaults_name_up_without_somebodys_share() {
    let script = Script::answering(|request| match request.url.contains("/versions") {
        true => reply(200, r#"{"value":[]}"#),
        false => reply(200, &secret_body("db", VERSION, "x")),
    });
    let db = object("kv://shop/secrets/db");
    let (provider, host) = (script.provider(), db.host().clone());
    provider.prepare(&host).await;
    provider.warm_up(&host).await;
    assert!(provider.versions(&db, 9).await.is_ok());
    assert!(provider.list(&host, Collection::Secrets, 9).await.is_err());
    assert!(provider.fetch(&read("kv://shop/secrets/db")).await.is_ok());
    let identity = script.tokens.identity().to_string();
    let askers: Vec<_> = script.log().into_iter().map(|sent| sent.asker).collect();
    assert!(
        askers.len() >= 4 && askers.iter().all(|asker| asker.as_deref() == Some(&*identity)),
        "{askers:?}"
    );

    let pod = Priority::current().asked_by("pod".into());
    assert!(pod.scope(provider.versions(&db, 9)).await.is_ok());
    assert_eq!(script.log().last().and_then(|sent| sent.asker.clone()).as_deref(), Some("pod"));
}

#[tokio::test(start_paused = true)]
async fn three_clients_of_one_vault_share_one_challenge() {
    let script = Script::answering(|_| reply(404, r#"{"error":{"code":"SecretNotFound"}}"#));
    let provider = script.provider();
    for collection in ["secrets", "keys", "certificates"] {
        let error = error_of(provider.fetch(&read(&format!("kv://shop/{collection}/db"))).await);
        assert_eq!(error.code(), Code::ObjectNotFound);
    }
    assert_eq!((script.unsigned(), script.log().len()), (1, 4));
}

#[tokio::test(start_paused = true)]
async fn versions_are_sorted_by_age_and_those_of_one_second_stay_as_listed() {
    let line = |version: &str, created: u64| {
        serde_json::json!({"id": format!("https://shop.vault.azure.net/secrets/db/{version}"),
            "attributes": {"created": created, "updated": created}})
    };
    let lines = [line(VERSION, 5), line(OTHER_VERSION, 9), line(&"a".repeat(32), 5)];
    let body = serde_json::json!({"value": lines}).to_string();
    let script = Script::answering(move |_| reply(200, &body));
    let versions = script.provider().versions(&object("kv://shop/secrets/db"), 9).await.unwrap();
    assert_eq!(
        versions.iter().map(|line| line.version.as_str()).collect::<Vec<_>>(),
        [OTHER_VERSION, VERSION, &"a".repeat(32)]
    );
}
