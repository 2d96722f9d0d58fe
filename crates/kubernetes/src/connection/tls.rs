use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyward_core::Result;
use kube::Config;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::ExposeSecret;

use super::invalid;
use super::roots::ReloadedRoots;

/// TLS 1.3 with the cluster's roots, and the client's certificate where the kubeconfig has one.
pub(super) fn config(config: &Config) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| invalid("TLS 1.3 is not available").detail(e))?;
    let builder = match &config.root_cert_file {
        Some(file) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ReloadedRoots::new(file.clone(), provider)?)),
        None => builder.with_root_certificates(roots(config)?),
    };
    Ok(match identity(config)? {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|e| invalid("the client certificate of the kubeconfig cannot be used").detail(e))?,
        None => builder.with_no_client_auth(),
    })
}

fn roots(config: &Config) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    match &config.root_cert {
        Some(certificates) => {
            for certificate in certificates {
                store
                    .add(CertificateDer::from(certificate.clone()))
                    .map_err(|e| invalid("a certificate of the cluster's CA cannot be a root").detail(e))?;
            }
        }
        None => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    Ok(store)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(config: &Config) -> Result<Option<Identity>> {
    let auth = &config.auth_info;
    let key_data = auth.client_key_data.as_ref().map(ExposeSecret::expose_secret);
    let certificate = part(auth.client_certificate_data.as_deref(), auth.client_certificate.as_deref())?;
    let key = part(key_data, auth.client_key.as_deref())?;
    let (Some(certificate), Some(key)) = (certificate, key) else { return Ok(None) };
    let bad = || invalid("the client certificate or key of the kubeconfig is not well-formed PEM");
    let chain = CertificateDer::pem_slice_iter(&certificate)
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|_| bad())?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| bad())?;
    Ok(Some((chain, key)))
}

/// PEM from its base64 in the kubeconfig, or from the file that the kubeconfig names.
fn part(data: Option<&str>, file: Option<&str>) -> Result<Option<Vec<u8>>> {
    match (data, file) {
        (Some(data), _) => STANDARD
            .decode(data)
            .map(Some)
            .map_err(|_| invalid("the client certificate or key of the kubeconfig is not base64")),
        (None, Some(file)) => std::fs::read(file)
            .map(Some)
            .map_err(|e| invalid("the client certificate or key of the kubeconfig cannot be read").detail(e)),
        (None, None) => Ok(None),
    }
}
