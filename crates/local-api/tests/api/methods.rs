//! What each method answers.

use std::sync::atomic::Ordering;

use crate::rig::{Rig, get, reason, refresh, version};
use keyward_core::audit::{Action, Actor};
use keyward_core::observe::{Event, Lookup};
use keyward_core::{Code as KeywardCode, Error, State};
use keyward_proto::secrets::v1::*;
use tonic::Code;

#[tokio::test]
async fn a_secret_comes_with_everything_that_is_known_about_it() {
    let rig = Rig::start();
    rig.view.set("db", b"\x00binary\xff");
    let secret = get(&mut rig.client().await, "db").await.unwrap();
    assert_eq!(secret.value.as_ref(), b"\x00binary\xff");
    assert_eq!(
        (secret.name.as_str(), secret.source.as_str()),
        ("db", "https://shop.vault.azure.net/secrets/db")
    );
    assert_eq!(secret.version, format!("{:032x}", 1));
    assert_eq!((secret.content_type.as_str(), secret.stale, secret.sequence), ("text/plain", false, 1));
    let time = |time: Option<prost_types::Timestamp>| time.map(|time| (time.seconds, time.nanos));
    assert_eq!(time(secret.created_at), Some((1_700_000_000, 5)));
    assert_eq!(time(secret.updated_at), Some((1_700_000_060, 0)));
    assert_eq!(time(secret.expires_at), None);
    assert_eq!(time(secret.fetched_at), Some((1_700_000_120, 250_000_000)));
}

#[tokio::test]
async fn each_state_of_an_object_is_answered_as_promised() {
    let rig = Rig::start();
    let mut client = rig.client().await;
    rig.view.set("db", b"value");
    let throttled = || Some(Error::new(KeywardCode::VaultThrottled, "slow down"));

    rig.view.stand("db", State::Stale, throttled());
    let secret = get(&mut client, "db").await.unwrap();
    assert!(secret.stale && secret.value.as_ref() == b"value");

    rig.view.stand("db", State::Expired, throttled());
    let status = get(&mut client, "db").await.err().unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "KW_STALE_LIMIT"));

    let forbidden = Error::new(KeywardCode::VaultForbidden, "the vault says no");
    rig.view.stand("db", State::Revoked, Some(forbidden));
    let status = get(&mut client, "db").await.err().unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "KW_VAULT_FORBIDDEN"));

    let deleted = Error::new(KeywardCode::ObjectNotFound, "the object is deleted");
    rig.view.stand("db", State::Revoked, Some(deleted));
    let status = get(&mut client, "db").await.err().unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "KW_OBJECT_NOT_FOUND"));

    let unreachable = Error::new(KeywardCode::VaultUnavailable, "the first read failed");
    rig.view.stand("new", State::Pending, Some(unreachable));
    let status = get(&mut client, "new").await.err().unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "KW_VAULT_UNAVAILABLE"));
}

#[tokio::test]
async fn callers_wait_for_a_first_read_that_is_on_its_way() {
    let rig = Rig::start();
    rig.view.stand("db", State::Pending, None);
    let mut client = rig.client().await;
    let waiting = tokio::spawn(async move { get(&mut client, "db").await });
    // An answered call on another connection proves that the server had its turn.
    let mut other = rig.client().await;
    rig.view.set("other", b"1");
    get(&mut other, "other").await.unwrap();
    assert!(!waiting.is_finished());
    rig.view.set("db", b"value");
    assert!(waiting.await.unwrap().unwrap().value.as_ref() == b"value");
}

#[tokio::test]
async fn a_name_that_is_not_declared_is_not_found_and_never_repeated() {
    let rig = Rig::start();
    let mut client = rig.client().await;
    let status = get(&mut client, "canary-5f1e").await.err().unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "KW_UNKNOWN_NAME"));
    let audit = format!("{:?}", rig.kept.audit.lock());
    for text in [format!("{status:?}"), String::from_utf8_lossy(status.details()).into_owned(), audit] {
        assert!(!text.contains("canary"), "{text}");
    }
}

#[tokio::test]
async fn the_version_in_place_is_answered_from_memory_and_another_from_the_provider() {
    let rig = Rig::start();
    let mut client = rig.client().await;
    rig.view.set("db", b"value");
    let current = format!("{:032X}", 1);
    assert_eq!(version(&mut client, "db", &current).await.unwrap().value.as_ref(), b"value");
    let older = "a".repeat(32);
    let secret = version(&mut client, "db", &older).await.unwrap();
    assert_eq!((secret.value.as_ref(), secret.version), (&b"an older value"[..], older));
    let status = version(&mut client, "db", "../keys/k").await.err().unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "KW_OBJECT_INVALID"));
    let outcomes: Vec<_> = rig
        .kept
        .events
        .lock()
        .iter()
        .filter_map(|event| if let Event::Lookup { outcome } = event { Some(*outcome) } else { None })
        .collect();
    assert_eq!(outcomes, [Lookup::Hit, Lookup::Miss, Lookup::Refused]);
}

#[tokio::test]
async fn a_batch_answers_each_name_once_as_a_secret_or_as_a_failure() {
    let rig = Rig::with(|settings| settings.max_batch_bytes = 1000);
    let mut client = rig.client().await;
    rig.view.set("a", b"1");
    rig.view.set("big", &[7; 2000]);
    rig.view.set("z", b"26");
    rig.view.stand("late", State::Pending, None);
    let names = ["z", "late", "missing", "a", "z", "big"].map(str::to_owned).to_vec();
    let response = client.batch_get_secrets(BatchGetSecretsRequest { names }).await.unwrap().into_inner();
    let given: Vec<_> =
        response.secrets.iter().map(|secret| (secret.name.as_str(), &*secret.value)).collect();
    assert_eq!(given, [("z", &b"26"[..]), ("a", b"1")]);
    let failed: Vec<_> = response
        .failures
        .iter()
        .map(|failure| (failure.name.as_str(), Code::from(failure.code), failure.reason.as_str()))
        .collect();
    assert_eq!(
        failed,
        [
            ("late", Code::Unavailable, "KW_VAULT_UNAVAILABLE"),
            ("missing", Code::NotFound, "KW_UNKNOWN_NAME"),
            ("big", Code::ResourceExhausted, "KW_LIMIT_EXCEEDED"),
        ]
    );
    for names in [vec![], vec![String::new(); 257]] {
        let status = client.batch_get_secrets(BatchGetSecretsRequest { names }).await.err().unwrap();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "KW_REQUEST_INVALID"));
    }
}

#[tokio::test]
async fn a_list_shows_names_and_states_in_order_and_never_values() {
    let rig = Rig::start();
    let mut client = rig.client().await;
    rig.view.set("web/tls", b"canary-5f1e");
    rig.view.set("db", b"canary-5f1e");
    rig.view.stand("db", State::Stale, Some(Error::new(KeywardCode::Timeout, "late")));
    let list = async |client: &mut crate::rig::Client, prefix: &str| {
        let request = ListSecretsRequest { prefix: prefix.to_owned() };
        client.list_secrets(request).await.unwrap().into_inner()
    };
    let all = list(&mut client, "").await;
    let shown: Vec<_> = all.secrets.iter().map(|s| (s.name.as_str(), s.state(), s.reason.as_str())).collect();
    assert_eq!(shown, [("db", SecretState::Stale, "KW_TIMEOUT"), ("web/tls", SecretState::Fresh, "")]);
    assert!(!format!("{all:?}").contains("canary"));
    assert_eq!(list(&mut client, "web/").await.secrets.len(), 1);
    assert!(rig.kept.audit.lock().is_empty(), "names alone are no delivery");
}

#[tokio::test]
async fn a_refresh_reads_afresh_is_audited_and_waits_its_turn_for_each_name() {
    let rig = Rig::start();
    let mut client = rig.client().await;
    rig.view.set("db", b"old");
    rig.view.set("other", b"old");
    assert_eq!(refresh(&mut client, "db").await.unwrap().value.as_ref(), b"refreshed");
    let status = refresh(&mut client, "db").await.err().unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "KW_RATE_LIMITED"));
    let wait = tonic_types::StatusExt::get_details_retry_info(&status).unwrap().retry_delay.unwrap();
    assert!(wait.as_millis() > 500 && wait.as_secs() <= 1, "{wait:?}");
    assert!(refresh(&mut client, "other").await.is_ok());
    assert_eq!(rig.view.refreshes.load(Ordering::Relaxed), 2);
    let actions: Vec<_> = rig.kept.audit.lock().iter().map(|e| (e.action, e.error)).collect();
    assert_eq!(
        actions,
        [
            (Action::Refresh, None),
            (Action::Read, None),
            (Action::Refresh, Some(KeywardCode::RateLimited)),
            (Action::Refresh, None),
            (Action::Read, None),
        ]
    );
}

#[tokio::test]
async fn a_refresh_that_fails_says_why_and_leaves_the_value() {
    let rig = Rig::start();
    let mut client = rig.client().await;
    rig.view.set("db", b"old");
    rig.view.refresh.send_replace(Some(Err(Error::new(KeywardCode::Dns, "no such host"))));
    let status = refresh(&mut client, "db").await.err().unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "KW_DNS"));
    assert_eq!(get(&mut client, "db").await.unwrap().value.as_ref(), b"old");
}

#[tokio::test]
async fn the_first_read_is_recorded_with_caller_and_trace_and_repeats_are_counted() {
    let rig = Rig::start();
    let mut client = rig.client().await;
    rig.view.set("db", b"value");
    let mut request = tonic::Request::new(GetSecretRequest { name: "db".to_owned(), version: String::new() });
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    request.metadata_mut().insert("traceparent", trace.parse().unwrap());
    client.get_secret(request).await.unwrap();
    for _ in 0..9 {
        get(&mut client, "db").await.unwrap();
    }
    let audit = rig.kept.audit.lock();
    let [event] = audit.as_slice() else { panic!("{audit:?}") };
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    assert_eq!(event.actor, Actor::Peer { uid, gid, pid: std::process::id() as i32 });
    assert_eq!((event.action, event.error), (Action::Read, None));
    assert_eq!(event.object, "https://shop.vault.azure.net/secrets/db");
    assert_eq!(event.version, Some(format!("{:032x}", 1)));
    assert_eq!(event.trace_id.as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
    assert_eq!(rig.kept.repeats.load(Ordering::Relaxed), 9);
    let rpc = |event: &Event| matches!(event, Event::Rpc { method, code: "OK", .. } if *method == "keyward.secrets.v1.SecretService/GetSecret");
    assert_eq!(rig.kept.events.lock().iter().filter(|event| rpc(event)).count(), 10);
}

#[tokio::test]
async fn nothing_is_given_when_the_audit_log_refuses_the_record() {
    let rig = Rig::start();
    let mut client = rig.client().await;
    rig.view.set("db", b"canary-5f1e");
    rig.kept.deny.store(true, Ordering::Relaxed);
    let status = get(&mut client, "db").await.err().unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "KW_AUDIT_UNAVAILABLE"));
    let names = vec!["db".to_owned()];
    let batch = client.batch_get_secrets(BatchGetSecretsRequest { names }).await.unwrap().into_inner();
    assert!(batch.secrets.is_empty() && batch.failures[0].reason == "KW_AUDIT_UNAVAILABLE");
    let mut watch = client.watch_secrets(WatchSecretsRequest::default()).await.unwrap().into_inner();
    let status = watch.message().await.err().unwrap();
    assert_eq!(reason(&status), "KW_AUDIT_UNAVAILABLE");
}
