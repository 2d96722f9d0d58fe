//! Work that costs processor time: key stores with as many iterations as they may have.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::join_all;
use keyward_proto::secrets::v1::{GetSecretRequest, RefreshSecretRequest};
use serde_json::json;
use tokio::time::sleep;

use super::{publish, publish_again};
use crate::Outcome;
use crate::node::{Field, HOSTILE, Hostile, Socket, encoded};
use crate::turns::Turns;

/// A key store whose checksum takes `iterations` to refuse with the empty password, and as many again with none at all.
fn store(iterations: u32, salt: u32) -> String {
    let data = element(0x06, &[&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01]]);
    let sha1 = element(0x06, &[&[0x2b, 0x0e, 0x03, 0x02, 0x1a]]);
    let safes = element(0x30, &[&data, &element(0xa0, &[&element(0x04, &[&element(0x30, &[])])])]);
    let digest = element(0x30, &[&element(0x30, &[&sha1, &[0x05, 0x00]]), &element(0x04, &[&[0; 20]])]);
    let salt = element(0x04, &[&salt.to_be_bytes(), b"salt"]);
    let mac = element(0x30, &[&digest, &salt, &element(0x02, &[&iterations.to_be_bytes()])]);
    STANDARD.encode(element(0x30, &[&[0x02, 0x01, 0x03], &safes, &mac]))
}

/// The costliest one that may be declared for one password, which is twice the bound, and one just within it.
fn costly(salt: u32) -> String {
    if salt.is_multiple_of(2) { store(1_000_000, salt) } else { store(499_999, salt) }
}

/// A key and its certificate, which cost next to nothing.
fn good() -> Outcome<String> {
    let made = rcgen::generate_simple_self_signed(["evil.example".to_owned()])?;
    Ok(format!("{}{}", made.signing_key.serialize_pem(), made.cert.pem()))
}

/// DER, shorter than 128 bytes.
fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    [&[tag, u8::try_from(content.len()).unwrap_or(u8::MAX)], content.as_slice()].concat()
}

fn pem(name: &str, alias: &str) -> serde_json::Value {
    json!({"from": format!("https://{HOSTILE}/secrets/{name}"), "name": alias, "format": "pem"})
}

pub(super) async fn old_versions(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let vault = hostile.vault();
    let versions: Vec<_> = (0..4).map(|salt| vault.set_secret("turned", costly(salt))).collect();
    vault.set_secret("turned", good()?);
    let objects = json!([pem("turned", "turned")]).to_string();
    let volume = field.volume(&hostile, "old", &objects, &[("grpc", "true")]);
    field.publish_until_there(&hostile, &volume).await?;
    let socket = field.socket(&volume);
    turns
        .each(|| async {
            let loops = (0..8u32).map(|number| {
                let (socket, versions, turns) = (&socket, &versions, &turns);
                async move {
                    let Ok(mut socket) = Socket::connect_as(socket, 20_000 + number, 65_535).await else {
                        return;
                    };
                    for version in versions.iter().cycle() {
                        let request =
                            GetSecretRequest { name: "turned".to_owned(), version: version.clone() };
                        let answer = socket.ask("GetSecret", encoded(&request)).await;
                        let is_over = answer.is_err();
                        turns.answered(answer);
                        if is_over {
                            return;
                        }
                    }
                }
            });
            join_all(loops).await;
            sleep(Duration::from_millis(20)).await;
        })
        .await;
    Ok(())
}

pub(super) async fn refreshes(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let vault = hostile.vault();
    let mut objects = Vec::new();
    for number in 0..32 {
        let name = format!("turns-{number}");
        vault.set_secret(&name, good()?);
        objects.push(pem(&name, &name));
    }
    let volume = field.volume(&hostile, "refresh", &json!(objects).to_string(), &[("grpc", "true")]);
    field.publish_until_there(&hostile, &volume).await?;
    let socket = field.socket(&volume);
    let mut salt = 0;
    turns
        .each(|| {
            salt += 1;
            let (socket, turns, vault, salt) = (&socket, &turns, &vault, salt);
            async move {
                let loops = (0..32u32).map(|number| async move {
                    let name = format!("turns-{number}");
                    vault.rotate_secret(&name, costly(salt * 64 + number));
                    let Ok(mut socket) = Socket::connect_as(socket, 21_000 + number, 65_535).await else {
                        return;
                    };
                    let request = RefreshSecretRequest { name: name.clone() };
                    turns.answered(socket.ask("RefreshSecret", encoded(&request)).await);
                });
                join_all(loops).await;
            }
        })
        .await;
    Ok(())
}

pub(super) async fn retry(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    hostile.vault().set_secret("costly", costly(0));
    let volume = field.volume(&hostile, "retry", &json!([pem("costly", "costly")]).to_string(), &[]);
    turns.each(|| publish(&field, &hostile, &volume, &turns)).await;
    Ok(())
}

pub(super) async fn crowd(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let volumes: Vec<_> = (0..16u32)
        .map(|number| {
            let name = format!("costly-{number}");
            hostile.vault().set_secret(&name, costly(number));
            field.volume(&hostile, &name, &json!([pem(&name, "costly")]).to_string(), &[])
        })
        .collect();
    let (field, hostile, turns) = (&field, &hostile, &turns);
    turns
        .each(|| async {
            join_all(volumes.iter().map(|volume| async move {
                loop {
                    publish(field, hostile, volume, turns).await;
                }
            }))
            .await;
        })
        .await;
    Ok(())
}

pub(super) async fn aliases(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    hostile.vault().set_secret("costly", costly(1));
    let mut objects: Vec<_> = (0..900).map(|number| pem("costly", &format!("alias-{number}"))).collect();
    objects.iter_mut().for_each(|entry| entry["optional"] = json!(true));
    let volume = field.volume(&hostile, "aliases", &json!(objects).to_string(), &[]);
    publish_again(&field, &hostile, &volume, &turns).await;
    Ok(())
}

pub(super) async fn rotation(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let vault = hostile.vault();
    let names: Vec<_> = (0..16).map(|number| format!("moving-{number}")).collect();
    for name in &names {
        vault.set_secret(name, good()?);
    }
    let objects: Vec<_> = names.iter().map(|name| pem(name, name)).collect();
    let volume = field.volume(&hostile, "rotation", &json!(objects).to_string(), &[]);
    field.publish_until_there(&hostile, &volume).await?;
    let mut salt = 0;
    turns
        .each(|| {
            for name in &names {
                salt += 1;
                vault.rotate_secret(name, costly(salt));
            }
            turns.tried();
            sleep(Duration::from_millis(200))
        })
        .await;
    Ok(())
}

pub(super) async fn hundred_stores(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let vault = hostile.vault();
    vault.create_certificate("bundle", "evil.example", "application/x-pem-file");
    let entry = |number: usize| {
        let format = if number.is_multiple_of(2) { "pfx" } else { "jks" };
        json!({
            "from": format!("https://{HOSTILE}/secrets/bundle"), "name": format!("s{number}"), "format": format,
        })
    };
    let objects: Vec<_> = (0..200).map(entry).collect();
    let volume = field.volume(&hostile, "stores", &json!(objects).to_string(), &[]);
    field.publish_until_there(&hostile, &volume).await?;
    turns
        .each(|| {
            vault.create_certificate("bundle", "evil.example", "application/x-pem-file");
            turns.tried();
            sleep(Duration::from_millis(500))
        })
        .await;
    Ok(())
}
