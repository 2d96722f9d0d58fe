use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;

const VERSION: &str = "0123456789abcdef0123456789abcdef";

fn id(collection: &str) -> String {
    format!("https://shop.vault.azure.net/{collection}/db/{VERSION}")
}

fn bytes(value: &serde_json::Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

#[test]
fn a_secret_bundle_gives_value_version_times_and_whether_it_backs_a_certificate() {
    let body = bytes(&json!({
        "value": "p\u{e4}ss\n\"word\"", "id": id("secrets"), "contentType": "text/plain", "kid": id("keys"),
        "attributes": {"enabled": true, "nbf": 1, "exp": "2", "created": 3.0, "updated": null, "recoveryLevel": "x"},
        "tags": {"a": "b"}, "managed": true, "new": [1, {"x": null}],
    }));
    let secret = parse_secret(&body).unwrap();
    assert_eq!(secret.value.expose(), "päss\n\"word\"".as_bytes());
    assert_eq!(secret.id.version().unwrap().as_str(), VERSION);
    assert_eq!(secret.content_type.as_deref(), Some("text/plain"));
    assert!(secret.backs_certificate && secret.attributes.is_enabled());
    let times = (secret.attributes.not_before, secret.attributes.expires, secret.attributes.created);
    let at = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(times, (at(1), at(2), at(3)));
    assert_eq!(secret.attributes.updated, None);
}

#[test]
fn an_answer_without_value_identifier_or_version_is_no_answer() {
    for body in [
        json!({"id": id("secrets")}),
        json!({"id": id("secrets"), "value": null}),
        json!({"id": id("secrets"), "value": 7}),
        json!({"value": "x"}),
        json!({"value": "x", "id": "https://shop.vault.azure.net/secrets/db"}),
        json!({"value": "x", "id": id("keys")}),
        json!({"value": "x", "id": "http://shop.vault.azure.net/secrets/db/x"}),
        json!([]),
    ] {
        let error = parse_secret(&bytes(&body)).err().expect("refused");
        assert_eq!(error.code(), Code::VaultProtocol, "{body}");
    }
}

#[test]
fn no_parse_error_quotes_the_value_that_it_stumbled_over() {
    let error = parse_secret(br#"{"value": {"hunter2": "hunter2"}, "id": 5}"#).err().expect("refused");
    assert!(!format!("{error} {:?}", error.internal_detail()).contains("hunter2"));
    let error = parse_secret(b"{\"value\": \"hunter2").err().expect("refused");
    assert!(!format!("{error} {:?}", error.internal_detail()).contains("hunter2"));
}

#[test]
fn a_key_keeps_its_public_members_only_under_registered_names() {
    let key = |jwk: serde_json::Value| parse_key(&bytes(&json!({"key": jwk, "attributes": {}})));
    let rsa = key(
        json!({"kid": id("keys"), "kty": "RSA-HSM", "key_ops": ["sign"], "n": "AQAB", "e": "AQAB=", "d": "c2VjcmV0"}),
    );
    assert_eq!(rsa.unwrap().jwk, format!(r#"{{"kty":"RSA","kid":"{}","n":"AQAB","e":"AQAB"}}"#, id("keys")));
    let curve = key(json!({"kid": id("keys"), "kty": "EC", "crv": "P-256K", "x": "AA", "y": "BB"})).unwrap();
    assert!(curve.jwk.contains(r#""crv":"secp256k1""#));
    let symmetric = key(json!({"kid": id("keys"), "kty": "oct-HSM"})).unwrap_err();
    assert_eq!(symmetric.code(), Code::ContentInvalid);
    for broken in [
        json!({"kid": id("keys"), "kty": "RSA", "n": "AQAB"}),
        json!({"kid": id("keys"), "kty": "RSA", "n": "A\"B", "e": "AQAB"}),
        json!({"kid": id("keys"), "kty": "EC", "crv": "P-1", "x": "A", "y": "B"}),
        json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"}),
    ] {
        assert_eq!(key(broken).unwrap_err().code(), Code::VaultProtocol);
    }
}

#[test]
fn a_certificate_names_its_leaf_and_the_version_of_its_secret() {
    let body =
        json!({"id": id("certificates"), "sid": id("secrets"), "cer": "AQID", "attributes": {"exp": 9}});
    let certificate = parse_certificate(&bytes(&body)).unwrap();
    assert_eq!(certificate.leaf_der, [1, 2, 3]);
    assert_eq!(certificate.secret.unwrap().version().unwrap().as_str(), VERSION);
    assert!(parse_certificate(&bytes(&json!({"id": id("certificates"), "cer": "*"}))).is_err());
    assert!(parse_certificate(&bytes(&json!({"id": id("certificates")}))).is_err());
}

#[test]
fn a_page_may_be_empty_and_its_end_is_a_missing_null_or_empty_link() {
    for end in
        [json!({"value": []}), json!({"value": [], "nextLink": null}), json!({"value": [], "nextLink": ""})]
    {
        assert_eq!(parse_page(&bytes(&end)).unwrap(), Page { items: Vec::new(), next: None });
    }
    let page = json!({"value": [{"id": "https://shop.vault.azure.net/secrets/a", "attributes": {"enabled": false}},
        {"kid": id("keys")}], "nextLink": "https://shop.vault.azure.net/secrets?$skiptoken=x"});
    let page = parse_page(&bytes(&page)).unwrap();
    assert_eq!(page.items.len(), 2);
    assert!(!page.items[0].attributes.is_enabled() && page.items[0].id.version().is_none());
    assert!(page.next.is_some());
    assert!(parse_page(br#"{"value": [{"attributes": {}}]}"#).is_err());
    assert!(parse_page(b"{}").is_err());
}

#[test]
fn error_codes_are_read_in_both_spellings_and_however_deep() {
    let body = json!({"error": {"code": "Forbidden", "message": "AKV10022: Invalid audience.",
        "innererror": {"code": "Outer", "innerError": {"code": "SecretDisabled"}}}});
    let error = parse_error_body(&bytes(&body)).unwrap();
    assert_eq!(error.code.as_deref(), Some("Forbidden"));
    assert_eq!(error.inner, ["Outer", "SecretDisabled"]);
    assert_eq!(error.akv.as_deref(), Some("AKV10022"));
    let odd = json!({"error": {"code": "<script>", "message": "AKVhello", "innererror": {"code": "a b"}}});
    let error = parse_error_body(&bytes(&odd)).unwrap();
    assert_eq!(error, ErrorBody { code: None, inner: Vec::new(), akv: None });
    assert!(parse_error_body(b"<html>").is_err());
}

#[test]
fn identifiers_are_read_as_the_official_clients_read_them() {
    let plain = parse_id(&id("secrets")).unwrap();
    for odd in [
        format!("HTTPS://Shop.Vault.Azure.Net//Secrets/DB//{}?api-version=7.4", VERSION.to_uppercase()),
        format!("https://shop.vault.azure.net:443/secrets/db/{VERSION}/"),
    ] {
        assert_eq!(parse_id(&odd).unwrap(), plain, "{odd}");
    }
    for bad in [
        "",
        "https://",
        "https://h/secrets",
        "https://h/other/a",
        "ftp://h/secrets/a",
        "https://h/secrets/a/b",
        "äääääää",
    ] {
        assert!(parse_id(bad).is_none(), "{bad}");
    }
}

#[test]
fn a_body_beyond_the_limit_is_not_looked_at() {
    let error = parse_page(&vec![b' '; MAX_BODY + 1]).unwrap_err();
    assert_eq!(error.code(), Code::ResponseTooLarge);
}

/// JSON that looks more and more like an answer, so that the parsers get past their first line.
fn likely() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|v| json!(v)),
        any::<i64>().prop_map(|v| json!(v)),
        any::<f64>().prop_map(|v| json!(v)),
        "\\PC{0,12}".prop_map(|v| json!(v)),
        prop_oneof![Just(id("secrets")), Just(id("keys")), Just(id("certificates"))].prop_map(|v| json!(v)),
    ];
    let names = prop::sample::select(vec![
        "id",
        "value",
        "contentType",
        "attributes",
        "kid",
        "key",
        "kty",
        "n",
        "e",
        "crv",
        "x",
        "y",
        "cer",
        "sid",
        "nextLink",
        "error",
        "code",
        "message",
        "innererror",
        "innerError",
        "enabled",
        "exp",
        "nbf",
        "created",
    ]);
    leaf.prop_recursive(4, 40, 8, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|items| json!(items)),
            proptest::collection::vec((names.clone(), inner), 0..8).prop_map(|entries| {
                serde_json::Value::Object(entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    })
    .prop_map(|value| bytes(&value))
}

fn parse_all(body: &[u8]) {
    let _ = parse_secret(body);
    let _ = parse_key(body);
    let _ = parse_certificate(body);
    let _ = parse_page(body);
    let _ = parse_error_body(body);
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(body in proptest::collection::vec(any::<u8>(), 0..400)) {
        parse_all(&body);
    }

    #[test]
    fn anything_that_looks_like_an_answer_is_parsed_or_refused(body in likely(), cut in 0usize..400) {
        parse_all(&body);
        parse_all(&body[..cut.min(body.len())]);
    }

    #[test]
    fn every_value_that_a_vault_can_hold_comes_out_byte_for_byte(value in proptest::collection::vec(any::<char>(), 0..200)) {
        let value: String = value.into_iter().collect();
        let secret = parse_secret(&bytes(&json!({"value": value, "id": id("secrets")}))).unwrap();
        prop_assert!(secret.value.expose() == value.as_bytes());
    }

    #[test]
    fn every_key_comes_out_as_a_valid_json_web_key(n in "[A-Za-z0-9_-]{1,700}", e in "[A-Za-z0-9_-]{1,8}") {
        let body = json!({"key": {"kid": id("keys"), "kty": "RSA", "n": n, "e": e}});
        let jwk: serde_json::Value = serde_json::from_str(&parse_key(&bytes(&body)).unwrap().jwk).unwrap();
        prop_assert_eq!((&jwk["n"], &jwk["e"]), (&json!(n), &json!(e)));
    }

    #[test]
    fn every_certificate_and_listing_round_trips(der in proptest::collection::vec(any::<u8>(), 1..200), names in proptest::collection::vec("[0-9A-Za-z-]{1,127}", 0..25)) {
        let body = json!({"id": id("certificates"), "cer": STANDARD.encode(&der)});
        prop_assert_eq!(parse_certificate(&bytes(&body)).unwrap().leaf_der, der);
        let items: Vec<_> = names.iter().map(|name| json!({"id": format!("https://h.x/secrets/{name}")})).collect();
        let page = parse_page(&bytes(&json!({"value": items}))).unwrap();
        prop_assert!(page.items.iter().map(|item| item.id.name()).eq(names.iter().map(String::as_str)));
    }

    #[test]
    fn every_error_code_that_may_be_quoted_is_and_no_other(code in "\\PC{0,80}", good in "[A-Za-z0-9]{1,64}") {
        let body = json!({"error": {"code": code, "innererror": {"code": good}}});
        let error = parse_error_body(&bytes(&body)).unwrap();
        prop_assert_eq!(&error.inner, &[good]);
        prop_assert!(error.code.is_none_or(|code| code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric())));
    }
}
