//! Secrets over the wire.

use http::Method;
use keyward_emulator::{Emulator, SecretOptions};
use serde_json::{Value, json};

use crate::client::{World, world};

#[tokio::test]
async fn a_secret_is_set_and_read_by_name_with_slash_and_by_version() {
    let world = world().await;
    let body =
        json!({ "value": "v", "contentType": "text/plain", "tags": {"a": "b"}, "attributes": {"exp": 5} });
    let set = world.call(Method::PUT, "/secrets/db", body).await;
    assert_eq!(set.status, 200);
    let id = set.json()["id"].as_str().expect("id").to_owned();
    let version = id.strip_prefix("https://shop.vault.azure.net/secrets/db/").expect("versioned").to_owned();
    assert_eq!(version.len(), 32);
    for path in ["/secrets/db".to_owned(), "/secrets/db/".to_owned(), format!("/secrets/db/{version}")] {
        let got = world.get(&path).await;
        assert_eq!(got.status, 200, "{path}");
        let got = got.json();
        assert_eq!(got["value"], "v");
        assert_eq!(got["id"], id.as_str());
        assert_eq!(got["contentType"], "text/plain");
        assert_eq!(got["tags"], json!({"a": "b"}));
        assert_eq!(got["attributes"]["exp"], 5);
        assert_eq!(got["attributes"]["enabled"], true);
        assert!(got.get("kid").is_none() && got.get("managed").is_none(), "absent members are omitted");
    }
}

#[tokio::test]
async fn without_a_token_comes_the_challenge_in_azures_form() {
    let world = world().await;
    let answer = world.get_without_token("/secrets/db").await;
    assert_eq!(answer.status, 401);
    let tenant = world.emulator.tenant_id();
    assert_eq!(
        answer.header("www-authenticate"),
        format!(
            r#"Bearer authorization="https://login.windows.net/{tenant}", resource="https://vault.azure.net""#
        )
    );
    assert_eq!(answer.header("content-type"), "application/json; charset=utf-8");
    assert_eq!(
        answer.json(),
        json!({"error": {"code": "Unauthorized", "message": "AKV10000: Request is missing a Bearer or PoP token."}})
    );
}

#[tokio::test]
async fn every_refusal_has_azures_status_code_and_inner_code() {
    let world = world().await;
    let shop = world.emulator.vault("shop");
    shop.set_secret("disabled", "x");
    shop.disable_secret("disabled");
    shop.set_secret("gone", "x");
    shop.delete_secret("gone");
    shop.set_secret("there", "x");
    let missing_version = format!("/secrets/there/{}", "0".repeat(32));
    let long_name = format!("/secrets/{}", "n".repeat(128));
    for (path, status, code, inner) in [
        ("/secrets/disabled", 403, "Forbidden", "SecretDisabled"),
        ("/secrets/absent", 404, "SecretNotFound", ""),
        ("/secrets/gone", 404, "SecretNotFound", ""),
        (&missing_version, 404, "SecretNotFound", ""),
        ("/deletedsecrets/there", 404, "SecretNotFound", ""),
        ("/keys/absent", 404, "KeyNotFound", ""),
        ("/certificates/absent", 404, "CertificateNotFound", ""),
        ("/secrets/a_b", 400, "BadParameter", ""),
        ("/secrets/a%2fversions", 400, "BadParameter", ""),
        (&long_name, 400, "BadParameter", ""),
        ("/secrets?maxresults=26", 400, "BadParameter", ""),
        ("/secrets?$skiptoken=nonsense", 400, "BadParameter", ""),
        ("/nothing/of/the/kind", 404, "NotFound", ""),
    ] {
        let answer = world.get(path).await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.codes(), (code.to_owned(), inner.to_owned()), "{path}");
    }
    let conflict = world.call(Method::PUT, "/secrets/gone", json!({"value": "x"})).await;
    assert_eq!(conflict.status, 409);
    assert_eq!(conflict.codes(), ("Conflict".to_owned(), "ObjectIsDeletedButRecoverable".to_owned()));
}

#[tokio::test]
async fn bodies_that_are_malformed_or_too_large_are_refused_without_an_echo() {
    let world = world().await;
    for body in
        [json!({}), json!({"value": 5}), json!("hunter2"), json!({"value": "h".repeat(25 * 1024 + 1)})]
    {
        let answer = world.call(Method::PUT, "/secrets/db", body).await;
        assert_eq!(answer.status, 400);
        let text = String::from_utf8(answer.body.to_vec()).expect("text");
        assert!(!text.contains("hunter2") && !text.contains("hhh"), "{text}");
    }
    assert_eq!(
        world.call(Method::PUT, "/secrets/db", json!({"value": "h".repeat(25 * 1024)})).await.status,
        200
    );
}

#[tokio::test]
async fn a_missing_or_unknown_api_version_is_a_bad_parameter() {
    let world = world().await;
    world.emulator.vault("shop").set_secret("db", "x");
    // The helper adds a version; a repeated parameter is malformed, as is one that no service ever had.
    let answer = world.get("/secrets/db?api-version=7.4").await;
    assert_eq!(answer.status, 400);
    for (version, status) in [("6.0", 400), ("7.2", 200), ("2025-07-01", 200)] {
        let request =
            http::Request::get(format!("https://shop.vault.azure.net/secrets/db?api-version={version}"))
                .header("authorization", format!("Bearer {}", world.token))
                .body(bytes::Bytes::new())
                .expect("request");
        let outcome = world.emulator.handle(keyward_emulator::ListenerKind::Https, request).await;
        assert_eq!(outcome.reply().expect("reply").status.as_u16(), status, "{version}");
    }
}

#[tokio::test]
async fn sixty_secrets_fill_three_pages_and_versions_are_listed_with_their_ids() {
    let world = world().await;
    let shop = world.emulator.vault("shop");
    let mut wanted: Vec<String> = (0..60).map(|n| format!("s{n:02}")).collect();
    for name in &wanted {
        shop.set_secret(name, "x");
    }
    let (mut found, mut pages, mut path) = (Vec::new(), 0, "/secrets".to_owned());
    loop {
        let page = world.get(&path).await.json();
        pages += 1;
        for entry in page["value"].as_array().expect("entries") {
            let id = entry["id"].as_str().expect("id");
            assert!(entry.get("value").is_none());
            found.push(
                id.strip_prefix("https://shop.vault.azure.net/secrets/").expect("no version").to_owned(),
            );
        }
        let Some(next) = page["nextLink"].as_str() else { break };
        let next =
            next.strip_prefix("https://shop.vault.azure.net:443").expect("same origin, port written out");
        // The helper adds the version that the link already carries.
        path = next.replace("api-version=7.4&", "");
    }
    found.sort();
    wanted.sort();
    assert_eq!((found, pages), (wanted, 3));

    let ids = [shop.rotate_secret("s00", "y"), shop.rotate_secret("s00", "z")];
    let versions = world.get("/secrets/s00/versions").await.json();
    let listed: Vec<&str> =
        versions["value"].as_array().expect("entries").iter().filter_map(|v| v["id"].as_str()).collect();
    assert_eq!(listed.len(), 3);
    assert!(ids.iter().all(|id| listed.iter().any(|listed| listed.ends_with(id))));
}

#[tokio::test]
async fn the_soft_delete_life_cycle_goes_all_the_way_round() {
    let world = world().await;
    let shop = world.emulator.vault("shop");
    let version = shop.set_secret("db", "x");
    let deleted = world.call(Method::DELETE, "/secrets/db", Value::Null).await;
    assert_eq!(deleted.status, 200);
    let deleted = deleted.json();
    assert_eq!(deleted["recoveryId"], "https://shop.vault.azure.net/deletedsecrets/db");
    assert!(deleted.get("value").is_none());
    let lasts = deleted["scheduledPurgeDate"].as_i64().expect("date")
        - deleted["deletedDate"].as_i64().expect("date");
    assert_eq!(lasts, 90 * 86_400);
    assert_eq!(world.get("/deletedsecrets/db").await.status, 200);
    assert_eq!(world.get("/deletedsecrets").await.json()["value"].as_array().map(Vec::len), Some(1));
    let recovered = world.call(Method::POST, "/deletedsecrets/db/recover", Value::Null).await;
    assert!(recovered.json()["id"].as_str().is_some_and(|id| id.ends_with(&version)));
    assert_eq!(world.get("/secrets/db").await.json()["value"], "x");
    world.call(Method::DELETE, "/secrets/db", Value::Null).await;
    let purged = world.call(Method::DELETE, "/deletedsecrets/db", Value::Null).await;
    assert_eq!((purged.status, purged.body.len()), (204, 0));
    assert_eq!(world.call(Method::DELETE, "/deletedsecrets/db", Value::Null).await.status, 404);
    assert_eq!(world.call(Method::PUT, "/secrets/db", json!({"value": "new"})).await.status, 200);
}

#[tokio::test]
async fn while_a_deletion_settles_the_name_is_neither_here_nor_there() {
    let world = World::start(Emulator::builder().vault("shop").deletions_settle_after(60_000)).await;
    let shop = world.emulator.vault("shop");
    shop.set_secret("db", "x");
    shop.delete_secret("db");
    assert_eq!(world.get("/deletedsecrets/db").await.status, 404);
    let set = world.call(Method::PUT, "/secrets/db", json!({"value": "x"})).await;
    assert_eq!(set.codes(), ("Conflict".to_owned(), "ObjectIsBeingDeleted".to_owned()));
    world.emulator.advance_clock(std::time::Duration::from_secs(60));
    assert_eq!(world.get("/deletedsecrets/db").await.status, 200);
}

#[tokio::test]
async fn an_update_changes_attributes_and_tags_and_moves_updated_but_not_the_version() {
    let world = world().await;
    let shop = world.emulator.vault("shop");
    let version = shop.set_secret("db", "x");
    let before = world.get("/secrets/db").await.json();
    world.emulator.advance_clock(std::time::Duration::from_secs(10));
    let body = json!({"attributes": {"enabled": false}, "tags": {"t": "1"}, "contentType": "c"});
    let updated = world.call(Method::PATCH, &format!("/secrets/db/{version}"), body).await;
    assert_eq!(updated.status, 200);
    let updated = updated.json();
    assert!(updated.get("value").is_none());
    assert_eq!((&updated["id"], &updated["contentType"]), (&before["id"], &json!("c")));
    let moved = updated["attributes"]["updated"].as_i64().expect("seconds")
        - before["attributes"]["updated"].as_i64().expect("seconds");
    assert!(moved >= 10);
    assert_eq!(updated["attributes"]["created"], before["attributes"]["created"]);
}

#[tokio::test]
async fn dates_are_only_informational() {
    let world = world().await;
    let shop = world.emulator.vault("shop");
    shop.set_secret_with("old", "x", SecretOptions { expires: Some(1), ..SecretOptions::default() });
    shop.set_secret_with(
        "new",
        "x",
        SecretOptions { not_before: Some(i64::MAX / 2), ..SecretOptions::default() },
    );
    assert_eq!(world.get("/secrets/old").await.status, 200);
    assert_eq!(world.get("/secrets/new").await.status, 200);
}

#[tokio::test]
async fn answers_carry_azures_headers_and_echo_the_request_id() {
    let world = world().await;
    let request = http::Request::get("https://shop.vault.azure.net/secrets?api-version=7.4")
        .header("authorization", format!("Bearer {}", world.token))
        .header("x-ms-client-request-id", "my-id")
        .body(bytes::Bytes::new())
        .expect("request");
    let outcome = world.emulator.handle(keyward_emulator::ListenerKind::Https, request).await;
    let reply = outcome.reply().expect("reply");
    for name in [
        "x-ms-keyvault-region",
        "x-ms-keyvault-service-version",
        "x-ms-request-id",
        "x-ms-keyvault-network-info",
    ] {
        assert!(reply.headers.contains_key(name), "{name}");
    }
    assert_eq!(reply.headers["x-ms-client-request-id"], "my-id");
    assert_eq!(reply.headers["cache-control"], "no-cache");
}

#[tokio::test]
async fn a_vault_answers_to_its_aliases_and_other_hosts_are_nobodys() {
    let world = world().await;
    world.emulator.vault("shop").set_secret("db", "x");
    world.emulator.alias("kv.internal:8443", "shop");
    for (host, status) in [
        ("127.0.0.1:8443", 200),
        ("shop.vault.localhost", 200),
        ("kv.internal:8443", 200),
        ("kv.internal", 421),
        ("x.example", 421),
    ] {
        let request = http::Request::get("/secrets/db?api-version=7.4")
            .header("host", host)
            .header("authorization", format!("Bearer {}", world.token))
            .body(bytes::Bytes::new())
            .expect("request");
        let outcome = world.emulator.handle(keyward_emulator::ListenerKind::Https, request).await;
        assert_eq!(outcome.reply().expect("reply").status.as_u16(), status, "{host}");
    }
}

#[tokio::test]
async fn vaults_of_sovereign_clouds_challenge_with_their_own_login_host_and_resource() {
    let world = world().await;
    for (host, login, resource) in [
        ("shop.vault.azure.cn", "login.chinacloudapi.cn", "https://vault.azure.cn"),
        ("shop.vault.usgovcloudapi.net", "login.microsoftonline.us", "https://vault.usgovcloudapi.net"),
    ] {
        let vault = world.emulator.vault(host);
        assert_eq!((vault.name(), vault.host()), (host, host));
        let request = http::Request::get(format!("https://{host}/secrets?api-version=7.4"))
            .body(bytes::Bytes::new())
            .expect("request");
        let outcome = world.emulator.handle(keyward_emulator::ListenerKind::Https, request).await;
        let header = outcome.reply().expect("reply").headers["www-authenticate"].clone();
        let tenant = world.emulator.tenant_id();
        let expected = format!(r#"Bearer authorization="https://{login}/{tenant}", resource="{resource}""#);
        assert_eq!(header, expected.as_str());
    }
}
