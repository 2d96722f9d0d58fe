//! A local API with two secrets, for trying clients on: `cargo run -p keyward-local-api --example fixture -- SOCKET`.
//! It runs until SIGTERM.

use std::sync::Arc;

use keyward_core::audit::Unaudited;
use keyward_core::observe::Silent;
use keyward_core::{Code, Error, State, SystemClock};
use keyward_local_api::{ApiSettings, Parts, Server};
use keyward_test_support::HandView;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

#[tokio::main(flavor = "current_thread")]
async fn main() -> keyward_core::Result<()> {
    let socket = std::env::args_os()
        .nth(1)
        .ok_or_else(|| Error::new(Code::ConfigInvalid, "the first argument is the path of the socket"))?;
    let view = HandView::default();
    view.set("db-password", b"correct horse battery staple");
    view.set("web/tls", b"-----BEGIN CERTIFICATE-----");
    view.stand(
        "web/tls",
        State::Stale,
        Some(Error::new(Code::VaultThrottled, "the vault asks us to slow down")),
    );
    let ready = watch::Sender::new(true);
    let parts = Parts {
        view: Arc::new(view),
        audit: Arc::new(Unaudited),
        observer: Arc::new(Silent),
        clock: Arc::new(SystemClock),
        ready: ready.subscribe(),
        account: keyward_core::ledger::Account::unlimited(),
    };
    let server = Server::bind(ApiSettings::new(socket), parts)?;
    let mut stop = signal(SignalKind::terminate())
        .map_err(|error| Error::new(Code::Internal, "signals cannot be received").detail(error))?;
    server
        .serve(async {
            let _ = stop.recv().await;
        })
        .await
}
