//! One function for each parser of outside bytes. `fuzz/` feeds them with libFuzzer, `tests/tests/fuzz_corpus.rs` with
//! the committed corpora. Each asserts what must hold for any input; a panic is a finding.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use keyward_compat::{ClassInput, parse_class};
use keyward_core::cloud::Cloud;
use keyward_core::spec::{Context, FilePath, parse_objects_text};
use keyward_core::{ObjectRef, SecretBytes, Version, VersionInfo, config};
use keyward_csi_driver::protocol::{Place, REPLY, REQUEST, Reply, Request};
use keyward_injector::admission::{self, Decision, Facts};
use keyward_injector::review;

/// A fuzz target: its name, which is its corpus folder, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("object_reference", object_reference),
    ("configuration", configuration),
    ("objects", objects),
    ("secret_provider_class", secret_provider_class),
    ("projection_path", projection_path),
    ("key_vault_response", key_vault_response),
    ("key_vault_challenge", key_vault_challenge),
    ("retry_after", retry_after),
    ("token_response", token_response),
    ("service_account_token", service_account_token),
    ("pfx", pfx),
    ("pem", pem),
    ("json_pointer", json_pointer),
    ("template", template),
    ("audit_log", audit_log),
    ("kept_snapshot", kept_snapshot),
    ("trace_context", trace_context),
    ("pod_cgroup", pod_cgroup),
    ("mounter_protocol", mounter_protocol),
    ("volume_context", volume_context),
    ("registration_call", registration_call),
    ("admission_review", admission_review),
];

/// Whether the crash that shows that crashes are found is reached: a comparison in a crate that is built with coverage.
#[must_use]
pub fn planted(data: &[u8]) -> bool {
    data.get(2) == Some(&b'!')
}

/// The wall time of every target.
const NOW: keyward_core::UnixTime = std::time::Duration::from_secs(1_795_413_600);

/// A reference that parses prints to one that parses to itself.
pub fn object_reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok((reference, _)) = ObjectRef::parse(text, &Cloud::public()) {
        let printed = reference.to_string();
        let (again, _) = ObjectRef::parse(&printed, &Cloud::public()).expect("a printed reference parses");
        assert!(again == reference);
    }
}

/// A configuration, the sidecar's, the node plugin's or the injector's, is valid or refused with a message.
pub fn configuration(data: &[u8]) {
    let refused =
        [config::parse(data).err(), config::node::parse(data).err(), config::injector::parse(data).err()];
    for error in refused.into_iter().flatten() {
        assert!(!error.message().is_empty());
    }
}

/// Accepted declarations have unique names and paths that do not clash.
pub fn objects(data: &[u8]) {
    let cloud = Cloud::public();
    let context = Context { cloud: &cloud, listed_hosts: &[], notify: false };
    if let Ok(specs) = parse_objects_text(data, context) {
        let files: Vec<_> = specs.iter().flat_map(keyward_core::spec::ObjectSpec::files).collect();
        for (index, one) in files.iter().enumerate() {
            assert!(files[index + 1..].iter().all(|other| !one.clashes_with(other)));
        }
    }
}

/// An accepted class asks a vault of its cloud, and for paths that do not clash, its histories spread out. Lines of
/// `name=value` are parameters, and what follows the first empty line is `objects`.
pub fn secret_provider_class(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (head, objects) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut parameters: BTreeMap<String, String> = head
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    parameters.insert("objects".to_owned(), objects.to_owned());
    let class = ClassInput { provider: "azure", parameters: &parameters };
    let Ok(class) = parse_class(&class, &Cloud::built_in) else { return };
    assert!(class.cloud.owns(class.vault.as_str()) && !class.objects.is_empty());
    let version = Version::parse(&"a".repeat(32)).expect("a version");
    let known = [VersionInfo { version, enabled: true, created: None, updated: None }];
    let files: Vec<_> = class
        .objects
        .iter()
        .filter_map(|object| object.expand(&known).ok())
        .flatten()
        .filter_map(|(spec, _)| spec.file)
        .collect();
    for (index, one) in files.iter().enumerate() {
        assert!(files[index + 1..].iter().all(|other| !one.clashes_with(other)));
    }
}

/// An accepted path stays below whatever it is joined to.
pub fn projection_path(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(path) = FilePath::parse(text) {
        assert!(
            path.elements()
                .all(|element| !element.is_empty() && !element.starts_with("..") && element != ".")
        );
        assert!(!path.as_str().starts_with('/'));
    }
}

/// The first byte chooses which answer of Key Vault it is.
pub fn key_vault_response(data: &[u8]) {
    use keyward_providers::key_vault::{
        parse_certificate, parse_error_body, parse_id, parse_key, parse_page, parse_secret,
    };
    let Some((kind, body)) = data.split_first() else { return };
    match kind % 6 {
        0 => drop(parse_secret(body)),
        1 => drop(parse_key(body)),
        2 => drop(parse_certificate(body)),
        3 => drop(parse_page(body)),
        4 => drop(parse_error_body(body)),
        _ => drop(std::str::from_utf8(body).map(parse_id)),
    }
}

/// A challenge parses or is refused.
pub fn key_vault_challenge(data: &[u8]) {
    drop(keyward_providers::key_vault::parse_challenge(data));
}

/// Whatever a peer asks for, the wait is bounded.
pub fn retry_after(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(wait) = keyward_egress::parse_retry_after(|_| Some(text), NOW) {
        assert!(wait <= keyward_egress::RETRY_AFTER_LIMIT);
    }
}

/// The first byte chooses between a token and an error.
pub fn token_response(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    if kind % 2 == 0 {
        drop(keyward_identity::parse_token_response(body, NOW));
    } else {
        drop(keyward_identity::parse_token_error(body));
    }
}

/// The first byte chooses between a token's claims and what kubelet passes.
pub fn service_account_token(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    if kind % 2 == 0 {
        if let Some(claims) = keyward_identity::parse_assertion_claims(body) {
            assert!(claims.describe().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            assert!(claims.audiences.len() <= 16);
        }
    } else if let Ok(tokens) = keyward_identity::parse_service_account_tokens(body) {
        assert!(tokens.len() <= 16 && tokens.iter().all(|token| !token.token.is_empty()));
    }
}

/// A PFX with an empty password.
pub fn pfx(data: &[u8]) {
    let password = SecretBytes::copy_from(b"");
    let read = keyward_delivery::conversions::apart(|turn| {
        keyward_delivery::content::parse_pfx(turn, data, &password).map(drop)
    });
    assert!(read.is_ok(), "a panic, or a conversion among async tasks");
}

/// PEM text.
pub fn pem(data: &[u8]) {
    drop(keyward_delivery::content::parse_pem(data));
}

/// The pointer is the first line, the document what follows.
pub fn json_pointer(data: &[u8]) {
    let Some(at) = data.iter().position(|byte| *byte == b'\n') else { return };
    let (pointer, document) = data.split_at(at);
    let Ok(pointer) = std::str::from_utf8(pointer) else { return };
    drop(keyward_delivery::content::pick(&SecretBytes::copy_from(&document[1..]), pointer));
}

/// A template over one entry.
pub fn template(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let inputs = [("name".to_owned(), Ok(SecretBytes::copy_from(b"a:b\\c")))].into_iter().collect();
    drop(keyward_delivery::template::render(text, &inputs));
}

/// An audit log verifies or does not.
pub fn audit_log(data: &[u8]) {
    drop(keyward_telemetry::audit::verify(data, &keyward_telemetry::audit::VerifyOptions::default()));
}

/// A kept snapshot, its checksum aside.
pub fn kept_snapshot(data: &[u8]) {
    drop(keyward_delivery::saved::parse(data, &[]));
    drop(keyward_delivery::saved::parse_all(data));
    drop(keyward_delivery::saved::parse_records(data, &[]));
}

/// The pod that a cgroup file names stands in it.
pub fn pod_cgroup(data: &[u8]) {
    if let keyward_local_api::pod_cgroup::Found::Pod(uid) = keyward_local_api::pod_cgroup::pod_of(data) {
        let text = String::from_utf8_lossy(data).replace('_', "-").to_ascii_lowercase();
        assert!(text.contains(&format!("pod{uid}")));
    }
}

/// A trace context that parses prints to itself.
pub fn trace_context(data: &[u8]) {
    if let Some(context) = keyward_core::trace::TraceContext::parse(data) {
        assert!(context.trace() != [0; 16] && context.span() != [0; 8]);
    }
}

/// A publish whose context and secrets (keys that begin with `!`) are lines of `name=value`, `\n` in a value being a
/// line feed, is planned or refused; what is planned stays in its place and with the clouds' vaults.
pub fn volume_context(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (mut context, mut secrets) = (HashMap::new(), HashMap::new());
    for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
        let value = value.replace("\\n", "\n");
        match name.strip_prefix('!') {
            Some(name) => secrets.insert(name.to_owned(), value),
            None => context.insert(name.to_owned(), value),
        };
    }
    let config = config::node::parse(b"vaults: [{host: listed.example}]").expect("a configuration");
    keyward_csi_driver::fuzzing::volume_context(context, secrets, &config);
}

/// What the mounter understands is the one form of it, and names no other place than its own.
pub fn mounter_protocol(data: &[u8]) {
    // Zeros behind an input spare the fuzzer from finding the length first.
    let mut message = [0; REQUEST];
    for message in [data, padded(&mut message, data)] {
        if let Some(request) = Request::decode(message) {
            assert_eq!(request.encode(), message);
            if let Request::Commit(_, place) | Request::Unmount(place) = request {
                let kubelet = Path::new("/var/lib/kubelet");
                let target = place.target(kubelet);
                let again = Place::from_target(kubelet, target.to_str().expect("ASCII"), place.volume_id());
                assert!(again.is_ok_and(|again| again == place));
            }
        }
    }
    let mut message = [0; REPLY];
    for message in [data, padded(&mut message, data)] {
        if let Some(reply) = Reply::decode(message) {
            assert_eq!(reply.encode(), message);
        }
    }
}

fn padded<'a>(message: &'a mut [u8], data: &[u8]) -> &'a [u8] {
    let length = data.len().min(message.len());
    message[..length].copy_from_slice(&data[..length]);
    message
}

/// A call of the registration socket is filtered alike however it comes, and filtering it again changes nothing.
pub fn registration_call(data: &[u8]) {
    let Some((piece, bytes)) = data.split_first() else { return };
    if let Some(once) = keyward_csi_driver::fuzzing::registration_call(bytes, usize::from(*piece)) {
        let twice =
            keyward_csi_driver::fuzzing::registration_call(&once, 1).expect("what passed passes again");
        assert_eq!(once, twice);
    }
}

/// A question of the API server is answered, and the patch makes the pod that was decided; looked at again, that pod is
/// left as it is.
pub fn admission_review(data: &[u8]) {
    let Ok(question) = review::read(data) else { return };
    if question.check_size().is_err() {
        return;
    }
    let object = review::object(data).expect("what is a question has an object");
    let injection =
        config::injector::parse(b"image: k:1\ncertificates: {namespace: k}\n").expect("a configuration");
    let injection = injection.injection;
    let _ = admission::needs(&object, &question.namespace, &injection);
    let facts = Facts {
        client_id: Some("11111111-1111-1111-1111-111111111111".to_owned()),
        tenant_id: Some("22222222-2222-2222-2222-222222222222".to_owned()),
        native_sidecars: true,
        // Where a ConfigMap is asked for, the question itself is one.
        config: std::str::from_utf8(data).ok().map(str::to_owned),
        ..Facts::default()
    };
    let decision = admission::decide(&object, &question.namespace, &injection, &facts);
    let answer = review::answer(&question, object.clone(), &decision);
    assert_eq!(answer["response"]["uid"], question.uid.as_str());
    let Ok(Decision::Injected { pod, .. }) = decision else { return };
    let mut patched = object.clone();
    json_patch::patch(&mut patched, &review::patch(object, &pod)).expect("the patch applies");
    assert!(patched == pod, "the patch makes another pod");
    match admission::decide(&pod, &question.namespace, &injection, &facts) {
        Ok(Decision::Injected { pod: again, .. }) => assert!(again == pod, "a second look changes the pod"),
        other => panic!("a pod that was injected is then {other:?}"),
    }
}
