use keyward_delivery::content::Leaf;
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::support::*;

fn named(name: &str, authority: bool) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    if authority {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params
}

/// A certificate of `name` and `key`, signed in the name of `issuer`.
fn signed(name: &str, authority: bool, key: &KeyPair, issuer: (&str, &KeyPair)) -> Vec<u8> {
    let issuer = Issuer::new(named(issuer.0, true), issuer.1);
    named(name, authority).signed_by(key, &issuer).unwrap().der().to_vec()
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

/// Leaf, four intermediates and a root.
fn line() -> Vec<Vec<u8>> {
    let keys: Vec<KeyPair> = (0..6).map(|_| key()).collect();
    let names = ["root", "one", "two", "three", "four", "leaf"];
    let mut line: Vec<Vec<u8>> = (0..6)
        .map(|at: usize| {
            signed(names[at], at < 5, &keys[at], (names[at.saturating_sub(1)], &keys[at.saturating_sub(1)]))
        })
        .collect();
    line.reverse();
    line
}

#[test]
fn an_incomplete_chain_is_as_long_as_it_gets_and_duplicates_are_dropped() {
    let line = line();
    let given = [&line[1][..], &line[0], &line[1], &line[0]];
    let chain = order(&given, Leaf::Unknown).unwrap();
    assert_eq!(chain.path, [&line[0][..], &line[1]]);
    assert!(chain.others.is_empty());
}

#[test]
fn certificates_of_another_chain_follow_in_their_own_order() {
    let (line, other) = (line(), line());
    let given: Vec<&[u8]> = [&other[3], &line[2], &line[0], &other[1], &line[1]].map(Vec::as_slice).to_vec();
    let chain = order(&given, Leaf::Is(&line[0])).unwrap();
    assert_eq!(chain.path, [&line[0][..], &line[1], &line[2]]);
    assert_eq!(chain.others, [&other[3][..], &other[1]]);
}

#[test]
fn an_issuer_of_the_right_name_with_another_key_is_no_issuer() {
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
        &rcgen::PKCS_ED25519,
    ] {
        let (real, impostor) =
            (KeyPair::generate_for(algorithm).unwrap(), KeyPair::generate_for(algorithm).unwrap());
        let root = signed("root", true, &real, ("root", &real));
        let fake = signed("root", true, &impostor, ("root", &impostor));
        let leaf = signed("leaf", false, &key(), ("root", &real));
        let chain = order(&[&fake, &leaf, &root], Leaf::Is(&leaf)).unwrap();
        assert_eq!(chain.path, [&leaf[..], &root]);
        assert_eq!(chain.others, [&fake[..]]);
    }
}

#[test]
fn a_self_signed_root_is_preferred_to_its_cross_signed_twin() {
    let (old, new, leaf_key) = (key(), key(), key());
    let root = signed("new", true, &new, ("new", &new));
    let cross = signed("new", true, &new, ("old", &old));
    let leaf = signed("leaf", false, &leaf_key, ("new", &new));
    for given in [[&cross[..], &root, &leaf], [&root[..], &leaf, &cross]] {
        let chain = order(&given, Leaf::Unknown).unwrap();
        assert_eq!(chain.path, [&leaf[..], &root]);
    }
}

#[test]
fn authorities_that_certify_each_other_are_an_error() {
    let (a, b, leaf_key) = (key(), key(), key());
    let ab = signed("a", true, &a, ("b", &b));
    let ba = signed("b", true, &b, ("a", &a));
    let leaf = signed("leaf", false, &leaf_key, ("a", &a));
    for given in [vec![&ab[..], &ba], vec![&leaf[..], &ba, &ab]] {
        let error = order(&given, Leaf::Unknown).err().unwrap();
        assert!(error.message().contains("in a circle"), "{error}");
    }
}

#[test]
fn too_many_certificates_are_refused() {
    let key = key();
    let many: Vec<Vec<u8>> =
        (0..65).map(|at| signed(&format!("n{at}"), false, &key, ("root", &key))).collect();
    let given: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
    assert!(order(&given, Leaf::Unknown).err().unwrap().message().contains("more than 64"));
    assert!(order(&given[..64], Leaf::Unknown).is_ok());
}

#[test]
fn the_chains_that_openssl_made_come_out_leaf_to_root() {
    let authorities = ["inter.pem", "root.pem"].map(der);
    for name in ["rsa.pem", "p256.pem", "p384.pem", "p521.pem", "ed25519.pem"] {
        let leaf = der(name);
        let chain = order(&[&authorities[1], &leaf, &authorities[0]], Leaf::Unknown).unwrap();
        assert_eq!(chain.path, [&leaf[..], &authorities[0], &authorities[1]], "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_permutation_with_any_duplicates_comes_out_leaf_to_root(shuffled in {
        let line = line();
        let doubled: Vec<Vec<u8>> = line.iter().chain(&line).cloned().collect();
        (Just(line), Just(doubled).prop_shuffle())
    }) {
        let (line, given) = shuffled;
        let given: Vec<&[u8]> = given.iter().map(Vec::as_slice).collect();
        let chain = order(&given, Leaf::Unknown).unwrap();
        prop_assert_eq!(chain.path, line.iter().map(Vec::as_slice).collect::<Vec<_>>());
        prop_assert!(chain.others.is_empty());
    }

    #[test]
    fn a_damaged_certificate_is_an_error_or_a_certificate(at in 0usize..900, byte in any::<u8>(), cut in 0usize..900) {
        let mut damaged = der("rsa.pem");
        let length = damaged.len();
        damaged[at % length] = byte;
        let _ = order(&[&damaged, &der("inter.pem")], Leaf::Unknown);
        let _ = order(&[&damaged[..cut % length]], Leaf::Unknown);
    }
}
