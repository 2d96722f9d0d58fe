use std::time::Duration;

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};
use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair as GeneratedKey, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};

use super::*;

struct Made {
    key_pem: String,
    key_der: Vec<u8>,
    certificate_pem: String,
    certificate_der: Vec<u8>,
}

fn made(algorithm: &'static rcgen::SignatureAlgorithm) -> Made {
    let key = GeneratedKey::generate_for(algorithm).unwrap();
    let certificate = CertificateParams::new(vec!["app.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    Made {
        key_pem: key.serialize_pem(),
        key_der: key.serialize_der(),
        certificate_pem: certificate.pem(),
        certificate_der: certificate.der().to_vec(),
    }
}

fn pfx(made: &Made, password: &str) -> Vec<u8> {
    let key = PrivateKey::from_der(&made.key_der).unwrap();
    let certificate = Certificate::from_der(&made.certificate_der).unwrap();
    let mut store = KeyStore::new();
    store.add_entry("app", KeyStoreEntry::PrivateKeyChain(PrivateKeyChain::new(vec![1], key, [certificate])));
    store.writer(password).write().unwrap()
}

#[test]
fn limit_9_a_certificate_signs_from_pem_and_pfx_without_openssl() {
    let made = made(&PKCS_RSA_SHA256);
    let other = made_other();
    let files = [
        (format!("{}{}", made.key_pem, made.certificate_pem).into_bytes(), None),
        (format!("{other}{}{}", made.certificate_pem, made.key_pem).into_bytes(), None),
        (pfx(&made, ""), None),
        (pfx(&made, "pass"), Some("pass")),
    ];
    for (content, password) in files {
        let certificate = parse_certificate(&content, password).ok().unwrap();
        assert_eq!(certificate.leaf(), made.certificate_der);
        let assertion = certificate
            .assertion("client", "https://l/t/token", Duration::from_secs(1000), true)
            .ok()
            .unwrap();
        let assertion = assertion.expose_str().unwrap();
        let (signed, signature) = assertion.rsplit_once('.').unwrap();
        let public = load::public_key(&made.certificate_der).unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public)
            .verify(signed.as_bytes(), &signature)
            .unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        let json = |part| {
            serde_json::from_slice::<serde_json::Value>(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
        };
        let (header, claims) = (json(header), json(claims));
        assert_eq!(header["x5c"][0].as_str().unwrap(), STANDARD.encode(&made.certificate_der));
        assert_eq!(
            (&claims["aud"], &claims["iss"], &claims["exp"]),
            (&"https://l/t/token".into(), &"client".into(), &1300.into())
        );
    }
}

fn made_other() -> String {
    made(&PKCS_ECDSA_P256_SHA256).certificate_pem
}

#[test]
fn what_cannot_sign_is_refused_with_the_reason() {
    let (rsa, ec) = (made(&PKCS_RSA_SHA256), made(&PKCS_ECDSA_P256_SHA256));
    let cases: [(Vec<u8>, Option<&str>, &str); 8] = [
        (format!("{}{}", ec.key_pem, ec.certificate_pem).into_bytes(), None, "RSA"),
        (format!("{}{}", rsa.key_pem, ec.certificate_pem).into_bytes(), None, "fits its key"),
        (rsa.key_pem.clone().into_bytes(), None, "no certificate"),
        (rsa.certificate_pem.clone().into_bytes(), None, "not encrypted"),
        (pfx(&rsa, "pass"), Some("wrong"), "opens with the password"),
        (b"garbage".to_vec(), None, "neither PEM nor a PFX"),
        (pfx(&ec, ""), None, "RSA"),
        (vec![b'a'; 70_000], None, "64 KiB"),
    ];
    for (content, password, why) in cases {
        let error = parse_certificate(&content, password).err().unwrap();
        assert_eq!(error.code(), Code::IdentityFile);
        assert!(error.message().contains(why), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_are_read_as_a_certificate_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), pem in any::<bool>()) {
        let content = if pem { [b"-----BEGIN CERTIFICATE-----\n", bytes.as_slice()].concat() } else { bytes };
        let _ = parse_certificate(&content, Some("x"));
    }
}
