//! The emulator's own certificate authorities and the certificates of its listeners.

use std::sync::Arc;

use parking_lot::RwLock;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::StartError;

/// Which TLS versions the listeners offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVersions {
    /// 1.3 only.
    #[default]
    Tls13,
    /// 1.2 only, as an old gateway.
    Tls12,
    /// Both.
    Both,
}

/// A certificate authority made at start; nobody else ever has its key.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn generate(name: &str) -> Result<Self, StartError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date_time_ymd(2024, 1, 1);
        params.not_after = date_time_ymd(2054, 1, 1);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self { issuer })
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A server certificate for these host names and addresses.
    fn certify(&self, names: &[String], provider: &CryptoProvider) -> Result<CertifiedKey, StartError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, names.first().map_or("emulator", String::as_str));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.not_before = date_time_ymd(2024, 1, 1);
        params.not_after = date_time_ymd(2053, 1, 1);
        let leaf = params.signed_by(&key, &self.issuer)?;
        let der = PrivatePkcs8KeyDer::from(key.serialize_der());
        let signing = provider.key_provider.load_private_key(der.into())?;
        Ok(CertifiedKey::new(vec![leaf.der().clone(), self.issuer.der().clone()], signing))
    }
}

/// Hands out a certificate that can be replaced while connections come in.
pub(crate) struct Certificates {
    authority: Authority,
    /// When set, any other name in the client's hello ends the handshake.
    only_for: Option<String>,
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificates {
    pub(crate) fn new(
        authority: Authority,
        names: &[String],
        only_for: Option<String>,
    ) -> Result<Arc<Self>, StartError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let current = RwLock::new(Arc::new(authority.certify(names, &provider)?));
        Ok(Arc::new(Self { authority, only_for, provider, current }))
    }

    pub(crate) fn ca_pem(&self) -> String {
        self.authority.pem()
    }

    /// Replaces the certificate by one for these names.
    pub(crate) fn rename(&self, names: &[String]) -> Result<(), StartError> {
        *self.current.write() = Arc::new(self.authority.certify(names, &self.provider)?);
        Ok(())
    }

    pub(crate) fn server_config(
        self: &Arc<Self>,
        versions: TlsVersions,
        http2: bool,
    ) -> Result<Arc<ServerConfig>, StartError> {
        let offered: &[&rustls::SupportedProtocolVersion] = match versions {
            TlsVersions::Tls13 => &[&rustls::version::TLS13],
            TlsVersions::Tls12 => &[&rustls::version::TLS12],
            TlsVersions::Both => &[&rustls::version::TLS13, &rustls::version::TLS12],
        };
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(offered)?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        if http2 {
            config.alpn_protocols.insert(0, b"h2".to_vec());
        }
        Ok(Arc::new(config))
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates").field("only_for", &self.only_for).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match (&self.only_for, hello.server_name()) {
            (Some(wanted), Some(said)) if wanted.eq_ignore_ascii_case(said) => {}
            (Some(_), _) => return None,
            (None, _) => {}
        }
        Some(self.current.read().clone())
    }
}
