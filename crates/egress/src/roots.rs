use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use keyward_core::{Clock, Code, Error, Result};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::TlsFloor;

/// An `extraRootsFile` larger than this is refused, bytes.
const LIMIT: usize = 1024 * 1024;

/// Resumable sessions kept in all; vaults and authorities are few.
const SESSIONS: usize = 16;

/// Reads the certificates of a PEM bundle; other PEM sections are passed over.
///
/// # Errors
/// `KW_CONFIG_INVALID` when it is larger than 1 MiB, holds no certificate, or one that cannot be a trust anchor.
pub fn parse_roots(pem: &[u8]) -> Result<RootCertStore> {
    let bad = |what: &str| Error::new(Code::ConfigInvalid, format!("the file of extra roots {what}"));
    if pem.len() > LIMIT {
        return Err(bad("is larger than 1 MiB"));
    }
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| bad("is not well-formed PEM"))?;
        store.add(certificate).map_err(|_| bad("holds a certificate that cannot be a root"))?;
    }
    if store.is_empty() {
        return Err(bad("holds no certificate; write the CA in PEM (-----BEGIN CERTIFICATE-----)"));
    }
    Ok(store)
}

/// Compiled-in roots and `extra`.
pub(crate) fn public_roots(extra: Option<&[u8]>) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(pem) = extra {
        store.roots.extend(parse_roots(pem)?.roots);
    }
    Ok(store)
}

/// TLS configurations of one set of roots, by floor.
#[derive(Clone)]
pub(crate) struct TlsConfigs {
    strict: Arc<ClientConfig>,
    lowered: Arc<ClientConfig>,
}

impl TlsConfigs {
    pub(crate) fn new(roots: RootCertStore, clock: Arc<dyn Clock>) -> Result<Self> {
        // The provider's own order offers X25519MLKEM768 first (feature `prefer-post-quantum`).
        let provider = Arc::new(aws_lc_rs::default_provider());
        let roots = Arc::new(roots);
        let build =
            |versions| config(Arc::clone(&provider), Arc::clone(&roots), Arc::clone(&clock), versions);
        Ok(Self {
            strict: build(&[&rustls::version::TLS13])?,
            lowered: build(&[&rustls::version::TLS13, &rustls::version::TLS12])?,
        })
    }

    pub(crate) fn with_floor(&self, floor: TlsFloor) -> Arc<ClientConfig> {
        Arc::clone(match floor {
            TlsFloor::Tls13 => &self.strict,
            TlsFloor::Tls12 => &self.lowered,
        })
    }
}

fn config(
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    clock: Arc<dyn Clock>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<Arc<ClientConfig>> {
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(WallTime(clock)))
        .with_protocol_versions(versions)
        .map_err(|error| Error::new(Code::Internal, "TLS cannot be set up").detail(error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(Arc::new(config))
}

/// Certificate lifetimes are checked against the injected clock.
struct WallTime(Arc<dyn Clock>);

impl TimeProvider for WallTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.wall().as_secs())))
    }
}

impl fmt::Debug for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallTime")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bundle_without_a_certificate_is_refused_with_the_form_to_use() {
        let error = parse_roots(b"hello").unwrap_err();
        assert_eq!(error.code(), Code::ConfigInvalid);
        assert!(error.message().contains("BEGIN CERTIFICATE"), "{error}");
    }

    #[test]
    fn a_bundle_over_one_mebibyte_is_refused() {
        assert!(parse_roots(&vec![b'a'; LIMIT + 1]).unwrap_err().message().contains("1 MiB"));
    }

    #[test]
    fn the_post_quantum_group_is_offered_first() {
        let first = aws_lc_rs::default_provider().kx_groups[0].name();
        assert_eq!(first, rustls::NamedGroup::X25519MLKEM768);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_as_roots_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = parse_roots(&bytes);
        }
    }
}
