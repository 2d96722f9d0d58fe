use base64::Engine;
use keyward_core::{Error, Result, SecretBytes};
use zeroize::Zeroizing;

use super::asn1::{INTEGER, OCTET_STRING, Reader, SEQUENCE};
use super::chain::{self, Chain, Leaf};
use super::decode::BASE64;
use super::key::PrivateKey;
use super::pem::{self, parse_pem};
use super::pfx::parse_pfx;
use super::{contains, invalid};
use crate::conversions::Turn;

/// Private keys and certificates as they were stored, in any order.
pub(super) struct Material {
    keys: Vec<(Result<PrivateKey>, Option<Vec<u8>>)>,
    certificates: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// A private key, if there is one, and the certificates in order.
pub(super) struct Identity<'a> {
    key: std::result::Result<&'a PrivateKey, Error>,
    pub(super) chain: Chain<'a>,
}

impl Material {
    /// Reads PEM, a PKCS#12 with an empty password, or one DER certificate or key; DER may be in base64, as Key Vault
    /// gives the secret behind a certificate. What it is shows in its first bytes: content types are set by users.
    pub(super) fn read(turn: &Turn, value: &[u8]) -> Result<Self> {
        if value.first() == Some(&SEQUENCE) {
            return Self::from_der(turn, value);
        }
        if contains(value, b"-----BEGIN ") {
            return Self::from_pem(turn, value);
        }
        let text = value.trim_ascii();
        let mut der = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
        match BASE64.decode_slice(text, &mut der) {
            Ok(length) if der.first() == Some(&SEQUENCE) => {
                der.truncate(length);
                Self::from_der(turn, &der)
            }
            _ => Err(invalid(
                "the value holds neither PEM nor a PKCS#12 key store; use `format: raw`, or set `decode`",
            )),
        }
    }

    fn from_der(turn: &Turn, der: &[u8]) -> Result<Self> {
        let mut inside = Reader::new(der).inside(SEQUENCE)?;
        let mut material = Self { keys: Vec::new(), certificates: Vec::new() };
        if inside.next_is(SEQUENCE) {
            material.certificates.push((der.to_vec(), None));
            return Ok(material);
        }
        let version = inside.expect(INTEGER)?;
        let key = if inside.next_is(INTEGER) {
            PrivateKey::from_pkcs1(der)
        } else if inside.next_is(OCTET_STRING) {
            PrivateKey::from_sec1(der)
        } else if version.content == [3] {
            return Self::from_pfx(turn, der);
        } else {
            PrivateKey::from_pkcs8(der)
        };
        material.keys.push((key, None));
        Ok(material)
    }

    fn from_pfx(turn: &Turn, der: &[u8]) -> Result<Self> {
        let pfx = parse_pfx(turn, der, &SecretBytes::copy_from(b""))?;
        Ok(Self {
            keys: pfx
                .keys
                .into_iter()
                .map(|key| {
                    turn.check()?;
                    Ok((PrivateKey::from_pkcs8(&key.pkcs8), key.local_key_id))
                })
                .collect::<Result<_>>()?,
            certificates: pfx.certificates.into_iter().map(|it| (it.der, it.local_key_id)).collect(),
        })
    }

    fn from_pem(turn: &Turn, text: &[u8]) -> Result<Self> {
        let mut material = Self { keys: Vec::new(), certificates: Vec::new() };
        for block in parse_pem(text)? {
            turn.check()?;
            let key = match block.label.as_str() {
                "CERTIFICATE" | "X509 CERTIFICATE" => {
                    material.certificates.push((block.der.to_vec(), None));
                    continue;
                }
                "PRIVATE KEY" => PrivateKey::from_pkcs8(&block.der),
                "RSA PRIVATE KEY" => PrivateKey::from_pkcs1(&block.der),
                "EC PRIVATE KEY" => PrivateKey::from_sec1(&block.der),
                "ENCRYPTED PRIVATE KEY" => Err(pem::encrypted()),
                // EC parameters, Diffie-Hellman parameters, revocation lists: no part of a key or chain.
                _ => continue,
            };
            material.keys.push((key, None));
        }
        Ok(material)
    }

    /// Finds the key, verifies that it and the leaf are a pair, and orders the certificates. `leaf` is the object's own
    /// certificate where the vault names it. Among several pairs without that, the first whose key and certificate
    /// carry the same local key id wins, then the first.
    pub(super) fn resolve(&self, turn: &Turn, leaf: Option<&[u8]>) -> Result<Identity<'_>> {
        let certificates: Vec<&[u8]> = self.certificates.iter().map(|(der, _)| der.as_slice()).collect();
        let key = self.key(leaf)?;
        let leaf = match (leaf, &key) {
            (Some(leaf), _) => Leaf::Is(leaf),
            (None, Ok(key)) if !certificates.is_empty() => Leaf::WithKey(key.public()),
            _ => Leaf::Unknown,
        };
        Ok(Identity { key, chain: chain::order(turn, &certificates, leaf)? })
    }

    /// The key, or why there is none that can be used; fails when there are keys and certificates but no pair.
    fn key(&self, leaf: Option<&[u8]>) -> Result<std::result::Result<&PrivateKey, Error>> {
        let usable: Vec<_> =
            self.keys.iter().filter_map(|(key, id)| key.as_ref().ok().map(|key| (key, id))).collect();
        let Some((first, _)) = usable.first() else {
            return Ok(Err(self
                .keys
                .iter()
                .find_map(|(key, _)| key.as_ref().err().cloned())
                .unwrap_or_else(no_key)));
        };
        let mut publics = Vec::new();
        for (der, id) in self.certificates.iter().filter(|(der, _)| leaf.is_none_or(|leaf| der == leaf)) {
            publics.push((chain::public_key(der)?, id));
        }
        if publics.is_empty() && leaf.is_none() {
            return Ok(Ok(first));
        }
        let pairs: Vec<_> = usable
            .iter()
            .filter_map(|(key, key_id)| {
                let (_, id) = publics.iter().find(|(public, _)| public == key.public())?;
                Some((*key, key_id.is_some() && key_id == id))
            })
            .collect();
        let chosen = pairs.iter().find(|(_, same_id)| *same_id).or(pairs.first());
        chosen.map(|(key, _)| Ok(*key)).ok_or_else(|| {
            invalid("the private key and the certificate do not belong together: their public keys differ")
        })
    }
}

impl Identity<'_> {
    /// The private key, PKCS#8.
    pub(super) fn key(&self) -> Result<&[u8]> {
        self.key.as_ref().map(|key| key.pkcs8()).map_err(Error::clone)
    }

    /// The leaf.
    pub(super) fn leaf(&self) -> Result<&[u8]> {
        self.chain.path.first().copied().ok_or_else(no_certificate)
    }

    /// The path and then the others; at least one.
    pub(super) fn certificates(&self) -> Result<Vec<&[u8]>> {
        self.leaf()?;
        Ok(self.chain.path.iter().chain(&self.chain.others).copied().collect())
    }
}

fn no_key() -> Error {
    invalid(
        "the value holds no private key (a certificate whose policy is not exportable has none); use \
         `format: pem-chain` for the certificates",
    )
}

fn no_certificate() -> Error {
    invalid("the value holds no certificate")
}
