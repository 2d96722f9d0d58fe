//! Clients: one caller, many callers.

use std::path::Path;
use std::time::Duration;

use keyward_proto::secrets::v1::secret_service_client::SecretServiceClient;
use keyward_proto::secrets::v1::{GetSecretRequest, GetSecretResponse, Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::Outcome;
use crate::samples::Samples;

/// An answer of the size that the sidecar gives for the benchmark's objects.
pub(crate) fn sample() -> GetSecretResponse {
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    GetSecretResponse {
        secret: Some(Secret {
            name: "secret-000".to_owned(),
            value: vec![b'v'; 64].into(),
            version: "0123456789abcdef0123456789abcdef".to_owned(),
            source: "https://bench.vault.azure.net/secrets/secret-000".to_owned(),
            content_type: String::new(),
            created_at: time(1_795_413_600),
            updated_at: time(1_795_413_600),
            expires_at: None,
            fetched_at: time(1_795_413_600),
            stale: false,
            sequence: 1,
        }),
    }
}

pub(crate) type Client = SecretServiceClient<Channel>;

pub(crate) async fn client(socket: &Path) -> Outcome<Client> {
    Ok(SecretServiceClient::new(keyward_local_api::connect(socket).await?))
}

pub(crate) async fn get(client: &mut Client, name: &str) -> Outcome<Secret> {
    let request = GetSecretRequest { name: name.to_owned(), version: String::new() };
    client.get_secret(request).await?.into_inner().secret.ok_or_else(|| "an answer without a secret".into())
}

/// One caller, one call after the other.
pub(crate) async fn one_caller(client: &mut Client, calls: usize) -> Outcome<Samples> {
    let mut samples = Samples::default();
    for _ in 0..calls {
        let start = Instant::now();
        get(client, "secret-000").await?;
        samples.push(start.elapsed());
    }
    Ok(samples)
}

/// The same over a raw socket.
pub(crate) async fn raw_caller(stream: &mut UnixStream, calls: usize) -> Outcome<Samples> {
    let mut samples = Samples::default();
    let mut request = 12u32.to_be_bytes().to_vec();
    request.extend_from_slice(&[7; 12]);
    let mut reply = Vec::new();
    for _ in 0..calls {
        let start = Instant::now();
        stream.write_all(&request).await?;
        let length = stream.read_u32().await? as usize;
        reply.resize(length, 0);
        stream.read_exact(&mut reply).await?;
        samples.push(start.elapsed());
    }
    Ok(samples)
}

/// `callers` callers on one connection for `length`; calls a second.
pub(crate) async fn many_callers(client: &Client, callers: usize, length: Duration) -> Outcome<f64> {
    let start = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|number| {
            let mut client = client.clone();
            let name = format!("secret-{:03}", number % 100);
            tokio::spawn(async move {
                let mut calls = 0u64;
                while start.elapsed() < length {
                    let request = GetSecretRequest { name: name.clone(), version: String::new() };
                    if client.get_secret(request).await.is_err() {
                        return Err("a lookup failed under load");
                    }
                    calls += 1;
                }
                Ok(calls)
            })
        })
        .collect();
    let mut calls = 0;
    for task in tasks {
        calls += task.await??;
    }
    Ok(calls as f64 / start.elapsed().as_secs_f64())
}
