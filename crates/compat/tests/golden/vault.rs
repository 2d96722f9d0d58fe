//! The vault that all classes read from.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use keyward_core::{
    BundleType, CertificateContent, Collection, Content, Fetched, ObjectRef, SecretBytes, Version,
    VersionInfo,
};

/// What a fixture holds.
pub(crate) fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// One version of an object: its number, whether it is enabled, and what it holds.
struct Stored {
    number: &'static str,
    enabled: bool,
    created: Option<u64>,
    content: Content,
}

/// The versions of an object, newest first, as a vault lists them.
pub(crate) fn versions(object: &ObjectRef) -> Vec<VersionInfo> {
    let mut stored = stored(object.collection(), object.name());
    // A vault's list is in the order of the version ids, which says nothing.
    stored.sort_by_key(|stored| stored.number);
    let info = |stored: &Stored| VersionInfo {
        version: version(stored.number),
        enabled: stored.enabled,
        created: stored.created.map(Duration::from_secs),
        updated: None,
    };
    stored.iter().map(info).collect()
}

/// What a vault answers; `None` where it knows no such object or version.
pub(crate) fn fetch(object: &ObjectRef) -> Option<Fetched> {
    let mut stored = stored(object.collection(), object.name());
    stored.sort_by_key(|stored| stored.created);
    let found = match object.version() {
        None => stored.pop(),
        Some(wanted) => stored.into_iter().find(|stored| version(stored.number) == *wanted),
    }?;
    let version = version(found.number);
    Some(Fetched {
        object: object.at(version.clone()),
        version,
        content: found.content,
        content_type: None,
        created: found.created.map(Duration::from_secs),
        updated: None,
        expires: None,
        not_before: None,
        request_id: None,
    })
}

fn version(number: &str) -> Version {
    let (letters, digits) = number.split_at(number.len() - 1);
    Version::parse(&format!("{letters}{:0>width$}", digits, width = 32 - letters.len())).unwrap()
}

fn stored(collection: Collection, name: &str) -> Vec<Stored> {
    let one = |content| vec![Stored { number: "1", enabled: true, created: Some(1_000), content }];
    match (collection, name) {
        (Collection::Secrets, "db") => ["1", "2", "3", "4", "5"]
            .into_iter()
            .zip(1..)
            .map(|(number, at)| Stored {
                number,
                enabled: number != "3",
                created: Some(1_000 * at),
                content: text(&format!("db-{number}")),
            })
            .collect(),
        // As many as a history can want, the numbers running against the time.
        (Collection::Secrets, "many") => {
            ["1", "2", "3", "4", "5", "6", "7", "8", "9", "a1", "a2", "a3", "a4"]
                .into_iter()
                .zip(1..)
                .map(|(number, at)| Stored {
                    number,
                    enabled: true,
                    created: Some(100_000 - at),
                    content: text(&format!("many-{number}")),
                })
                .collect()
        }
        (Collection::Secrets, "timeless") => vec![
            Stored { number: "1", enabled: true, created: None, content: text("without a time") },
            Stored { number: "2", enabled: true, created: Some(5), content: text("with a time") },
        ],
        (Collection::Secrets, "letters") => {
            vec![Stored { number: "abcdef1", enabled: true, created: None, content: text("letters") }]
        }
        (Collection::Keys, "rsa") => one(Content::Key { jwk: utf8("rsa.jwk") }),
        (Collection::Keys, "ec") => one(Content::Key { jwk: utf8("ec.jwk") }),
        (Collection::Certificates, name) => one(Content::Certificate(CertificateContent {
            leaf_der: keyward_delivery::content::parse_pem(&fixture(&format!("{name}.pem"))).unwrap()[0]
                .der
                .to_vec(),
            bundle: None,
        })),
        (Collection::Secrets, name) => secret(name).map(one).unwrap_or_default(),
        (Collection::Keys, _) => Vec::new(),
    }
}

fn secret(name: &str) -> Option<Content> {
    Some(match name {
        "one" => text("one value\n"),
        "1234" | "007" | "true" | "1e3" => text(&format!("value of {name}")),
        "base64" => text("aGVsbG8="),
        "base64-lines" => text("aG\nVs\r\nbG8\n=\r\n"),
        "base64-bits" => text("YWJ="),
        "base64-unpadded" => text("aGVsbG8"),
        "hex" => text("68656C6c6f"),
        // Somebody's own file, in base64: no certificate stands behind it.
        "uploaded" => text(&BASE64_STANDARD.encode(fixture("rsa-old.pfx"))),
        "damaged" => backing(BundleType::Pfx, b"AAAA"),
        "pem-damaged" => {
            backing(BundleType::Pem, b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
        }
        // `kid` and a content type that nobody knows: the vault client tells it as an ordinary secret.
        "odd-type" => text("odd"),
        _ if name.starts_with("item-") => text(name),
        _ if name.starts_with("pem-") => backing(BundleType::Pem, &fixture(&format!("{name}.pem"))),
        _ => backing(BundleType::Pfx, BASE64_STANDARD.encode(fixture(&format!("{name}.pfx"))).as_bytes()),
    })
}

fn text(value: &str) -> Content {
    Content::Secret { value: SecretBytes::copy_from(value.as_bytes()), bundle: None }
}

fn backing(form: BundleType, value: &[u8]) -> Content {
    Content::Secret { value: SecretBytes::copy_from(value), bundle: Some(form) }
}

fn utf8(name: &str) -> String {
    String::from_utf8(fixture(name)).unwrap()
}
