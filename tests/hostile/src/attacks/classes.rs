//! What whoever may edit classes of one namespace can do.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use keyward_test_support::kubelet::PodVolume;
use keyward_test_support::node::DRIVER;
use tokio::time::sleep;

use super::words;
use crate::Outcome;
use crate::node::{Field, Hostile};
use crate::turns::Turns;

/// Adds or changes a class of the attacker with these entries.
fn put(field: &Field, hostile: &Hostile, class: &str, entries: &[String], padding: &str) {
    let mut objects = String::from("array:\n");
    for entry in entries {
        objects.push_str("  - |\n");
        for line in entry.lines() {
            let _ = writeln!(objects, "    {line}");
        }
    }
    let parameters = [
        ("keyvaultName", "hostile"),
        ("cloudName", "War"),
        ("tenantId", hostile.emulator.tenant_id()),
        ("clientID", hostile.identity.client_id.as_str()),
        ("objects", objects.as_str()),
        ("keyvaultPadding", padding),
    ];
    let given = if padding.is_empty() { &parameters[..5] } else { &parameters[..] };
    field.node().api.put_class("evil", class, "azure", given);
}

fn entry(name: &str, alias: &str) -> String {
    format!("objectName: {name}\nobjectType: secret\nobjectAlias: {alias}")
}

fn of_class(field: &Field, pod: &str, class: &str) -> PodVolume {
    field.pod(pod).volume(DRIVER, &[("secretProviderClass", class)])
}

async fn twenty(field: &Field, hostile: &Hostile) -> Outcome<()> {
    for number in 0..20 {
        field.publish_until_there(hostile, &of_class(field, &format!("edited-{number}"), "edited")).await?;
    }
    Ok(())
}

pub(super) async fn edits(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    (0..50).for_each(|number| drop(hostile.vault().set_secret(&format!("s{number}"), "x")));
    let entries = |round: usize| -> Vec<_> {
        (0..50).map(|number| entry(&format!("s{number}"), &format!("f{number}-{}", round % 7))).collect()
    };
    put(&field, &hostile, "edited", &entries(0), "");
    twenty(&field, &hostile).await?;
    let mut round = 0;
    turns
        .each(|| {
            round += 1;
            put(&field, &hostile, "edited", &entries(round), "");
            turns.tried();
            sleep(Duration::from_millis(2))
        })
        .await;
    Ok(())
}

pub(super) async fn bombs(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    hostile.vault().set_secret("s0", "x");
    let padding = "p".repeat(1_000_000);
    let class = |number: usize| format!("bomb-{number}");
    for number in 0..64 {
        put(&field, &hostile, &class(number), &[entry("s0", "f")], &padding);
    }
    for number in 0..64 {
        // One that is refused for what it holds is waited for all the same.
        let volume = of_class(&field, &format!("bombed-{number}"), &class(number));
        let _ = tokio::time::timeout(Duration::from_secs(2), field.publish(&hostile, &volume)).await;
    }
    let mut round = 0;
    turns
        .each(|| {
            round += 1;
            put(&field, &hostile, &class(round % 64), &[entry("s0", &format!("f{round}"))], &padding);
            turns.tried();
            sleep(Duration::from_millis(100))
        })
        .await;
    Ok(())
}

pub(super) async fn histories(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let vault = hostile.vault();
    for number in 0..10 {
        for version in 0..501 {
            vault.set_secret(&format!("s{number}"), format!("{version:0>5000}"));
        }
    }
    let entries: Vec<_> = (0..10)
        .map(|number| {
            format!("{}\nobjectVersionHistory: 500", entry(&format!("s{number}"), &format!("f{number}")))
        })
        .collect();
    put(&field, &hostile, "long", &entries, "");
    let volume = of_class(&field, "historian", "long");
    let mut round = 0;
    turns
        .each(|| {
            round += 1;
            let (field, hostile, volume, turns) = (&field, &hostile, &volume, &turns);
            vault.rotate_secret(&format!("s{}", round % 10), format!("{round:0>5000}"));
            async move {
                turns.answered(field.publish(hostile, volume).await.map_err(words));
                sleep(Duration::from_millis(200)).await;
                field.unpublish(volume).await;
            }
        })
        .await;
    Ok(())
}

pub(super) async fn failing_edits(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    hostile.vault().set_secret("s0", "x");
    put(&field, &hostile, "edited", &[entry("s0", "f")], "");
    twenty(&field, &hostile).await?;
    let mut round = 0;
    turns
        .each(|| {
            round += 1;
            let name = if round % 2 == 0 { "s0".to_owned() } else { format!("missing-{round}") };
            put(&field, &hostile, "edited", &[entry(&name, "f")], "");
            turns.tried();
            sleep(Duration::from_millis(20))
        })
        .await;
    Ok(())
}
