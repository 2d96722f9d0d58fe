use aws_lc_rs::rsa::KeyPair;
use keyward_core::{Code, Error, Result};
use p12_keystore::Pkcs12Archive;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::SigningCertificate;
use crate::file::FILE_LIMIT;

/// Reads a certificate and its RSA key: PEM (PKCS#8 or PKCS#1 key), or PFX with `password` (empty without one).
///
/// The order of certificates does not matter; the one that fits the key signs. Key derivation of a PFX takes time: call
/// it off the async threads.
///
/// # Errors
/// `KW_IDENTITY_FILE`, without a word of the content.
pub fn parse_certificate(content: &[u8], password: Option<&str>) -> Result<SigningCertificate> {
    if content.len() > FILE_LIMIT {
        return Err(bad("is larger than 64 KiB"));
    }
    let is_pem = content.windows(11).any(|window| window == b"-----BEGIN ");
    let (key, chain) = if is_pem { pem(content)? } else { pfx(content, password.unwrap_or_default())? };
    if chain.is_empty() {
        return Err(bad("holds no certificate"));
    }
    SigningCertificate::of(key, chain).ok_or_else(|| bad("holds no certificate that fits its key"))
}

fn bad(what: &str) -> Error {
    Error::new(Code::IdentityFile, format!("the service principal's certificate file {what}"))
}

const NOT_RSA: &str = "holds no RSA key, which is the only kind that Entra takes for applications";

fn pem(content: &[u8]) -> Result<(KeyPair, Vec<Vec<u8>>)> {
    let chain = CertificateDer::pem_slice_iter(content)
        .map(|certificate| certificate.map(|der| der.to_vec()))
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| bad("is not well-formed PEM"))?;
    let key = PrivateKeyDer::from_pem_slice(content).map_err(|_| {
        bad("holds no private key that is not encrypted; keep an encrypted one in a PFX with a password file")
    })?;
    let key = match &key {
        PrivateKeyDer::Pkcs8(der) => KeyPair::from_pkcs8(der.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()),
        _ => return Err(bad(NOT_RSA)),
    };
    Ok((key.map_err(|_| bad(NOT_RSA))?, chain))
}

fn pfx(content: &[u8], password: &str) -> Result<(KeyPair, Vec<Vec<u8>>)> {
    let archive = Pkcs12Archive::from_pkcs12(content, password)
        .map_err(|_| bad("is neither PEM nor a PFX that opens with the password given"))?;
    let key = archive
        .keys
        .iter()
        .find_map(|bag| KeyPair::from_pkcs8(bag.key.as_der()).ok())
        .ok_or_else(|| bad(NOT_RSA))?;
    Ok((key, archive.certs.iter().map(|bag| bag.cert.as_der().to_vec()).collect()))
}

/// The public key of a certificate: an `RSAPublicKey` (RFC 8017) where it is RSA.
pub(super) fn public_key(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.tbs_certificate.subject_pki.subject_public_key.data.to_vec())
}
