//! Changes that apply without a restart.

use std::time::Duration;

use keyward_emulator::TOKEN_EXCHANGE_AUDIENCE;
use keyward_proto::secrets::v1::watch_secrets_response::Event;
use nix::sys::signal::Signal;
use rcgen::{CertificateParams, KeyPair};

use crate::rig::{Rig, until};

async fn filled() -> Rig {
    let rig = Rig::start().await;
    for name in ["one", "two", "three"] {
        rig.vault().set_secret(name, format!("value of {name}"));
    }
    rig
}

#[tokio::test]
async fn a_changed_configuration_adds_and_removes_objects_in_place() {
    let rig = filled().await;
    let sidecar = rig.run(&rig.config("- kv://shop/secrets/one\n- kv://shop/secrets/two")).await;
    let client = sidecar.client().await;
    let mut watch = client.watch(&[]).await;
    for _ in 0..2 {
        watch.value().await;
    }
    let gets = rig.served("secrets.get");
    rig.write(
        "config.yaml",
        rig.config("- kv://shop/secrets/two\n- {from: kv://shop/secrets/three, file: new/three}"),
    );
    until("the new file", || rig.file("new/three").exists()).await;
    assert_eq!(rig.text("new/three"), "value of three");
    assert!(!rig.file("one").exists() && rig.file("two").exists());
    let (mut added, mut removed) = (false, false);
    while !(added && removed) {
        match watch.next().await {
            Some(Event::Current(secret)) => added |= secret.name == "three",
            Some(Event::Removed(removal)) => removed |= removal.name == "one",
            _ => {}
        }
    }
    assert_eq!(client.text("three").await, "value of three");
    assert_eq!(client.get("one").await.err().unwrap().code(), tonic::Code::NotFound);
    assert!(sidecar.is_ready().await);
    // What both declare was not read again; only the new object was.
    assert_eq!(rig.served("secrets.get"), gets + 1);
}

#[tokio::test]
async fn a_bad_new_configuration_leaves_the_old_one_running_and_is_told_with_its_mistakes() {
    let rig = filled().await;
    let sidecar = rig.run(&rig.config("- kv://shop/secrets/one")).await;
    let client = sidecar.client().await;
    rig.write("config.yaml", "objects: [kv://shop/secrets/two]\nrotatoin: {}\n");
    until("the refusal", || sidecar.log().contains("the old one goes on")).await;
    assert!(sidecar.log().contains("rotatoin"));
    rig.vault().rotate_secret("one", "rotated");
    until("the old configuration's rotation", || rig.text("one") == "rotated").await;
    assert_eq!(client.get("two").await.err().unwrap().code(), tonic::Code::NotFound);
    rig.write("config.yaml", rig.config("- kv://shop/secrets/one\n- kv://shop/secrets/two"));
    until("the mended one", || rig.file("two").exists()).await;
    let audit = std::fs::read_to_string(rig.path("audit.jsonl")).unwrap();
    let refused =
        audit.lines().any(|line| line.contains("\"configure\"") && line.contains("KW_CONFIG_INVALID"));
    assert!(refused, "the refused configuration left no record");
}

#[tokio::test]
async fn sighup_reads_the_configuration_again_even_when_its_file_looks_the_same() {
    let rig = filled().await;
    let sidecar = rig.run(&rig.config("- kv://shop/secrets/one")).await;
    let applied = || sidecar.log().matches("configuration applied").count();
    let before = applied();
    sidecar.signal(Signal::SIGHUP);
    until("the reload", || applied() > before).await;
    assert_eq!(sidecar.client().await.text("one").await, "value of one");
    assert!(sidecar.is_ready().await);
}

#[tokio::test]
async fn a_rotated_federated_token_is_used_without_a_restart() {
    let rig = filled().await;
    let sidecar = rig.run(&rig.config("- kv://shop/secrets/one")).await;
    let exchanges = || rig.served("token.federated");
    assert_eq!(exchanges(), 1);
    // A broken file does no harm: the token in hand is still good.
    rig.write("token", "not a token");
    until("a look at the broken file", || sidecar.log().contains("token exchange failed")).await;
    rig.vault().rotate_secret("one", "rotated");
    until("the rotation", || rig.text("one") == "rotated").await;
    rig.write("token", rig.token(TOKEN_EXCHANGE_AUDIENCE, Duration::from_secs(7200)));
    until("an exchange of the new token", || exchanges() == 2).await;
    assert!(!sidecar.client().await.get("one").await.unwrap().stale);
}

#[tokio::test]
async fn a_token_that_comes_late_is_found() {
    let rig = filled().await;
    let token = rig.path("token");
    std::fs::remove_file(&token).unwrap();
    let sidecar = rig.launch(&rig.config("- kv://shop/secrets/one"));
    sidecar.client().await;
    until("the word of it", || sidecar.log().contains("KW_IDENTITY_FILE")).await;
    assert!(!sidecar.is_ready().await);
    rig.write("token", rig.token(TOKEN_EXCHANGE_AUDIENCE, Duration::from_secs(3600)));
    sidecar.ready().await;
}

#[tokio::test]
async fn trust_anchors_are_read_again_when_their_file_changes() {
    let rig = filled().await;
    let right = std::fs::read(rig.path("ca.pem")).unwrap();
    let key = KeyPair::generate().unwrap();
    let stranger = CertificateParams::new(["stranger".to_owned()]).unwrap().self_signed(&key).unwrap();
    rig.write("ca.pem", stranger.pem());
    let sidecar = rig.launch(&rig.config("- kv://shop/secrets/one"));
    sidecar.client().await;
    until("the distrust", || sidecar.log().contains("KW_TLS_UNTRUSTED")).await;
    assert!(!sidecar.is_ready().await);
    rig.write("ca.pem", right);
    sidecar.ready().await;
    assert_eq!(rig.text("one"), "value of one");
    // A file without certificates leaves the old anchors in use.
    rig.write("ca.pem", "-----BEGIN NONSENSE-----\n");
    until("the refusal", || sidecar.log().contains("the old trust anchors stay in use")).await;
    rig.vault().rotate_secret("one", "rotated");
    until("the rotation", || rig.text("one") == "rotated").await;
}

#[tokio::test]
async fn another_identity_in_the_configuration_takes_over_without_a_gap() {
    let rig = filled().await;
    let sidecar = rig.run(&rig.config("- kv://shop/secrets/one")).await;
    let client = sidecar.client().await;
    let secret = rig.write("client-secret", "s3cret-of-the-second\n");
    let second = rig
        .emulator
        .identities()
        .register(keyward_emulator::Registration::application().client_secret("s3cret-of-the-second"));
    rig.vault().assign(&second, keyward_emulator::Permission::READ_ALL);
    rig.vault().revoke(&rig.identity);
    let identity = format!(
        "{{method: service-principal, clientId: {}, tenantId: {}, secretFile: {}, authorityHost: '{}'}}",
        second.client_id,
        rig.emulator.tenant_id(),
        secret.display(),
        rig.emulator.authority_url(),
    );
    rig.write("config.yaml", rig.config_as(&identity, "- kv://shop/secrets/one"));
    until("the exchange of the second identity", || rig.served("token.client-secret") == 1).await;
    rig.vault().rotate_secret("one", "read by the second");
    until("the rotation", || {
        assert!(rig.file("one").exists());
        rig.text("one") == "read by the second"
    })
    .await;
    assert_eq!(client.text("one").await, "read by the second");
}
