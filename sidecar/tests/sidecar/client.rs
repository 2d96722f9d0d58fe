use keyward_proto::secrets::v1::secret_service_client::SecretServiceClient;
use keyward_proto::secrets::v1::watch_secrets_response::Event;
use keyward_proto::secrets::v1::{
    BatchGetSecretsRequest, BatchGetSecretsResponse, GetSecretRequest, ListSecretsRequest,
    RefreshSecretRequest, Secret, SecretMetadata, WatchSecretsRequest, WatchSecretsResponse,
};
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use tonic_types::StatusExt;

use crate::rig::in_time;

/// An application on the sidecar's socket.
#[derive(Clone)]
pub(crate) struct Client(SecretServiceClient<Channel>);

impl Client {
    pub(crate) fn new(channel: Channel) -> Self {
        Self(SecretServiceClient::new(channel))
    }

    pub(crate) async fn get(&self, name: &str) -> Result<Secret, Status> {
        self.version(name, "").await
    }

    pub(crate) async fn version(&self, name: &str, version: &str) -> Result<Secret, Status> {
        let request = GetSecretRequest { name: name.to_owned(), version: version.to_owned() };
        let answer = in_time("a lookup", self.0.clone().get_secret(request)).await?;
        Ok(answer.into_inner().secret.unwrap())
    }

    pub(crate) async fn text(&self, name: &str) -> String {
        let secret = self.get(name).await.unwrap_or_else(|status| panic!("{name}: {status:?}"));
        String::from_utf8(secret.value.to_vec()).unwrap()
    }

    pub(crate) async fn batch(&self, names: &[&str]) -> BatchGetSecretsResponse {
        let request = BatchGetSecretsRequest { names: names.iter().map(|&name| name.to_owned()).collect() };
        in_time("a batch", self.0.clone().batch_get_secrets(request)).await.unwrap().into_inner()
    }

    pub(crate) async fn list(&self) -> Vec<SecretMetadata> {
        let request = ListSecretsRequest { prefix: String::new() };
        in_time("a listing", self.0.clone().list_secrets(request)).await.unwrap().into_inner().secrets
    }

    pub(crate) async fn refresh(&self, name: &str) -> Result<Secret, Status> {
        let request = RefreshSecretRequest { name: name.to_owned() };
        let answer = in_time("a refresh", self.0.clone().refresh_secret(request)).await?;
        Ok(answer.into_inner().secret.unwrap())
    }

    pub(crate) async fn watch(&self, names: &[&str]) -> Watch {
        let request = WatchSecretsRequest { names: names.iter().map(|&name| name.to_owned()).collect() };
        Watch(in_time("a watch", self.0.clone().watch_secrets(request)).await.unwrap().into_inner())
    }
}

/// A stream of changes.
pub(crate) struct Watch(Streaming<WatchSecretsResponse>);

impl Watch {
    pub(crate) async fn next(&mut self) -> Option<Event> {
        in_time("an event", self.0.message()).await.ok()??.event
    }

    /// The next event, which must be a value.
    pub(crate) async fn value(&mut self) -> Secret {
        match self.next().await {
            Some(Event::Current(secret)) => secret,
            Some(Event::Failure(failure)) => panic!("{} {}", failure.name, failure.reason),
            other => panic!("not a value: {}", other.is_some()),
        }
    }
}

/// The stable name in an error.
pub(crate) fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}
