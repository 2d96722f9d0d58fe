//! What a pod's declaration makes the plugin do elsewhere: resolve, connect, exchange, mount.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use keyward_emulator::{Effect, Fault};
use keyward_test_support::node::{DRIVER, VAULT};
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::words;
use crate::Outcome;
use crate::node::{Field, HOSTILE, Hostile};
use crate::turns::Turns;

fn objects(count: usize) -> String {
    let names: Vec<_> = (0..count).map(|number| format!("https://{HOSTILE}/secrets/s{number}")).collect();
    json!(names).to_string()
}

pub(super) async fn hosts(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    // A name server that hears and says nothing.
    let _silent = UdpSocket::bind("127.83.7.1:53")?;
    let names: Vec<_> =
        (0..1_000).map(|number| format!("https://h{number}.vault.azure.net/secrets/x")).collect();
    let volumes: Vec<_> = (0..4)
        .map(|number| field.volume(&hostile, &format!("hosts-{number}"), &json!(names).to_string(), &[]))
        .collect();
    let (field, hostile, turns) = (&field, &hostile, &turns);
    turns
        .each(|| async {
            join_all(volumes.iter().map(|volume| async move {
                turns.tried();
                // Kubelet would wait longer; this one goes and comes again.
                let _ = timeout(Duration::from_secs(2), field.publish(hostile, volume)).await;
            }))
            .await;
            sleep(Duration::from_millis(10)).await;
        })
        .await;
    Ok(())
}

pub(super) async fn slow_vault(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    (0..50).for_each(|number| drop(hostile.vault().set_secret(&format!("s{number}"), "x")));
    hostile.emulator.faults().set(Fault::on("secrets.*", Effect::Hang));
    let volumes: Vec<_> =
        (0..60).map(|number| field.volume(&hostile, &format!("slow-{number}"), &objects(50), &[])).collect();
    let (field, hostile, turns) = (&field, &hostile, &turns);
    turns
        .each(|| async {
            join_all(volumes.iter().map(|volume| async move {
                turns.tried();
                let _ = timeout(Duration::from_secs(2), field.publish(hostile, volume)).await;
            }))
            .await;
        })
        .await;
    Ok(())
}

pub(super) async fn throttling_vault(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    (0..20).for_each(|number| drop(hostile.vault().set_secret(&format!("s{number}"), "x")));
    let throttle = Effect::Throttle { retry_after: Some("1".to_owned()) };
    hostile.emulator.faults().set(Fault::on("secrets.*", throttle));
    let volumes: Vec<_> =
        (0..16).map(|number| field.volume(&hostile, &format!("429-{number}"), &objects(20), &[])).collect();
    let (field, hostile, turns) = (&field, &hostile, &turns);
    turns
        .each(|| async {
            join_all(volumes.iter().map(|volume| async move {
                turns.tried();
                let _ = timeout(Duration::from_secs(1), field.publish(hostile, volume)).await;
            }))
            .await;
            sleep(Duration::from_millis(5)).await;
        })
        .await;
    Ok(())
}

/// At the authority that all pods of the node share.
pub(super) async fn unknown_clients(field: Field, _hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let from = json!([format!("https://{VAULT}/secrets/plain-a")]).to_string();
    let mut count = 0u64;
    let (field, turns) = (&field, &turns);
    turns
        .each(|| {
            let loops: Vec<_> = (0..8)
                .map(|_| {
                    count += 1;
                    let client = format!("00000000-0000-4000-8000-{count:012}");
                    let pod = field.pod(&format!("unknown-{count}"));
                    let attributes = [
                        ("objects", from.as_str()),
                        ("clientID", client.as_str()),
                        ("tenantID", field.node().emulator.tenant_id()),
                    ];
                    let volume = pod.volume(DRIVER, &attributes);
                    async move {
                        turns.answered(field.node().publish(&volume).await.map_err(words));
                    }
                })
                .collect();
            async move {
                join_all(loops).await;
            }
        })
        .await;
    Ok(())
}

pub(super) async fn come_and_go(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    (0..10).for_each(|number| drop(hostile.vault().set_secret(&format!("s{number}"), "x")));
    let (field, hostile, turns) = (&field, &hostile, &turns);
    let mut round = 0;
    turns
        .each(|| {
            round += 1;
            let loops = (0..16).map(move |number| async move {
                let name = format!("guest-{round}-{number}");
                let volume = field.volume(hostile, &name, &objects(10), &[("grpc", "true")]);
                turns.answered(field.publish(hostile, &volume).await.map_err(words));
                field.unpublish(&volume).await;
            });
            async move {
                join_all(loops).await;
            }
        })
        .await;
    Ok(())
}

pub(super) async fn volumes(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    hostile.vault().set_secret("s0", "x");
    let volumes: Vec<_> = (0..600)
        .map(|number| {
            let mut volume = field.volume(&hostile, "many", &objects(1), &[("grpc", "true")]);
            volume.name = format!("v{number}");
            volume
        })
        .collect();
    for some in volumes.chunks(32) {
        join_all(some.iter().map(|volume| field.publish(&hostile, volume))).await;
    }
    turns
        .each(|| async {
            for volume in &volumes {
                turns.answered(field.publish(&hostile, volume).await.map_err(words));
            }
        })
        .await;
    Ok(())
}

pub(super) async fn fields(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let long = |length: usize| "x".repeat(length);
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let wide = format!("[{}]", vec!["{from: 'kv://hostile/secrets/é\u{202e}', name: 'ü'}"; 20_000].join(","));
    let entry = |key: &str, value: &str| json!([{"from": "kv://hostile/secrets/x", key: value}]).to_string();
    let cases: Vec<(String, Vec<(&str, String)>)> = vec![
        (deep, vec![]),
        (wide, vec![]),
        (long(1_400_000), vec![]),
        (entry("template", &long(1_000_000)), vec![]),
        (entry("name", &"é".repeat(500_000)), vec![]),
        (entry("file", &"x/".repeat(500_000)), vec![]),
        (entry("key", &"/~0".repeat(300_000)), vec![]),
        (objects(1), vec![("cloud", long(1_000_000))]),
        (objects(1), vec![("clientID", "é".repeat(600_000))]),
        (objects(1), vec![("secretProviderClass", long(1_000_000))]),
        ("\"".repeat(1_000_000), vec![]),
        (format!("- {}", "&a ".repeat(300_000)), vec![]),
        ("# ".repeat(700_000), vec![]),
    ];
    let volumes: Vec<_> = cases
        .iter()
        .enumerate()
        .map(|(number, (objects, more))| {
            let more: Vec<_> = more.iter().map(|(key, value)| (*key, value.as_str())).collect();
            field.volume(&hostile, &format!("fields-{number}"), objects, &more)
        })
        .collect();
    let (field, hostile, turns) = (&field, &hostile, &turns);
    turns
        .each(|| async {
            join_all(volumes.iter().map(|volume| async move {
                turns.answered(field.publish(hostile, volume).await.map_err(words));
            }))
            .await;
        })
        .await;
    Ok(())
}
