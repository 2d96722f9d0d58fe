//! `keyward doctor` against the emulator: each hop that can fail is named, with its fix, and the exit code says what
//! kind of failure it is.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

use std::process::{Command, Output};
use std::time::Duration;

use keyward_emulator::{Emulator, Identity, Permission, Registration, TOKEN_EXCHANGE_AUDIENCE};
use tempfile::TempDir;

struct Rig {
    emulator: Emulator,
    identity: Identity,
    place: TempDir,
}

impl Rig {
    async fn start() -> Self {
        let emulator = Emulator::builder().vault("shop").start().await.unwrap();
        let subject = "system:serviceaccount:shop:web";
        let registration =
            Registration::application().federated(emulator.issuer().url(), subject, TOKEN_EXCHANGE_AUDIENCE);
        let identity = emulator.identities().register(registration);
        emulator.vault("shop").set_secret("db", "canary-7f3a-value");
        let place = TempDir::new().unwrap();
        std::fs::write(place.path().join("ca.pem"), emulator.ca_pem()).unwrap();
        let rig = Self { emulator, identity, place };
        rig.token("web");
        rig
    }

    fn token(&self, account: &str) {
        let issuer = self.emulator.issuer();
        let token = issuer.mint_service_account_token(
            "shop",
            account,
            TOKEN_EXCHANGE_AUDIENCE,
            Duration::from_secs(600),
        );
        std::fs::write(self.place.path().join("token"), token).unwrap();
    }

    fn grant(&self) {
        self.emulator.vault("shop").assign(&self.identity, [Permission::SECRETS_GET]);
    }

    /// Runs the command on another thread: the emulator needs this one.
    async fn doctor(&self, objects: &str) -> Output {
        let place = self.place.path().display();
        let config = format!(
            "identity: {{method: workload-identity, clientId: {}, tenantId: {}, tokenFile: {place}/token, authorityHost: '{}'}}\n\
             vaults: [{{host: shop.vault.azure.net, address: '{}'}}]\n\
             tls: {{extraRootsFile: {place}/ca.pem}}\n\
             objects: {objects}\n\
             grpc: {{socket: {place}/keyward.sock}}\n",
            self.identity.client_id,
            self.emulator.tenant_id(),
            self.emulator.authority_url(),
            self.emulator.vault_addr(),
        );
        let file = self.place.path().join("config.yaml");
        std::fs::write(&file, config).unwrap();
        tokio::task::spawn_blocking(move || {
            Command::new(env!("CARGO_BIN_EXE_keyward"))
                .args(["doctor", "--config"])
                .arg(file)
                .env_clear()
                .output()
                .unwrap()
        })
        .await
        .unwrap()
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn a_healthy_way_is_walked_hop_by_hop_and_shows_versions_but_no_value() {
    let rig = Rig::start().await;
    rig.grant();
    let output = rig.doctor("['kv://shop/secrets/db']").await;
    let text = text(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for part in [
        "ok    identity",
        "ok    token",
        "ok    DNS",
        "TLSv1_3 X25519MLKEM768",
        "ok    object",
        "17 bytes",
        "0 failed",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!text.contains("canary"), "{text}");
}

#[tokio::test]
async fn a_missing_role_is_named_with_the_role_to_assign() {
    let rig = Rig::start().await;
    let output = rig.doctor("['kv://shop/secrets/db']").await;
    let text = text(&output);
    assert_eq!(output.status.code(), Some(77), "{text}");
    assert!(text.contains("FAIL  object") && text.contains("KW_VAULT_FORBIDDEN"), "{text}");
    assert!(text.contains("Key Vault Secrets User") && text.contains(&rig.identity.client_id), "{text}");
}

#[tokio::test]
async fn a_subject_without_a_federated_credential_is_named_with_what_to_compare() {
    let rig = Rig::start().await;
    rig.grant();
    rig.token("someone-else");
    let output = rig.doctor("['kv://shop/secrets/db']").await;
    let text = text(&output);
    assert_eq!(output.status.code(), Some(77), "{text}");
    assert!(text.contains("FAIL  token") && text.contains("700213"), "{text}");
    assert!(
        text.contains("system:serviceaccount:shop:someone-else") && text.contains("federated credential"),
        "{text}"
    );
}

#[tokio::test]
async fn content_that_cannot_be_converted_is_found_before_a_pod_meets_it() {
    let rig = Rig::start().await;
    rig.grant();
    let output = rig
        .doctor("['kv://shop/secrets/db#/password', {from: 'kv://shop/secrets/gone', optional: true}]")
        .await;
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("KW_CONTENT_INVALID") && text.contains("decode, key and format"), "{text}");
    assert!(text.contains("optional, and not there"), "{text}");
    assert!(!text.contains("canary"), "{text}");
}

#[tokio::test]
async fn a_configuration_with_mistakes_ends_the_walk_with_all_of_them() {
    let rig = Rig::start().await;
    let output = rig.doctor("[{from: 'kv://shop/secrets/db', mode: 440}, 5]").await;
    let text = text(&output);
    assert_eq!(output.status.code(), Some(64), "{text}");
    assert!(text.contains("objects[0].mode") && text.contains("objects[1]"), "{text}");
}
