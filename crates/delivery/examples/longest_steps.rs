//! How long the dearest content within all limits takes to convert; `docs/adr/0016` has the figures.
//!
//! ```sh
//! cargo run --release -p keyward-delivery --example longest_steps
//! ```

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair as RsaKey, KeySize};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_core::cloud::Cloud;
use keyward_core::spec::{Context, ObjectSource, Source, parse_objects_text};
use keyward_core::{Content, Fetched, ObjectRef, SecretBytes, Version};
use keyward_delivery::content::{convert, pick};
use keyward_delivery::conversions::apart;
use keyward_delivery::template::{Inputs, render};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, PKCS_RSA_SHA256};

const MIB: usize = 1 << 20;

fn main() {
    templates();
    documents();
    keys();
    certificates();
    declarations();
}

/// What this thread has worked: other work of the machine does not count.
fn worked() -> Duration {
    let stat =
        std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux counts what threads work");
    let nanos = stat.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("nanoseconds"))
}

fn time<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let began = worked();
    let done = work();
    let took = worked() - began;
    println!("{:>9.1} ms  {what}", took.as_secs_f64() * 1000.0);
    done
}

/// YAML with nearly as many values as a document may have, of 1 MiB.
fn yaml() -> String {
    (0..24_000).map(|number| format!("k{number}: {}\n", "v".repeat(33))).collect()
}

/// JSON whose every level holds all that is inside, so that each step of a pointer reads the rest again.
fn deep_json() -> String {
    let filling = format!("[{}1]", "1,".repeat((MIB - 2_000) / 2));
    format!("{}{filling}{}", "{\"a\":".repeat(120), "}".repeat(120))
}

fn templates() {
    let values = [("big", "x".repeat(MIB)), ("yaml", yaml()), ("json", deep_json())];
    let inputs: Inputs = values.map(|(name, value)| (name.to_owned(), Ok(SecretBytes::from(value)))).into();
    let often = |inside: &str| {
        let list = vec!["1"; 100].join(",");
        format!("{{% for a in [{list}] %}}{{% for b in [{list}] %}}{inside}{{% endfor %}}{{% endfor %}}")
    };
    let (long, half, pointer) = ("l".repeat(60_000), "l".repeat(30_000), "/a".repeat(119));
    let cases = [
        ("steps and nothing else", often("{% if has(\"big\") %}{% endif %}")),
        (
            "`equal` of long texts of its own",
            often(&format!("{{% if equal(\"{half}\",\"{half}m\") %}}{{% endif %}}")),
        ),
        (
            "`json_key` of a long text of its own",
            often(&format!("{{% if \"{long}\"|json_key(\"\") %}}{{% endif %}}")),
        ),
        ("`dotenv` of a long text of its own", often(&format!("{{{{ \"{long}\"|dotenv }}}}"))),
        ("`json` of 1 MiB", often("{% if secret(\"big\")|json %}{% endif %}")),
        ("`json_key` into 1 MiB of YAML", often("{% if secret(\"yaml\")|json_key(\"/k1\") %}{% endif %}")),
        (
            "`json_key` deep into 1 MiB of JSON",
            often(&format!("{{% if secret(\"json\")|json_key(\"{pointer}\") %}}{{% endif %}}")),
        ),
        ("output piece by piece", "x{{1}}".repeat(9_000)),
    ];
    for (what, template) in cases {
        let rendered = time(&format!("template, as often as it may: {what}"), || render(&template, &inputs));
        said(rendered.output);
    }
}

fn documents() {
    let json = SecretBytes::from(deep_json());
    for levels in [1, 119] {
        let pointer = "/a".repeat(levels);
        said(time(&format!("JSON of 1 MiB, a pointer of {levels} levels"), || pick(&json, &pointer)));
    }
    for (what, text) in [
        ("mappings", yaml()),
        ("one text", format!("- {}", "a ".repeat(MIB / 2 - 2))),
        ("a list in one line", format!("[{}]", "aaaaaaaaaaaaaaaaaaaa,".repeat(49_000))),
        ("escapes", format!("- \"{}\"", "\\x41".repeat(MIB / 4 - 2))),
        ("comments", "# \n".repeat(MIB / 3)),
        ("depth", format!("{}1{}", "[".repeat(MIB / 2 - 1), "]".repeat(MIB / 2 - 1))),
        ("spaces", format!("- a{}", " \n".repeat(MIB / 2 - 2))),
    ] {
        let text = SecretBytes::from(text);
        said(time(&format!("YAML of 1 MiB: {what}"), || pick(&text, "/0")));
    }
}

fn said<T>(result: keyward_core::Result<T>) {
    if let Err(error) = result {
        println!("              ({error})");
    }
}

fn source(settings: &str) -> ObjectSource {
    let text = format!("[{{from: 'kv://shop/secrets/a', {settings}}}]");
    let cloud = Cloud::public();
    let context = Context { cloud: &cloud, listed_hosts: &[], notify: false };
    let mut specs = parse_objects_text(text.as_bytes(), context).expect("a declaration");
    match specs.remove(0).source {
        Source::Object(source) => source,
        Source::Template(_) => unreachable!("an object"),
    }
}

fn converted(what: &str, value: &[u8], settings: &str) {
    let object = ObjectRef::parse("kv://shop/secrets/a", &Cloud::public()).expect("an object").0;
    let fetched = Arc::new(Fetched {
        object,
        version: Version::parse(&"0".repeat(32)).expect("a version"),
        content: Content::Secret { value: SecretBytes::copy_from(value), bundle: None },
        content_type: None,
        created: None,
        updated: None,
        expires: None,
        not_before: None,
        request_id: None,
    });
    let source = source(settings);
    said(apart(|turn| time(what, || convert(turn, &source, &fetched, None))).expect("a thread"));
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

fn rsa() -> Vec<u8> {
    let key = RsaKey::generate(KeySize::Rsa8192).expect("a key");
    AsDer::<Pkcs8V1Der<'_>>::as_der(&key).expect("PKCS#8").as_ref().to_vec()
}

fn keys() {
    let key = pem("PRIVATE KEY", &rsa());
    converted("an RSA key of 8192 bits", key.as_bytes(), "format: pem-key");
    converted("128 of them", key.repeat(128).as_bytes(), "format: pem-key");
    let padded = pem("X", &[0]) + &"x".repeat(8_000) + "\n";
    converted("PEM of 1 MiB", padded.repeat(120).as_bytes(), "format: pem-chain");
}

fn certificates() {
    let key = rsa();
    let key = KeyPair::from_der_and_sign_algo(&key.as_slice().try_into().expect("PKCS#8"), &PKCS_RSA_SHA256);
    let key = key.expect("a key");
    let mut text = String::new();
    for serial in 0..64u64 {
        let mut params = CertificateParams::new([]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, "same");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.serial_number = Some(serial.into());
        let mut der = params.self_signed(&key).expect("a certificate").der().to_vec();
        // No signature is right, so that each certificate is tried with every key.
        if let Some(last) = der.last_mut() {
            *last ^= 1;
        }
        text += &pem("CERTIFICATE", &der);
    }
    converted("64 certificates of one name, RSA of 8192 bits", text.as_bytes(), "format: pem-chain");
}

/// What the node plugin plans in a pod's turn.
fn declarations() {
    let objects = |count: usize, more: &str| {
        let object = |number: usize| {
            format!("{{from: 'kv://shop/secrets/s{number}', name: 'n{number}', file: 'd/f{number}'{more}}}")
        };
        format!("[{}]", (0..count).map(object).collect::<Vec<_>>().join(","))
    };
    let cloud = Cloud::public();
    let context = Context { cloud: &cloud, listed_hosts: &[], notify: false };
    let (template, wrong) =
        (format!(", key: '/{}'", "k".repeat(400)), ", mode: 1, uid: x, gid: x, refresh: 1, no: 1");
    for (what, text) in [
        ("2,000 objects", objects(2_000, &template)),
        ("2,000 objects with five mistakes each", objects(2_000, wrong)),
        ("12,000 objects", objects(12_000, "")),
        ("templates", format!("[{{name: t, template: '{}'}}]", "x".repeat(MIB - 100))),
    ] {
        said(
            time(&format!("a declaration of {} KiB: {what}", text.len() >> 10), || {
                parse_objects_text(text.as_bytes(), context)
            })
            .map_err(|error| keyward_core::Error::new(error.code(), "refused")),
        );
    }
}
