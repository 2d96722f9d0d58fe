use std::path::PathBuf;

use clap::Args;
use keyward_core::Result;
use keyward_proto::secrets::v1::secret_service_client::SecretServiceClient;
use tonic::transport::Channel;

/// Largest answer that is taken: a batch of large values fits, an endless one does not.
const MAX_ANSWER: usize = 16 << 20;

/// Where the local API is.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Socket of the local API
    #[arg(
        long,
        value_name = "PATH",
        env = "KEYWARD_SOCKET",
        default_value = "/var/run/keyward-api/keyward.sock"
    )]
    socket: PathBuf,
}

impl Target {
    /// Connects.
    ///
    /// # Errors
    /// `KW_CONNECT`, saying why and what to look at.
    pub(crate) async fn connect(&self) -> Result<SecretServiceClient<Channel>> {
        let channel = keyward_local_api::connect(&self.socket).await?;
        Ok(SecretServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER))
    }
}
