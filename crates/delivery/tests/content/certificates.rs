use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_core::SecretBytes;
use keyward_delivery::content::parse_pem;
use p12_keystore::{KeyStore, Pkcs12ImportPolicy};
use proptest::prelude::*;

use super::support::*;

/// What every key store of the RSA leaf must become, in order.
fn expected_bundle(key: &str, leaf: &str) -> Vec<Vec<u8>> {
    [key, leaf, "inter.pem", "root.pem"].map(der).to_vec()
}

fn blocks(pem: &[u8]) -> Vec<Vec<u8>> {
    parse_pem(pem).unwrap().into_iter().map(|block| block.der.to_vec()).collect()
}

#[test]
fn key_stores_of_every_cipher_and_digest_become_the_same_pem() {
    for name in [
        "legacy-rc2",
        "legacy-rc2-128",
        "legacy-3des",
        "legacy-2des",
        "aes128-sha1",
        "aes192-sha384",
        "aes256-sha512",
        "plain",
        "no-mac",
    ] {
        let value = STANDARD.encode(fixture(&format!("{name}.pfx")));
        let pem = bytes(value.as_bytes(), ", format: pem");
        assert_eq!(labels(&pem), ["PRIVATE KEY", "CERTIFICATE", "CERTIFICATE", "CERTIFICATE"], "{name}");
        assert_eq!(blocks(&pem), expected_bundle("rsa.key.pem", "rsa.pem"), "{name}");
    }
}

#[test]
fn elliptic_and_edwards_keys_come_out_of_key_stores() {
    for name in ["p256", "p384", "p521", "ed25519"] {
        let pem = bytes(&fixture(&format!("{name}.pfx")), ", format: pem-bundle");
        assert_eq!(
            blocks(&pem),
            expected_bundle(&format!("{name}.key.pem"), &format!("{name}.pem")),
            "{name}"
        );
    }
}

#[test]
fn the_formats_of_a_bundle_hold_their_parts() {
    let bundle = fixture("aes256-sha512.pfx");
    for (format, holds) in [
        ("pem-chain", &["CERTIFICATE", "CERTIFICATE", "CERTIFICATE"][..]),
        ("pem-leaf", &["CERTIFICATE"]),
        ("pem-key", &["PRIVATE KEY"]),
    ] {
        assert_eq!(labels(&bytes(&bundle, &format!(", format: {format}"))), holds);
    }
    assert_eq!(bytes(&bundle, ", format: der"), fixture("rsa.der"));
    let pair = convert_secret(&bundle, ", format: pem-pair").unwrap();
    let (certificates, key) = pair.pair.unwrap();
    assert_eq!(blocks(certificates.expose()), ["rsa.pem", "inter.pem", "root.pem"].map(der));
    assert_eq!(key.expose(), fixture("rsa.key.pem"));
    assert_eq!(blocks(pair.value.expose()), expected_bundle("rsa.key.pem", "rsa.pem"));
}

#[test]
fn older_private_key_forms_become_pkcs8() {
    for (old, new) in [("rsa-pkcs1.key.pem", "rsa.key.pem"), ("p256-sec1.key.pem", "p256.key.pem")] {
        let made = bytes(&fixture(old), ", format: pem-key");
        assert_eq!(labels(&made), ["PRIVATE KEY"]);
        // PKCS#8 may repeat the curve inside; what counts is that it is the same key.
        let name = new.strip_suffix(".key.pem").unwrap();
        let with_leaf = [made, fixture(&format!("{name}.pem"))].concat();
        assert!(convert_secret(&with_leaf, ", format: pem-pair").is_ok(), "{old}");
    }
}

#[test]
fn a_pem_in_any_order_with_carriage_returns_and_comments_is_read() {
    let parts = ["root.pem", "inter.pem", "rsa-pkcs1.key.pem", "rsa.pem", "inter.pem"].map(text);
    let value = parts.join("Bag Attributes\r\n    friendlyName: shop\r\n").replace('\n', "\r\n");
    assert_eq!(blocks(&bytes(value.as_bytes(), ", format: pem")), expected_bundle("rsa.key.pem", "rsa.pem"));
}

#[test]
fn a_certificate_object_gives_its_leaf_alone_or_its_chain_through_the_secret_behind_it() {
    let content = certificate(der("rsa.pem"), STANDARD.encode(fixture("legacy-3des.pfx")).as_bytes());
    let made = |settings: &str| {
        let source = source("kv://shop/certificates/c", settings);
        convert(&source, &fetched(content.clone()), None).unwrap().value.expose().to_vec()
    };
    assert_eq!(blocks(&made("")), [der("rsa.pem")]);
    assert_eq!(made(", format: der"), fixture("rsa.der"));
    assert_eq!(blocks(&made(", format: pem-bundle")), expected_bundle("rsa.key.pem", "rsa.pem"));
}

#[test]
fn a_key_that_is_not_the_certificates_own_is_refused() {
    let mixed = [fixture("p256.key.pem"), fixture("rsa.pem")].concat();
    assert!(complaint(convert_secret(&mixed, ", format: pem-pair")).contains("do not belong together"));
    let content = certificate(der("p256.pem"), &fixture("legacy-3des.pfx"));
    let source = source("kv://shop/certificates/c", ", format: pem-pair");
    assert!(convert(&source, &fetched(content), None).is_err());
}

#[test]
fn of_two_keys_the_one_of_the_certificate_is_taken() {
    let store = parse_pfx(&fixture("java-two-keys.pfx"), &SecretBytes::copy_from(b"changeit")).unwrap();
    assert_eq!(store.keys.len(), 2);
    for (key, other) in [("rsa", "p256"), ("p256", "rsa")] {
        let pem = [
            format!("{other}.key.pem"),
            format!("{key}.key.pem"),
            format!("{key}.pem"),
            "inter.pem".to_owned(),
        ];
        let pem = pem.map(|name| fixture(&name)).concat();
        let made = bytes(&pem, ", format: pem-key");
        assert_eq!(made, fixture(&format!("{key}.key.pem")));
    }
}

#[test]
fn content_that_cannot_be_converted_says_why_and_what_to_do() {
    let broken = text("rsa.key.pem").replace('\n', "\\n");
    let joined = text("rsa.pem").replace('\n', " ");
    for (value, format, says) in [
        (fixture("password.pfx"), "pem", "its password is not empty"),
        (fixture("no-key.pfx"), "pem", "format: pem-chain"),
        (fixture("rsa-encrypted.key.pem"), "pem", "is encrypted with a password"),
        (fixture("root.key.pem"), "pem-chain", "holds no certificate"),
        (broken.into_bytes(), "pem", "two characters \\n"),
        (joined.into_bytes(), "pem-chain", "lost its line ends"),
        (b"hunter2".to_vec(), "pem", "neither PEM nor a PKCS#12"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n".to_vec(), "pem-chain", "does not end"),
        (
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec(),
            "pem-chain",
            "certificate is damaged",
        ),
    ] {
        let complaint = complaint(convert_secret(&value, &format!(", format: {format}")));
        assert!(complaint.contains(says), "{says}: {complaint}");
        assert!(!complaint.contains("hunter2"));
    }
}

#[test]
fn more_iterations_than_allowed_are_refused() {
    let error = parse_pfx(&fixture("many-iterations.pfx"), &SecretBytes::copy_from(b"")).err().unwrap();
    assert!(error.message().contains("more key-derivation iterations than the 1000000"), "{error}");
}

/// One element of DER.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x82], &length[..], content].concat()
}

/// A key store without a checksum: `strings` makes the string that holds its one part, which has these bags.
fn store(bags: &[u8], strings: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    const DATA: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
    let data = |string: Vec<u8>| tlv(0x30, &[DATA, &tlv(0xa0, &string)].concat());
    let part = data(tlv(4, &tlv(0x30, bags)));
    tlv(0x30, &[&[2, 1, 3], &data(strings(&tlv(0x30, &part)))[..]].concat())
}

fn bag(kind: u8, value: &[u8]) -> Vec<u8> {
    let oid = [6, 11, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 12, 10, 1, kind];
    tlv(0x30, &[&oid, &tlv(0xa0, value)[..]].concat())
}

#[test]
fn blocks_entries_and_levels_are_counted() {
    let block = "-----BEGIN X-----\nAAAA\n-----END X-----\n";
    assert_eq!(parse_pem(block.repeat(128).as_bytes()).unwrap().len(), 128);
    let error = parse_pem(block.repeat(129).as_bytes()).err().unwrap();
    assert!(error.message().contains("more than 128 blocks"), "{error}");

    let parse = |der: Vec<u8>| parse_pfx(&der, &SecretBytes::copy_from(b"")).map(drop);
    let plain = |bytes: &[u8]| tlv(4, bytes);
    // Revocation lists, which are passed over.
    parse(store(&bag(4, &[5, 0]).repeat(256), plain)).unwrap();
    let error = parse(store(&bag(4, &[5, 0]).repeat(257), plain)).unwrap_err();
    assert!(error.message().contains("more than 256 entries"), "{error}");
    let nested = |deep: usize| (0..deep).fold(bag(4, &[5, 0]), |inside, _| bag(6, &tlv(0x30, &inside)));
    parse(store(&nested(4), plain)).unwrap();
    assert!(parse(store(&nested(5), plain)).is_err());
    // A string in pieces of pieces.
    let pieces = |levels: usize| {
        move |bytes: &[u8]| {
            (0..levels).fold(tlv(4, bytes), |inside, _| [&[0x24, 0x80], &inside[..], &[0, 0]].concat())
        }
    };
    parse(store(&bag(4, &[5, 0]), pieces(32))).unwrap();
    assert!(parse(store(&bag(4, &[5, 0]), pieces(33))).is_err());
}

#[test]
fn indefinite_lengths_and_strings_in_pieces_are_read() {
    let der = fixture("aes256-sha512.pfx");
    let ber = indefinite(&der);
    assert_ne!(ber, der);
    assert_eq!(bytes(&ber, ", format: pem"), bytes(&der, ", format: pem"),);
}

/// Rewrites the outer layers as Bouncy Castle and NSS write them: indefinite lengths, the content in two pieces.
fn indefinite(der: &[u8]) -> Vec<u8> {
    fn inner(der: &[u8]) -> (u8, &[u8], &[u8]) {
        let (length, at) = match der[1] {
            short @ 0..0x80 => (usize::from(short), 2),
            long => {
                let digits = usize::from(long & 0x7f);
                (der[2..2 + digits].iter().fold(0, |n, d| n << 8 | usize::from(*d)), 2 + digits)
            }
        };
        (der[0], &der[at..at + length], &der[at + length..])
    }
    fn piece(bytes: &[u8]) -> Vec<u8> {
        [&[4, 0x82][..], &(bytes.len() as u16).to_be_bytes(), bytes].concat()
    }
    let (_, pfx, _) = inner(der);
    let (version, after) = pfx.split_at(3);
    let (_, info, mac) = inner(after);
    let (oid, content) = info.split_at(11);
    let (_, octets, _) = inner(content);
    let (_, safes, _) = inner(octets);
    let (first, second) = safes.split_at(100);
    let octets = [&[0x24, 0x80][..], &piece(first), &piece(second), &[0, 0]].concat();
    let info = [&[0x30, 0x80][..], oid, &[0xa0, 0x80], &octets, &[0, 0, 0, 0]].concat();
    [&[0x30, 0x80][..], version, &info, mac, &[0, 0]].concat()
}

#[test]
fn a_written_key_store_is_read_by_another_implementation() {
    let password = SecretBytes::copy_from("pä55wörd".as_bytes());
    for (from, given) in
        [("rsa", None), ("rsa", Some(&password)), ("p384", None), ("ed25519", Some(&password))]
    {
        let pem =
            [format!("{from}.key.pem"), "root.pem".to_owned(), format!("{from}.pem"), "inter.pem".to_owned()]
                .map(|name| fixture(&name))
                .concat();
        let settings = if given.is_some() { ", format: pfx, passwordFrom: pw" } else { ", format: pfx" };
        let made =
            convert(&source("kv://shop/secrets/shop", settings), &fetched(secret(&pem)), given).unwrap();
        let text = given.map_or("", |password| password.expose_str().unwrap());
        let store = KeyStore::from_pkcs12(made.value.expose(), text, Pkcs12ImportPolicy::Strict).unwrap();
        let (alias, chain) = store.private_key_chain().unwrap();
        assert_eq!(alias, "shop");
        assert_eq!(chain.key().as_der(), der(&format!("{from}.key.pem")));
        let certificates: Vec<_> = chain.certs().iter().map(|it| it.as_der().to_vec()).collect();
        assert_eq!(certificates, [format!("{from}.pem").as_str(), "inter.pem", "root.pem"].map(der));
    }
}

#[test]
fn the_same_object_becomes_the_same_key_store_every_time_and_another_object_another() {
    let of = |name: &str, format: &str| bytes(&fixture(name), &format!(", format: {format}"));
    for format in ["pfx", "jks", "jks-truststore"] {
        assert_eq!(of("p256.pfx", format), of("p256.pfx", format));
        assert_ne!(of("p256.pfx", format), of("p384.pfx", format));
    }
}

#[test]
fn a_java_key_store_wants_a_password_that_java_accepts() {
    let source = source("kv://shop/secrets/shop", ", format: jks, passwordFrom: pw");
    let short = SecretBytes::copy_from(b"12345");
    let error = convert(&source, &fetched(secret(&fixture("p256.pfx"))), Some(&short)).err().unwrap();
    assert!(error.message().contains("at least 6 characters"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_key_store_round_trips_under_any_password(password in "\\PC{0,20}") {
        let password = SecretBytes::from(password);
        let source = source("kv://shop/secrets/shop", ", format: pfx, passwordFrom: pw");
        let pem = [fixture("p256.key.pem"), fixture("p256.pem"), fixture("authorities.pem")].concat();
        let made = convert(&source, &fetched(secret(&pem)), Some(&password)).unwrap();
        let store = parse_pfx(made.value.expose(), &password).unwrap();
        prop_assert_eq!(&*store.keys[0].pkcs8, &der("p256.key.pem"));
        prop_assert!(store.keys[0].local_key_id.is_some());
        prop_assert_eq!(&store.keys[0].local_key_id, &store.certificates[0].local_key_id);
        prop_assert_eq!(store.certificates.len(), 3);
        if !password.is_empty() {
            prop_assert!(parse_pfx(made.value.expose(), &SecretBytes::copy_from(b"")).is_err());
        }
    }

    #[test]
    fn damaged_key_stores_and_pem_texts_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let empty = SecretBytes::copy_from(b"");
        for name in ["plain.pfx", "legacy-rc2.pfx", "p256.pfx", "rsa.pem", "rsa-pkcs1.key.pem"] {
            let mut value = fixture(name);
            value[at.index(fixture(name).len())] = byte;
            for value in [&value[..], &value[..cut.index(value.len())]] {
                let _ = parse_pfx(value, &empty);
                let _ = parse_pem(value);
                let _ = convert_secret(value, ", format: pem-pair");
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), lines in "(-----(BEGIN|END) [A-Z]{1,3}-----\n|[A-Za-z0-9+/=]{0,9}\n){0,8}") {
        let _ = parse_pfx(&bytes, &SecretBytes::copy_from(b""));
        let _ = parse_pfx(&[&[0x30, 0x80][..], &bytes].concat(), &SecretBytes::copy_from(b""));
        let _ = parse_pem(&bytes);
        let _ = parse_pem(lines.as_bytes());
        let _ = convert_secret(&bytes, ", format: pem");
    }
}
