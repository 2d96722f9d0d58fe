//! Just enough ASN.1: a bounded reader of BER (key stores of Windows, NSS and Bouncy Castle use indefinite lengths,
//! which DER readers refuse) and a writer of DER.

use keyward_core::Result;
use zeroize::Zeroizing;

use super::invalid;

/// Deepest nesting that is followed.
const MAX_DEPTH: usize = 32;

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const NULL: u8 = 0x05;
pub(super) const OID: u8 = 0x06;
pub(super) const BMP_STRING: u8 = 0x1e;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
/// `[0]` constructed: EXPLICIT, or IMPLICIT of something constructed.
pub(super) const CONTEXT_0: u8 = 0xa0;
/// `[1]` constructed.
pub(super) const CONTEXT_1: u8 = 0xa1;
/// `[0]` IMPLICIT of something primitive.
pub(super) const CONTEXT_0_PRIMITIVE: u8 = 0x80;
const CONSTRUCTED: u8 = 0x20;

/// Elements side by side.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

/// One element.
#[derive(Clone, Copy)]
pub(super) struct Element<'a> {
    pub(super) tag: u8,
    pub(super) content: &'a [u8],
    /// Tag, length and content as they were read.
    pub(super) whole: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next element, whatever it is.
    pub(super) fn any(&mut self) -> Result<Element<'a>> {
        let (element, rest) = split(self.rest, 0).ok_or_else(damaged)?;
        self.rest = rest;
        Ok(element)
    }

    /// The next element, which must have `tag`.
    pub(super) fn expect(&mut self, tag: u8) -> Result<Element<'a>> {
        let element = self.any()?;
        if element.tag == tag { Ok(element) } else { Err(damaged()) }
    }

    /// Whether the next element has `tag`.
    pub(super) fn next_is(&self, tag: u8) -> bool {
        self.rest.first() == Some(&tag)
    }

    /// The next element if it has `tag`.
    pub(super) fn optional(&mut self, tag: u8) -> Result<Option<Element<'a>>> {
        if self.next_is(tag) { self.any().map(Some) } else { Ok(None) }
    }

    /// What stands inside the next element, which must have `tag`.
    pub(super) fn inside(&mut self, tag: u8) -> Result<Self> {
        self.expect(tag).map(|element| element.inside())
    }

    /// An object identifier's content.
    pub(super) fn oid(&mut self) -> Result<&'a [u8]> {
        self.expect(OID).map(|element| element.content)
    }

    /// A small number that is not negative.
    pub(super) fn number(&mut self) -> Result<u64> {
        let content = self.expect(INTEGER)?.content;
        let digits = content.strip_prefix(&[0]).unwrap_or(content);
        if content.first().is_none_or(|first| *first >= 0x80) || digits.len() > 8 {
            return Err(damaged());
        }
        Ok(digits.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// The bytes of an octet string, primitive or in pieces.
    pub(super) fn octets(&mut self) -> Result<Zeroizing<Vec<u8>>> {
        let element = self.any()?;
        if element.tag & !CONSTRUCTED == OCTET_STRING { element.octets() } else { Err(damaged()) }
    }
}

impl<'a> Element<'a> {
    pub(super) fn inside(&self) -> Reader<'a> {
        Reader::new(self.content)
    }

    /// The bytes of a string element, whatever its tag: its content, or that of its pieces when it is constructed.
    pub(super) fn octets(&self) -> Result<Zeroizing<Vec<u8>>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(self.content.len()));
        self.collect(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn collect(&self, into: &mut Vec<u8>, depth: usize) -> Result<()> {
        if self.tag & CONSTRUCTED == 0 {
            into.extend_from_slice(self.content);
            return Ok(());
        }
        let mut pieces = self.inside();
        while !pieces.is_empty() {
            let piece = pieces.any()?;
            if depth > MAX_DEPTH || piece.tag & !CONSTRUCTED != OCTET_STRING {
                return Err(damaged());
            }
            piece.collect(into, depth.saturating_add(1))?;
        }
        Ok(())
    }
}

pub(super) fn damaged() -> keyward_core::Error {
    invalid("the ASN.1 structure is damaged or cut short")
}

/// Splits the first element off.
fn split(bytes: &[u8], depth: usize) -> Option<(Element<'_>, &[u8])> {
    let (&tag, after_tag) = bytes.split_first()?;
    if tag & 0x1f == 0x1f || depth > MAX_DEPTH {
        return None;
    }
    let (&first, after) = after_tag.split_first()?;
    let (content, rest) = match first {
        0x80 if tag & CONSTRUCTED != 0 => until_end_of_contents(after, depth)?,
        0x80 => return None,
        0..0x80 => after.split_at_checked(usize::from(first))?,
        _ => {
            let (digits, after) = after.split_at_checked(usize::from(first & 0x7f))?;
            if digits.len() > 4 {
                return None;
            }
            let length = digits.iter().fold(0usize, |length, byte| length << 8 | usize::from(*byte));
            after.split_at_checked(length)?
        }
    };
    let whole = before(bytes, rest)?;
    Some((Element { tag, content, whole }, rest))
}

fn until_end_of_contents(bytes: &[u8], depth: usize) -> Option<(&[u8], &[u8])> {
    let mut rest = bytes;
    loop {
        if let Some(after) = rest.strip_prefix(&[0, 0]) {
            return Some((before(bytes, rest)?, after));
        }
        rest = split(rest, depth.saturating_add(1))?.1;
    }
}

/// What stands before `rest`, the end of `bytes`.
fn before<'a>(bytes: &'a [u8], rest: &[u8]) -> Option<&'a [u8]> {
    bytes.get(..bytes.len().checked_sub(rest.len())?)
}

/// Writes one element.
pub(super) fn element(tag: u8, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.saturating_add(6)));
    bytes.push(tag);
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => bytes.push(short),
        _ => {
            let digits = (length as u64).to_be_bytes();
            let digits = without_zeros(&digits);
            bytes.push(0x80 | digits.len() as u8);
            bytes.extend_from_slice(digits);
        }
    }
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes
}

/// `digits` from the first that is not zero on.
pub(super) fn without_zeros(mut digits: &[u8]) -> &[u8] {
    while let Some(rest) = digits.strip_prefix(&[0]) {
        digits = rest;
    }
    digits
}

/// Writes a number that is not negative, given in big-endian bytes.
pub(super) fn unsigned(digits: &[u8]) -> Zeroizing<Vec<u8>> {
    let digits = without_zeros(digits);
    match digits.first() {
        None => element(INTEGER, &[&[0]]),
        Some(0x80..) => element(INTEGER, &[&[0], digits]),
        Some(_) => element(INTEGER, &[digits]),
    }
}

/// Writes an AlgorithmIdentifier; `parameters` is a whole element, or empty for none.
pub(super) fn algorithm(oid: &[u8], parameters: &[u8]) -> Zeroizing<Vec<u8>> {
    element(SEQUENCE, &[&element(OID, &[oid]), parameters])
}

/// The object identifiers in use, as their DER content.
pub(super) mod oid {
    pub(in crate::content) const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
    pub(in crate::content) const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
    pub(in crate::content) const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    pub(in crate::content) const P384: &[u8] = &[0x2b, 0x81, 0x04, 0, 0x22];
    pub(in crate::content) const P521: &[u8] = &[0x2b, 0x81, 0x04, 0, 0x23];
    pub(in crate::content) const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

    pub(in crate::content) const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
    pub(in crate::content) const ENCRYPTED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 6];
    pub(in crate::content) const FRIENDLY_NAME: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 20];
    pub(in crate::content) const LOCAL_KEY_ID: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 21];
    pub(in crate::content) const X509_CERTIFICATE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 22, 1];

    /// `pkcs-12PbeIds`; the last number names the cipher.
    pub(in crate::content) const PBES1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 12, 1];
    /// `pkcs-12BagIds`; the last number names the kind.
    pub(in crate::content) const BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 12, 10, 1];
    pub(in crate::content) const KEY_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 12, 10, 1, 2];
    pub(in crate::content) const CERTIFICATE_BAG: &[u8] =
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 12, 10, 1, 3];

    pub(in crate::content) const PBKDF2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 12];
    pub(in crate::content) const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 13];
    pub(in crate::content) const HMAC_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 7];
    pub(in crate::content) const HMAC_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 9];
    pub(in crate::content) const HMAC_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 10];
    pub(in crate::content) const HMAC_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 11];
    pub(in crate::content) const DES3_CBC: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 3, 7];
    pub(in crate::content) const AES128_CBC: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 3, 4, 1, 2];
    pub(in crate::content) const AES192_CBC: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 3, 4, 1, 22];
    pub(in crate::content) const AES256_CBC: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 3, 4, 1, 42];
    pub(in crate::content) const SHA1: &[u8] = &[0x2b, 0x0e, 3, 2, 26];
    pub(in crate::content) const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 3, 4, 2, 1];
    pub(in crate::content) const SHA384: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 3, 4, 2, 2];
    pub(in crate::content) const SHA512: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 3, 4, 2, 3];

    pub(in crate::content) const SHA1_WITH_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5];
    pub(in crate::content) const RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];
    pub(in crate::content) const SHA256_WITH_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
    pub(in crate::content) const SHA384_WITH_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12];
    pub(in crate::content) const SHA512_WITH_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13];
    pub(in crate::content) const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    pub(in crate::content) const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
    pub(in crate::content) const ECDSA_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4];
    /// Sun's own protection of keys in a JKS, 1.3.6.1.4.1.42.2.17.1.1.
    pub(in crate::content) const SUN_KEY_PROTECTOR: &[u8] = &[0x2b, 6, 1, 4, 1, 42, 2, 17, 1, 1];
}
