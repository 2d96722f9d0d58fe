use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::{Result, SecretBytes, UnixTime};

/// Whose token it is. Cache entries belong to one of these and are compared whole.
///
/// No part is secret. `Display` is what errors, logs and audit records show.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdentityKey {
    /// `workload-identity`, `identity-binding`, `managed-identity`, `service-principal`.
    pub method: &'static str,
    /// Authority origin such as `https://login.microsoftonline.com`, or the metadata endpoint.
    pub authority: String,
    /// Tenant, empty for managed identity.
    pub tenant: String,
    /// Client id, object id or resource id; `system` for a system-assigned identity.
    pub client: String,
}

impl IdentityKey {
    /// The words for [`Self::method`].
    pub const METHODS: [&'static str; 4] =
        ["workload-identity", "identity-binding", "managed-identity", "service-principal"];
}

impl fmt::Display for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} client {}", self.method, self.client)?;
        if !self.tenant.is_empty() {
            write!(f, " tenant {}", self.tenant)?;
        }
        Ok(())
    }
}

/// A bearer token and its life.
#[derive(Clone)]
pub struct AccessToken {
    /// The token itself.
    pub secret: SecretBytes,
    /// When it ends, on the boot clock (arrival + `expires_in`, so that suspended time counts).
    pub expires_boot: Duration,
    /// When it ends, wall time, for people.
    pub expires_wall: UnixTime,
}

/// Gives tokens for a resource: cached, refreshed in the background, one exchange at a time.
#[async_trait]
pub trait TokenSource: Send + Sync {
    /// Whose tokens these are.
    fn identity(&self) -> &IdentityKey;

    /// A token that is valid now for `resource` (an App ID URI such as `https://vault.azure.net`, no `/.default`).
    ///
    /// # Errors
    /// When no valid token is held and the exchange fails.
    async fn token(&self, resource: &str) -> Result<AccessToken>;

    /// The vault refused `token` with 401: forget it, so that the next call makes one fresh exchange.
    fn reject(&self, resource: &str, token: &AccessToken);
}
