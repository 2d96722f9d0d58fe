//! What peers that read nothing cost the whole process, with the allocator of the shipped binaries. A process of its
//! own, so that nothing else allocates meanwhile.

#![expect(clippy::unwrap_used, reason = "a helper of a test panics as the test does")]

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keyward_core::SystemClock;
use keyward_core::ledger::{Account, Held};
use keyward_local_api::{ApiSettings, Parts, Server, connect};
use keyward_proto::secrets::v1::secret_service_client::SecretServiceClient;
use keyward_proto::secrets::v1::{BatchGetSecretsRequest, GetSecretRequest};
use keyward_test_support::{HandView, Kept};
use prost::Message;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The answers that are asked for, and what all of them would take as copies: 960 MB.
const CALLS: usize = 400;
const VALUES: usize = 100;
const VALUE: usize = 24_000;

/// What they may take, and what may stay, in bytes.
const MOST: u64 = 24 << 20;
const LEFT: u64 = 4 << 20;

#[tokio::test]
async fn two_connections_that_read_nothing_of_a_gigabyte_cost_megabytes_which_the_process_hands_back() {
    let dir = tempfile::tempdir().unwrap();
    let (view, kept, ready) = (Arc::<HandView>::default(), Arc::<Kept>::default(), watch::Sender::new(true));
    let account = Account::unlimited();
    let stop = CancellationToken::new();
    let names: Vec<String> = (0..VALUES).map(|number| format!("secret-{number}")).collect();
    for name in &names {
        view.set(name, &[7; VALUE]);
    }
    let socket = dir.path().join("s.sock");
    let parts = Parts {
        view: view.clone(),
        audit: kept.clone(),
        observer: kept.clone(),
        clock: Arc::new(SystemClock),
        ready: ready.subscribe(),
        account: account.clone(),
    };
    let server = Server::bind(ApiSettings::new(&socket), parts).unwrap();
    let serving = tokio::spawn(server.serve(stop.clone().cancelled_owned()));
    let mut client = SecretServiceClient::new(connect(&socket).await.unwrap());
    let first = GetSecretRequest { name: names[0].clone(), version: String::new() };
    client.get_secret(first.clone()).await.unwrap();
    let before = resident();

    let message = BatchGetSecretsRequest { names: names.clone() };
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
    frame.extend_from_slice(&message.encode_to_vec());
    let frame = Bytes::from(frame);
    let (mut answers, mut connections) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let stream = UnixStream::connect(&socket).await.unwrap();
        let (mut send, connection) = h2::client::Builder::new()
            .initial_window_size(0)
            .initial_max_send_streams(CALLS)
            .handshake(stream)
            .await
            .unwrap();
        connections.push(tokio::spawn(connection));
        for _ in 0..CALLS / 2 {
            send = send.ready().await.unwrap();
            let request =
                http::Request::post("http://localhost/keyward.secrets.v1.SecretService/BatchGetSecrets")
                    .header("content-type", "application/grpc")
                    .body(())
                    .unwrap();
            let (answer, mut body) = send.send_request(request, false).unwrap();
            body.send_data(frame.clone(), true).unwrap();
            answers.push(answer.await.unwrap());
        }
    }
    let peak = resident() - before;
    let held = account.held().bytes();
    assert!(held > 0 && peak <= MOST, "{peak} bytes for {CALLS} unread answers, {held} accounted");

    drop(answers);
    for connection in connections {
        connection.abort();
        let _ = connection.await;
    }
    drop(client);
    for _ in 0..1_000 {
        if account.held() == Held::default() {
            break;
        }
        sleep(Duration::from_millis(5)).await;
    }
    assert!(account.held() == Held::default(), "{:?}", account.held());
    // What the binaries do in their housekeeping.
    keyward_memory::hand_back_heap();
    let left = resident().saturating_sub(before);
    assert!(left <= LEFT, "{left} bytes stay when the peers have gone");
    stop.cancel();
    serving.await.unwrap().unwrap();
}

/// Anonymous memory in use, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}
