//! A server in this process on a socket of its own, and clients for it.

use std::path::PathBuf;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use keyward_core::SystemClock;
use keyward_core::ledger::Account;
use keyward_local_api::{ApiSettings, Pace, Parts, PeerCheck, Server, connect};
use keyward_proto::secrets::v1::secret_service_client::SecretServiceClient;
use keyward_proto::secrets::v1::*;
use keyward_test_support::{HandView, Kept};
use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt;

pub(crate) type Client = SecretServiceClient<Channel>;

pub(crate) struct Rig {
    pub(crate) view: Arc<HandView>,
    pub(crate) kept: Arc<Kept>,
    pub(crate) ready: watch::Sender<bool>,
    pub(crate) socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<keyward_core::Result<()>>>,
    _dir: tempfile::TempDir,
}

impl Rig {
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(adjust: impl FnOnce(&mut ApiSettings)) -> Self {
        Self::with_check(adjust, None)
    }

    pub(crate) fn with_check(
        adjust: impl FnOnce(&mut ApiSettings),
        check: Option<Arc<dyn PeerCheck>>,
    ) -> Self {
        Self::build(adjust, check, Account::unlimited(), Pace::default())
    }

    pub(crate) fn with_account(adjust: impl FnOnce(&mut ApiSettings), account: Account) -> Self {
        Self::build(adjust, None, account, Pace::default())
    }

    pub(crate) fn paced(pace: Pace) -> Self {
        Self::build(|_| {}, None, Account::unlimited(), pace)
    }

    fn build(
        adjust: impl FnOnce(&mut ApiSettings),
        check: Option<Arc<dyn PeerCheck>>,
        account: Account,
        pace: Pace,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("keyward.sock");
        let mut settings = ApiSettings::new(&socket);
        adjust(&mut settings);
        let (view, kept, ready) =
            (Arc::<HandView>::default(), Arc::<Kept>::default(), watch::Sender::new(true));
        let parts = Parts {
            view: view.clone(),
            audit: kept.clone(),
            observer: kept.clone(),
            clock: Arc::new(SystemClock),
            ready: ready.subscribe(),
            account,
        };
        let mut server = Server::bind(settings, parts).unwrap().paced(pace);
        if let Some(check) = check {
            server = server.check_peers(check);
        }
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(server.serve(async {
            let _ = stopped.await;
        }));
        Self { view, kept, ready, socket, stop: Some(stop), task: Some(task), _dir: dir }
    }

    pub(crate) async fn client(&self) -> Client {
        SecretServiceClient::new(connect(&self.socket).await.unwrap())
    }

    /// A client that takes 64 KiB at a time, and no more until it has read them.
    pub(crate) async fn small_client(&self) -> Client {
        let socket = self.socket.clone();
        let connector = tower::service_fn(move |_: http::Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost").initial_stream_window_size(65_535);
        SecretServiceClient::new(endpoint.connect_with_connector(connector).await.unwrap())
    }

    /// Begins the shutdown; the returned task ends when everything is drained.
    pub(crate) fn stop(&mut self) -> JoinHandle<keyward_core::Result<()>> {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.take().unwrap()
    }
}

pub(crate) async fn get(client: &mut Client, name: &str) -> Result<Secret, Status> {
    version(client, name, "").await
}

pub(crate) async fn version(client: &mut Client, name: &str, version: &str) -> Result<Secret, Status> {
    let request = GetSecretRequest { name: name.to_owned(), version: version.to_owned() };
    Ok(client.get_secret(request).await?.into_inner().secret.expect("a response holds a secret"))
}

pub(crate) async fn refresh(client: &mut Client, name: &str) -> Result<Secret, Status> {
    let request = RefreshSecretRequest { name: name.to_owned() };
    Ok(client.refresh_secret(request).await?.into_inner().secret.expect("a response holds a secret"))
}

/// The reason of a refusal, checked to be in our domain.
pub(crate) fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().expect("every refusal of ours has an ErrorInfo");
    assert_eq!(info.domain, "keyward.dev");
    assert!(status.message().starts_with(&info.reason), "{}", status.message());
    info.reason.clone()
}
