//! Keys over the wire.

use http::Method;
use serde_json::json;

use crate::client::world;

#[tokio::test]
async fn rsa_and_ec_keys_are_created_read_and_listed_and_show_only_their_public_part() {
    let world = world().await;
    let rsa = world.call(Method::POST, "/keys/r/create", json!({"kty": "RSA", "key_size": 2048})).await;
    let ec = world.call(Method::POST, "/keys/e/create", json!({"kty": "EC", "crv": "P-384"})).await;
    assert_eq!((rsa.status, ec.status), (200, 200));
    let rsa = world.get("/keys/r").await.json();
    assert_eq!(rsa["key"]["kty"], "RSA");
    assert_eq!(rsa["key"]["e"], "AQAB");
    assert_eq!(rsa["key"]["n"].as_str().map(str::len), Some(342));
    let ec = world.get("/keys/e/").await.json();
    assert_eq!((&ec["key"]["kty"], &ec["key"]["crv"]), (&json!("EC"), &json!("P-384")));
    assert_eq!(ec["key"]["x"].as_str().map(str::len), Some(64));
    for key in [&rsa, &ec] {
        let members = key["key"].as_object().expect("JWK");
        assert!(["d", "p", "q", "dp", "dq", "qi", "k"].iter().all(|private| !members.contains_key(*private)));
        assert!(
            members["kid"].as_str().is_some_and(|kid| kid.starts_with("https://shop.vault.azure.net/keys/"))
        );
    }
    let listed = world.get("/keys").await.json();
    let kids: Vec<&str> =
        listed["value"].as_array().expect("entries").iter().filter_map(|k| k["kid"].as_str()).collect();
    assert_eq!(kids, ["https://shop.vault.azure.net/keys/e", "https://shop.vault.azure.net/keys/r"]);
}

#[tokio::test]
async fn kinds_of_keys_that_a_vault_without_hsm_lacks_are_refused() {
    let world = world().await;
    for body in [
        json!({"kty": "RSA", "key_size": 1024}),
        json!({"kty": "EC", "crv": "P-224"}),
        json!({"kty": "RSA-HSM"}),
        json!({"kty": "oct"}),
        json!({}),
    ] {
        let answer = world.call(Method::POST, "/keys/k/create", body.clone()).await;
        assert_eq!((answer.status, answer.codes().0.as_str()), (400, "BadParameter"), "{body}");
    }
}
