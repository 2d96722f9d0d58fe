use std::collections::HashMap;
use std::sync::Arc;

use keyward_core::ledger::{Account, Held, Kind, Ledger, Limit, Limits};
use keyward_core::spec::{FilePath, ObjectSource, ObjectSpec, Source};
use keyward_core::{Code, Error, Fetched, Snapshot, State};
use keyward_delivery::Meter;
use keyward_delivery::conversions::apart;
use keyward_delivery::projection::{Defaults, Projection, project, project_as_it_is};
use proptest::prelude::*;

use super::support::*;

const DEFAULTS: Defaults = Defaults { mode: 0o440, uid: None, gid: Some(2000) };
const V1: &str = "11111111111111111111111111111111";
const V2: &str = "22222222222222222222222222222222";

/// A vault: how each object stands, by its name.
#[derive(Default)]
struct Vault(HashMap<String, (State, Option<Fetched>, Option<Error>)>);

impl Vault {
    fn with(mut self, name: &str, value: &[u8]) -> Self {
        self.set(name, V1, value);
        self
    }

    fn set(&mut self, name: &str, version: &str, value: &[u8]) {
        self.0.insert(name.to_owned(), (State::Fresh, Some(fetched_as(version, secret(value))), None));
    }

    fn turn(&mut self, name: &str, state: State, code: Code) {
        let entry = self.0.get_mut(name).unwrap();
        *entry = (state, entry.1.take(), Some(Error::new(code, "as the test says")));
    }

    fn fail(&mut self, name: &str, code: Code) {
        self.0.insert(name.to_owned(), (State::Pending, None, Some(Error::new(code, "as the test says"))));
    }

    fn look(&self, source: &ObjectSource) -> Option<Arc<Snapshot>> {
        let (state, fetched, error) = self.0.get(source.object.name())?;
        Some(snapshot(source, *state, fetched.clone(), error.clone()))
    }

    fn project(&self, specs: &[ObjectSpec], previous: Option<&Projection>) -> Projection {
        let meter = Meter::unlimited();
        apart(|turn| project(turn, specs, &|source| self.look(source), previous, &DEFAULTS, meter)).unwrap()
    }
}

fn path(text: &str) -> FilePath {
    FilePath::parse(text).unwrap()
}

fn file<'a>(projection: &'a Projection, at: &str) -> Option<&'a [u8]> {
    projection.tree.files.get(&path(at)).map(|file| file.content.expose())
}

fn served<'a>(projection: &'a Projection, name: &str) -> Result<&'a [u8], Code> {
    projection.entry(name).unwrap().value.as_ref().map(keyward_core::SecretBytes::expose).map_err(Error::code)
}

#[test]
fn names_modes_owners_and_the_final_newline_follow_the_declaration() {
    let specs = specs(
        "[{from: kv://shop/secrets/a, file: db/password, mode: '0400', uid: 999}, {from: kv://shop/secrets/b, newline: true}, {from: kv://shop/secrets/c, file: null}]",
    );
    let projection = Vault::default().with("a", b"1").with("b", b"2").with("c", b"3").project(&specs, None);
    let a = &projection.tree.files[&path("db/password")];
    assert_eq!((a.content.expose(), a.mode, a.uid, a.gid), (&b"1"[..], 0o400, Some(999), Some(2000)));
    assert_eq!(file(&projection, "b"), Some(&b"2\n"[..]));
    assert_eq!(served(&projection, "b"), Ok(&b"2\n"[..]));
    assert_eq!(served(&projection, "c"), Ok(&b"3"[..]));
    assert_eq!(projection.tree.files.len(), 2);
    assert_eq!(projection.entry("a").unwrap().version.as_ref().unwrap().as_str(), V1);
    assert!(projection.missing_required.is_empty());
}

#[test]
fn one_bad_object_neither_empties_nor_freezes_the_others() {
    let specs = specs(
        "[{from: kv://shop/secrets/a, format: pem}, {from: kv://shop/secrets/b}, {from: kv://shop/secrets/c}]",
    );
    let mut vault = Vault::default().with("a", b"no pem").with("b", b"1");
    vault.fail("c", Code::VaultForbidden);
    let first = vault.project(&specs, None);
    assert_eq!(file(&first, "b"), Some(&b"1"[..]));
    let missing: Vec<_> =
        first.missing_required.iter().map(|(name, error)| (name.as_str(), error.code())).collect();
    assert_eq!(missing, [("a", Code::ContentInvalid), ("c", Code::VaultForbidden)]);
    vault.set("b", V2, b"2");
    assert_eq!(file(&vault.project(&specs, Some(&first)), "b"), Some(&b"2"[..]));
}

#[test]
fn a_new_version_that_cannot_be_converted_leaves_the_last_good_one() {
    let specs = specs("[{from: kv://shop/secrets/a, key: /p}]");
    let mut vault = Vault::default().with("a", b"{\"p\": \"good\"}");
    let first = vault.project(&specs, None);
    vault.set("a", V2, b"{\"q\": \"renamed\"}");
    let second = vault.project(&specs, Some(&first));
    let entry = second.entry("a").unwrap();
    assert_eq!(file(&second, "a"), Some(&b"good"[..]));
    assert_eq!(entry.version.as_ref().unwrap().as_str(), V1);
    assert_eq!(entry.error.as_ref().unwrap().code(), Code::ContentInvalid);
    assert!(second.missing_required.is_empty() && second.tree.same_as(&first.tree));
    // It survives a further projection, and the next good version replaces it.
    let third = vault.project(&specs, Some(&second));
    assert_eq!(file(&third, "a"), Some(&b"good"[..]));
    vault.set("a", V2, b"{\"p\": \"better\"}");
    assert_eq!(file(&vault.project(&specs, Some(&third)), "a"), Some(&b"better"[..]));
}

#[test]
fn what_was_kept_is_dropped_when_the_declaration_asks_for_something_else() {
    let mut vault = Vault::default().with("a", b"{\"p\": \"good\"}");
    let first = vault.project(&specs("[{from: kv://shop/secrets/a, key: /p}]"), None);
    vault.set("a", V2, b"{}");
    let second = vault.project(&specs("[{from: kv://shop/secrets/a, key: /q}]"), Some(&first));
    assert_eq!(served(&second, "a"), Err(Code::ContentInvalid));
}

#[test]
fn files_outlive_every_failure_and_every_no_except_a_lasting_one_that_the_owner_wants_obeyed() {
    let keep = specs("[{from: kv://shop/secrets/a}]");
    let remove = specs("[{from: kv://shop/secrets/a, onRevoke: remove}]");
    for (state, code, kept) in [
        (State::Stale, Code::VaultUnavailable, true),
        (State::Stale, Code::ObjectDisabled, true),
        (State::Expired, Code::VaultThrottled, true),
        (State::Revoked, Code::VaultForbidden, true),
        (State::Revoked, Code::ObjectDisabled, false),
        (State::Revoked, Code::ObjectNotFound, false),
    ] {
        let mut vault = Vault::default().with("a", b"1");
        vault.turn("a", state, code);
        assert_eq!(file(&vault.project(&keep, None), "a"), Some(&b"1"[..]), "{code:?}");
        let projection = vault.project(&remove, Some(&vault.project(&keep, None)));
        assert_eq!(file(&projection, "a").is_some(), kept, "{state:?} {code:?}");
        assert_eq!(projection.entry("a").unwrap().removed, !kept);
        assert!(projection.missing_required.is_empty(), "what is removed on purpose is not missing");
    }
}

#[test]
fn optional_objects_may_be_missing() {
    let specs = specs("[{from: kv://shop/secrets/a, optional: true}, {from: kv://shop/secrets/b}]");
    let mut vault = Vault::default().with("b", b"1");
    vault.fail("a", Code::ObjectNotFound);
    let projection = vault.project(&specs, None);
    assert!(projection.missing_required.is_empty());
    assert_eq!(projection.tree.files.len(), 1);
}

#[test]
fn a_template_renders_over_the_other_entries_and_keeps_its_output_when_one_goes() {
    let specs = specs(
        "[{template: '{{ secret(\"line\") }}!', name: shout}, {template: '{{ secret(\"a\") }}-{{ secret(\"b\") }}', name: line}, {from: kv://shop/secrets/a, newline: true}, {from: kv://shop/secrets/b, onRevoke: remove}]",
    );
    let mut vault = Vault::default().with("a", b"1").with("b", b"2");
    let first = vault.project(&specs, None);
    assert_eq!(file(&first, "line"), Some(&b"1-2"[..]));
    // A template sees objects and the templates before it.
    assert_eq!(served(&first, "shout"), Err(Code::TemplateFailed));
    vault.turn("b", State::Revoked, Code::ObjectDisabled);
    let second = vault.project(&specs, Some(&first));
    assert_eq!((file(&second, "b"), file(&second, "line")), (None, Some(&b"1-2"[..])));
    assert_eq!(second.entry("line").unwrap().error.as_ref().unwrap().code(), Code::TemplateFailed);
}

#[test]
fn a_template_goes_with_its_input_when_it_says_so() {
    let specs = specs(
        "[{from: kv://shop/secrets/b, onRevoke: remove}, {template: 'x{{ secret(\"b\") }}', name: line, onRevoke: remove}]",
    );
    let mut vault = Vault::default().with("b", b"2");
    let first = vault.project(&specs, None);
    assert_eq!(first.tree.files.len(), 2);
    vault.turn("b", State::Revoked, Code::ObjectNotFound);
    let second = vault.project(&specs, Some(&first));
    assert!(second.tree.files.is_empty() && second.missing_required.is_empty());
}

#[test]
fn a_pair_is_two_files_and_one_value() {
    let specs = specs("[{from: kv://shop/secrets/tls, format: pem-pair, file: tls/server}]");
    let projection = Vault::default().with("tls", &fixture("p256.pfx")).project(&specs, None);
    assert_eq!(file(&projection, "tls/server.key").unwrap(), fixture("p256.key.pem"));
    assert_eq!(labels(file(&projection, "tls/server.crt").unwrap()), ["CERTIFICATE"; 3]);
    assert_eq!(labels(served(&projection, "tls").unwrap()).len(), 4);
    assert_eq!(projection.tree.files.len(), 2);
}

#[test]
fn a_key_store_takes_its_password_from_another_entry_and_follows_it() {
    let specs = specs(
        "[{from: kv://shop/secrets/tls, format: jks, passwordFrom: pw}, {from: kv://shop/secrets/pw, file: null, newline: true}]",
    );
    let mut vault = Vault::default().with("tls", &fixture("p256.pfx"));
    assert_eq!(vault.project(&specs, None).missing_required.len(), 2);
    vault.set("pw", V1, b"first-one");
    let first = vault.project(&specs, None);
    vault.set("pw", V2, b"second-one");
    let second = vault.project(&specs, Some(&first));
    assert_ne!(file(&first, "tls").unwrap(), file(&second, "tls").unwrap());
    assert!(vault.project(&specs, Some(&second)).tree.same_as(&second.tree));
    vault.0.remove("pw");
    let third = vault.project(&specs, Some(&second));
    assert_eq!(file(&second, "tls"), file(&third, "tls"), "the password's own last value is kept");
}

#[test]
fn an_entry_tells_whether_a_reader_would_see_a_change() {
    let specs = specs("[{from: kv://shop/secrets/a}, {from: kv://shop/secrets/b}]");
    let mut vault = Vault::default().with("a", b"1").with("b", b"2");
    let first = vault.project(&specs, None);
    vault.set("a", V2, b"1");
    vault.set("b", V2, b"3");
    let second = vault.project(&specs, Some(&first));
    assert!(
        second.entry("a").unwrap().same_as(first.entry("a").unwrap()),
        "the same value under a new version"
    );
    assert!(!second.entry("b").unwrap().same_as(first.entry("b").unwrap()));
}

/// A pod that may hold `bytes`, and what its projection of `specs` becomes, with files of at most `most` bytes.
fn within(vault: &Vault, specs: &[ObjectSpec], bytes: usize, most: usize) -> (Account, Projection) {
    let limit = Limit {
        pod: bytes,
        node: bytes,
        own: 0,
        pod_setting: "limits.bytesPerPod",
        node_setting: "limits.bytesPerNode",
    };
    let account = Ledger::new(Limits::default().with_bytes(limit)).account("pod");
    let meter = Meter::new(&account, most);
    let projection =
        apart(|turn| project(turn, specs, &|source| vault.look(source), None, &DEFAULTS, meter)).unwrap();
    (account, projection)
}

/// Templates of 990,000 bytes each.
fn large_templates(count: usize) -> Vec<ObjectSpec> {
    let list = vec!["1"; 33].join(",");
    let text = format!("{{% for a in [{list}] %}}{}{{% endfor %}}", "x".repeat(30_000));
    let object = specs("[{from: kv://shop/secrets/v}]").remove(0);
    let template = |number| ObjectSpec {
        name: format!("t{number}"),
        file: Some(path(&format!("t{number}"))),
        source: Source::Template(text.clone()),
        ..object.clone()
    };
    (0..count).map(template).collect()
}

#[test]
fn what_templates_make_together_is_bounded_while_they_are_made_and_refused_as_a_whole() {
    let vault = Vault::default().with("v", &[b'x'; 500]);
    let specs = large_templates(700);
    // 725 MiB without a limit.
    let (account, projection) = within(&vault, &specs, 40 << 20, 8 << 20);
    let error = projection.refused.clone().unwrap();
    assert_eq!(error.code(), Code::NoSpace);
    assert!(error.message().contains("limits.bytesPerVolume"), "{error}");
    assert!(projection.entries.is_empty() && projection.tree.files.is_empty());
    assert_eq!(account.held(), Held::default(), "nothing of it is held");
    let (account, projection) = within(&vault, &specs, 40 << 20, usize::MAX);
    let error = projection.refused.clone().unwrap();
    assert!(error.message().contains("limits.bytesPerPod"), "{error}");
    assert_eq!(account.held(), Held::default());
}

#[test]
fn what_a_projection_made_is_charged_as_long_as_it_is_held() {
    let vault = Vault::default().with("v", &[b'x'; 500]);
    let (account, projection) = within(&vault, &large_templates(3), 40 << 20, 4 << 20);
    assert!(projection.refused.is_none());
    assert_eq!(account.held().of(Kind::Rendering), 2_970_000);
    drop(projection);
    assert_eq!(account.held(), Held::default());
    // A decoded value is another one.
    let decoded = specs("[{from: kv://shop/secrets/b, decode: base64}]");
    let vault = Vault::default().with("b", b"AAAA");
    let (account, projection) = within(&vault, &decoded, 1 << 20, 4 << 20);
    assert_eq!((account.held().of(Kind::Rendering), served(&projection, "b")), (3, Ok(&[0, 0, 0][..])));
}

#[test]
fn a_template_stops_where_the_share_of_the_pod_ends_and_a_conversion_does_not_begin() {
    let vault = Vault::default().with("v", &[b'x'; 500]).with("b", &[b'A'; 20_000]);
    // Less than a template may hold at most, and enough for a small one.
    let mut small = specs("[{from: kv://shop/secrets/v}]");
    small.push(ObjectSpec {
        name: "t".to_owned(),
        file: Some(path("t")),
        source: Source::Template("{{ 1 }}".to_owned()),
        ..small[0].clone()
    });
    assert_eq!(served(&within(&vault, &small, 1000, 1 << 20).1, "t"), Ok(&b"1"[..]));
    let (account, stopped) = within(&vault, &large_templates(1), 1 << 20, 1 << 30);
    let error = stopped.refused.unwrap();
    assert_eq!((error.code(), account.held().bytes()), (Code::NoSpace, 0));
    let decoded = specs("[{from: kv://shop/secrets/b, decode: base64}]");
    assert!(within(&vault, &decoded, 8 * 20_000 + (64 << 10), 1 << 20).1.refused.is_none());
    let error = within(&vault, &decoded, 8 * 20_000 + (64 << 10) - 1, 1 << 20).1.refused.unwrap();
    assert_eq!(error.code(), Code::NoSpace);
}

#[test]
fn a_volume_holds_as_many_bytes_as_it_may_and_not_one_more() {
    let specs = specs(
        "[{from: kv://shop/secrets/a}, {from: kv://shop/secrets/b, newline: true}, {from: kv://shop/secrets/c, file: null}]",
    );
    let vault = Vault::default().with("a", b"12").with("b", b"34").with("c", b"567890");
    assert!(within(&vault, &specs, 1 << 20, 5).1.refused.is_none());
    let error = within(&vault, &specs, 1 << 20, 4).1.refused.unwrap();
    assert!(error.message().contains("limits.bytesPerVolume` (4)"), "{error}");
}

/// Declarations as the object grammar would never let them through: names and paths may clash.
fn wild() -> impl Strategy<Value = Vec<ObjectSpec>> {
    let template = specs("[{from: kv://shop/secrets/a}]").remove(0);
    let one = ("[ab]{1,2}", "[ab](/[ab]){0,2}", any::<bool>(), any::<bool>());
    prop::collection::vec(one, 1..6).prop_map(move |items| {
        items
            .into_iter()
            .map(|(name, file, pair, text)| {
                let mut spec = template.clone();
                spec.name = name;
                spec.file = Some(path(&file));
                if let (Source::Object(source), true) = (&mut spec.source, pair) {
                    source.format = keyward_core::spec::Format::PemPair;
                }
                if text {
                    spec.source = Source::Template("{{ secret('a') }}".to_owned());
                }
                spec
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn whatever_is_declared_no_two_paths_of_the_tree_clash(specs in wild(), pem in any::<bool>()) {
        let value = if pem { fixture("p256.pfx") } else { b"x".to_vec() };
        let vault = Vault::default().with("a", &value);
        let first = vault.project(&specs, None);
        for projection in [&first, &vault.project(&specs, Some(&first))] {
            let paths: Vec<_> = projection.tree.files.keys().collect();
            for (at, a) in paths.iter().enumerate() {
                prop_assert!(paths[at + 1..].iter().all(|b| !a.clashes_with(b)), "{a}");
            }
            let files: usize = projection.entries.iter().map(|entry| entry.files.len()).sum();
            prop_assert_eq!(files, paths.len(), "every file belongs to one entry");
            prop_assert_eq!(projection.entries.len(), specs.len());
        }
    }

    #[test]
    fn projecting_the_same_again_changes_nothing(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 3)) {
        let specs = specs("[{from: kv://shop/secrets/a}, {from: kv://shop/secrets/b, decode: hex}, {from: kv://shop/secrets/c, key: /x, optional: true}]");
        let mut vault = Vault::default();
        for (name, value) in ["a", "b", "c"].iter().zip(&values) {
            vault.set(name, V1, value);
        }
        let first = vault.project(&specs, None);
        let second = vault.project(&specs, Some(&first));
        prop_assert!(first.tree.same_as(&second.tree));
        prop_assert!(first.entries.iter().zip(&second.entries).all(|(a, b)| a.same_as(b)));
    }
}

#[test]
fn what_is_delivered_as_it_is_needs_no_turn_and_everything_else_does() {
    let mut vault = Vault::default().with("a", b"1").with("pem", &fixture("p256.pfx"));
    let at_once = |vault: &Vault, text: &str, before: Option<&Projection>| {
        project_as_it_is(&specs(text), &|source| vault.look(source), before, &DEFAULTS, Meter::unlimited())
    };
    let plain = at_once(&vault, "[{from: kv://shop/secrets/a}]", None).unwrap();
    assert_eq!(file(&plain, "a"), Some(&b"1"[..]));
    for costly in [
        "[{from: kv://shop/secrets/a, key: /p}]",
        "[{from: kv://shop/secrets/a, decode: base64}]",
        "[{from: kv://shop/secrets/a, newline: true}]",
        "[{from: kv://shop/secrets/pem, format: pem}]",
        "[{from: kv://shop/secrets/a}, {name: t, template: '{{ secret(\"a\") }}'}]",
    ] {
        assert!(at_once(&vault, costly, None).is_none(), "{costly}");
    }
    // What was converted before is known, until it changes.
    let both = "[{from: kv://shop/secrets/a}, {from: kv://shop/secrets/pem, format: pem}]";
    let first = vault.project(&specs(both), None);
    vault.set("a", V2, b"2");
    let second = at_once(&vault, both, Some(&first)).unwrap();
    assert_eq!(file(&second, "a"), Some(&b"2"[..]));
    assert!(file(&second, "pem") == file(&first, "pem") && file(&first, "pem").is_some());
    vault.set("pem", V2, &fixture("java-two-keys.pfx"));
    assert!(at_once(&vault, both, Some(&second)).is_none());
}
