//! What applications find in their directory.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyward_emulator::{Effect, Fault};

use crate::client::reason;
use crate::rig::{Rig, VAULT, until};

#[tokio::test]
async fn files_are_there_byte_by_byte_and_with_their_modes_before_the_sidecar_is_ready() {
    let rig = Rig::start().await;
    let odd = "line one\r\nline two\n\n\ttäb \u{0}\u{feff}end ";
    let blob: Vec<u8> = (0..=255).collect();
    let vault = rig.vault();
    vault.set_secret("odd", odd);
    vault.set_secret("blob", STANDARD.encode(&blob));
    vault.set_secret("redis", r#"{"user": "web", "password": "r3d\u0021s", "ports": [6379]}"#);
    vault.set_secret("slow", "worth the wait");
    vault.create_certificate("web", "shop.example", "application/x-pkcs12");
    let objects = format!(
        "- {{from: 'https://{VAULT}/secrets/odd', file: deep/down/odd, mode: '0400'}}\n\
         - {{from: 'https://{VAULT}/secrets/blob', decode: base64}}\n\
         - {{from: 'https://{VAULT}/secrets/redis#/password', name: redis-password}}\n\
         - {{from: 'kv://shop/secrets/slow', mode: '0640', uid: 1234, gid: 4321}}\n\
         - {{from: 'kv://shop/secrets/redis', name: not-a-file, file: null}}\n\
         - {{from: 'kv://shop/certificates/web', format: pem-pair, file: tls/web}}\n"
    );
    let wait = Effect::Latency { millis: 700, jitter_millis: 0 };
    rig.emulator.faults().set(Fault::on("secrets.get", wait).for_object("slow"));
    let sidecar = rig.launch(&rig.config(&objects));
    let client = sidecar.client().await;
    // The socket is there long before the slowest object: nothing is visible until everything is.
    assert!(!sidecar.is_ready().await);
    assert!(rig.generation().is_none(), "a part of the files was visible");
    sidecar.ready().await;

    assert_eq!(rig.read("deep/down/odd"), odd.as_bytes());
    assert_eq!(rig.read("blob"), blob);
    assert_eq!(rig.text("redis-password"), "r3d!s");
    assert_eq!(rig.text("slow"), "worth the wait");
    assert!(!rig.file("not-a-file").exists());
    assert!(rig.text("tls/web.crt").starts_with("-----BEGIN CERTIFICATE-----"));
    assert!(rig.text("tls/web.key").starts_with("-----BEGIN PRIVATE KEY-----"));
    let meta = |name: &str| std::fs::metadata(rig.file(name)).unwrap();
    assert_eq!(meta("deep/down/odd").permissions().mode() & 0o7777, 0o400);
    assert_eq!(meta("blob").permissions().mode() & 0o7777, 0o444);
    let slow = meta("slow");
    assert_eq!((slow.permissions().mode() & 0o7777, slow.uid(), slow.gid()), (0o640, 1234, 4321));
    // The application gets over the socket exactly what its file holds.
    for name in ["odd", "blob", "redis-password", "slow"] {
        let file = if name == "odd" { "deep/down/odd" } else { name };
        assert_eq!(client.get(name).await.unwrap().value.to_vec(), rig.read(file), "{name}");
    }
}

#[tokio::test]
async fn a_template_combines_objects_into_one_file_and_follows_each_of_them() {
    let rig = Rig::start().await;
    let vault = rig.vault();
    vault.set_secret("user", "web");
    vault.set_secret("password", "co:lon");
    let objects = "- {from: 'kv://shop/secrets/user', file: null}\n\
                   - {from: 'kv://shop/secrets/password', file: null}\n\
                   - name: pgpass\n  mode: '0400'\n  template: |\n    db:5432:shop:{{ secret('user') }}:{{ secret('password') | pgpass }}\n";
    let _sidecar = rig.run(&rig.config(objects)).await;
    assert_eq!(rig.text("pgpass"), "db:5432:shop:web:co\\:lon\n");
    vault.rotate_secret("password", "plain");
    until("the new line", || rig.text("pgpass") == "db:5432:shop:web:plain\n").await;
    let names: Vec<_> =
        std::fs::read_dir(rig.path("files")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name == "user" || name == "password"));
}

#[tokio::test]
async fn a_rotation_reaches_the_file_and_a_watcher_without_a_restart() {
    let rig = Rig::start().await;
    let first = rig.vault().set_secret("db", "first");
    let sidecar = rig.run(&rig.config("- kv://shop/secrets/db")).await;
    let client = sidecar.client().await;
    let mut watch = client.watch(&["db"]).await;
    let seen = watch.value().await;
    assert_eq!((seen.value.as_ref(), seen.version.as_str()), (&b"first"[..], first.as_str()));
    let mut sequence = seen.sequence;
    for value in ["second", "third"] {
        let version = rig.vault().rotate_secret("db", value);
        let seen = watch.value().await;
        assert_eq!((seen.value.as_ref(), seen.version), (value.as_bytes(), version));
        assert!(seen.sequence > sequence && !seen.stale);
        sequence = seen.sequence;
        until("the file", || rig.text("db") == value).await;
        assert_eq!(client.text("db").await, value);
    }
}

#[tokio::test]
async fn a_new_version_with_the_same_content_swaps_no_file() {
    let rig = Rig::start().await;
    let first = rig.vault().set_secret("db", "always the same");
    let sidecar = rig.run(&rig.config("- kv://shop/secrets/db")).await;
    let client = sidecar.client().await;
    let (before, inode) = (rig.generation(), std::fs::metadata(rig.file("db")).unwrap().ino());
    let second = rig.vault().rotate_secret("db", "always the same");
    assert_ne!(first, second);
    loop {
        if client.get("db").await.unwrap().version == second {
            break;
        }
        rig.after_checks(1).await;
    }
    rig.after_checks(3).await;
    assert_eq!(rig.generation(), before);
    assert_eq!(std::fs::metadata(rig.file("db")).unwrap().ino(), inode);
}

#[tokio::test]
async fn an_optional_object_may_be_missing_and_appears_when_it_is_created() {
    let rig = Rig::start().await;
    rig.vault().set_secret("db", "here");
    let sidecar = rig
        .run(&rig.config("- kv://shop/secrets/db\n- {from: kv://shop/secrets/extra, optional: true}"))
        .await;
    let client = sidecar.client().await;
    assert!(!rig.file("extra").exists());
    let status = client.get("extra").await.err().unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (tonic::Code::NotFound, "KW_OBJECT_NOT_FOUND"));
    rig.vault().set_secret("extra", "now");
    until("the optional file", || rig.file("extra").exists()).await;
    assert_eq!(rig.text("extra"), "now");
    assert_eq!(client.text("extra").await, "now");
}

#[tokio::test]
async fn without_a_required_object_nothing_is_ready_and_no_file_exists_until_it_is_created() {
    let rig = Rig::start().await;
    rig.vault().set_secret("db", "here");
    let sidecar = rig.launch(&rig.config("- kv://shop/secrets/db\n- kv://shop/secrets/missing"));
    let client = sidecar.client().await;
    until("the refusal", || rig.emulator.counters().with_status("secrets.get", 404) >= 2).await;
    assert!(!sidecar.is_ready().await);
    assert!(rig.generation().is_none() && !rig.file("db").exists());
    // What is there is served all the same, to those who ask for it by name.
    assert_eq!(client.text("db").await, "here");
    rig.vault().set_secret("missing", "created");
    sidecar.ready().await;
    assert_eq!((rig.text("db"), rig.text("missing")), ("here".to_owned(), "created".to_owned()));
}

#[tokio::test]
async fn one_objects_failure_neither_empties_nor_freezes_the_others() {
    let rig = Rig::start().await;
    for name in ["bad", "good"] {
        rig.vault().set_secret(name, r#"{"k": "1"}"#);
    }
    let sidecar =
        rig.run(&rig.config("- {from: 'kv://shop/secrets/bad#/k', name: bad}\n- {from: 'kv://shop/secrets/good#/k', name: good}")).await;
    let client = sidecar.client().await;
    rig.vault().rotate_secret("bad", "no longer a document");
    rig.vault().rotate_secret("good", r#"{"k": "2"}"#);
    until("the good rotation", || rig.text("good") == "2").await;
    rig.after_checks(3).await;
    assert_eq!((rig.text("bad"), client.text("bad").await), ("1".to_owned(), "1".to_owned()));
    assert!(sidecar.is_ready().await);
    rig.vault().rotate_secret("bad", r#"{"k": "3"}"#);
    until("the mended object", || rig.text("bad") == "3").await;
}
