//! What a pod's manifest, and any pod on the network, can do to the injector.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

use crate::Outcome;
use crate::injector::Webhook;
use crate::injector::{good, review};
use crate::turns::Turns;

/// Posts the same body without pause on `clients` connections, as the API server would for pods of an author.
async fn post(webhook: &Webhook, turns: &Turns, clients: usize, path: &str, body: &Bytes) {
    let loops = (0..clients).map(|_| async {
        let Ok(mut client) = webhook.client().await else { return };
        loop {
            let answer = webhook.post(&mut client, path, body.clone()).await;
            let is_over = answer.is_err();
            let answer = answer.and_then(|(status, body)| match status {
                200 => Ok(()),
                status => Err(format!("{status} {}", String::from_utf8_lossy(&body)).into()),
            });
            turns.answered(answer);
            if is_over {
                return;
            }
        }
    });
    join_all(loops).await;
    sleep(Duration::from_millis(20)).await;
}

pub(super) async fn non_ascii_name(webhook: Webhook, turns: Arc<Turns>) -> Outcome<()> {
    let mut pods = Vec::new();
    for length in 36..44 {
        let mut pod = good();
        pod["metadata"]["annotations"]["keyward.dev/via"] = json!("csi");
        pod["spec"]["containers"][0]["name"] = json!(format!("{}é", "a".repeat(length)));
        pod["spec"]["containers"][0]["volumeMounts"] =
            json!([{"name": "keyward", "mountPath": "/secrets", "subPath": "db"}]);
        pods.push(review("shop", &pod));
    }
    let path = webhook.path();
    turns
        .each(|| async {
            for body in &pods {
                if let Ok(mut client) = webhook.client().await {
                    let _ = webhook.post(&mut client, &path, body.clone()).await;
                }
                turns.tried();
            }
        })
        .await;
    Ok(())
}

pub(super) async fn many_variables(webhook: Webhook, turns: Arc<Turns>) -> Outcome<()> {
    let mut pod = good();
    let variables: Vec<_> = (0..80_000).map(|n| json!({"name": format!("V{n}"), "value": "x"})).collect();
    pod["spec"]["containers"][0]["env"] = Value::Array(variables);
    let (body, path) = (review("shop", &pod), webhook.path());
    turns.each(|| post(&webhook, &turns, 4, &path, &body)).await;
    Ok(())
}

pub(super) async fn label_bombs(webhook: Webhook, turns: Arc<Turns>) -> Outcome<()> {
    let mut pod = good();
    for number in 0..40_000 {
        pod["metadata"]["annotations"][format!("a{number}.example/é")] = json!("\u{1}\u{202e}x");
        pod["metadata"]["labels"][format!("l{number}")] = json!("x");
    }
    for number in 0..500 {
        pod["metadata"]["annotations"][format!("keyward.dev/secret-{number}")] =
            json!("kv://shop/secrets/db");
    }
    let (body, path) = (review("shop", &pod), webhook.path());
    turns.each(|| post(&webhook, &turns, 4, &path, &body)).await;
    Ok(())
}

pub(super) async fn deep_pods(webhook: Webhook, turns: Arc<Turns>) -> Outcome<()> {
    let text = String::from_utf8(review("shop", &good()).to_vec())?;
    let with =
        |extra: &str| Bytes::from(text.replacen("\"spec\":{", &format!("\"spec\":{{\"extra\":{extra},"), 1));
    let bodies = [
        with(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))),
        with(&format!("[{}]", vec!["[]"; 900_000].join(","))),
        with(&format!("[{}]", vec!["{}"; 900_000].join(","))),
        with(&format!("\"{}\"", "\\u0001".repeat(450_000))),
        with(&format!("[{}0]", "1e999,".repeat(440_000))),
        with(&format!("{{{}\"z\":0}}", "\"a\":{},".repeat(380_000))),
    ];
    let path = webhook.path();
    turns
        .each(|| async {
            for body in &bodies {
                let posts = (0..4).map(|_| async {
                    let Ok(mut client) = webhook.client().await else { return };
                    let _ = webhook.post(&mut client, &path, body.clone()).await;
                });
                join_all(posts).await;
                turns.tried();
            }
        })
        .await;
    Ok(())
}

/// Holds as many connections as `most`, and takes a new one for the oldest from then on.
async fn hold<T, F: Future<Output = Outcome<T>>>(turns: &Turns, most: usize, connect: impl Fn(usize) -> F) {
    let mut held = std::collections::VecDeque::new();
    for number in 0.. {
        if let Ok(Ok(stream)) = timeout(Duration::from_millis(500), connect(number)).await {
            held.push_back(stream);
        }
        if held.len() > most {
            held.pop_front();
        }
        if number >= most {
            turns.tried();
            sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(super) async fn silent_tls(webhook: Webhook, turns: Arc<Turns>) -> Outcome<()> {
    let webhook = &webhook.for_a_stranger();
    turns
        .each(|| {
            hold(&turns, 512, |number| async move {
                let protocols: &[&[u8]] = if number % 2 == 0 { &[b"h2"] } else { &[b"http/1.1"] };
                webhook.tls(protocols).await
            })
        })
        .await;
    Ok(())
}

pub(super) async fn silent_tcp(webhook: Webhook, turns: Arc<Turns>) -> Outcome<()> {
    let webhook = webhook.for_a_stranger();
    turns.each(|| hold(&turns, 1_000, |_| webhook.tcp())).await;
    Ok(())
}

pub(super) async fn idle_admin(webhook: Webhook, turns: Arc<Turns>) -> Outcome<()> {
    let webhook = webhook.for_a_stranger();
    turns.each(|| hold(&turns, 64, |_| webhook.admin_tcp())).await;
    Ok(())
}

pub(super) async fn slow_bodies(webhook: Webhook, turns: Arc<Turns>) -> Outcome<()> {
    let webhook = webhook.for_a_stranger();
    let path = webhook.path();
    turns
        .each(|| async {
            // A few of them guess where to post.
            let senders = (0..64).map(|number| {
                let (webhook, path) = (&webhook, if number % 8 == 0 { path.as_str() } else { "/mutate" });
                async move {
                    let Ok(mut stream) = webhook.tls(&[b"http/1.1"]).await else { return };
                    let head = format!(
                        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 3000000\r\n\r\n"
                    );
                    let _ = stream.write_all(head.as_bytes()).await;
                    let _ = stream.write_all(&[b' '; 2_500_000]).await;
                    while stream.write_all(b" ").await.is_ok() && stream.flush().await.is_ok() {
                        sleep(Duration::from_millis(20)).await;
                    }
                }
            });
            turns.tried();
            join_all(senders).await;
        })
        .await;
    Ok(())
}

pub(super) async fn strangers(webhook: Webhook, turns: Arc<Turns>) -> Outcome<()> {
    let webhook = webhook.for_a_stranger();
    let mut pod = good();
    pod["metadata"]["annotations"]["keyward.dev/config"] = json!("anything");
    let body = review("kube-system", &pod);
    turns.each(|| post(&webhook, &turns, 16, "/mutate", &body)).await;
    Ok(())
}

pub(super) async fn handshakes(webhook: Webhook, turns: Arc<Turns>) -> Outcome<()> {
    let webhook = webhook.for_a_stranger();
    turns
        .each(|| async {
            let loops = (0..8).map(|_| async {
                while let Ok(stream) = webhook.tls(&[b"h2", b"http/1.1"]).await {
                    turns.tried();
                    drop(stream);
                }
            });
            join_all(loops).await;
            sleep(Duration::from_millis(20)).await;
        })
        .await;
    Ok(())
}

pub(super) async fn unread_reviews(webhook: Webhook, turns: Arc<Turns>) -> Outcome<()> {
    let webhook = webhook.for_a_stranger();
    let mut pod = good();
    for number in 0..200 {
        pod["metadata"]["annotations"][format!("keyward.dev/secret-{number}")] =
            json!(format!("kv://shop/secrets/db-{number}"));
    }
    let (body, path) = (review("shop", &pod), webhook.path());
    turns
        .each(|| async {
            let mut held = Vec::new();
            for number in 0..8 {
                let Ok(stream) = webhook.tls(&[b"h2"]).await else { continue };
                let handshake =
                    h2::client::Builder::new().initial_window_size(0).handshake::<_, Bytes>(stream).await;
                let Ok((send, connection)) = handshake else { continue };
                let connection = tokio::spawn(async move { drop(connection.await) });
                let path = if number % 2 == 0 { path.as_str() } else { "/mutate" };
                for _ in 0..100 {
                    let Ok(Ok(mut send)) = timeout(Duration::from_millis(500), send.clone().ready()).await
                    else {
                        break;
                    };
                    let request = http::Request::post(format!("https://keyward-injector{path}"))
                        .header("content-type", "application/json")
                        .body(());
                    let Ok(request) = request else { break };
                    let Ok((answer, mut stream)) = send.send_request(request, false) else { break };
                    if stream.send_data(body.clone(), true).is_err() {
                        break;
                    }
                    held.push(answer);
                }
                held.truncate(2_000);
                tokio::task::spawn_local(async move {
                    sleep(Duration::from_secs(3)).await;
                    connection.abort();
                });
            }
            turns.tried();
            sleep(Duration::from_millis(500)).await;
        })
        .await;
    Ok(())
}
