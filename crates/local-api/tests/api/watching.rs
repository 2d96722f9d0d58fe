//! What watchers see.

use crate::rig::{Client, Rig, reason};
use keyward_core::{Code as KeywardCode, Error, State};
use keyward_proto::secrets::v1::watch_secrets_response::Event;
use keyward_proto::secrets::v1::*;
use tonic::{Code, Streaming};

async fn watch(client: &mut Client, names: &[&str]) -> Streaming<WatchSecretsResponse> {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    client.watch_secrets(WatchSecretsRequest { names }).await.unwrap().into_inner()
}

/// The next event in short: `name=value`, `name~value` when stale, `name!reason`, `-name`.
async fn next(stream: &mut Streaming<WatchSecretsResponse>) -> String {
    match stream.message().await.unwrap().expect("the stream goes on").event.expect("an event") {
        Event::Current(secret) => {
            let sign = if secret.stale { "~" } else { "=" };
            format!("{}{sign}{}", secret.name, String::from_utf8_lossy(&secret.value))
        }
        Event::Failure(failure) => format!("{}!{}", failure.name, failure.reason),
        Event::Removed(removal) => format!("-{}", removal.name),
    }
}

#[tokio::test]
async fn a_watcher_sees_the_current_state_and_then_every_kind_of_change() {
    let rig = Rig::start();
    rig.view.set("db", b"1");
    rig.view.stand("late", State::Pending, None);
    let mut stream = watch(&mut rig.client().await, &[]).await;
    assert_eq!(next(&mut stream).await, "db=1");
    assert_eq!(next(&mut stream).await, "late!KW_VAULT_UNAVAILABLE");
    rig.view.set("db", b"2");
    assert_eq!(next(&mut stream).await, "db=2");
    rig.view.stand("db", State::Stale, Some(Error::new(KeywardCode::Timeout, "late")));
    assert_eq!(next(&mut stream).await, "db~2");
    rig.view.stand("db", State::Revoked, Some(Error::new(KeywardCode::VaultForbidden, "no")));
    assert_eq!(next(&mut stream).await, "db!KW_VAULT_FORBIDDEN");
    rig.view.remove("db");
    assert_eq!(next(&mut stream).await, "-db");
    rig.view.set("another", b"x");
    assert_eq!(next(&mut stream).await, "another=x");
}

#[tokio::test]
async fn a_watch_of_names_sees_those_names_only_and_each_once() {
    let rig = Rig::start();
    for name in ["a", "b", "c"] {
        rig.view.set(name, b"1");
    }
    let mut client = rig.client().await;
    let mut stream = watch(&mut client, &["c", "a", "c"]).await;
    assert_eq!(next(&mut stream).await, "c=1");
    assert_eq!(next(&mut stream).await, "a=1");
    rig.view.set("b", b"2");
    rig.view.remove("a");
    assert_eq!(next(&mut stream).await, "-a");
    rig.view.set("a", b"3");
    assert_eq!(next(&mut stream).await, "a=3");
    let names = vec!["a".to_owned(), "unknown".to_owned()];
    let status = client.watch_secrets(WatchSecretsRequest { names }).await.err().unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "KW_UNKNOWN_NAME"));
}

#[tokio::test]
async fn a_slow_reader_gets_the_newest_state_and_does_not_slow_others() {
    let rig = Rig::start();
    let (mut slow_client, mut quick_client) = (rig.small_client().await, rig.client().await);
    let value = |turn: usize| format!("{turn:06}").repeat(3000).into_bytes();
    rig.view.set("big", &value(0));
    let mut slow = watch(&mut slow_client, &["big"]).await;
    let mut quick = watch(&mut quick_client, &["big"]).await;
    const TURNS: usize = 400;
    for turn in 1..=TURNS {
        assert!(next(&mut quick).await.starts_with("big="));
        rig.view.set("big", &value(turn));
    }
    let last = format!("big={TURNS:06}");
    while !next(&mut quick).await.starts_with(&last) {}
    let mut seen = 1;
    while !next(&mut slow).await.starts_with(&last) {
        seen += 1;
    }
    assert!(seen < TURNS / 10, "{seen} of {TURNS} states were kept for the slow reader");
}

#[tokio::test]
async fn watches_are_bounded_on_a_connection_and_an_ended_one_is_free_again() {
    let rig = Rig::with(|settings| settings.max_watches_per_connection = 2);
    rig.view.set("db", b"1");
    let mut client = rig.client().await;
    let mut first = watch(&mut client, &[]).await;
    let _second = watch(&mut client, &[]).await;
    next(&mut first).await;
    let refused = client.watch_secrets(WatchSecretsRequest::default()).await.err().unwrap();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "KW_LIMIT_EXCEEDED"));
    assert!(rig.client().await.watch_secrets(WatchSecretsRequest::default()).await.is_ok());
    drop(first);
    while client.watch_secrets(WatchSecretsRequest::default()).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_shutdown_ends_watches_with_a_reason_and_removes_the_socket() {
    let mut rig = Rig::start();
    rig.view.set("db", b"1");
    let mut stream = watch(&mut rig.client().await, &[]).await;
    assert_eq!(next(&mut stream).await, "db=1");
    let drained = rig.stop();
    let status = stream.message().await.err().unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "KW_SHUTTING_DOWN"));
    drop(stream);
    drained.await.unwrap().unwrap();
    assert!(!rig.socket.exists());
}
