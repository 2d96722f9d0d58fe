use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keyward_core::Result;
use parking_lot::RwLock;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::time::Instant;

use super::invalid;

/// How old what was read may be.
const RELOAD: Duration = Duration::from_secs(60);

/// Trust in the service account's `ca.crt`, read again as it rotates. What was read last stays in force while the file
/// is unreadable.
#[derive(Debug)]
pub(super) struct ReloadedRoots {
    file: PathBuf,
    provider: Arc<CryptoProvider>,
    loaded: RwLock<(Arc<WebPkiServerVerifier>, Instant)>,
}

impl ReloadedRoots {
    pub(super) fn new(file: PathBuf, provider: Arc<CryptoProvider>) -> Result<Self> {
        let verifier = load(&file, &provider)?;
        Ok(Self { file, provider, loaded: RwLock::new((verifier, Instant::now())) })
    }

    fn current(&self) -> Arc<WebPkiServerVerifier> {
        let (verifier, at) = self.loaded.read().clone();
        if at.elapsed() < RELOAD { verifier } else { self.reload(verifier) }
    }

    fn reload(&self, last: Arc<WebPkiServerVerifier>) -> Arc<WebPkiServerVerifier> {
        let verifier = load(&self.file, &self.provider).unwrap_or_else(|error| {
            tracing::debug!(%error, "the cluster's CA was not read again");
            last
        });
        *self.loaded.write() = (Arc::clone(&verifier), Instant::now());
        verifier
    }
}

fn load(file: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>> {
    let bad = || invalid("the cluster's CA file cannot be read or holds no certificate");
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|e| bad().detail(e))? {
        store.add(certificate.map_err(|e| bad().detail(e))?).map_err(|e| bad().detail(e))?;
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
        .build()
        .map_err(|e| bad().detail(e))
}

impl ServerCertVerifier for ReloadedRoots {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        self.current().verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.current().verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.current().verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.current().supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::crypto::aws_lc_rs;

    /// A CA's certificate in PEM, and a server's of it.
    fn authority() -> (String, CertificateDer<'static>) {
        let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = ca.self_signed(&ca_key).unwrap().pem();
        let server = CertificateParams::new(vec!["server".to_owned()]).unwrap();
        let server = server.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        (pem, server.der().clone())
    }

    #[tokio::test(start_paused = true)]
    async fn a_rotated_authority_is_trusted_a_minute_later_and_a_broken_file_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.crt");
        let ((first_ca, first), (second_ca, second)) = (authority(), authority());
        std::fs::write(&file, first_ca).unwrap();
        let roots = ReloadedRoots::new(file.clone(), Arc::new(aws_lc_rs::default_provider())).unwrap();
        let trusts = |certificate: &CertificateDer<'_>| {
            let name = ServerName::try_from("server").unwrap();
            let now = UnixTime::since_unix_epoch(Duration::from_secs(1_795_413_600));
            roots.verify_server_cert(certificate, &[], &name, &[], now).is_ok()
        };
        assert!(trusts(&first) && !trusts(&second));

        std::fs::write(&file, second_ca).unwrap();
        assert!(!trusts(&second), "it is read once a minute");
        tokio::time::advance(RELOAD).await;
        assert!(trusts(&second) && !trusts(&first));

        std::fs::write(&file, "").unwrap();
        tokio::time::advance(RELOAD).await;
        assert!(trusts(&second));
    }
}
