//! The token endpoint over the wire.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use keyward_emulator::{
    Emulator, IDENTITY_BINDING_AUDIENCE, ManualClock, Registration, TOKEN_EXCHANGE_AUDIENCE,
};
use serde_json::json;

use crate::client::{Answer, read, send_tls, world};

const SCOPE: &str = "https://vault.azure.net/.default";
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

fn form(fields: &[(&str, &str)]) -> String {
    let encode = |text: &str| {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    fields.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect::<Vec<_>>().join("&")
}

async fn post(emulator: &Emulator, tenant: &str, body: String) -> Answer {
    let request = Request::post(format!("/{tenant}/oauth2/v2.0/token"))
        .header("host", "login.microsoftonline.com")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::new(Bytes::from(body)))
        .expect("request");
    let (address, pem) = (emulator.vault_addr(), emulator.ca_pem());
    let response =
        send_tls(address, &pem, "login.microsoftonline.com", false, request).await.expect("answer");
    read(response).await.expect("body")
}

async fn with_secret(emulator: &Emulator, client_id: &str, secret: &str) -> Answer {
    let fields = [
        ("grant_type", "client_credentials"),
        ("client_id", client_id),
        ("scope", SCOPE),
        ("client_secret", secret),
    ];
    post(emulator, emulator.tenant_id(), form(&fields)).await
}

async fn with_assertion(emulator: &Emulator, client_id: &str, assertion: &str) -> Answer {
    let fields = [
        ("grant_type", "client_credentials"),
        ("client_id", client_id),
        ("scope", SCOPE),
        ("client_assertion_type", JWT_BEARER),
        ("client_assertion", assertion),
    ];
    post(emulator, emulator.tenant_id(), form(&fields)).await
}

fn number(answer: &Answer) -> i64 {
    let body = answer.json();
    let number = body["error_codes"][0].as_i64().expect("a number");
    let description = body["error_description"].as_str().expect("text");
    assert!(description.starts_with(&format!("AADSTS{number}: ")), "{description}");
    number
}

#[tokio::test]
async fn a_client_secret_gives_a_token_that_the_vault_takes() {
    let mut world = world().await;
    world.emulator.vault("shop").set_secret("db", "x");
    let answer = with_secret(&world.emulator, &world.identity.client_id, "right").await;
    assert_eq!(answer.status, 200);
    let body = answer.json();
    assert_eq!((&body["token_type"], &body["expires_in"]), (&json!("Bearer"), &json!(3599)));
    world.token = body["access_token"].as_str().expect("token").to_owned();
    assert_eq!(world.get("/secrets/db").await.status, 200);
}

#[tokio::test]
async fn each_mistake_has_its_own_number() {
    let clock = std::sync::Arc::new(ManualClock::starting_at(1_800_000_000));
    let emulator = Emulator::builder().clock(clock).start().await.expect("starts");
    let app = emulator.identities().register(
        Registration::application().client_secret("right").expiring_client_secret("stale", 1_700_000_000),
    );
    let id = app.client_id.as_str();
    let good = BTreeMap::from([
        ("grant_type", "client_credentials"),
        ("client_id", id),
        ("scope", SCOPE),
        ("client_secret", "right"),
    ]);
    for (field, value, status, expected) in [
        ("client_secret", "wrong", 401, 7_000_215),
        ("client_secret", "stale", 401, 7_000_222),
        ("client_secret", "", 401, 7_000_218),
        ("client_id", "00000000-0000-0000-0000-000000000000", 400, 700_016),
        ("client_id", "", 400, 900_144),
        ("grant_type", "password", 400, 70_003),
        ("scope", "https://vault.azure.net", 400, 1_002_012),
        ("scope", "https://nobody.example/.default", 400, 500_011),
    ] {
        let mut fields = good.clone();
        fields.insert(field, value);
        let fields: Vec<_> = fields.into_iter().collect();
        let answer = post(&emulator, emulator.tenant_id(), form(&fields)).await;
        assert_eq!((answer.status, number(&answer)), (status, expected), "{field}={value}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("stale"));
    }
    let fields: Vec<_> = good.into_iter().collect();
    assert_eq!(number(&post(&emulator, "no-such-tenant", form(&fields)).await), 90_002);
    assert_eq!(post(&emulator, emulator.tenant_id(), form(&fields)).await.status, 200);
}

#[tokio::test]
async fn a_service_account_token_is_exchanged_only_when_everything_matches() {
    let world = world().await;
    let emulator = &world.emulator;
    let issuer = emulator.issuer();
    let app = emulator.identities().register(Registration::application().federated(
        issuer.url(),
        "system:serviceaccount:shop:web",
        TOKEN_EXCHANGE_AUDIENCE,
    ));
    let hour = Duration::from_secs(3600);
    let mint =
        |namespace: &str, audience: &str| issuer.mint_service_account_token(namespace, "web", audience, hour);
    let good = mint("shop", TOKEN_EXCHANGE_AUDIENCE);
    let answer = with_assertion(emulator, &app.client_id, &good).await;
    assert_eq!((answer.status, &answer.json()["expires_in"]), (200, &json!(86_399)));

    let foreign = Emulator::builder().build();
    let forged = foreign.issuer().mint_service_account_token("shop", "web", TOKEN_EXCHANGE_AUDIENCE, hour);
    let claims = |change: serde_json::Value| {
        let mut claims = json!({
            "iss": issuer.url(), "sub": "system:serviceaccount:shop:web", "aud": TOKEN_EXCHANGE_AUDIENCE,
            "exp": emulator.now() + 600, "nbf": emulator.now(),
        });
        for (name, value) in change.as_object().expect("object") {
            claims[name] = value.clone();
        }
        issuer.mint(&claims)
    };
    for (assertion, expected) in [
        (mint("other", TOKEN_EXCHANGE_AUDIENCE), 700_213),
        (mint("SHOP", TOKEN_EXCHANGE_AUDIENCE), 7_002_138),
        (mint("shop", "api://other"), 700_212),
        (mint("shop", IDENTITY_BINDING_AUDIENCE), 700_212),
        (forged, 700_027),
        (claims(json!({"iss": "https://elsewhere/"})), 700_211),
        (claims(json!({"exp": emulator.now() - 301})), 700_024),
        (claims(json!({"nbf": emulator.now() + 400})), 700_024),
        (claims(json!({"exp": null})), 700_024),
        ("not.a.token".to_owned(), 50_027),
    ] {
        let answer = with_assertion(emulator, &app.client_id, &assertion).await;
        assert_eq!(number(&answer), expected);
        assert!(!String::from_utf8_lossy(&answer.body).contains(&assertion), "an assertion is echoed");
    }
    // Five minutes of leeway, and a plain string as the audience.
    assert_eq!(
        with_assertion(emulator, &app.client_id, &claims(json!({"exp": emulator.now() - 200}))).await.status,
        200
    );
}

#[tokio::test]
async fn another_issuers_registered_keys_are_trusted_for_that_issuer_only() {
    let world = world().await;
    let other = Emulator::builder().issuer_url("https://other/").build();
    let app = world.emulator.identities().register(Registration::application().federated(
        "https://other/",
        "system:serviceaccount:a:b",
        TOKEN_EXCHANGE_AUDIENCE,
    ));
    let token =
        other.issuer().mint_service_account_token("a", "b", TOKEN_EXCHANGE_AUDIENCE, Duration::from_secs(60));
    assert_eq!(number(&with_assertion(&world.emulator, &app.client_id, &token).await), 50_027);
    world.emulator.issuer().trust("https://other/", other.issuer().jwks()).expect("a key set");
    assert_eq!(with_assertion(&world.emulator, &app.client_id, &token).await.status, 200);
    assert!(world.emulator.issuer().trust("https://x/", json!({"keys": 5})).is_err());
}

#[tokio::test]
async fn the_proxy_takes_bound_tokens_under_its_own_name_and_ca_and_nothing_else() {
    let world = world().await;
    let emulator = &world.emulator;
    let app = emulator.identities().register(
        Registration::user_assigned("/bound").client_secret("right").federated(
            emulator.issuer().url(),
            "system:serviceaccount:a:b",
            IDENTITY_BINDING_AUDIENCE,
        ),
    );
    let hour = Duration::from_secs(3600);
    let token = emulator.issuer().mint_service_account_token("a", "b", IDENTITY_BINDING_AUDIENCE, hour);
    let address =
        emulator.token_proxy_url().strip_prefix("https://").expect("https").parse().expect("address");
    let request = |body: String| {
        // The proxy's own path comes first; the host header is still Entra's.
        Request::post(format!("/some/prefix/{}/oauth2/v2.0/token", emulator.tenant_id()))
            .header("host", "login.microsoftonline.com")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::new(Bytes::from(body)))
            .expect("request")
    };
    let fields = |proof: &[(&'static str, &str)]| {
        let common =
            [("grant_type", "client_credentials"), ("client_id", app.client_id.as_str()), ("scope", SCOPE)];
        form(&[&common[..], proof].concat())
    };
    let bound = fields(&[("client_assertion_type", JWT_BEARER), ("client_assertion", &token)]);
    let (name, ca) = (emulator.token_proxy_name(), emulator.token_proxy_ca_pem());
    let answer = send_tls(address, &ca, &name, true, request(bound.clone())).await.expect("answer");
    assert_eq!(answer.status(), 200);
    let by_secret =
        send_tls(address, &ca, &name, false, request(fields(&[("client_secret", "right")]))).await;
    assert_eq!(by_secret.expect("answer").status(), 401);
    assert!(send_tls(address, &ca, "localhost", false, request(bound.clone())).await.is_err(), "another SNI");
    assert!(send_tls(address, &emulator.ca_pem(), &name, false, request(bound)).await.is_err(), "another CA");
    assert_eq!(number(&with_assertion(emulator, &app.client_id, &token).await), 700_211);
}

#[tokio::test]
async fn metadata_documents_name_the_endpoints_under_the_callers_host() {
    let world = world().await;
    let get = |path: String| async {
        let request =
            Request::get(path).header("host", "localhost:1").body(Full::new(Bytes::new())).expect("request");
        let (address, pem) = (world.emulator.vault_addr(), world.emulator.ca_pem());
        read(send_tls(address, &pem, "localhost", false, request).await.expect("answer")).await.expect("body")
    };
    let tenant = world.emulator.tenant_id();
    let document = get(format!("/{tenant}/v2.0/.well-known/openid-configuration")).await.json();
    assert_eq!(document["token_endpoint"], format!("https://localhost:1/{tenant}/oauth2/v2.0/token"));
    assert_eq!(document["issuer"], format!("https://localhost:1/{tenant}/v2.0"));
    let keys = get(format!("/{tenant}/discovery/v2.0/keys")).await.json();
    assert_eq!(keys["keys"][0]["kty"], "EC");
    assert_eq!(get("/elsewhere/v2.0/.well-known/openid-configuration".to_owned()).await.status, 400);
}

#[tokio::test]
async fn by_its_bare_address_the_listener_is_both_a_vault_and_entra() {
    let world = world().await;
    let fields = [
        ("grant_type", "client_credentials"),
        ("client_id", world.identity.client_id.as_str()),
        ("scope", SCOPE),
        ("client_secret", "right"),
    ];
    let address = world.emulator.vault_addr();
    let request = Request::post(format!("/{}/oauth2/v2.0/token", world.emulator.tenant_id()))
        .header("host", address.to_string())
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::new(Bytes::from(form(&fields))))
        .expect("request");
    let pem = world.emulator.ca_pem();
    assert_eq!(send_tls(address, &pem, "127.0.0.1", false, request).await.expect("answer").status(), 200);
    let request = Request::get("/secrets?api-version=7.4")
        .header("host", address.to_string())
        .body(Full::new(Bytes::new()))
        .expect("request");
    assert_eq!(send_tls(address, &pem, "127.0.0.1", false, request).await.expect("answer").status(), 401);
}
