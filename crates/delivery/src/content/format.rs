use keyward_core::spec::{Format, ObjectSource};
use keyward_core::{CertificateContent, Fetched, Result, SecretBytes};
use zeroize::Zeroizing;

use super::jwk::spki_from_jwk;
use super::material::{Identity, Material};
use super::pem::append_pem;
use super::{Converted, invalid, jks, pfx};
use crate::conversions::Turn;

/// A certificate object. Its own form is the leaf; everything else needs the secret behind it.
pub(super) fn certificate(
    turn: &Turn,
    source: &ObjectSource,
    fetched: &Fetched,
    content: &CertificateContent,
    password: Option<&SecretBytes>,
) -> Result<Converted> {
    match source.format {
        Format::Pem | Format::PemLeaf => Ok(single(pem("CERTIFICATE", &[&content.leaf_der]))),
        Format::Der | Format::Raw => Ok(single(Zeroizing::new(content.leaf_der.clone()))),
        _ => {
            let (_, bundle) = content
                .bundle
                .as_ref()
                .ok_or_else(|| invalid("the secret behind the certificate was not read"))?;
            bundle_as(turn, source, fetched, bundle.expose(), Some(&content.leaf_der), password)
        }
    }
}

/// The public key of a key object.
pub(super) fn key(source: &ObjectSource, jwk: &str) -> Result<Converted> {
    Ok(single(match source.format {
        Format::Jwk | Format::Raw => Zeroizing::new(jwk.as_bytes().to_vec()),
        Format::Der => Zeroizing::new(spki_from_jwk(jwk.as_bytes())?),
        Format::Pem => pem("PUBLIC KEY", &[&spki_from_jwk(jwk.as_bytes())?]),
        other => return Err(invalid(format!("{} cannot be made from keys", other.as_str()))),
    }))
}

/// PEM, PKCS#12 or DER in whatever format is asked for. `leaf` is the object's own certificate where it is known.
pub(super) fn bundle_as(
    turn: &Turn,
    source: &ObjectSource,
    fetched: &Fetched,
    value: &[u8],
    leaf: Option<&[u8]>,
    password: Option<&SecretBytes>,
) -> Result<Converted> {
    let material = Material::read(turn, value)?;
    let identity = material.resolve(turn, leaf)?;
    let name = source.object.name();
    let created = fetched.created.unwrap_or_default();
    let secret = |value| Ok(Converted { value, pair: None });
    match source.format {
        Format::Pem => Ok(single(key_and_chain(&identity, &everything(&identity))?)),
        Format::PemBundle => Ok(single(key_and_chain(&identity, &identity.certificates()?)?)),
        Format::PemChain => Ok(single(pem("CERTIFICATE", &identity.certificates()?))),
        Format::PemLeaf => Ok(single(pem("CERTIFICATE", &[identity.leaf()?]))),
        Format::PemKey => Ok(single(pem("PRIVATE KEY", &[identity.key()?]))),
        Format::PemPair => {
            let certificates = identity.certificates()?;
            let key = SecretBytes::copy_from(&pem("PRIVATE KEY", &[identity.key()?]));
            let chain = SecretBytes::copy_from(&pem("CERTIFICATE", &certificates));
            let both = key_and_chain(&identity, &certificates)?;
            Ok(Converted { pair: Some((chain, key)), ..single(both) })
        }
        Format::Der => Ok(single(Zeroizing::new(identity.leaf()?.to_vec()))),
        Format::Pfx => {
            identity.leaf()?;
            secret(pfx::write(turn, name, identity.key()?, &identity.chain.path, password)?)
        }
        Format::Jks => {
            identity.leaf()?;
            secret(jks::key_store(name, created, identity.key()?, &identity.chain.path, password)?)
        }
        Format::JksTrust => secret(jks::trust_store(name, created, &identity.certificates()?, password)?),
        Format::Raw | Format::Jwk | Format::Azure | Format::AzurePfx => {
            Err(invalid(format!("{} cannot be made from this object", source.format.as_str())))
        }
    }
}

fn everything<'a>(identity: &Identity<'a>) -> Vec<&'a [u8]> {
    identity.chain.path.iter().chain(&identity.chain.others).copied().collect()
}

fn key_and_chain(identity: &Identity<'_>, certificates: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>> {
    let mut text = pem("PRIVATE KEY", &[identity.key()?]);
    certificates.iter().for_each(|der| append_pem(&mut text, "CERTIFICATE", der));
    Ok(text)
}

fn pem(label: &str, blocks: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::new());
    blocks.iter().for_each(|der| append_pem(&mut text, label, der));
    text
}

fn single(value: Zeroizing<Vec<u8>>) -> Converted {
    Converted { value: SecretBytes::copy_from(&value), pair: None }
}
