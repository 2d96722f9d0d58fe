//! Making authorities and serving certificates: ECDSA on P-256.

use keyward_core::{Code, Error, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::material::{CA_CERTIFICATES, CA_KEY, CERTIFICATE, Data, KEY, Material};
use super::plan::{AUTHORITY, BACKDATED, SERVING, Step};

/// What of the Secret changes with `step`.
///
/// # Errors
/// `KW_INTERNAL` when no key can be made.
pub(super) fn perform(step: Step, data: &Data, names: &[String], now: OffsetDateTime) -> Result<Data> {
    let material = Material::read(data);
    let mut changes = Data::new();
    match step {
        Step::Nothing => {}
        Step::Everything | Step::Authority => {
            let key = KeyPair::generate().map_err(defect)?;
            let certificate = authority(now).self_signed(&key).map_err(defect)?;
            let old = material.authorities.iter().filter(|old| old.until > now).take(3);
            let all = std::iter::once(certificate.der().as_ref()).chain(old.map(|old| old.der.as_slice()));
            changes.insert(CA_CERTIFICATES.to_owned(), pem(all));
            changes.insert(CA_KEY.to_owned(), Zeroizing::new(key.serialize_pem().into_bytes()));
            if step == Step::Everything {
                serving(certificate.der(), key, names, now, &mut changes)?;
            }
        }
        Step::Serving => {
            let newest = material.authorities.first().ok_or_else(|| defect("no authority"))?;
            let key = data.get(CA_KEY).and_then(|pem| std::str::from_utf8(pem).ok()).unwrap_or_default();
            let key = KeyPair::from_pem(key).map_err(defect)?;
            serving(&CertificateDer::from(newest.der.as_slice()), key, names, now, &mut changes)?;
        }
        Step::Forget => {
            let newest = material.authorities.iter().take(1).map(|newest| newest.der.as_slice());
            changes.insert(CA_CERTIFICATES.to_owned(), pem(newest));
        }
    }
    Ok(changes)
}

fn serving(
    authority: &CertificateDer<'_>,
    authority_key: KeyPair,
    names: &[String],
    now: OffsetDateTime,
    changes: &mut Data,
) -> Result<()> {
    let issuer = Issuer::from_ca_cert_der(authority, authority_key).map_err(defect)?;
    let key = KeyPair::generate().map_err(defect)?;
    let mut params = CertificateParams::new(names.to_vec()).map_err(defect)?;
    params.distinguished_name = common_name("keyward-injector");
    params.not_before = now.saturating_sub(BACKDATED);
    params.not_after = now.saturating_add(SERVING);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer).map_err(defect)?;
    changes.insert(CERTIFICATE.to_owned(), pem([certificate.der().as_ref()]));
    changes.insert(KEY.to_owned(), Zeroizing::new(key.serialize_pem().into_bytes()));
    Ok(())
}

fn authority(now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    // Of its own name, so that chains are found by it.
    params.distinguished_name = common_name(&format!("keyward-injector-ca {}", now.unix_timestamp()));
    params.not_before = now.saturating_sub(BACKDATED);
    params.not_after = now.saturating_add(AUTHORITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn pem<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> Zeroizing<Vec<u8>> {
    use base64::Engine as _;
    let mut text = String::new();
    for der in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = base64::engine::general_purpose::STANDARD.encode(der);
        for line in encoded.as_bytes().chunks(64) {
            text.push_str(std::str::from_utf8(line).unwrap_or_default());
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    Zeroizing::new(text.into_bytes())
}

fn defect(error: impl std::fmt::Display) -> Error {
    Error::new(Code::Internal, "a certificate for the webhook cannot be made").detail(error)
}
