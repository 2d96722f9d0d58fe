use std::sync::Arc;

use keyward_core::config::Grpc;
use keyward_core::{Result, SecretView};
use keyward_local_api::{ApiSettings, Server};
use keyward_volume::Engine;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Binds the socket and answers on it until `stop`.
///
/// # Errors
/// `KW_FILE_SYSTEM` when the socket cannot be put in its place.
pub(crate) fn start(
    grpc: &Grpc,
    engine: &Engine,
    ready: watch::Receiver<bool>,
    stop: CancellationToken,
) -> Result<JoinHandle<Result<()>>> {
    let settings = ApiSettings {
        mode: grpc.mode,
        gid: grpc.gid,
        allow_uids: (!grpc.allow_uids.is_empty()).then(|| grpc.allow_uids.clone()),
        lookups_per_caller: grpc.rate_per_caller,
        ..ApiSettings::new(&grpc.socket)
    };
    let server = Server::bind(
        settings,
        keyward_local_api::Parts {
            view: Arc::clone(engine.view()) as Arc<dyn SecretView>,
            audit: Arc::clone(&engine.parts().audit),
            observer: Arc::clone(&engine.parts().observer),
            clock: Arc::clone(&engine.parts().clock),
            ready,
            account: engine.parts().account.clone(),
        },
    )?;
    Ok(tokio::spawn(async move { server.serve(stop.cancelled()).await }))
}
