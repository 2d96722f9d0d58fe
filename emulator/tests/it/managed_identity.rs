//! IMDS and App Service over the wire.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use keyward_emulator::{Effect, Emulator, Fault, Registration};
use serde_json::Value;

use crate::client::{Answer, send_plain, world};

const QUERY: &str = "api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";

async fn imds(emulator: &Emulator, query: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request =
        Request::get(format!("/metadata/identity/oauth2/token?{query}")).header("host", "169.254.169.254");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::new())).expect("request");
    send_plain(&emulator.imds_url(), request).await.expect("answer")
}

async fn ask(emulator: &Emulator, query: &str) -> Answer {
    imds(emulator, query, &[("metadata", "true")]).await
}

#[tokio::test]
async fn times_are_decimal_strings_and_the_token_opens_the_vault() {
    let mut world = world().await;
    let system = world.emulator.identities().register(Registration::system_assigned());
    world.emulator.assign(&system, "shop", [keyward_emulator::Permission::SECRETS_GET]);
    world.emulator.vault("shop").set_secret("db", "x");
    let answer = ask(&world.emulator, QUERY).await;
    assert_eq!(answer.status, 200);
    let body = answer.json();
    for name in ["expires_in", "expires_on", "not_before"] {
        assert!(
            body[name].as_str().is_some_and(|text| text.parse::<i64>().is_ok()),
            "{name}: {}",
            body[name]
        );
    }
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["resource"], "https://vault.azure.net");
    assert_eq!(body["client_id"], system.client_id.as_str());
    world.token = body["access_token"].as_str().expect("token").to_owned();
    assert_eq!(world.get("/secrets/db").await.status, 200);
}

#[tokio::test]
async fn each_selector_finds_its_identity_and_no_other() {
    let emulator = Emulator::builder().start().await.expect("starts");
    assert_eq!(ask(&emulator, QUERY).await.status, 400);
    let user = emulator.identities().register(Registration::user_assigned("/subscriptions/0/u"));
    // The only one there is needs no selector.
    assert_eq!(ask(&emulator, QUERY).await.json()["client_id"], user.client_id.as_str());
    emulator.identities().register(Registration::user_assigned("/subscriptions/0/v"));
    let several = ask(&emulator, QUERY).await;
    assert_eq!((several.status, &several.json()["error"]), (400, &Value::from("invalid_request")));
    for selector in [
        format!("client_id={}", user.client_id),
        format!("object_id={}", user.object_id),
        "msi_res_id=%2Fsubscriptions%2F0%2Fu".to_owned(),
    ] {
        let answer = ask(&emulator, &format!("{QUERY}&{selector}")).await;
        assert_eq!(answer.json()["client_id"], user.client_id.as_str(), "{selector}");
    }
    let unknown = ask(&emulator, &format!("{QUERY}&client_id=nobody")).await;
    assert_eq!(
        (unknown.status, &unknown.json()["error_description"]),
        (400, &Value::from("Identity not found"))
    );
    let both =
        ask(&emulator, &format!("{QUERY}&client_id={}&object_id={}", user.client_id, user.object_id)).await;
    assert_eq!(both.status, 400);
    let app = emulator.identities().register(Registration::application());
    assert_eq!(ask(&emulator, &format!("{QUERY}&client_id={}", app.client_id)).await.status, 400);
}

#[tokio::test]
async fn the_metadata_header_the_version_and_the_resource_are_mandatory() {
    let emulator = Emulator::builder().start().await.expect("starts");
    emulator.identities().register(Registration::system_assigned());
    for (query, headers, error) in [
        (QUERY, &[][..], "bad_request_102"),
        (QUERY, &[("metadata", "True")][..], "bad_request_102"),
        (QUERY, &[("metadata", "true"), ("x-forwarded-for", "10.0.0.1")][..], "bad_request_103"),
        ("resource=https%3A%2F%2Fvault.azure.net", &[("metadata", "true")][..], "bad_request_104"),
        ("api-version=2018-02-01", &[("metadata", "true")][..], "invalid_request"),
        ("api-version=2018-02-01&resource=https%3A%2F%2Fx", &[("metadata", "true")][..], "invalid_resource"),
    ] {
        let answer = imds(&emulator, query, headers).await;
        assert_eq!((answer.status, &answer.json()["error"]), (400, &Value::from(error)), "{query}");
    }
}

#[tokio::test]
async fn app_service_wants_its_own_header_and_spells_the_resource_id_its_own_way() {
    let emulator = Emulator::builder().app_service_secret("sesame").start().await.expect("starts");
    let user = emulator.identities().register(Registration::user_assigned("/u"));
    emulator.identities().register(Registration::system_assigned());
    let ask = |query: &str, header: &str| {
        let request = Request::get(format!(
            "/msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fvault.azure.net{query}"
        ))
        .header("host", "localhost")
        .header("x-identity-header", header)
        .body(Full::new(Bytes::new()))
        .expect("request");
        let url = emulator.app_service_url();
        async move { send_plain(&url, request).await.expect("answer") }
    };
    assert_eq!(ask("", "wrong").await.status, 401);
    let body = ask("&mi_res_id=%2Fu", "sesame").await.json();
    assert_eq!(body["client_id"], user.client_id.as_str());
    assert!(body["expires_on"].is_string() && body.get("expires_in").is_none());
}

#[tokio::test]
async fn imds_can_be_absent_updating_or_throttled_for_a_while() {
    let emulator = Emulator::builder().start().await.expect("starts");
    emulator.identities().register(Registration::system_assigned());
    for status in [404, 410, 429, 500] {
        emulator.faults().set(Fault::on("token.imds", Effect::Status { status, retry_after: None }).times(1));
        assert_eq!(ask(&emulator, QUERY).await.status, status);
        assert_eq!(ask(&emulator, QUERY).await.status, 200);
    }
    assert_eq!(emulator.counters().at("imds", "token.imds"), 8);
}
