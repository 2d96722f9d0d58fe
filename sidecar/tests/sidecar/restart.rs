//! Ends without warning, outages, and who comes after.

use std::os::unix::fs::MetadataExt as _;

use keyward_emulator::{Effect, Fault};

use crate::client::reason;
use crate::lifecycle::verified;
use crate::rig::{Rig, until};

const OBJECTS: &str = "- kv://shop/secrets/db\n- {from: kv://shop/secrets/mail, file: deep/mail}";

async fn filled() -> Rig {
    let rig = Rig::start().await;
    rig.vault().set_secret("db", "first");
    rig.vault().set_secret("mail", "smtp");
    rig
}

fn with_state(rig: &Rig) -> String {
    format!("{}state: {{path: {}}}\n", rig.config(OBJECTS), rig.path("state").display())
}

#[tokio::test]
async fn a_restart_during_an_outage_serves_the_last_values_as_stale_and_rewrites_nothing() {
    let rig = filled().await;
    let config = with_state(&rig);
    let sidecar = rig.run(&config).await;
    assert!(sidecar.stop().await.success());
    let inode = || std::fs::metadata(rig.file("db")).unwrap().ino();
    let before = (rig.generation(), inode());
    rig.fail_everything();

    let sidecar = rig.run(&config).await;
    let client = sidecar.client().await;
    for (name, value) in [("db", "first"), ("mail", "smtp")] {
        let secret = client.get(name).await.unwrap();
        assert_eq!((secret.value.as_ref(), secret.stale), (value.as_bytes(), true));
    }
    assert_eq!((rig.generation(), inode()), before);

    // And it goes on by itself when the outage is over.
    rig.vault().rotate_secret("db", "second");
    rig.emulator.faults().clear_all();
    until("the rotation", || rig.text("db") == "second").await;
    assert!(!client.get("db").await.unwrap().stale);
}

#[tokio::test]
async fn killed_at_once_it_comes_back_at_the_same_place_even_without_the_vault() {
    let rig = filled().await;
    let config = with_state(&rig);
    let sidecar = rig.run(&config).await;
    sidecar.client().await.text("db").await;
    sidecar.kill().await;
    assert!(rig.path("keyward.sock").exists(), "nobody cleared the socket away");
    assert_eq!(rig.text("db"), "first");
    let before = rig.generation();
    rig.fail_everything();
    let sidecar = rig.run(&config).await;
    assert_eq!(sidecar.client().await.text("mail").await, "smtp");
    assert_eq!(rig.generation(), before);
    assert!(sidecar.stop().await.success());
    // The log of the killed one goes as far as its last checkpoint; the next one names where it ended.
    assert_eq!(verified(&rig.path("audit.jsonl")).logs.len(), 2);
}

#[tokio::test]
async fn without_a_place_for_its_state_a_restart_waits_for_the_vault_and_keeps_the_files() {
    let rig = filled().await;
    let config = rig.config(OBJECTS);
    rig.run(&config).await.kill().await;
    let fault = rig.emulator.faults().set(Fault::on("vault.*", Effect::Reset));
    let sidecar = rig.launch(&config);
    let client = sidecar.client().await;
    until("the first tries", || rig.emulator.counters().requests("vault.*") >= 4).await;
    assert!(!sidecar.is_ready().await);
    assert_eq!(rig.text("db"), "first");
    let status = client.get("db").await.err().unwrap();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{}", reason(&status));
    rig.emulator.faults().clear(fault);
    sidecar.ready().await;
}

#[tokio::test]
async fn an_outage_in_steady_state_is_noticed_by_nobody_but_by_the_word_stale() {
    let rig = filled().await;
    let sidecar = rig.run(&rig.config(OBJECTS)).await;
    let client = sidecar.client().await;
    let before = rig.generation();
    // One of each family; the outage matrix has them all.
    for effect in [
        Effect::Status { status: 500, retry_after: None },
        Effect::Reset,
        Effect::Forbidden { inner_code: "ForbiddenByRbac".to_owned() },
    ] {
        let told = format!("{effect:?}");
        let fault = rig.emulator.faults().set(Fault::on("vault.*", effect));
        let mut stale = false;
        while !stale {
            let secret = client.get("db").await.unwrap_or_else(|status| panic!("{told}: {status:?}"));
            assert_eq!(secret.value.as_ref(), b"first", "{told}");
            stale = secret.stale;
            rig.after_checks(u64::from(!stale)).await;
        }
        assert_eq!(rig.text("db"), "first");
        rig.emulator.faults().clear(fault);
        let fresh = async {
            while client.get("db").await.unwrap().stale {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        crate::rig::in_time(&told, fresh).await;
    }
    assert_eq!(rig.generation(), before);
    assert!(sidecar.is_ready().await);
}

#[tokio::test]
async fn a_second_sidecar_at_the_same_socket_is_refused_and_the_first_goes_on() {
    let rig = filled().await;
    let sidecar = rig.run(&rig.config(OBJECTS)).await;
    let other = tempfile::tempdir_in("/dev/shm").unwrap();
    let config = rig
        .config(OBJECTS)
        .replace(&rig.path("files").display().to_string(), &other.path().display().to_string())
        .replace("audit.jsonl", "other.jsonl");
    let second = rig.launch(&config);
    assert_eq!(second.ends_with().await, 1);
    assert!(sidecar.log().contains("KW_FILE_SYSTEM"));
    assert_eq!(sidecar.client().await.text("db").await, "first");
    rig.vault().rotate_secret("db", "second");
    until("the rotation", || rig.text("db") == "second").await;
}
