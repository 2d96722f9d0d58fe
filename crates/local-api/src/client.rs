use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keyward_core::{Code, Error, Result};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::wire;

/// How long a probe may take, connection included.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest answer to a health check: it holds one number.
const MAX_ANSWER: usize = 64;

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
/// It speaks HTTP/2 by hand: the one call needs none of a channel's machinery, which a probed binary would carry along.
///
/// # Errors
/// `KW_CONNECT` when nobody answers; `KW_TIMEOUT` when nobody answers in time; `KW_SHUTTING_DOWN` when the server
/// says that it is not serving.
pub async fn probe(socket: &Path) -> Result<()> {
    match tokio::time::timeout(PROBE_TIMEOUT, check(socket)).await {
        Ok(Ok(Some(ServingStatus::Serving))) => Ok(()),
        Ok(Ok(Some(_))) => {
            Err(Error::new(Code::ShuttingDown, "the server is up but not ready; its log says why"))
        }
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

/// One `grpc.health.v1.Health/Check` of the whole server; `None` when the answer is none.
async fn check(socket: &Path) -> Result<Option<ServingStatus>> {
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable_socket(socket, &error))?;
    let broken = |error: hyper::Error| {
        Error::new(Code::Connect, format!("{} does not speak gRPC", socket.display())).detail(error)
    };
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(broken)?;
    let ask = async {
        let message = wire::frame(&HealthCheckRequest { service: String::new() });
        let request = http::Request::post("http://localhost/grpc.health.v1.Health/Check")
            .header(http::header::CONTENT_TYPE, "application/grpc")
            .header(http::header::TE, "trailers")
            .body(Full::new(message))
            .expect("every part is valid");
        let response = sender.send_request(request).await.map_err(broken)?;
        let answer = wire::receive::<HealthCheckResponse, _>(response.into_body(), MAX_ANSWER).await;
        Ok(answer.ok().map(|answer| answer.status()))
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
