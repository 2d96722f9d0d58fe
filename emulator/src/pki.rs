//! Certificates with their keys: reading PEM and PFX, writing both, and signing one's own.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, Pkcs12Archive, PrivateKey, PrivateKeyChain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_RSA_SHA256,
    SignatureAlgorithm,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::key_material::{Curve, KeyKind, KeyMaterial, sha1};

/// Key derivations in a PFX that Key Vault writes.
const PFX_ITERATIONS: u32 = 2_000;

/// A key and the chain of its certificate, all DER, in the order of the upload. No `Debug`: it holds the key.
#[derive(Clone)]
pub(crate) struct KeyedChain {
    pub(crate) key: KeyMaterial,
    pub(crate) chain: Vec<Vec<u8>>,
}

impl KeyedChain {
    /// Reads PEM text: one PKCS#8 key and at least one certificate, in any order.
    pub(crate) fn from_pem(text: &str) -> Result<Self, &'static str> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes())
            .map_err(|_| "The PEM has no PKCS#8 private key.")?;
        let chain: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(text.as_bytes())
            .map(|der| der.map(|der| der.to_vec()))
            .collect::<Result<_, _>>()
            .map_err(|_| "The PEM has a malformed certificate.")?;
        Self::of(key.secret_pkcs8_der(), chain)
    }

    /// Reads a PFX.
    pub(crate) fn from_pfx(pfx: &[u8], password: &str) -> Result<Self, &'static str> {
        let archive = Pkcs12Archive::from_pkcs12(pfx, password)
            .map_err(|_| "The specified PKCS#12 X.509 certificate content can not be read.")?;
        let key = archive.keys.first().ok_or("The PKCS#12 content has no private key.")?;
        let chain = archive.certs.iter().map(|bag| bag.cert.as_der().to_vec()).collect();
        Self::of(key.key.as_der(), chain)
    }

    fn of(pkcs8: &[u8], chain: Vec<Vec<u8>>) -> Result<Self, &'static str> {
        let key =
            KeyMaterial::from_pkcs8(pkcs8).ok_or("The private key is of a kind that is not supported.")?;
        let keyed = Self { key, chain };
        if keyed.leaf().is_none() {
            return Err("The private key does not match a certificate.");
        }
        Ok(keyed)
    }

    fn leaf(&self) -> Option<usize> {
        self.chain.iter().position(|der| {
            X509Certificate::from_der(der).is_ok_and(|(_, x509)| x509.public_key().raw == self.key.spki)
        })
    }

    /// Moves the key's own certificate to the front.
    pub(crate) fn leaf_first(mut self) -> Self {
        if let Some(leaf) = self.leaf() {
            self.chain[..=leaf].rotate_right(1);
        }
        self
    }

    /// The certificate of the key.
    pub(crate) fn leaf_der(&self) -> &[u8] {
        &self.chain[self.leaf().unwrap_or(0)]
    }

    /// PKCS#8 key (unless kept back) and certificates as PEM.
    pub(crate) fn to_pem(&self, with_key: bool) -> String {
        let key = with_key.then(|| pem("PRIVATE KEY", &self.key.pkcs8));
        key.into_iter().chain(self.chain.iter().map(|der| pem("CERTIFICATE", der))).collect()
    }

    /// A PFX with an empty password, with PBES2 (AES-256) as Key Vault writes it today.
    pub(crate) fn to_pfx(&self, with_key: bool) -> Result<Vec<u8>, &'static str> {
        let broken = |_| "The certificate can not be written as PKCS#12.";
        let certificates: Vec<Certificate> = self
            .chain
            .iter()
            .map(|der| Certificate::from_der(der))
            .collect::<Result<_, _>>()
            .map_err(broken)?;
        let mut store = KeyStore::new();
        if with_key {
            let key = PrivateKey::from_der(&self.key.pkcs8).map_err(broken)?;
            let entry = PrivateKeyChain::new(sha1(&self.key.spki), key, certificates);
            store.add_entry("", KeyStoreEntry::PrivateKeyChain(entry));
        } else {
            for (n, certificate) in certificates.into_iter().enumerate() {
                store.add_entry(&format!("certificate {n}"), KeyStoreEntry::Certificate(certificate));
            }
        }
        let writer = store.writer("");
        writer.encryption_iterations(PFX_ITERATIONS).mac_iterations(PFX_ITERATIONS).write().map_err(broken)
    }
}

/// Not before and not after, as Unix seconds.
pub(crate) fn validity(der: &[u8]) -> Option<(i64, i64)> {
    let (_, x509) = X509Certificate::from_der(der).ok()?;
    Some((x509.validity().not_before.timestamp(), x509.validity().not_after.timestamp()))
}

/// The subject's text, such as `CN=shop.example`.
pub(crate) fn subject(der: &[u8]) -> Option<String> {
    Some(X509Certificate::from_der(der).ok()?.1.subject().to_string())
}

/// The public key of a certificate.
pub(crate) fn spki(der: &[u8]) -> Option<Vec<u8>> {
    Some(X509Certificate::from_der(der).ok()?.1.public_key().raw.to_vec())
}

pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in base64.as_bytes().chunks(64) {
        text.extend(line.iter().map(|b| char::from(*b)));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// What a certificate of one's own shall say.
pub(crate) struct Request<'a> {
    pub(crate) subject: &'a str,
    pub(crate) dns_names: Vec<String>,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

/// Signs a certificate with its own key; also gives the certificate request in DER.
pub(crate) fn self_signed(
    key: &KeyMaterial,
    request: &Request<'_>,
) -> Result<(Vec<u8>, Vec<u8>), &'static str> {
    let broken = |_: rcgen::Error| "The certificate can not be made from this policy.";
    let pair = KeyPair::from_pkcs8_der_and_sign_algo(
        &PrivatePkcs8KeyDer::from(key.pkcs8.as_slice()),
        algorithm(key.kind)?,
    )
    .map_err(broken)?;
    let mut params = CertificateParams::new(request.dns_names.clone()).map_err(broken)?;
    params.distinguished_name = distinguished_name(request.subject)?;
    let moment =
        |seconds| time::OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| "The validity is too long.");
    params.not_before = moment(request.not_before)?;
    params.not_after = moment(request.not_after)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let csr = params.serialize_request(&pair).map_err(broken)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&pair).map_err(broken)?;
    Ok((certificate.der().to_vec(), csr.der().to_vec()))
}

fn algorithm(kind: KeyKind) -> Result<&'static SignatureAlgorithm, &'static str> {
    match kind {
        KeyKind::Rsa(_) => Ok(&PKCS_RSA_SHA256),
        KeyKind::Ec(Curve::P256) => Ok(&PKCS_ECDSA_P256_SHA256),
        KeyKind::Ec(Curve::P384) => Ok(&PKCS_ECDSA_P384_SHA384),
        KeyKind::Ec(Curve::P521) => Ok(&PKCS_ECDSA_P521_SHA512),
        KeyKind::Ec(Curve::P256K) => Err("Certificates with P-256K are not supported."),
    }
}

/// Reads `CN=shop.example, O=Contoso`; commas within quotes do not separate.
fn distinguished_name(text: &str) -> Result<DistinguishedName, &'static str> {
    let mut name = DistinguishedName::new();
    let mut quoted = false;
    let parts = text.split(|c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    });
    for part in parts {
        let (kind, value) = part.split_once('=').ok_or("The subject name is not a distinguished name.")?;
        let kind = match kind.trim().to_ascii_uppercase().as_str() {
            "CN" => DnType::CommonName,
            "O" => DnType::OrganizationName,
            "OU" => DnType::OrganizationalUnitName,
            "C" => DnType::CountryName,
            "L" => DnType::LocalityName,
            "S" | "ST" => DnType::StateOrProvinceName,
            _ => return Err("The subject name has an attribute that is not supported."),
        };
        name.push(kind, value.trim().trim_matches('"'));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(kind: KeyKind) -> KeyedChain {
        let key = KeyMaterial::generate(kind).expect("offered");
        let request = Request {
            subject: "CN=shop.example, O=\"Contoso, Ltd\"",
            dns_names: vec!["shop.example".to_owned()],
            not_before: 1_700_000_000,
            not_after: 1_731_536_000,
        };
        let (der, _) = self_signed(&key, &request).expect("plain request");
        KeyedChain { key, chain: vec![der] }
    }

    #[test]
    fn a_chain_survives_pem_and_pfx_for_rsa_and_ec() {
        for kind in [KeyKind::Rsa(2048), KeyKind::Ec(Curve::P256), KeyKind::Ec(Curve::P521)] {
            let made = example(kind);
            let from_pem = KeyedChain::from_pem(&made.to_pem(true)).expect("own PEM");
            let pfx = made.to_pfx(true).expect("writes");
            let from_pfx = KeyedChain::from_pfx(&pfx, "").expect("own PFX");
            for read in [from_pem, from_pfx] {
                assert_eq!(read.chain, made.chain);
                assert_eq!(read.key.spki, made.key.spki);
            }
        }
    }

    #[test]
    fn dates_and_subject_come_out_as_they_went_in() {
        let made = example(KeyKind::Ec(Curve::P256));
        assert_eq!(validity(made.leaf_der()), Some((1_700_000_000, 1_731_536_000)));
        assert_eq!(subject(made.leaf_der()).as_deref(), Some("CN=shop.example, O=Contoso, Ltd"));
    }

    #[test]
    fn a_key_without_its_certificate_is_refused_and_the_leaf_is_found_anywhere() {
        let (one, other) = (example(KeyKind::Ec(Curve::P256)), example(KeyKind::Ec(Curve::P256)));
        let mixed = format!("{}{}", pem("PRIVATE KEY", &one.key.pkcs8), other.to_pem(false));
        assert!(KeyedChain::from_pem(&mixed).is_err());
        let unordered = format!("{}{}", mixed, one.to_pem(false));
        let read = KeyedChain::from_pem(&unordered).expect("the second certificate matches");
        assert_eq!(read.leaf_first().chain, [one.chain[0].clone(), other.chain[0].clone()]);
    }

    #[test]
    fn without_the_key_a_pfx_holds_certificates_only() {
        let made = example(KeyKind::Ec(Curve::P256));
        let archive = Pkcs12Archive::from_pkcs12(&made.to_pfx(false).expect("writes"), "").expect("reads");
        assert_eq!((archive.keys.len(), archive.certs.len()), (0, 1));
    }
}
