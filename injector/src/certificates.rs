//! The webhook's serving certificate: from a CA of our own, kept in one Secret that all replicas share, or from files
//! that someone else renews.

mod files;
mod issue;
mod keeper;
mod material;
mod plan;

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use keyward_core::{Code, Error, Result};
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub(crate) use files::FileKeeper;
pub(crate) use keeper::{Keeper, Names, Own};
pub(crate) use material::Data;

/// The certificate that handshakes get, exchanged while the server runs.
#[derive(Default)]
pub(crate) struct Serving(ArcSwapOption<CertifiedKey>);

impl Serving {
    /// Uses a new chain and key, PEM, from the next handshake on.
    ///
    /// # Errors
    /// `KW_CONFIG_INVALID` when they are no certificate and key, or do not belong together.
    pub(crate) fn exchange(&self, chain: &[u8], key: &[u8]) -> Result<()> {
        self.0.store(Some(Arc::new(certified(chain, key)?)));
        Ok(())
    }

    /// Whether there is a certificate.
    pub(crate) fn is_there(&self) -> bool {
        self.0.load().is_some()
    }
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("is_there", &self.is_there()).finish()
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// A chain and its key as rustls takes them.
fn certified(chain: &[u8], key: &[u8]) -> Result<CertifiedKey> {
    let bad = |what: &str| Error::new(Code::ConfigInvalid, format!("the webhook's certificate: {what}"));
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| bad("tls.crt is not well-formed PEM"))?;
    if chain.is_empty() {
        return Err(bad("tls.crt holds no certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| bad("tls.key is not a PEM key"))?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .map_err(|error| bad("tls.crt and tls.key do not belong together").detail(error))
}
