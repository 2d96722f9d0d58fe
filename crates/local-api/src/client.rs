#![expect(clippy::arithmetic_side_effects, reason = "times a bounded wait ahead")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keyward_core::{Code, Error, Result};
use keyward_proto::secrets::v1::{ListSecretsRequest, ListSecretsResponse, SecretState};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::wire;

/// How long a probe may take, connection included.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Until a probe that may wait asks again.
const PROBE_AGAIN: Duration = Duration::from_millis(20);

/// Largest answer to a health check: it holds one number.
const MAX_ANSWER: usize = 64;

/// Largest list of names that is read, bytes, and how many of them are shown.
const MAX_LIST: usize = 4 << 20;
const MAX_NAMED: usize = 10;

/// Connects to a local API at `socket`.
///
/// # Errors
/// `KW_CONNECT` when nobody listens there or the socket may not be opened.
pub async fn connect(socket: &Path) -> Result<Channel> {
    // The first connection is made by hand: a channel would hide why it cannot be made.
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable_socket(socket, &error))?;
    let (path, mut first): (PathBuf, _) = (socket.to_owned(), Some(stream));
    let connector = tower::service_fn(move |_: http::Uri| {
        let (path, first) = (path.clone(), first.take());
        async move {
            let stream = match first {
                Some(stream) => stream,
                None => UnixStream::connect(path).await?,
            };
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    // The authority is not used on a Unix socket; gRPC's name resolution says `localhost` for one.
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.map_err(|error| {
        Error::new(Code::Connect, format!("{} does not speak gRPC", socket.display())).detail(error)
    })
}

/// Asks the server at `socket` whether it is ready, for a container's probe.
///
/// It speaks HTTP/2 by hand: its calls need none of a channel's machinery, which a probed binary would carry along.
///
/// # Errors
/// `KW_CONNECT` when nobody answers; `KW_TIMEOUT` when nobody answers in time; `KW_SHUTTING_DOWN` when the server
/// says that it is not serving, with the names that it waits for and why.
pub async fn probe(socket: &Path) -> Result<()> {
    probe_within(socket, Duration::ZERO).await
}

/// As [`probe`], asking again until the server is ready or `patience` is over, so that a container whose start waits for
/// the answer loses no second. Only the last refusal is asked for its reasons.
///
/// # Errors
/// Those of [`probe`], as they stand at the end.
pub async fn probe_within(socket: &Path, patience: Duration) -> Result<()> {
    let end = Instant::now() + patience;
    loop {
        let answer = serving(socket).await;
        if Instant::now() + PROBE_AGAIN < end && !matches!(answer, Ok(true)) {
            sleep(PROBE_AGAIN).await;
            continue;
        }
        if answer? {
            return Ok(());
        }
        let waits = timeout(PROBE_TIMEOUT, missing(socket)).await.ok().flatten().unwrap_or_default();
        let message = if waits.is_empty() {
            "the server is up but not ready; its log says why".to_owned()
        } else {
            format!("waiting for {waits}; docs/troubleshooting.md says what to do, and the log more")
        };
        return Err(Error::new(Code::ShuttingDown, message));
    }
}

/// Whether the server says that it is serving.
async fn serving(socket: &Path) -> Result<bool> {
    match timeout(PROBE_TIMEOUT, check(socket)).await {
        Ok(Ok(Some(status))) => Ok(status == ServingStatus::Serving),
        Ok(Ok(None)) => {
            let message = format!("the server at {} does not answer a health check", socket.display());
            Err(Error::new(Code::Connect, message))
        }
        Ok(Err(error)) => Err(error),
        Err(_) => {
            let message = format!("the server at {} did not answer within 5 s", socket.display());
            Err(Error::new(Code::Timeout, message))
        }
    }
}

/// What the server has no value of: `db (KW_VAULT_FORBIDDEN, vault), api`.
async fn missing(socket: &Path) -> Option<String> {
    let all: ListSecretsResponse = call(
        socket,
        "keyward.secrets.v1.SecretService/ListSecrets",
        &ListSecretsRequest::default(),
        MAX_LIST,
    )
    .await
    .ok()??;
    let waiting = all
        .secrets
        .iter()
        .filter(|secret| !matches!(secret.state(), SecretState::Fresh | SecretState::Stale));
    let named = waiting.map(|secret| match Code::ALL.iter().find(|code| code.as_str() == secret.reason) {
        Some(code) => format!("{} ({}, {})", secret.name, code.as_str(), code.hop().as_str()),
        None => secret.name.clone(),
    });
    Some(named.take(MAX_NAMED).collect::<Vec<_>>().join(", "))
}

/// One `grpc.health.v1.Health/Check` of the whole server; `None` when the answer is none.
async fn check(socket: &Path) -> Result<Option<ServingStatus>> {
    let request = HealthCheckRequest { service: String::new() };
    let answer: Option<HealthCheckResponse> =
        call(socket, "grpc.health.v1.Health/Check", &request, MAX_ANSWER).await?;
    Ok(answer.map(|answer| answer.status()))
}

/// One call of one message each way, on a connection of its own; `None` when the answer is no such message.
async fn call<M: prost::Message + Default>(
    socket: &Path,
    method: &str,
    request: &impl prost::Message,
    limit: usize,
) -> Result<Option<M>> {
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable_socket(socket, &error))?;
    let broken = |error: hyper::Error| {
        Error::new(Code::Connect, format!("{} does not speak gRPC", socket.display())).detail(error)
    };
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(broken)?;
    let ask = async {
        let request = http::Request::post(format!("http://localhost/{method}"))
            .header(http::header::CONTENT_TYPE, "application/grpc")
            .header(http::header::TE, "trailers")
            .body(Full::new(wire::frame(request)))
            .map_err(|error| Error::new(Code::Internal, "the request cannot be made").detail(error))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok(wire::receive::<M, _, _>(response.into_body(), limit, |_| Ok(())).await.ok())
    };
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        answer = ask => answer,
        _ = &mut connection => Ok(None),
    }
}

fn unreachable_socket(socket: &Path, error: &std::io::Error) -> Error {
    let hint = match error.kind() {
        std::io::ErrorKind::NotFound => {
            "there is no such socket; is the sidecar running, and is its volume mounted here?"
        }
        std::io::ErrorKind::PermissionDenied => {
            "this user may not open it; see grpc.allowUids and the socket's mode"
        }
        std::io::ErrorKind::ConnectionRefused => "nobody is listening on it; the sidecar may be restarting",
        _ => "it cannot be opened",
    };
    Error::new(Code::Connect, format!("{}: {hint}", socket.display())).detail(error)
}
