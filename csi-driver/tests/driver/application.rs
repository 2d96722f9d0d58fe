//! An application in a pod: another user, who has nothing but the mount.

use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use keyward_proto::secrets::v1::secret_service_client::SecretServiceClient;
use keyward_proto::secrets::v1::watch_secrets_response::Event;
use keyward_proto::secrets::v1::{
    GetSecretRequest, ListSecretsRequest, RefreshSecretRequest, Secret, WatchSecretsRequest,
    WatchSecretsResponse,
};
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tower::service_fn;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Does `work` on a thread of its own as this user, without any right of root.
pub(crate) async fn as_user<T: Send + 'static, F: Future<Output = T>>(
    uid: u32,
    gid: u32,
    work: impl FnOnce() -> F + Send + 'static,
) -> T {
    let thread = std::thread::spawn(move || {
        set_thread_groups(&[]).unwrap();
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work())
    });
    let joined = tokio::task::spawn_blocking(move || thread.join()).await.unwrap();
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Its connection to the volume's socket.
#[derive(Clone)]
pub(crate) struct Client(SecretServiceClient<Channel>);

impl Client {
    pub(crate) async fn connect(socket: PathBuf) -> Result<Self, String> {
        let connect = service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connect).await;
        channel.map(|channel| Self(SecretServiceClient::new(channel))).map_err(|error| format!("{error:?}"))
    }

    pub(crate) async fn get(&self, name: &str) -> Result<Secret, Status> {
        self.version(name, "").await
    }

    pub(crate) async fn version(&self, name: &str, version: &str) -> Result<Secret, Status> {
        let request = GetSecretRequest { name: name.to_owned(), version: version.to_owned() };
        let answer =
            tokio::time::timeout(PATIENCE, self.0.clone().get_secret(request)).await.expect("an answer");
        Ok(answer?.into_inner().secret.unwrap())
    }

    pub(crate) async fn refresh(&self, name: &str) -> Result<Secret, Status> {
        let request = RefreshSecretRequest { name: name.to_owned() };
        let answer =
            tokio::time::timeout(PATIENCE, self.0.clone().refresh_secret(request)).await.expect("an answer");
        Ok(answer?.into_inner().secret.unwrap())
    }

    pub(crate) async fn list(&self) -> Vec<String> {
        let request = ListSecretsRequest { prefix: String::new() };
        let answer = self.0.clone().list_secrets(request).await.unwrap().into_inner();
        let mut names: Vec<_> = answer.secrets.into_iter().map(|metadata| metadata.name).collect();
        names.sort();
        names
    }

    pub(crate) async fn watch(&self, names: &[&str]) -> Watch {
        self.try_watch(names).await.unwrap()
    }

    pub(crate) async fn try_watch(&self, names: &[&str]) -> Result<Watch, Status> {
        let request = WatchSecretsRequest { names: names.iter().map(|&name| name.to_owned()).collect() };
        Ok(Watch(self.0.clone().watch_secrets(request).await?.into_inner()))
    }
}

/// Its subscription.
pub(crate) struct Watch(Streaming<WatchSecretsResponse>);

impl Watch {
    /// The next value; `None` when the stream has ended.
    pub(crate) async fn value(&mut self) -> Option<Secret> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.0.message()).await.expect("an event");
            match next.ok()??.event {
                Some(Event::Current(secret)) => return Some(secret),
                _ => continue,
            }
        }
    }
}
