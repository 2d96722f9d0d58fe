//! Certificates over the wire. What comes out is read by clients of other makes in tests/conformance.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::json;

use crate::client::world;

const PFX: &str = "application/x-pkcs12";
const PEM: &str = "application/x-pem-file";

#[tokio::test]
async fn a_self_signed_certificate_is_pending_first_and_then_there_with_key_and_secret() {
    let world = world().await;
    let policy = json!({"policy": {
        "issuer": {"name": "Self"}, "key_props": {"kty": "EC", "crv": "P-256"},
        "secret_props": {"contentType": PEM}, "x509_props": {"subject": "CN=shop.example"},
    }});
    let created = world.call(Method::POST, "/certificates/web/create", policy).await;
    assert_eq!(created.status, 202);
    assert_eq!(created.json()["status"], "inProgress");
    assert!(created.header("location").contains("/certificates/web/pending"));
    let pending = world.get("/certificates/web/pending").await.json();
    assert_eq!(pending["status"], "completed");
    assert_eq!(pending["target"], "https://shop.vault.azure.net/certificates/web");

    let certificate = world.get("/certificates/web").await.json();
    let version = certificate["id"].as_str().and_then(|id| id.rsplit('/').next()).expect("version");
    assert_eq!(certificate["kid"], format!("https://shop.vault.azure.net/keys/web/{version}"));
    assert_eq!(certificate["sid"], format!("https://shop.vault.azure.net/secrets/web/{version}"));
    assert!(STANDARD.decode(certificate["cer"].as_str().expect("cer")).is_ok());
    let secret = world.get("/secrets/web").await.json();
    assert_eq!((&secret["managed"], &secret["contentType"]), (&json!(true), &json!(PEM)));
    assert_eq!(secret["kid"], certificate["kid"]);
    let value = secret["value"].as_str().expect("value");
    assert!(
        value.starts_with("-----BEGIN PRIVATE KEY-----\n") && value.contains("-----BEGIN CERTIFICATE-----\n")
    );
    assert_eq!(
        world.get("/certificates/web/policy").await.json()["x509_props"]["subject"],
        "CN=shop.example"
    );
    assert_eq!(world.get("/keys/web").await.json()["managed"], true);
}

#[tokio::test]
async fn a_certificate_exported_as_pem_or_pfx_can_be_imported_again() {
    let world = world().await;
    let shop = world.emulator.vault("shop");
    for (name, content_type) in [("pem", PEM), ("pfx", PFX)] {
        shop.create_certificate(name, "shop.example", content_type);
        let exported = world.get(&format!("/secrets/{name}")).await.json();
        let body =
            json!({"value": exported["value"], "policy": {"secret_props": {"contentType": content_type}}});
        let imported = world.call(Method::POST, &format!("/certificates/{name}-again/import"), body).await;
        assert_eq!(imported.status, 200, "{name}");
        let original = world.get(&format!("/certificates/{name}")).await.json();
        assert_eq!(imported.json()["cer"], original["cer"]);
        assert_eq!(imported.json()["x5t"], original["x5t"]);
        assert_eq!(
            world.get(&format!("/keys/{name}-again")).await.json()["key"]["x"],
            world.get(&format!("/keys/{name}")).await.json()["key"]["x"]
        );
    }
}

#[tokio::test]
async fn imports_that_hold_no_certificate_with_its_key_are_refused_without_an_echo() {
    let world = world().await;
    for value in
        ["hunter2", "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n", "aHVudGVyMg=="]
    {
        let answer = world.call(Method::POST, "/certificates/c/import", json!({"value": value})).await;
        assert_eq!(answer.codes().0, "BadParameter");
        assert!(!String::from_utf8_lossy(&answer.body).contains("hunter2"));
    }
}

#[tokio::test]
async fn a_pfx_comes_as_pem_on_request_and_no_other_conversion_is_offered() {
    let world = world().await;
    let shop = world.emulator.vault("shop");
    shop.create_certificate("web", "shop.example", PFX);
    shop.set_secret("plain", "x");
    let converted = world.get(&format!("/secrets/web?outContentType={PEM}")).await.json();
    assert!(converted["value"].as_str().is_some_and(|value| value.contains("BEGIN PRIVATE KEY")));
    assert_eq!(converted["contentType"], PEM);
    assert_eq!(world.get(&format!("/secrets/plain?outContentType={PEM}")).await.status, 400);
}

#[tokio::test]
async fn a_certificate_takes_its_key_and_secret_along_and_neither_goes_alone() {
    let world = world().await;
    world.emulator.vault("shop").create_certificate("web", "shop.example", PEM);
    for path in ["/secrets/web", "/keys/web"] {
        assert_eq!(world.call(Method::DELETE, path, json!(null)).await.status, 403, "{path}");
    }
    assert_eq!(world.call(Method::DELETE, "/certificates/web", json!(null)).await.status, 200);
    for path in ["/secrets/web", "/keys/web", "/certificates/web"] {
        assert_eq!(world.get(path).await.status, 404, "{path}");
    }
    assert_eq!(world.call(Method::POST, "/deletedcertificates/web/recover", json!(null)).await.status, 200);
    for path in ["/secrets/web", "/keys/web", "/certificates/web"] {
        assert_eq!(world.get(path).await.status, 200, "{path}");
    }
}
