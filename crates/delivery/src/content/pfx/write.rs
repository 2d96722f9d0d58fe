use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use aws_lc_rs::hmac;
use keyward_core::{Result, SecretBytes};
use zeroize::Zeroizing;

use super::super::asn1::{
    self, BMP_STRING, CONTEXT_0, CONTEXT_0_PRIMITIVE, INTEGER, NULL, OCTET_STRING, OID, Reader, SEQUENCE,
    SET, oid,
};
use super::super::salt::Salt;
use super::cipher::encrypt;
use super::derive::{Derive, Password, Purpose};
use crate::conversions::Turn;

/// As many as Java and Windows use by default. The password is as a rule empty or lies beside the file, so that more
/// would cost start-up time and protect nothing.
const ITERATIONS: u64 = 10_000;

/// Iterations of the checksum, and of each encrypted part.
#[derive(Clone, Copy)]
pub(super) struct Cost {
    pub(super) mac: u64,
    pub(super) part: u64,
}

type Bytes = Zeroizing<Vec<u8>>;

/// Writes one key and its chain, leaf first: AES-256-CBC under PBKDF2 with HMAC-SHA-256, and a SHA-256 MAC.
pub(in crate::content) fn write(
    turn: &Turn,
    name: &str,
    pkcs8: &[u8],
    chain: &[&[u8]],
    password: Option<&SecretBytes>,
) -> Result<SecretBytes> {
    let empty = SecretBytes::copy_from(b"");
    let password = password.unwrap_or(&empty);
    let leaf = chain.first().copied().unwrap_or_default();
    let salt = Salt::new(b"pfx", &[password.expose(), pkcs8, leaf]);
    write_under(turn, &Password::new(password)?, salt, name, pkcs8, chain)
}

pub(super) fn write_under(
    turn: &Turn,
    password: &Password,
    salt: Salt,
    name: &str,
    pkcs8: &[u8],
    chain: &[&[u8]],
) -> Result<SecretBytes> {
    let cost = Cost { mac: ITERATIONS, part: ITERATIONS };
    write_with(turn, password, salt, name, pkcs8, chain, cost)
}

pub(super) fn write_with(
    turn: &Turn,
    password: &Password,
    mut salt: Salt,
    name: &str,
    pkcs8: &[u8],
    chain: &[&[u8]],
    cost: Cost,
) -> Result<SecretBytes> {
    // What is written has few iterations; the limit of a file is for what is read.
    let derive = || Derive::new(turn, password);
    let leaf = chain.first().copied().unwrap_or_default();

    let attributes = attributes(name, leaf);
    let (algorithm, cipher_text) = encrypted(pkcs8, &mut salt, cost.part, derive())?;
    let shrouded = sequence(&[&algorithm, &asn1::element(OCTET_STRING, &[&cipher_text])]);
    let keys = sequence(&[&bag(oid::KEY_BAG, &shrouded, &attributes)]);

    let bags: Vec<Bytes> = chain
        .iter()
        .enumerate()
        .map(|(index, der)| {
            let value = sequence(&[
                &asn1::element(OID, &[oid::X509_CERTIFICATE]),
                &asn1::element(CONTEXT_0, &[&asn1::element(OCTET_STRING, &[der])]),
            ]);
            bag(oid::CERTIFICATE_BAG, &value, if index == 0 { &attributes } else { &[] })
        })
        .collect();
    let bags: Vec<&[u8]> = bags.iter().map(|bag| bag.as_slice()).collect();
    let (algorithm, cipher_text) = encrypted(&sequence(&bags), &mut salt, cost.part, derive())?;
    let certificates = sequence(&[
        &asn1::element(INTEGER, &[&[0]]),
        &sequence(&[
            &asn1::element(OID, &[oid::DATA]),
            &algorithm,
            &asn1::element(CONTEXT_0_PRIMITIVE, &[&cipher_text]),
        ]),
    ]);

    let safes = sequence(&[
        &info(oid::ENCRYPTED_DATA, &certificates),
        &info(oid::DATA, &asn1::element(OCTET_STRING, &[&keys])),
    ]);
    let mac = mac(&safes, &mut salt, cost.mac, derive())?;
    let pfx = sequence(&[
        &asn1::element(INTEGER, &[&[3]]),
        &info(oid::DATA, &asn1::element(OCTET_STRING, &[&safes])),
        &mac,
    ]);
    Ok(SecretBytes::copy_from(&pfx))
}

/// Encrypts with PBES2 and gives the AlgorithmIdentifier beside the cipher text.
fn encrypted(plain: &[u8], salt: &mut Salt, times: u64, mut derive: Derive<'_>) -> Result<(Bytes, Vec<u8>)> {
    let (kdf_salt, iv) = (salt.take::<16>(), salt.take::<16>());
    let derivation = asn1::algorithm(
        oid::PBKDF2,
        &sequence(&[
            &asn1::element(OCTET_STRING, &[&kdf_salt]),
            &iterations(times),
            &asn1::algorithm(oid::HMAC_SHA256, &asn1::element(NULL, &[])),
        ]),
    );
    let scheme = asn1::algorithm(oid::AES256_CBC, &asn1::element(OCTET_STRING, &[&iv]));
    let key = derive.pbkdf2(Reader::new(&derivation).inside(SEQUENCE)?, 32)?;
    Ok((asn1::algorithm(oid::PBES2, &sequence(&[&derivation, &scheme])), encrypt(&key, iv, plain)?))
}

fn mac(safes: &[u8], salt: &mut Salt, times: u64, mut derive: Derive<'_>) -> Result<Bytes> {
    let salt = salt.take::<16>();
    let key = derive.pkcs12(&SHA256, &salt, times, Purpose::Mac, 32)?;
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), safes);
    let info = sequence(&[
        &asn1::algorithm(oid::SHA256, &asn1::element(NULL, &[])),
        &asn1::element(OCTET_STRING, &[tag.as_ref()]),
    ]);
    Ok(sequence(&[&info, &asn1::element(OCTET_STRING, &[&salt]), &iterations(times)]))
}

/// The friendly name, and the leaf's SHA-1 as the id that binds key and leaf, as OpenSSL does it.
fn attributes(name: &str, leaf: &[u8]) -> Bytes {
    let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let id = digest(&SHA1_FOR_LEGACY_USE_ONLY, leaf);
    let attribute =
        |kind: &[u8], value: &[u8]| sequence(&[&asn1::element(OID, &[kind]), &asn1::element(SET, &[value])]);
    let name = attribute(oid::FRIENDLY_NAME, &asn1::element(BMP_STRING, &[&name]));
    let id = attribute(oid::LOCAL_KEY_ID, &asn1::element(OCTET_STRING, &[id.as_ref()]));
    // DER sorts the members of a set by their encoding.
    let mut members = [name.as_slice(), id.as_slice()];
    members.sort_unstable();
    asn1::element(SET, &members)
}

fn bag(kind: &[u8], value: &[u8], attributes: &[u8]) -> Bytes {
    sequence(&[&asn1::element(OID, &[kind]), &asn1::element(CONTEXT_0, &[value]), attributes])
}

fn info(kind: &[u8], content: &[u8]) -> Bytes {
    sequence(&[&asn1::element(OID, &[kind]), &asn1::element(CONTEXT_0, &[content])])
}

fn iterations(times: u64) -> Bytes {
    asn1::unsigned(&times.to_be_bytes())
}

fn sequence(parts: &[&[u8]]) -> Bytes {
    asn1::element(SEQUENCE, parts)
}
