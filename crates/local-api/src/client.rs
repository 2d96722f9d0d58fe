use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use keyward_core::{Code, Error, Result};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// How long a probe may take, connection included.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

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
/// # Errors
/// `KW_CONNECT` when nobody answers; `KW_TIMEOUT` when nobody answers in time; `KW_SHUTTING_DOWN` when the server
/// says that it is not serving.
pub async fn probe(socket: &Path) -> Result<()> {
    let ask = async {
        let mut client = HealthClient::new(connect(socket).await?);
        let answer = client.check(HealthCheckRequest { service: String::new() }).await;
        let answer = answer.map_err(|status| {
            let message = format!("the server at {} does not answer a health check", socket.display());
            Error::new(Code::Connect, message).detail(status.code())
        })?;
        match answer.into_inner().status() {
            ServingStatus::Serving => Ok(()),
            _ => Err(Error::new(Code::ShuttingDown, "the server is up but not ready; its log says why")),
        }
    };
    tokio::time::timeout(PROBE_TIMEOUT, ask).await.unwrap_or_else(|_| {
        let message = format!("the server at {} did not answer within 5 s", socket.display());
        Err(Error::new(Code::Timeout, message))
    })
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
