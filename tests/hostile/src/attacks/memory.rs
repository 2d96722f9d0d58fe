//! Work that costs memory.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use keyward_emulator::{Effect, Fault};
use keyward_test_support::kubelet::PodVolume;
use serde_json::json;
use tokio::time::sleep;

use super::{publish_again, words};
use crate::Outcome;
use crate::node::{Field, HOSTILE, Hostile};
use crate::turns::Turns;

/// Key Vault's largest value.
const VALUE: usize = 25_000;

fn object(name: &str) -> String {
    format!("https://{HOSTILE}/secrets/{name}")
}

/// A template that gives `inner` 1,600 times.
fn repeated(inner: &str) -> String {
    let forty = vec!["0"; 40].join(",");
    format!("{{% for a in [{forty}] %}}{{% for b in [{forty}] %}}{inner}{{% endfor %}}{{% endfor %}}")
}

fn template(number: usize, text: &str) -> serde_json::Value {
    json!({"name": format!("t{number}"), "template": text})
}

pub(super) async fn templates(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let megabyte = repeated(&"x".repeat(640));
    let objects: Vec<_> = (0..700).map(|number| template(number, &megabyte)).collect();
    let volume = field.volume(&hostile, "templates", &json!(objects).to_string(), &[]);
    publish_again(&field, &hostile, &volume, &turns).await;
    Ok(())
}

pub(super) async fn largest_refused(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let vault = hostile.vault();
    let names: Vec<_> = (0..980).map(|number| format!("large-{number}")).collect();
    names.iter().for_each(|name| drop(vault.set_secret(name, vec![b'x'; VALUE])));
    let megabyte = repeated(&"x".repeat(640));
    let mut objects: Vec<_> = names.iter().map(|name| json!(object(name))).collect();
    objects.extend((0..20).map(|number| template(number, &megabyte)));
    let volume = field.volume(&hostile, "largest", &json!(objects).to_string(), &[]);
    publish_again(&field, &hostile, &volume, &turns).await;
    Ok(())
}

pub(super) async fn growing_templates(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let vault = hostile.vault();
    vault.set_secret("seed", "x");
    let forty = vec!["0"; 40].join(",");
    let grows = format!("{{% for a in [{forty}] %}}{{{{ secret('seed') }}}}{{% endfor %}}");
    let mut objects: Vec<_> = (0..700).map(|number| template(number, &grows)).collect();
    objects.push(json!(object("seed")));
    let volume = field.volume(&hostile, "growing", &json!(objects).to_string(), &[]);
    field.publish_until_there(&hostile, &volume).await?;
    let mut letter = 0u8;
    turns
        .each(|| {
            letter = (letter + 1) % 26;
            vault.rotate_secret("seed", vec![b'a' + letter; VALUE]);
            turns.tried();
            sleep(Duration::from_millis(300))
        })
        .await;
    Ok(())
}

/// Templates of a megabyte each, over a secret that moves them all: what one volume may hold, and not more.
fn full_volume() -> String {
    let megabyte = repeated(&format!("{}{{{{ secret('seed') }}}}", "x".repeat(600)));
    let mut objects: Vec<_> = (0..28).map(|number| template(number, &megabyte)).collect();
    objects.push(json!(object("seed")));
    json!(objects).to_string()
}

/// Volumes of one pod, each as full as it may be.
fn of_one_pod(field: &Field, hostile: &Hostile, count: usize) -> Vec<PodVolume> {
    let objects = full_volume();
    let volume = |number| {
        let mut volume = field.volume(hostile, "fat", &objects, &[]);
        volume.name = format!("v{number}");
        volume
    };
    (0..count).map(volume).collect()
}

pub(super) async fn payloads(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    hostile.vault().set_secret("seed", "0123456789");
    let volumes = of_one_pod(&field, &hostile, 20);
    turns
        .each(|| async {
            for volume in &volumes {
                turns.answered(field.publish(&hostile, volume).await.map_err(words));
            }
            for volume in &volumes {
                field.unpublish(volume).await;
            }
        })
        .await;
    Ok(())
}

pub(super) async fn moving_payload(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let vault = hostile.vault();
    vault.set_secret("seed", "0123456789");
    let volumes = of_one_pod(&field, &hostile, 4);
    for volume in &volumes {
        // What does not fit is refused.
        let _ = field.publish(&hostile, volume).await;
    }
    let mut number = 0;
    turns
        .each(|| {
            number += 1;
            vault.rotate_secret("seed", format!("{number:010}"));
            turns.tried();
            sleep(Duration::from_millis(300))
        })
        .await;
    Ok(())
}

pub(super) async fn pinned_versions(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let vault = hostile.vault();
    let versions: Vec<_> =
        (0..2700u32).map(|number| vault.set_secret("pinned", format!("{number:0>VALUE$}"))).collect();
    let volumes: Vec<_> = versions
        .chunks(900)
        .enumerate()
        .map(|(pod, versions)| {
            let entry = |(number, version): (usize, &String)| {
                json!({"from": format!("{}/{version}", object("pinned")), "name": format!("v{number}")})
            };
            let objects: Vec<_> = versions.iter().enumerate().map(entry).collect();
            field.volume(&hostile, &format!("pinned-{pod}"), &json!(objects).to_string(), &[("grpc", "true")])
        })
        .collect();
    turns
        .each(|| async {
            for answer in join_all(volumes.iter().map(|volume| field.publish(&hostile, volume))).await {
                turns.answered(answer.map_err(words));
            }
            sleep(Duration::from_millis(300)).await;
            for volume in &volumes {
                field.unpublish(volume).await;
            }
        })
        .await;
    Ok(())
}

pub(super) async fn huge_answers(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let vault = hostile.vault();
    let names: Vec<_> = (0..64).map(|number| format!("huge-{number}")).collect();
    names.iter().for_each(|name| drop(vault.set_secret(name, "x")));
    hostile.emulator.faults().set(Fault::on("secrets.get", Effect::HugeBody { bytes: 200 << 20 }));
    let objects: Vec<_> = names.iter().map(|name| object(name)).collect();
    let volumes: Vec<_> = (0..8)
        .map(|number| field.volume(&hostile, &format!("huge-{number}"), &json!(objects).to_string(), &[]))
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
