//! What the Secret holds, read with tolerance: what is not sound counts as absent.

use std::collections::BTreeMap;

use rcgen::{KeyPair, PublicKeyData as _};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

/// The CAs that the API server trusts, the newest first, PEM.
pub(super) const CA_CERTIFICATES: &str = "ca.crt";
/// The newest CA's key.
pub(super) const CA_KEY: &str = "ca.key";
/// The serving certificate.
pub(super) const CERTIFICATE: &str = "tls.crt";
/// Its key.
pub(super) const KEY: &str = "tls.key";

/// Contents of a Secret.
pub(crate) type Data = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// The certificates of a Secret, and whether their keys are there.
#[derive(Debug, Default)]
pub(super) struct Material {
    /// The newest first.
    pub(super) authorities: Vec<Certificate>,
    /// Whether the newest one's key is there.
    pub(super) can_sign: bool,
    /// With its key.
    pub(super) serving: Option<Certificate>,
}

/// What is read of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Certificate {
    pub(super) der: Vec<u8>,
    pub(super) from: OffsetDateTime,
    pub(super) until: OffsetDateTime,
    pub(super) dns_names: Vec<String>,
    public_key: Vec<u8>,
    key_id: Vec<u8>,
    issuer_key_id: Vec<u8>,
}

impl Material {
    pub(super) fn read(data: &Data) -> Self {
        let certificates = |name: &str| {
            let pem = data.get(name).map_or(&[][..], |pem| pem.as_slice());
            let parsed = CertificateDer::pem_slice_iter(pem).filter_map(std::result::Result::ok);
            parsed.filter_map(|der| Certificate::read(&der)).collect::<Vec<_>>()
        };
        let belongs = |key: &str, certificate: &Certificate| {
            let key = data.get(key).and_then(|pem| KeyPair::from_pem(std::str::from_utf8(pem).ok()?).ok());
            key.is_some_and(|key| key.der_bytes() == certificate.public_key)
        };
        let authorities = certificates(CA_CERTIFICATES);
        let can_sign = authorities.first().is_some_and(|newest| belongs(CA_KEY, newest));
        let serving = certificates(CERTIFICATE).into_iter().next().filter(|leaf| belongs(KEY, leaf));
        Self { authorities, can_sign, serving }
    }

    /// Which authority, by its place, has issued the serving certificate.
    pub(super) fn issuer(&self) -> Option<usize> {
        let serving = self.serving.as_ref()?;
        self.authorities.iter().position(|authority| authority.key_id == serving.issuer_key_id)
    }
}

impl Certificate {
    fn read(der: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let mut certificate = Self {
            der: der.to_vec(),
            from: parsed.validity().not_before.to_datetime(),
            until: parsed.validity().not_after.to_datetime(),
            dns_names: Vec::new(),
            public_key: parsed.public_key().subject_public_key.data.to_vec(),
            key_id: Vec::new(),
            issuer_key_id: Vec::new(),
        };
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => certificate.key_id = id.0.to_vec(),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    certificate.issuer_key_id =
                        id.key_identifier.as_ref().map(|id| id.0.to_vec()).unwrap_or_default();
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    certificate.dns_names = names
                        .general_names
                        .iter()
                        .filter_map(|name| match name {
                            GeneralName::DNSName(name) => Some((*name).to_owned()),
                            _ => None,
                        })
                        .collect();
                }
                _ => {}
            }
        }
        Some(certificate)
    }
}
