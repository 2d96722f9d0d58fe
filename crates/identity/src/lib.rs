//! Who the workload is to the cloud: credentials and the token cache.
//!
//! [`token_source`] turns [`IdentitySettings`] into a [`TokenCache`]. Behind it, one [`Exchange`] knows how to prove who
//! we are to Entra, to the cluster's token proxy or to a metadata service; the cache decides when to ask. Files (federated
//! token, secret, certificate, CA) are read anew for every exchange, so that a rotation needs no restart.
//! A [`SharedIdentity`] is proved by credentials that others pass to us instead, each of which stands for itself alone.
//! docs/adr/0003-own-credentials.md tells why the SDK's own credentials are not used.

// No input from outside may end the process.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

mod assertion;
mod cache;
mod certificate;
mod credential;
mod entra;
mod exchange;
mod file;
mod managed;
mod pod_token;
mod proof;
mod response;
mod retry;
mod schedule;
mod settings;
mod shared;

use std::sync::Arc;

use keyward_core::observe::Observer;
use keyward_core::{Clock, Result};
use keyward_egress::Egress;

use entra::Entra;
use managed::Managed;
use proof::{EntraExchange, ProofSource};

pub use assertion::{AssertionClaims, parse_assertion_claims};
pub use cache::TokenCache;
pub use certificate::{SigningCertificate, parse_certificate};
pub use credential::{Credential, Fingerprint};
pub use exchange::{Exchange, Issued};
pub use pod_token::{PodToken, parse_service_account_tokens};
pub use response::{TokenError, parse_token_error, parse_token_response};
pub use settings::{
    CaSource, FederatedDefaults, IdentitySettings, ManagedEndpoint, Selector, SharedSettings,
};
pub use shared::SharedIdentity;

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
    let exchange = exchange(settings, egress, &clock)?;
    Ok(Arc::new(TokenCache::new(identity, exchange, clock, observer)))
}

fn exchange(
    settings: IdentitySettings,
    egress: Arc<Egress>,
    clock: &Arc<dyn Clock>,
) -> Result<Box<dyn Exchange>> {
    let clock = Arc::clone(clock);
    let (entra, source) = match settings {
        IdentitySettings::ManagedIdentity { selector, endpoint } => {
            return Ok(Box::new(Managed::new(selector, endpoint, egress, clock)?));
        }
        IdentitySettings::WorkloadIdentity { client_id, tenant_id, token_file, authority_host } => {
            let entra = Entra::new(client_id, &tenant_id, &authority_host, egress, clock)?;
            (entra, ProofSource::TokenFile(token_file))
        }
        IdentitySettings::IdentityBinding {
            client_id,
            tenant_id,
            token_file,
            proxy_url,
            ca,
            sni_name,
            authority_host: _,
        } => {
            let entra = Entra::new(client_id, &tenant_id, &proxy_url, egress, clock)?;
            (entra.through_proxy(ca, sni_name), ProofSource::TokenFile(token_file))
        }
        IdentitySettings::ServicePrincipalSecret { client_id, tenant_id, secret_file, authority_host } => {
            let entra = Entra::new(client_id, &tenant_id, &authority_host, egress, clock)?;
            (entra, ProofSource::SecretFile(secret_file))
        }
        IdentitySettings::ServicePrincipalCertificate {
            client_id,
            tenant_id,
            certificate_file,
            password_file,
            authority_host,
            send_chain,
        } => {
            let entra = Entra::new(client_id, &tenant_id, &authority_host, egress, clock)?;
            (entra, ProofSource::CertificateFile { path: certificate_file, password_file, send_chain })
        }
    };
    Ok(Box::new(EntraExchange { entra, source }))
}
