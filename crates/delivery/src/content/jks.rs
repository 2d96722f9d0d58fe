//! Java's own key store, for applications that cannot read PKCS#12.
//!
//! Written by hand: the format is a page long (`sun.security.provider.JavaKeyStore`, `KeyProtector`), and the one
//! crate for it draws older copies of the ASN.1, random-number and digest crates into the tree. Its protection is weak
//! (SHA-1 as a stream cipher); what protects the file is the tmpfs.

use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY};
use keyward_core::{Result, SecretBytes, UnixTime};
use zeroize::Zeroizing;

use super::asn1::{self, NULL, OCTET_STRING, SEQUENCE, oid};
use super::invalid;
use super::salt::Salt;
use super::wiped::append;

/// What `keytool` and Java's documentation use when nothing is said.
pub(super) const DEFAULT_PASSWORD: &str = "changeit";
const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
const WHITENER: &[u8] = b"Mighty Aphrodite";
const SHA1_LENGTH: usize = 20;

/// A key store with one private key and its chain, leaf first.
pub(super) fn key_store(
    alias: &str,
    created: UnixTime,
    pkcs8: &[u8],
    chain: &[&[u8]],
    password: Option<&SecretBytes>,
) -> Result<SecretBytes> {
    let password = utf16(password)?;
    let mut salt = Salt::new(b"jks", &[&password, pkcs8]);
    let protected = protect(pkcs8, &password, &salt.take::<SHA1_LENGTH>());
    let mut store = Store::new(1);
    store.number(1).entry(alias, created).block(&protected)?.number(chain.len() as u32);
    for certificate in chain {
        store.text("X.509").block(certificate)?;
    }
    Ok(store.seal(&password))
}

/// A trust store with certificates only; the second and later get a number after the alias.
pub(super) fn trust_store(
    alias: &str,
    created: UnixTime,
    certificates: &[&[u8]],
    password: Option<&SecretBytes>,
) -> Result<SecretBytes> {
    let password = utf16(password)?;
    let mut store = Store::new(certificates.len() as u32);
    for (index, certificate) in certificates.iter().enumerate() {
        let alias = if index == 0 { alias.to_owned() } else { format!("{alias}-{index}") };
        store.number(2).entry(&alias, created).text("X.509").block(certificate)?;
    }
    Ok(store.seal(&password))
}

struct Store(Zeroizing<Vec<u8>>);

impl Store {
    fn new(entries: u32) -> Self {
        let mut store = Self(Zeroizing::new(Vec::new()));
        store.number(MAGIC).number(VERSION).number(entries);
        store
    }

    fn number(&mut self, number: u32) -> &mut Self {
        append(&mut self.0, &number.to_be_bytes());
        self
    }

    /// Java keeps aliases in lower case; the date is in milliseconds.
    fn entry(&mut self, alias: &str, created: UnixTime) -> &mut Self {
        self.text(&alias.to_ascii_lowercase());
        append(&mut self.0, &u64::try_from(created.as_millis()).unwrap_or(0).to_be_bytes());
        self
    }

    /// `DataOutput.writeUTF`; object names are ASCII, where its encoding is plain.
    fn text(&mut self, text: &str) -> &mut Self {
        append(&mut self.0, &(text.len() as u16).to_be_bytes());
        append(&mut self.0, text.as_bytes());
        self
    }

    fn block(&mut self, bytes: &[u8]) -> Result<&mut Self> {
        let length = u32::try_from(bytes.len()).map_err(|_| invalid("the key store would be too large"))?;
        append(&mut self.number(length).0, bytes);
        Ok(self)
    }

    fn seal(mut self, password: &[u8]) -> SecretBytes {
        let digest = sha1(&[password, WHITENER, &self.0]);
        append(&mut self.0, &digest);
        SecretBytes::copy_from(&self.0)
    }
}

/// `KeyProtector.protect`: salt, key XOR a chain of SHA-1, SHA-1 of password and key; wrapped as PKCS#8 wraps it.
fn protect(key: &[u8], password: &[u8], salt: &[u8; SHA1_LENGTH]) -> Zeroizing<Vec<u8>> {
    let mut protected = Zeroizing::new(Vec::with_capacity(key.len().saturating_add(2 * SHA1_LENGTH)));
    protected.extend_from_slice(salt);
    let mut link = *salt;
    for block in key.chunks(SHA1_LENGTH) {
        link = sha1(&[password, &link]);
        protected.extend(block.iter().zip(link).map(|(plain, pad)| plain ^ pad));
    }
    protected.extend_from_slice(&sha1(&[password, key]));
    let algorithm = asn1::algorithm(oid::SUN_KEY_PROTECTOR, &asn1::element(NULL, &[]));
    asn1::element(SEQUENCE, &[&algorithm, &asn1::element(OCTET_STRING, &[&protected])])
}

#[expect(clippy::expect_used, reason = "the length is the algorithm's")]
fn sha1(parts: &[&[u8]]) -> [u8; SHA1_LENGTH] {
    let mut context = digest::Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    parts.iter().for_each(|part| context.update(part));
    context.finish().as_ref().try_into().expect("SHA-1 has 20 bytes")
}

fn utf16(password: Option<&SecretBytes>) -> Result<Zeroizing<Vec<u8>>> {
    let password = match password {
        None => DEFAULT_PASSWORD,
        Some(password) => {
            password.expose_str().ok_or_else(|| invalid("the password of the key store is not text"))?
        }
    };
    // `keytool` refuses shorter ones, so nobody could open the file with it.
    if password.chars().count() < 6 {
        return Err(invalid("the password of a Java key store has at least 6 characters"));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(password.len().saturating_mul(2)));
    bytes.extend(password.encode_utf16().flat_map(u16::to_be_bytes));
    Ok(bytes)
}
