//! What applications get over the socket.

use keyward_emulator::{Effect, Fault};
use keyward_proto::secrets::v1::SecretState;
use keyward_proto::secrets::v1::watch_secrets_response::Event;
use tonic::Code;

use crate::client::reason;
use crate::rig::{Rig, VAULT};

const OBJECTS: &str =
    "- kv://shop/secrets/db\n- kv://shop/secrets/mail\n- {from: kv://shop/secrets/ghost, optional: true}";

#[tokio::test]
async fn an_application_gets_lists_and_batches_what_was_declared_for_it_and_nothing_else() {
    let rig = Rig::start().await;
    let version = rig.vault().set_secret("db", "hunter2");
    rig.vault().set_secret("mail", "smtp");
    rig.vault().set_secret("other", "of another pod");
    let sidecar = rig.run(&rig.config(OBJECTS)).await;
    let client = sidecar.client().await;

    let secret = client.get("db").await.unwrap();
    assert_eq!(secret.value.as_ref(), b"hunter2");
    assert_eq!(secret.version, version);
    assert_eq!(secret.source, format!("https://{VAULT}/secrets/db"));
    assert!(!secret.stale && secret.fetched_at.is_some() && secret.updated_at.is_some());

    for name in ["other", "", "../db"] {
        let status = client.get(name).await.err().unwrap();
        assert!(matches!(status.code(), Code::NotFound | Code::InvalidArgument), "{name}: {status:?}");
    }
    assert_eq!(reason(&client.get("other").await.err().unwrap()), "KW_UNKNOWN_NAME");

    let listed = client.list().await;
    let shown: Vec<_> = listed.iter().map(|item| (item.name.as_str(), item.state())).collect();
    let expected =
        [("db", SecretState::Fresh), ("ghost", SecretState::Pending), ("mail", SecretState::Fresh)];
    assert_eq!(shown, expected);
    assert_eq!(listed[1].reason, "KW_OBJECT_NOT_FOUND");

    let batch = client.batch(&["mail", "ghost", "db", "other"]).await;
    let names: Vec<_> = batch.secrets.iter().map(|secret| secret.name.as_str()).collect();
    let failures: Vec<_> =
        batch.failures.iter().map(|failure| (failure.name.as_str(), failure.reason.as_str())).collect();
    assert_eq!(names, ["mail", "db"]);
    assert_eq!(failures, [("ghost", "KW_OBJECT_NOT_FOUND"), ("other", "KW_UNKNOWN_NAME")]);
}

#[tokio::test]
async fn an_older_version_is_read_on_demand_and_a_refresh_does_not_wait_for_the_next_check() {
    let rig = Rig::start().await;
    let first = rig.vault().set_secret("db", "first");
    let config = rig.config("- kv://shop/secrets/db").replace("interval: 1s", "interval: 1h");
    let sidecar = rig.run(&config).await;
    let client = sidecar.client().await;
    let second = rig.vault().rotate_secret("db", "second");
    assert_eq!(client.text("db").await, "first");
    assert_eq!(client.refresh("db").await.unwrap().value.as_ref(), b"second");
    let old = client.version("db", &first).await.unwrap();
    assert_eq!((old.value.as_ref(), old.version.as_str()), (&b"first"[..], first.as_str()));
    assert_eq!(client.get("db").await.unwrap().version, second);
    let status = client.version("db", "00000000000000000000000000000000").await.err().unwrap();
    assert_eq!(status.code(), Code::NotFound);
    // A refresh reaches the file as well.
    crate::rig::until("the file", || rig.text("db") == "second").await;
}

#[tokio::test]
async fn a_failed_refresh_leaves_the_value_and_a_watcher_hears_of_stale_and_fresh() {
    let rig = Rig::start().await;
    rig.vault().set_secret("db", "kept");
    let sidecar = rig.run(&rig.config("- kv://shop/secrets/db")).await;
    let client = sidecar.client().await;
    let mut watch = client.watch(&[]).await;
    assert!(!watch.value().await.stale);
    let fault = rig.emulator.faults().set(Fault::on("vault.*", Effect::Reset));
    let status = client.refresh("db").await.err().unwrap();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let stale = watch.value().await;
    assert_eq!((stale.stale, stale.value.as_ref()), (true, &b"kept"[..]));
    assert!(client.get("db").await.unwrap().stale);
    rig.emulator.faults().clear(fault);
    let fresh = watch.value().await;
    assert_eq!((fresh.stale, fresh.value.as_ref()), (false, &b"kept"[..]));
}

#[tokio::test]
async fn a_watch_ends_with_the_sidecar_and_other_callers_are_not_held_up() {
    let rig = Rig::start().await;
    rig.vault().set_secret("db", "v");
    let sidecar = rig.run(&rig.config("- kv://shop/secrets/db")).await;
    let client = sidecar.client().await;
    let mut watches = Vec::new();
    for _ in 0..20 {
        let mut watch = sidecar.client().await.watch(&["db"]).await;
        watch.value().await;
        watches.push(watch);
    }
    assert_eq!(client.text("db").await, "v");
    assert!(sidecar.stop().await.success());
    for mut watch in watches {
        assert!(!matches!(watch.next().await, Some(Event::Current(_))));
    }
}
