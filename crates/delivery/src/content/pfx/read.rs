use aws_lc_rs::hmac;
use keyward_core::{Result, SecretBytes};
use zeroize::Zeroizing;

use super::super::asn1::{CONTEXT_0, CONTEXT_0_PRIMITIVE, OCTET_STRING, Reader, SEQUENCE, SET, damaged, oid};
use super::super::{MAX_CONTENT, invalid};
use super::cipher::{decrypt, undecipherable};
use super::derive::{Derive, Password, Purpose, hash, unsupported};
use super::{Pfx, PfxCertificate, PfxKey};
use crate::conversions::Turn;

/// Most bags of one file.
const MAX_BAGS: usize = 256;
/// Deepest nesting of bags in bags.
const MAX_NESTING: usize = 4;

pub(super) fn read(turn: &Turn, der: &[u8], password: &SecretBytes) -> Result<Pfx> {
    if der.len() > MAX_CONTENT {
        return Err(invalid("the key store is too large"));
    }
    let mut pfx = Reader::new(der).inside(SEQUENCE)?;
    if pfx.number()? != 3 {
        return Err(invalid("the key store is not PKCS#12 version 3"));
    }
    let mut info = pfx.inside(SEQUENCE)?;
    if info.oid()? != oid::DATA {
        return Err(invalid("the key store is signed with a public key, which is not supported"));
    }
    let safes = info.inside(CONTEXT_0)?.octets()?;
    let mac = pfx.optional(SEQUENCE)?.map(|mac| mac.inside());

    let given = Password::new(password)?;
    let absent = Password::absent();
    let mut derive = Derive::new(turn, &given);
    let first = attempt(&safes, mac, &mut derive);
    if first.is_ok() || !password.is_empty() {
        return first;
    }
    // What the first attempt found wrong is the better message, unless the second works.
    attempt(&safes, mac, &mut derive.again(&absent)).or(first)
}

fn attempt(safes: &[u8], mac: Option<Reader<'_>>, derive: &mut Derive<'_>) -> Result<Pfx> {
    if let Some(mac) = mac {
        verify(mac, safes, derive)?;
    }
    let mut found = Found { pfx: Pfx { keys: Vec::new(), certificates: Vec::new() }, bags: 0 };
    let mut safes = Reader::new(safes).inside(SEQUENCE)?;
    while !safes.is_empty() {
        let mut info = safes.inside(SEQUENCE)?;
        let kind = info.oid()?;
        let mut content = info.inside(CONTEXT_0)?;
        let bags = if kind == oid::DATA {
            content.octets()?
        } else if kind == oid::ENCRYPTED_DATA {
            encrypted(content, derive)?
        } else {
            return Err(unsupported());
        };
        found.bags(&bags, derive, 0)?;
    }
    Ok(found.pfx)
}

/// `MacData` (RFC 7292 §4). PBMAC1 (RFC 9579) is refused as unknown until another program here writes it.
fn verify(mut mac: Reader<'_>, safes: &[u8], derive: &mut Derive<'_>) -> Result<()> {
    let mut info = mac.inside(SEQUENCE)?;
    let mut algorithm = info.inside(SEQUENCE)?;
    let tag = info.octets()?;
    let salt = mac.octets()?;
    let name = algorithm.oid()?;
    let iterations = if mac.is_empty() { 1 } else { mac.number()? };
    let (digest, algorithm) = hash(name)?;
    let key = derive.pkcs12(digest, &salt, iterations, Purpose::Mac, digest.output_len())?;
    hmac::verify(&hmac::Key::new(algorithm, &key), safes, &tag).map_err(|_| undecipherable())
}

/// `EncryptedData` (RFC 5652 §8).
fn encrypted(mut content: Reader<'_>, derive: &mut Derive<'_>) -> Result<Zeroizing<Vec<u8>>> {
    let mut data = content.inside(SEQUENCE)?;
    data.number()?;
    let mut info = data.inside(SEQUENCE)?;
    info.oid()?;
    let algorithm = info.inside(SEQUENCE)?;
    let cipher_text = info.any()?;
    if !matches!(cipher_text.tag, CONTEXT_0 | CONTEXT_0_PRIMITIVE) {
        return Err(damaged());
    }
    decrypt(algorithm, cipher_text.octets()?, derive)
}

struct Found {
    pfx: Pfx,
    bags: usize,
}

impl Found {
    /// `SafeContents` (RFC 7292 §4.2).
    fn bags(&mut self, contents: &[u8], derive: &mut Derive<'_>, depth: usize) -> Result<()> {
        let mut bags = Reader::new(contents).inside(SEQUENCE)?;
        while !bags.is_empty() {
            let mut bag = bags.inside(SEQUENCE)?;
            self.bags = self.bags.saturating_add(1);
            if self.bags > MAX_BAGS || depth > MAX_NESTING {
                return Err(invalid(format!("the key store has more than {MAX_BAGS} entries")));
            }
            let kind = bag.oid()?;
            let mut value = bag.inside(CONTEXT_0)?;
            let local_key_id = local_key_id(bag)?;
            match kind.strip_prefix(oid::BAG) {
                Some([1]) => {
                    let pkcs8 = Zeroizing::new(value.expect(SEQUENCE)?.whole.to_vec());
                    self.pfx.keys.push(PfxKey { pkcs8, local_key_id });
                }
                Some([2]) => {
                    let mut info = value.inside(SEQUENCE)?;
                    let algorithm = info.inside(SEQUENCE)?;
                    let pkcs8 = decrypt(algorithm, info.octets()?, derive)?;
                    self.pfx.keys.push(PfxKey { pkcs8, local_key_id });
                }
                Some([3]) => {
                    let mut certificate = value.inside(SEQUENCE)?;
                    if certificate.oid()? == oid::X509_CERTIFICATE {
                        let der = certificate.inside(CONTEXT_0)?.octets()?.to_vec();
                        self.pfx.certificates.push(PfxCertificate { der, local_key_id });
                    }
                }
                Some([6]) => self.bags(value.expect(SEQUENCE)?.whole, derive, depth.saturating_add(1))?,
                // Revocation lists and other secrets are no part of what is delivered.
                _ => {}
            }
        }
        Ok(())
    }
}

fn local_key_id(mut bag: Reader<'_>) -> Result<Option<Vec<u8>>> {
    let Some(attributes) = bag.optional(SET)? else { return Ok(None) };
    let mut attributes = attributes.inside();
    while !attributes.is_empty() {
        let mut attribute = attributes.inside(SEQUENCE)?;
        if attribute.oid()? == oid::LOCAL_KEY_ID {
            let mut values = attribute.inside(SET)?;
            return values.optional(OCTET_STRING).map(|id| id.map(|id| id.content.to_vec()));
        }
    }
    Ok(None)
}
