use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use keyward_core::{Code, Error, Result};
use keyward_proto::csi::v1::ProbeRequest;
use keyward_proto::csi::v1::identity_client::IdentityClient;
use tokio::net::UnixStream;
use tonic::transport::Endpoint;
use tower::service_fn;

/// As long as the liveness probe of other drivers waits.
const PATIENCE: Duration = Duration::from_secs(3);

/// Calls Identity.Probe on a socket: whether the whole way from kubelet to the mounter works.
///
/// # Errors
/// `KW_CONNECT`, `KW_TIMEOUT`, or `KW_SHUTTING_DOWN` with what the driver says.
pub(crate) async fn probe(socket: &Path) -> Result<()> {
    let asked = tokio::time::timeout(PATIENCE, ask(socket)).await;
    asked.map_err(|_| Error::new(Code::Timeout, "the driver does not answer on its socket"))?
}

async fn ask(socket: &Path) -> Result<()> {
    let (path, shown) = (socket.to_owned(), socket.display().to_string());
    let connect = service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The authority that kubelet sends.
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(connect)
        .await
        .map_err(|error| Error::new(Code::Connect, format!("nobody answers on {shown}")).detail(error))?;
    let answer = IdentityClient::new(channel).probe(ProbeRequest {}).await;
    answer
        .map(drop)
        .map_err(|status| Error::new(Code::ShuttingDown, format!("the driver says: {}", status.message())))
}
