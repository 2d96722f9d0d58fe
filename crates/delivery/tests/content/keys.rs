use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyward_core::Content;
use keyward_delivery::content::{parse_pem, spki_from_jwk};
use proptest::prelude::*;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::support::*;

/// The JWK and the SPKI of the public key of a certificate fixture.
fn jwk_and_spki(name: &str) -> (String, Vec<u8>) {
    let der = der(name);
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let key = certificate.public_key();
    let bits = &key.subject_public_key.data;
    let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let jwk = match name {
        "rsa.pem" => {
            let x509_parser::public_key::PublicKey::RSA(rsa) = key.parsed().unwrap() else { panic!() };
            let modulus = rsa.modulus.strip_prefix(&[0]).unwrap_or(rsa.modulus);
            format!(r#"{{"kty":"RSA","kid":"x","n":"{}","e":"{}"}}"#, b64(modulus), b64(rsa.exponent))
        }
        _ => {
            let curve = match name {
                "p256.pem" => "P-256",
                "p384.pem" => "P-384",
                _ => "P-521",
            };
            let (x, y) = bits[1..].split_at((bits.len() - 1) / 2);
            format!(r#"{{"kty":"EC-HSM","crv":"{curve}","x":"{}","y":"{}"}}"#, b64(x), b64(y))
        }
    };
    (jwk, key.raw.to_vec())
}

#[test]
fn a_key_becomes_the_public_key_that_its_certificate_shows() {
    for name in ["rsa.pem", "p256.pem", "p384.pem", "p521.pem"] {
        let (jwk, spki) = jwk_and_spki(name);
        assert_eq!(spki_from_jwk(jwk.as_bytes()).unwrap(), spki, "{name}");
        let made = |settings: &str| {
            let source = source("kv://shop/keys/k", settings);
            convert(&source, &fetched(Content::Key { jwk: jwk.clone() }), None)
                .unwrap()
                .value
                .expose()
                .to_vec()
        };
        assert_eq!(made(", format: der"), spki);
        assert_eq!(made(", format: jwk"), jwk.as_bytes());
        let pem = made("");
        assert_eq!(labels(&pem), ["PUBLIC KEY"]);
        assert_eq!(*parse_pem(&pem).unwrap()[0].der, spki);
    }
}

#[test]
fn keys_that_cannot_be_a_public_key_file_say_what_to_do() {
    let off_curve = jwk_and_spki("p256.pem").0.replace("\"y\":\"", "\"y\":\"AAAA");
    for (jwk, says) in [
        (r#"{"kty":"EC","crv":"P-256K","x":"AA","y":"AA"}"#, "P-256K is not supported"),
        (r#"{"kty":"oct"}"#, "no public part"),
        (r#"{"kty":"OKP","crv":"Ed25519","x":"AA"}"#, "RSA and EC are"),
        (r#"{"kty":"RSA","n":"AQAB"}"#, "missing"),
        (r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#, "2048 to 8192"),
        (r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#, "no point of its curve"),
        (off_curve.as_str(), "longer than its curve"),
        ("[]", "no JSON Web Key"),
    ] {
        let error = spki_from_jwk(jwk.as_bytes()).unwrap_err();
        assert!(error.message().contains(says), "{jwk}: {error}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_key_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), member in "[A-Za-z0-9_-]{0,12}") {
        let _ = spki_from_jwk(&bytes);
        let _ = spki_from_jwk(format!(r#"{{"kty":"EC","crv":"P-256","x":"{member}","y":"{member}"}}"#).as_bytes());
        let _ = spki_from_jwk(format!(r#"{{"kty":"RSA","n":"{member}","e":"{member}"}}"#).as_bytes());
    }
}
