//! Secrets for classes that were written for the Azure provider. What whole classes become is held in `keyward-compat`.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use keyward_core::spec::{Decode, Format, ObjectSource};
use keyward_core::{BundleType, Content, Result, SecretBytes};
use keyward_delivery::content::parse_pem;
use proptest::prelude::*;

use super::support::{convert, der, fetched, fixture, source, text};

fn convert_as(format: Format, decode: Decode, bundle: Option<BundleType>, value: &[u8]) -> Result<Vec<u8>> {
    let source = ObjectSource { format, decode, ..source("kv://shop/secrets/shop", "") };
    let content = Content::Secret { value: SecretBytes::copy_from(value), bundle };
    convert(&source, &fetched(content), None).map(|converted| converted.value.expose().to_vec())
}

fn pfx(name: &str) -> Vec<u8> {
    BASE64_STANDARD.encode(fixture(name)).into_bytes()
}

fn pem(value: &[u8]) -> Vec<u8> {
    convert_as(Format::Azure, Decode::None, Some(BundleType::Pem), value).unwrap()
}

#[test]
fn every_cipher_that_is_read_elsewhere_is_read_here_too() {
    let expected: String = ["rsa.key.pem", "rsa.pem", "inter.pem", "root.pem"].map(text).concat();
    for name in ["legacy-3des.pfx", "legacy-rc2.pfx", "aes128-sha1.pfx", "aes256-sha512.pfx", "plain.pfx"] {
        let made = convert_as(Format::Azure, Decode::None, Some(BundleType::Pfx), &pfx(name)).unwrap();
        assert_eq!(String::from_utf8(made).unwrap(), expected, "{name}");
    }
}

#[test]
fn a_pem_that_is_in_order_or_has_no_single_chain_is_kept_to_the_byte() {
    for parts in [
        &["rsa.key.pem", "rsa.pem", "inter.pem", "root.pem"][..],
        &["rsa.pem", "inter.pem", "rsa.key.pem"],
        &["root.pem", "rsa.pem"],
        &["root.pem", "inter.pem", "rsa.pem", "p256.pem"],
        &["inter.pem", "inter.pem", "rsa.pem"],
        &["rsa.key.pem"],
    ] {
        let stored: String = parts.iter().map(|part| text(part)).collect();
        assert_eq!(pem(stored.as_bytes()), stored.as_bytes(), "{parts:?}");
    }
    let odd = b"-----BEGIN CERTIFICATE-----\nAAAA\n";
    assert_eq!(pem(odd), odd);
}

#[test]
fn what_is_decoded_is_the_converted_text() {
    let twice = BASE64_STANDARD.encode("x");
    let made =
        convert_as(Format::AzurePfx, Decode::Base64, Some(BundleType::Pfx), &pfx("plain.pfx")).unwrap();
    assert_eq!(made, fixture("plain.pfx"));
    assert_eq!(convert_as(Format::Azure, Decode::Base64, None, twice.as_bytes()).unwrap(), b"x");
    assert!(convert_as(Format::Azure, Decode::Base64, Some(BundleType::Pfx), &pfx("plain.pfx")).is_err());
    for (how, value) in
        [(Decode::Base64, "YQ"), (Decode::Base64, "YQ==="), (Decode::Base64, "Y Q=="), (Decode::Hex, "abc")]
    {
        let error = convert_as(Format::Azure, how, None, value.as_bytes()).unwrap_err();
        assert!(error.message().contains("objectEncoding"), "{value}: {error}");
    }
}

proptest! {
    #[test]
    fn the_certificates_of_a_pem_come_out_leaf_to_root_from_any_order(
        order in Just(["rsa.pem", "inter.pem", "root.pem", "rsa.key.pem"]).prop_shuffle(), between in "[a-z ]{0,5}\n",
    ) {
        let stored: String = order.iter().map(|part| between.clone() + &text(part)).collect();
        let made = pem(stored.as_bytes());
        let chain: Vec<_> = parse_pem(&made).unwrap().into_iter().filter(|block| block.label == "CERTIFICATE").map(|block| block.der.to_vec()).collect();
        prop_assert_eq!(chain, vec![der("rsa.pem"), der("inter.pem"), der("root.pem")]);
        prop_assert_eq!(made.len(), stored.len());
        prop_assert_eq!(pem(&made), made);
    }

    #[test]
    fn any_value_is_converted_or_refused(value in proptest::collection::vec(any::<u8>(), 0..200), pem in any::<bool>(), decode in 0..3usize) {
        let decode = [Decode::None, Decode::Base64, Decode::Hex][decode];
        let bundle = Some(if pem { BundleType::Pem } else { BundleType::Pfx });
        let _ = convert_as(Format::Azure, decode, bundle, &value);
        let _ = convert_as(Format::Azure, decode, Some(BundleType::Pfx), BASE64_STANDARD.encode(&value).as_bytes());
    }

    #[test]
    fn base64_is_decoded_wherever_its_line_ends_stand(value in proptest::collection::vec(any::<u8>(), 0..60), width in 1..20usize) {
        let lines: Vec<u8> = BASE64_STANDARD.encode(&value).as_bytes().chunks(width).flat_map(|line| [line, b"\r\n"].concat()).collect();
        prop_assert_eq!(convert_as(Format::Azure, Decode::Base64, None, &lines).unwrap(), value);
    }
}
