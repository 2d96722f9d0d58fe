//! The outage matrix of volumes: what a first publish answers, and that mounted volumes keep what they have and
//! recover by themselves.

use std::time::Duration;

use keyward_emulator::{Effect, Fault};
use keyward_test_support::kubelet::{Context, PodVolume};
use keyward_test_support::node::{DRIVER, Node, PATIENCE};
use serde_json::json;
use tokio::time::Instant;
use tonic::Code;

use crate::BINARY;
use crate::class::{entry, of_class, put_class};
use crate::hands::{assert_refused, publish_until_ok, publish_within, secret, status, until_else};

/// The deadline of a kubelet that does not wait for long.
const IMPATIENT: Duration = Duration::from_secs(4);

/// One row: what fails, and how a first publish must answer.
struct Row {
    name: &'static str,
    operation: &'static str,
    effect: Effect,
    code: Code,
    reason: &'static str,
}

fn row(name: &'static str, operation: &'static str, effect: Effect, code: Code, reason: &'static str) -> Row {
    Row { name, operation, effect, code, reason }
}

fn rows() -> Vec<Row> {
    let vault = "secrets.*";
    let entra = "token.*";
    vec![
        row(
            "vault-403",
            vault,
            Effect::Forbidden { inner_code: "ForbiddenByRbac".to_owned() },
            Code::PermissionDenied,
            "KW_VAULT_FORBIDDEN",
        ),
        row("vault-404", vault, status(404), Code::NotFound, "KW_OBJECT_NOT_FOUND"),
        row(
            "vault-429",
            vault,
            Effect::Throttle { retry_after: Some("1".to_owned()) },
            Code::Unavailable,
            "KW_VAULT_THROTTLED",
        ),
        row("vault-500", vault, status(500), Code::Unavailable, "KW_VAULT_UNAVAILABLE"),
        row("vault-503", vault, status(503), Code::Unavailable, "KW_VAULT_UNAVAILABLE"),
        row("vault-hang", vault, Effect::Hang, Code::Unavailable, "KW_"),
        row("vault-reset", vault, Effect::Reset, Code::Unavailable, "KW_"),
        row("vault-truncated", vault, Effect::TruncatedBody { keep: 9 }, Code::Unavailable, "KW_"),
        row("vault-garbage", vault, Effect::GarbageJson, Code::Unavailable, "KW_VAULT_PROTOCOL"),
        row(
            "entra-400",
            entra,
            Effect::TokenError { code: 700_213 },
            Code::Unauthenticated,
            "KW_TOKEN_REFUSED",
        ),
        row("entra-429", entra, Effect::Throttle { retry_after: None }, Code::Unavailable, "KW_TOKEN_"),
        row("entra-500", entra, status(500), Code::Unavailable, "KW_TOKEN_UNAVAILABLE"),
        row("entra-hang", entra, Effect::Hang, Code::Unavailable, "KW_"),
        row("entra-reset", entra, Effect::Reset, Code::Unavailable, "KW_"),
    ]
}

/// Faults of single rows touch only objects of the row's own name; of Entra's endpoint there is only one.
fn fault(row: &Row) -> Fault {
    let fault = Fault::on(row.operation, row.effect.clone());
    if row.operation == "token.*" { fault } else { fault.for_object(row.name) }
}

fn volume(node: &Node, row: &Row, pod: &str) -> PodVolume {
    node.volume(&format!("{}-{pod}", row.name), &[row.name, "other"])
}

async fn rig() -> Option<Node> {
    let node = Node::start(BINARY).await?;
    node.configure("limits: {publishDeadline: 9s, conversionDeadline: 5s}\n");
    node.vault().set_secret("other", "1");
    for row in rows() {
        node.vault().set_secret(row.name, "1");
    }
    Some(node)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_publish_says_which_hop_failed_by_a_stable_code_and_succeeds_once_it_is_over() {
    let Some(node) = rig().await else { return };
    let driver = node.drive().await;
    // Of Entra's endpoint there is one, and a connection that is reset takes the requests of others along.
    let alone = |row: &Row| row.operation == "token.*" || row.effect == Effect::Reset;
    let (single, vault): (Vec<_>, Vec<_>) = rows().into_iter().partition(alone);
    // Faults of one object each: all rows at once.
    for row in &vault {
        node.emulator.faults().set(fault(row));
    }
    let rig = &node;
    let all = vault.iter().map(|row| async move {
        let volume = volume(rig, row, "first");
        let since = Instant::now();
        let answer = rig.publish(&volume).await;
        assert!(since.elapsed() < Duration::from_secs(11), "{}: the deadline is kept", row.name);
        (row, answer)
    });
    for (row, answer) in futures::future::join_all(all).await {
        let text = assert_refused(answer, row.code, row.reason);
        assert!(text.contains("hop: ") && text.contains(row.name), "{}: {text}", row.name);
    }
    assert!(node.kubelet.mounts().is_empty());
    node.emulator.faults().clear_all();
    // Each pod has a token of its own, which is exchanged by itself.
    for row in &single {
        let id = node.emulator.faults().set(fault(row));
        let volume = volume(&node, row, "first");
        let answer = match row.effect {
            Effect::Hang => publish_within(&node, &volume, IMPATIENT).await,
            _ => node.publish(&volume).await,
        };
        let text = assert_refused(answer, row.code, row.reason);
        assert!(text.contains("hop: "), "{}: {text}", row.name);
        node.emulator.faults().clear(id);
    }
    assert!(node.kubelet.mounts().is_empty());
    let all: Vec<_> = vault.iter().chain(&single).map(|row| volume(&node, row, "first")).collect();
    futures::future::join_all(all.iter().map(|volume| publish_until_ok(&node, volume))).await;
    for volume in &all {
        assert_eq!(node.read(volume, "other").unwrap(), b"1");
    }
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_volume_keeps_its_files_through_every_outage_and_rotates_afterwards_by_itself() {
    let Some(node) = rig().await else { return };
    let driver = node.drive().await;
    let (entra, vault): (Vec<_>, Vec<_>) = rows().into_iter().partition(|row| row.operation == "token.*");
    let volumes: Vec<_> = vault.iter().map(|row| volume(&node, row, "mounted")).collect();
    let contexts: Vec<_> = volumes.iter().map(|volume| node.context(&volume.pod)).collect();
    let publish =
        || volumes.iter().zip(&contexts).map(|(volume, context)| node.kubelet.publish(volume, context));
    for answer in futures::future::join_all(publish()).await {
        answer.unwrap();
    }
    for row in &vault {
        node.emulator.faults().set(fault(row));
        node.vault().rotate_secret(row.name, "2");
    }
    node.vault().rotate_secret("other", "2");
    // What does not fail goes on. Nearly all of the vault fails, in every way, so that it may look down in two checks of
    // up to twenty seconds each; in the third at the latest each object was asked for.
    for (volume, row) in volumes.iter().zip(&vault) {
        node.until_file_within(4 * PATIENCE, volume, "other", b"2").await;
        assert_eq!(node.read(volume, row.name).unwrap(), b"1", "{}", row.name);
    }
    for answer in futures::future::join_all(publish()).await {
        answer.unwrap();
    }
    node.emulator.faults().clear_all();
    for (volume, row) in volumes.iter().zip(&vault) {
        node.until_file(volume, row.name, b"2").await;
    }
    // Entra: what it gave goes on working. Kubelet brings the same token until most of its life is over.
    let volume = &volumes[0];
    for (number, row) in entra.iter().enumerate() {
        let id = node.emulator.faults().set(fault(row));
        node.kubelet.publish(volume, &contexts[0]).await.unwrap();
        let value = format!("entra-{number}");
        node.vault().rotate_secret("other", &value);
        node.until_file(volume, "other", value.as_bytes()).await;
        node.emulator.faults().clear(id);
    }
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_api_server_volumes_with_objects_of_their_own_are_published_and_classes_say_what_is_missing()
 {
    let Some(node) = rig().await else { return };
    let driver = node.drive().await;
    put_class(&node, "known", &[&entry("other")], &[]);
    put_class(&node, "late", &[&entry("other")], &[]);
    let mounted = of_class(&node, "mounted", "known");
    node.publish(&mounted).await.unwrap();
    node.api.down();
    let own = node.volume("own-0", &["other"]);
    node.publish(&own).await.unwrap();
    node.publish(&mounted).await.unwrap();
    node.vault().rotate_secret("other", "2");
    node.until_file(&own, "other", b"2").await;
    node.until_file(&mounted, "other", b"2").await;
    // A class that was seen is known.
    let known = of_class(&node, "known-1", "known");
    node.publish(&known).await.unwrap();
    let unknown = of_class(&node, "unknown-0", "unknown");
    let answer = publish_within(&node, &unknown, IMPATIENT).await.unwrap_err();
    assert!(answer.message().contains("KW_"), "{answer:?}");
    assert!(matches!(answer.code(), Code::Unavailable | Code::NotFound), "{answer:?}");
    // Whose identity is an annotation is the API's to tell.
    let annotated =
        node.pod("annotated-0").volume(DRIVER, &[("objects", &json!([secret("other")]).to_string())]);
    let answer = node.publish(&annotated).await.unwrap_err();
    assert_eq!(answer.code(), Code::Unavailable, "{answer:?}");
    node.api.up();
    put_class(&node, "unknown", &[&entry("other")], &[]);
    publish_until_ok(&node, &unknown).await;
    node.api
        .until("events of what was published meanwhile", |_| {
            !crate::hands::notes(&node, &own, "SecretsMounted").is_empty()
        })
        .await;
    drop(driver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_has_ended_keeps_the_files_and_a_fresh_one_lets_rotation_go_on() {
    let Some(node) = Node::with(BINARY, |builder| builder.token_lifetimes(3600, 3600)).await else { return };
    node.vault().set_secret("a", "1");
    let driver = node.drive().await;
    let volume = node.volume("web-0", &["a"]);
    let token = node.context(&volume.pod);
    let other = node.volume("web-1", &["a"]);
    let late = node.context(&other.pod);
    node.kubelet.publish(&volume, &token).await.unwrap();
    // Both the pod's token and the access token that came of it end, and kubelet brings nothing new.
    node.emulator.advance_clock(Duration::from_secs(2 * 3600));
    let refused = || {
        node.emulator
            .counters()
            .rows()
            .iter()
            .any(|row| row.operation == "token.federated" && row.status >= 400)
    };
    node.vault().rotate_secret("a", "2");
    until_else(refused, || format!("never tried: {:?}\n{}", node.emulator.counters().rows(), driver.log()))
        .await;
    for context in [&token, &Context { tokens_in_secrets: true, ..Context::default() }] {
        node.kubelet.publish(&volume, context).await.unwrap();
        assert_eq!(node.read(&volume, "a").unwrap(), b"1");
    }
    // A pod that is new cannot begin with it.
    assert_refused(node.kubelet.publish(&other, &late).await, Code::Unauthenticated, "KW_");
    node.publish(&volume).await.unwrap();
    node.until_file(&volume, "a", b"2").await;
    drop(driver);
}
