//! What a container can do to `keyward.sock` in its own volume.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use keyward_proto::secrets::v1::{
    BatchGetSecretsRequest, GetSecretRequest, ListSecretsRequest, WatchSecretsRequest,
};
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::Outcome;
use crate::node::{Field, HOSTILE, Hostile, Socket, dial, encoded};
use crate::turns::Turns;

/// What a client of ours takes at a time, as HTTP/2 has it by default.
const WINDOW: u32 = 65_535;
/// Until a client that was turned away tries again.
const AGAIN: Duration = Duration::from_millis(20);

fn name(number: usize) -> String {
    format!("big-{number}")
}

/// A volume of `count` objects of `size` bytes with a socket; its path.
async fn volume(field: &Field, hostile: &Hostile, count: usize, size: usize) -> Outcome<PathBuf> {
    let vault = hostile.vault();
    (0..count).for_each(|number| drop(vault.set_secret(&name(number), vec![b'x'; size])));
    let objects: Vec<_> =
        (0..count).map(|number| format!("https://{HOSTILE}/secrets/{}", name(number))).collect();
    let volume = field.volume(hostile, "api", &json!(objects).to_string(), &[("grpc", "true")]);
    field.publish_until_there(hostile, &volume).await?;
    Ok(field.socket(&volume))
}

fn all(count: usize) -> BatchGetSecretsRequest {
    BatchGetSecretsRequest { names: (0..count).map(name).collect() }
}

pub(super) async fn unread_answers(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let socket = volume(&field, &hostile, 96, 25_000).await?;
    let request = encoded(&all(96));
    let mut user = 30_000;
    turns
        .each(|| {
            user += 2;
            let (socket, request, turns) = (&socket, &request, &turns);
            async move {
                let mut held = Vec::new();
                for number in 0..2 {
                    let Ok(mut one) = Socket::connect_as(socket, user + number, 0).await else { continue };
                    for _ in 0..200 {
                        let call = one.call("BatchGetSecrets", request.clone(), &[]);
                        let Ok(Ok(answer)) = timeout(Duration::from_secs(1), call).await else { break };
                        held.push(answer);
                    }
                    // Held by the connection, which stays as long as the answers.
                    let last = held.pop();
                    held.extend(last);
                    tokio::task::spawn_local(async move {
                        sleep(Duration::from_secs(3)).await;
                        drop(one);
                    });
                }
                turns.tried();
                sleep(Duration::from_millis(500)).await;
            }
        })
        .await;
    Ok(())
}

pub(super) async fn unread_watches(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let socket = volume(&field, &hostile, 96, 25_000).await?;
    let request = encoded(&WatchSecretsRequest { names: Vec::new() });
    let (mut held, mut letter) = (Vec::new(), 0u8);
    for number in 0..4 {
        let mut one = Socket::connect_as(&socket, 31_000 + number, 0).await?;
        for _ in 0..50 {
            let call = one.call("WatchSecrets", request.clone(), &[]);
            let Ok(Ok(answer)) = timeout(Duration::from_secs(1), call).await else { break };
            held.push(answer);
        }
        tokio::task::spawn_local(async move {
            std::future::pending::<()>().await;
            drop(one);
        });
    }
    turns
        .each(|| {
            letter = (letter + 1) % 26;
            let vault = hostile.vault();
            (0..96).for_each(|number| drop(vault.rotate_secret(&name(number), vec![b'a' + letter; 25_000])));
            turns.tried();
            sleep(Duration::from_millis(300))
        })
        .await;
    drop(held);
    Ok(())
}

pub(super) async fn connections(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let socket = volume(&field, &hostile, 1, 10).await?;
    let mut user = 0;
    turns
        .each(|| {
            user += 1;
            let (socket, turns) = (&socket, &turns);
            async move {
                let mut held = Vec::new();
                for number in 0..4_000u32 {
                    match dial(socket, 40_000 + user % 100 * 100 + number % 100) {
                        Ok(stream) => held.push(stream),
                        // The line is full.
                        Err(_) => sleep(Duration::from_millis(2)).await,
                    }
                    if number.is_multiple_of(64) {
                        tokio::task::yield_now().await;
                    }
                }
                turns.tried();
                sleep(Duration::from_millis(500)).await;
                drop(held);
            }
        })
        .await;
    Ok(())
}

pub(super) async fn half_frames(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let socket = volume(&field, &hostile, 1, 10).await?;
    let mut half = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    half.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    // HEADERS of 8,000 bytes without their end, of which the half comes.
    half.extend_from_slice(&[0, 0x1f, 0x40, 1, 0, 0, 0, 0, 1]);
    half.extend_from_slice(&[0; 4_000]);
    turns
        .each(|| async {
            let mut held = Vec::new();
            for number in 0..512u32 {
                if let Ok(mut stream) = dial(&socket, 42_000 + number % 50) {
                    let _ = stream.write(&half);
                    held.push(stream);
                }
                tokio::task::yield_now().await;
            }
            turns.tried();
            sleep(Duration::from_millis(300)).await;
        })
        .await;
    Ok(())
}

pub(super) async fn streams(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let socket = volume(&field, &hostile, 4, 10).await?;
    let request = encoded(&WatchSecretsRequest { names: Vec::new() });
    turns
        .each(|| async {
            let (mut held, mut connected) = (Vec::new(), Vec::new());
            for number in 0..32 {
                let Ok(mut one) = Socket::connect_as(&socket, 43_000 + number, WINDOW).await else {
                    continue;
                };
                for _ in 0..200 {
                    let call = one.call("WatchSecrets", request.clone(), &[]);
                    let Ok(Ok(answer)) = timeout(Duration::from_millis(500), call).await else { break };
                    held.push(answer);
                }
                connected.push(one);
            }
            turns.tried();
            sleep(Duration::from_millis(300)).await;
        })
        .await;
    Ok(())
}

/// One method without pause by as many users, `calls` at a time each.
async fn press(socket: &std::path::Path, turns: &Turns, users: u32, method: &str, body: &bytes::Bytes) {
    let loops = (0..users).map(|number| async move {
        let Ok(mut one) = Socket::connect_as(socket, 44_000 + number, 8 << 20).await else { return };
        while one.ask(method, body.clone()).await.is_ok() {
            turns.tried();
        }
    });
    join_all(loops).await;
    sleep(AGAIN).await;
}

pub(super) async fn lookups(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let socket = volume(&field, &hostile, 4, 64).await?;
    let request = encoded(&GetSecretRequest { name: name(0), version: String::new() });
    turns.each(|| press(&socket, &turns, 32, "GetSecret", &request)).await;
    Ok(())
}

pub(super) async fn batches(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let socket = volume(&field, &hostile, 96, 25_000).await?;
    let request = encoded(&all(96));
    turns.each(|| press(&socket, &turns, 8, "BatchGetSecrets", &request)).await;
    Ok(())
}

pub(super) async fn lists(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let socket = volume(&field, &hostile, 1_000, 8).await?;
    let request = encoded(&ListSecretsRequest { prefix: String::new() });
    turns.each(|| press(&socket, &turns, 16, "ListSecrets", &request)).await;
    Ok(())
}

pub(super) async fn big_requests(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let socket = volume(&field, &hostile, 4, 64).await?;
    let names = (0..256).map(|number| format!("{number:0>16000}")).collect();
    let request = encoded(&BatchGetSecretsRequest { names });
    let long = "h".repeat(7_000);
    turns
        .each(|| async {
            let loops = (0..8).map(|number| {
                let (socket, request, long, turns) = (&socket, &request, &long, &turns);
                async move {
                    let Ok(mut one) = Socket::connect_as(socket, 45_000 + number, WINDOW).await else {
                        return;
                    };
                    loop {
                        let headers = [("x-long", long.clone())];
                        let call = one.call("BatchGetSecrets", request.clone(), &headers).await;
                        let Ok(answer) = call else { return };
                        if answer.await.is_err() {
                            return;
                        }
                        turns.tried();
                    }
                }
            });
            join_all(loops).await;
            sleep(AGAIN).await;
        })
        .await;
    Ok(())
}

pub(super) async fn resets(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let socket = volume(&field, &hostile, 4, 64).await?;
    let request = encoded(&all(4));
    turns
        .each(|| async {
            let loops = (0..16).map(|number| {
                let (socket, request, turns) = (&socket, &request, &turns);
                async move {
                    let Ok(mut one) = Socket::connect_as(socket, 46_000 + number, WINDOW).await else {
                        return;
                    };
                    // The answer is dropped, which resets the stream.
                    while let Ok(answer) = one.call("BatchGetSecrets", request.clone(), &[]).await {
                        drop(answer);
                        turns.tried();
                        tokio::task::yield_now().await;
                    }
                }
            });
            join_all(loops).await;
            sleep(AGAIN).await;
        })
        .await;
    Ok(())
}

/// One call of each of 1,000 users, one after the other.
async fn by_many(socket: &std::path::Path, turns: &Turns, method: &str, body: &bytes::Bytes) {
    for user in 0..1_000 {
        if let Ok(mut one) = Socket::connect_as(socket, 50_000 + user, 8 << 20).await {
            let _ = one.ask(method, body.clone()).await;
        }
        turns.tried();
    }
}

pub(super) async fn many_users(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let socket = volume(&field, &hostile, 96, 64).await?;
    let request = encoded(&all(96));
    turns.each(|| by_many(&socket, &turns, "BatchGetSecrets", &request)).await;
    Ok(())
}

pub(super) async fn unknown_names(field: Field, hostile: Hostile, turns: Arc<Turns>) -> Outcome<()> {
    let socket = volume(&field, &hostile, 4, 64).await?;
    let names = (0..256).map(|number| format!("nobody-{number}")).collect();
    let request = encoded(&BatchGetSecretsRequest { names });
    turns.each(|| by_many(&socket, &turns, "BatchGetSecrets", &request)).await;
    Ok(())
}
