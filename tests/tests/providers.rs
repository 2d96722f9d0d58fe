//! The Key Vault provider over the emulator: real TLS, real paging, real faults.

#[path = "providers/faults.rs"]
mod faults;
#[path = "providers/node_start.rs"]
mod node_start;
#[path = "providers/rig.rs"]
mod rig;
#[path = "providers/round_trips.rs"]
mod round_trips;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyward_core::{Code, Content, Parts, Provider};
use keyward_emulator::{Curve, KeyKind};
use rig::{Rig, error_of, read};

/// The suite that every provider passes.
mod conformance {
    keyward_providers::provider_conformance!(super::rig::Rig::start());
}

#[tokio::test]
async fn an_illegal_name_or_version_never_reaches_the_vault() {
    let rig = Rig::start().await;
    let cloud = keyward_core::cloud::Cloud::public();
    for reference in [
        "kv://shop/secrets/../keys/k",
        "kv://shop/secrets/a/versions",
        "kv://shop/secrets/a_b",
        "kv://shop/secrets/%2e",
    ] {
        let refused = keyward_core::ObjectRef::parse(reference, &cloud);
        assert_eq!(error_of(refused).code(), Code::ObjectInvalid, "{reference}");
    }
    assert_eq!(rig.emulator.counters().requests("*"), 0);
}

#[tokio::test]
async fn keys_of_every_kind_come_with_members_of_the_right_size() {
    let rig = Rig::start().await;
    for (name, kind, curve, sizes) in [
        ("rsa-2048", KeyKind::Rsa(2048), None, [("n", 256), ("e", 3)]),
        ("rsa-3072", KeyKind::Rsa(3072), None, [("n", 384), ("e", 3)]),
        ("p-256", KeyKind::Ec(Curve::P256), Some("P-256"), [("x", 32), ("y", 32)]),
        ("p-256k", KeyKind::Ec(Curve::P256K), Some("secp256k1"), [("x", 32), ("y", 32)]),
        ("p-384", KeyKind::Ec(Curve::P384), Some("P-384"), [("x", 48), ("y", 48)]),
        ("p-521", KeyKind::Ec(Curve::P521), Some("P-521"), [("x", 66), ("y", 66)]),
    ] {
        let version = rig.vault().create_key(name, kind);
        let fetched = rig
            .provider
            .fetch(&read(&format!("kv://shop/keys/{name}")))
            .await
            .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(fetched.version.as_str(), version);
        let Content::Key { jwk } = &fetched.content else { panic!("a key") };
        let jwk: serde_json::Value = serde_json::from_str(jwk).expect("JSON");
        assert_eq!(jwk.get("crv").and_then(serde_json::Value::as_str), curve);
        assert_eq!(jwk["kid"], fetched.object.to_string());
        for (member, size) in sizes {
            let decoded = URL_SAFE_NO_PAD.decode(jwk[member].as_str().expect("a text")).expect("base64url");
            assert_eq!(decoded.len(), size, "{name} {member}");
        }
    }
}

#[tokio::test]
async fn a_certificate_without_the_right_to_its_secret_says_which_secret_and_which_role() {
    use keyward_emulator::Permission;
    let rig = Rig::start().await;
    rig.vault().create_certificate("tls", "shop.example", "application/x-pem-file");
    rig.vault().revoke(&rig.identity);
    rig.vault().assign(&rig.identity, [Permission::CERTIFICATES_GET]);
    let mut request = read("kv://shop/certificates/tls");
    assert!(rig.provider.fetch(&request).await.is_ok());
    request.parts = Parts::Bundle;
    let error = error_of(rig.provider.fetch(&request).await);
    assert_eq!(error.code(), Code::VaultForbidden);
    assert!(error.message().contains("Key Vault Secrets User"), "{error}");
    assert!(error.object_name().is_some_and(|object| object.contains("/secrets/tls/")), "{error}");
}

#[tokio::test]
async fn expired_and_not_yet_valid_secrets_are_read_and_say_so() {
    let rig = Rig::start().await;
    let options = keyward_emulator::SecretOptions {
        expires: Some(1_000_000_000),
        not_before: Some(4_000_000_000),
        ..Default::default()
    };
    rig.vault().set_secret_with("db", "x", options);
    let fetched = rig.provider.fetch(&read("kv://shop/secrets/db")).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(fetched.expires.map(|at| at.as_secs()), Some(1_000_000_000));
    assert_eq!(fetched.not_before.map(|at| at.as_secs()), Some(4_000_000_000));
    assert!(fetched.request_id.is_some());
}

#[tokio::test]
async fn two_vaults_are_two_challenges_and_one_identity() {
    let rig = Rig::start().await;
    rig.emulator.vault("other").set_secret("db", "y");
    rig.emulator.vault("other").assign(&rig.identity, keyward_emulator::Permission::READ_ALL);
    rig.vault().set_secret("db", "x");
    for (vault, value) in [("shop", "x"), ("other", "y")] {
        let fetched = rig
            .provider
            .fetch(&read(&format!("kv://{vault}/secrets/db")))
            .await
            .unwrap_or_else(|e| panic!("{e}"));
        let Content::Secret { value: got, .. } = fetched.content else { panic!("a secret") };
        assert!(got.expose() == value.as_bytes());
    }
    assert_eq!(rig.emulator.counters().with_status("*", 401), 2);
    assert_eq!(rig.tokens.exchanges(), 1);
}
