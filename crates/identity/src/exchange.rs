use std::time::Duration;

use async_trait::async_trait;
use keyward_core::{Result, SecretBytes};

/// One way to prove who we are and get a token for it.
#[async_trait]
pub trait Exchange: Send + Sync {
    /// A fresh token for `resource` (an App ID URI without `/.default`), with the retries that this way asks for.
    ///
    /// # Errors
    /// `KW_IDENTITY_FILE`, `KW_TOKEN_*`, `KW_IDENTITY_NOT_ASSIGNED`, or what the connection says. The identity is not
    /// named yet: the cache adds it.
    async fn exchange(&self, resource: &str) -> Result<Issued>;
}

/// A token as it was issued. There is no `Debug`.
#[derive(Clone)]
pub struct Issued {
    /// The token.
    pub secret: SecretBytes,
    /// How long it lives from now on.
    pub lifetime: Duration,
    /// When the issuer wants to be asked again, from now on, if it says so.
    pub refresh_in: Option<Duration>,
}
