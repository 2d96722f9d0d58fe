//! Who the workload is to the cloud: credentials and the token cache.
//!
//! [`token_source`] turns [`IdentitySettings`] into a [`TokenCache`]. Behind it, one [`Exchange`] knows how to prove who
//! we are to Entra, to the cluster's token proxy or to a metadata service; the cache decides when to ask. Files (federated
//! token, secret, certificate, CA) are read anew for every exchange, so that a rotation needs no restart.
//! docs/adr/0003-own-credentials.md tells why the SDK's own credentials are not used.

mod assertion;
mod cache;
mod certificate;
mod entra;
mod exchange;
mod file;
mod managed;
mod response;
mod retry;
mod schedule;
mod settings;

use std::sync::Arc;

use keyward_core::observe::Observer;
use keyward_core::{Clock, Result};
use keyward_egress::Egress;

pub use assertion::{AssertionClaims, parse_assertion_claims};
pub use cache::TokenCache;
pub use certificate::{SigningCertificate, parse_certificate};
pub use exchange::{Exchange, Issued};
pub use response::{TokenError, parse_token_error, parse_token_response};
pub use settings::{CaSource, FederatedDefaults, IdentitySettings, ManagedEndpoint, Selector};

/// The tokens of one identity.
///
/// Nothing is read or sent before the first token is asked for.
///
/// # Errors
/// `KW_CONFIG_INVALID` when a setting cannot be right: an authority that is not https, a tenant that is no tenant.
pub fn token_source(
    settings: IdentitySettings,
    egress: Arc<Egress>,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn Observer>,
) -> Result<Arc<TokenCache>> {
    settings.check()?;
    let identity = settings.identity_key();
    let exchange: Box<dyn Exchange> = match settings {
        IdentitySettings::ManagedIdentity { selector, endpoint } => {
            Box::new(managed::Managed::new(selector, endpoint, egress, Arc::clone(&clock))?)
        }
        settings => Box::new(entra::Entra::new(settings, egress, Arc::clone(&clock))?),
    };
    Ok(Arc::new(TokenCache::new(identity, exchange, clock, observer)))
}
