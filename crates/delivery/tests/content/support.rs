use std::sync::Arc;
use std::time::Duration;

use keyward_core::cloud::Cloud;
use keyward_core::spec::{Context, ObjectSource, ObjectSpec, Source, parse_objects_text};
use keyward_core::{
    BundleType, CertificateContent, Content, Error, FetchRequest, Fetched, IdentityKey, ObjectKey, ObjectRef,
    Result, SecretBytes, Snapshot, State, Version,
};
use keyward_delivery::content::{self, Chain, Converted, Leaf, Pfx, parse_pem};
use keyward_delivery::conversions::apart;

pub(crate) fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub(crate) fn text(name: &str) -> String {
    String::from_utf8(fixture(name)).unwrap()
}

/// The DER of the first block of a PEM fixture.
pub(crate) fn der(name: &str) -> Vec<u8> {
    parse_pem(&fixture(name)).unwrap()[0].der.to_vec()
}

pub(crate) fn specs(yaml: &str) -> Vec<ObjectSpec> {
    let cloud = Cloud::public();
    parse_objects_text(yaml.as_bytes(), Context { cloud: &cloud, listed_hosts: &[], notify: false }).unwrap()
}

/// The source of one declaration: `kv://shop/secrets/a` and, after it, further settings in YAML flow style.
pub(crate) fn source(from: &str, settings: &str) -> ObjectSource {
    // `passwordFrom` needs an entry of that name.
    let list = specs(&format!(
        "[{{from: '{from}', name: it{settings}}}, {{from: 'kv://shop/secrets/pw', name: pw}}]"
    ));
    match &list[0].source {
        Source::Object(source) => source.clone(),
        Source::Template(_) => panic!("a template"),
    }
}

pub(crate) fn fetched(content: Content) -> Fetched {
    fetched_as("0123456789abcdef0123456789abcdef", content)
}

pub(crate) fn fetched_as(version: &str, content: Content) -> Fetched {
    let (object, _) = ObjectRef::parse("kv://shop/secrets/any", &Cloud::public()).unwrap();
    Fetched {
        object,
        version: Version::parse(version).unwrap(),
        content,
        content_type: None,
        created: Some(Duration::from_secs(1_700_000_000)),
        updated: None,
        expires: None,
        not_before: None,
        request_id: None,
    }
}

pub(crate) fn secret(value: &[u8]) -> Content {
    Content::Secret { value: SecretBytes::copy_from(value), bundle: None }
}

pub(crate) fn certificate(leaf: Vec<u8>, bundle: &[u8]) -> Content {
    let bundle = Some((BundleType::Pfx, SecretBytes::copy_from(bundle)));
    Content::Certificate(CertificateContent { leaf_der: leaf, bundle })
}

/// Converts on a thread of its own, as it must.
pub(crate) fn convert(
    source: &ObjectSource,
    fetched: &Fetched,
    password: Option<&SecretBytes>,
) -> Result<Converted> {
    let fetched = Arc::new(fetched.clone());
    apart(|turn| content::convert(turn, source, &fetched, password)).unwrap()
}

pub(crate) fn parse_pfx(der: &[u8], password: &SecretBytes) -> Result<Pfx> {
    apart(|turn| content::parse_pfx(turn, der, password)).unwrap()
}

pub(crate) fn order<'a>(certificates: &[&'a [u8]], leaf: Leaf<'_>) -> Result<Chain<'a>> {
    apart(|turn| content::order(turn, certificates, leaf)).unwrap()
}

pub(crate) fn convert_secret(value: &[u8], settings: &str) -> Result<Converted> {
    convert(&source("kv://shop/secrets/shop", settings), &fetched(secret(value)), None)
}

/// The bytes that a secret becomes.
pub(crate) fn bytes(value: &[u8], settings: &str) -> Vec<u8> {
    convert_secret(value, settings).map(|it| it.value.expose().to_vec()).unwrap()
}

pub(crate) fn complaint(result: Result<Converted>) -> String {
    result.err().expect("it should have failed").message().to_owned()
}

pub(crate) fn labels(pem: &[u8]) -> Vec<String> {
    parse_pem(pem).unwrap().into_iter().map(|block| block.label).collect()
}

pub(crate) fn snapshot(
    source: &ObjectSource,
    state: State,
    content: Option<Fetched>,
    error: Option<Error>,
) -> Arc<Snapshot> {
    Arc::new(Snapshot {
        key: ObjectKey {
            identity: Arc::new(IdentityKey {
                method: "test",
                authority: String::new(),
                tenant: String::new(),
                client: String::new(),
            }),
            request: FetchRequest { object: source.object.clone(), parts: source.parts() },
        },
        state,
        fetched: content.map(Arc::new),
        error,
        confirmed: None,
        confirmed_boot: None,
        asked: None,
        checked: None,
        next_check: None,
        sequence: 1,
    })
}
