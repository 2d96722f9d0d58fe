use std::time::Duration;

use serde_json::Value;

use super::{Decode, FilePath, Format, Notify, ObjectSource, ObjectSpec, OnRevoke, Source};
use crate::cloud::Cloud;
use crate::document::{self, Fields, Mistakes};
use crate::{Code, Error, ObjectRef, Result, VaultHost};

/// Most objects of one declaration.
const MAX_OBJECTS: usize = 2000;

/// Where a declaration stands decides what it may say.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Completes the short form `kv://`.
    pub cloud: &'a Cloud,
    /// Vault hosts that an administrator listed beyond the cloud's suffix.
    pub listed_hosts: &'a [VaultHost],
    /// Whether `notify` may be written here (the sidecar's configuration).
    pub notify: bool,
}

/// Parses a YAML list of objects, as an annotation or a CSI attribute holds it.
///
/// # Errors
/// `KW_OBJECT_INVALID` with every mistake; `KW_NOTIFY_NOT_HERE` when that is the only kind of mistake.
pub fn parse_objects_text(text: &[u8], context: Context<'_>) -> Result<Vec<ObjectSpec>> {
    let tree = document::parse(text)
        .map_err(|error| Error::new(Code::ObjectInvalid, format!("objects: {}", error.message())))?;
    let mistakes = Mistakes::default();
    let Value::Array(items) = &tree else {
        return Err(Error::new(Code::ObjectInvalid, "objects: must be a list"));
    };
    let before = mistakes.count();
    let specs = parse_objects(items, "objects", context, &mistakes);
    let notify = before.saturating_add(count_notify(items));
    if !context.notify && mistakes.count() == notify && mistakes.count() > 0 {
        return Err(Error::new(Code::NotifyNotHere, mistakes.to_string()));
    }
    mistakes.into_result(Code::ObjectInvalid)?;
    Ok(specs)
}

/// Reads the items of an `objects` list; mistakes are noted below `path`.
#[must_use]
pub fn parse_objects(
    items: &[Value],
    path: &str,
    context: Context<'_>,
    mistakes: &Mistakes,
) -> Vec<ObjectSpec> {
    if items.len() > MAX_OBJECTS {
        mistakes.note(path, format!("has {} entries, more than the {MAX_OBJECTS} allowed", items.len()));
        return Vec::new();
    }
    let mut specs: Vec<(usize, ObjectSpec)> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let at = format!("{path}[{index}]");
        let before = mistakes.count();
        let spec = match item {
            Value::String(from) => {
                let map =
                    Value::Object([("from".to_owned(), Value::String(from.clone()))].into_iter().collect());
                Fields::new(&map, at, mistakes).and_then(|fields| object(fields, context))
            }
            _ => Fields::new(item, at, mistakes).and_then(|fields| object(fields, context)),
        };
        if let Some(spec) = spec.filter(|_| mistakes.count() == before) {
            specs.push((index, spec));
        }
    }
    refuse_clashes(&specs, path, mistakes);
    specs.into_iter().map(|(_, spec)| spec).collect()
}

fn object(mut fields: Fields<'_>, context: Context<'_>) -> Option<ObjectSpec> {
    let source = source(&mut fields, context);
    let name = match fields.text("name") {
        Some(name) if is_name(name) => Some(name.to_owned()),
        Some(_) => {
            fields.mistake(
                "name",
                "must have 1 to 253 printable characters without spaces, not beginning with a dot or a dash",
            );
            None
        }
        None => match &source {
            Some(Source::Object(source)) => Some(source.object.name().to_owned()),
            Some(Source::Template(_)) => {
                fields.mistake("name", "is missing: a template has no name of its own");
                None
            }
            None => None,
        },
    };
    let file = if fields.has("file") {
        fields.parsed("file", FilePath::parse)
    } else {
        name.as_deref().and_then(|name| match FilePath::parse(name) {
            Ok(path) => Some(path),
            Err(message) => {
                fields
                    .mistake("file", format!("defaults to the name, which as a path {message}; write file"));
                None
            }
        })
    };
    let mode = fields.parsed("mode", parse_mode);
    let uid = fields.number("uid", 0..=u64::from(u32::MAX - 1)).map(|id| id as u32);
    let gid = fields.number("gid", 0..=u64::from(u32::MAX - 1)).map(|id| id as u32);
    let optional = fields.flag("optional").unwrap_or_default();
    let on_revoke = fields
        .choice("onRevoke", &[("keep", OnRevoke::Keep), ("remove", OnRevoke::Remove)])
        .unwrap_or_default();
    let refresh = fields.duration("refresh", Duration::from_secs(1)..=Duration::from_secs(30 * 86_400));
    let newline = fields.flag("newline").unwrap_or_default();
    let notify = if fields.has("notify") && !context.notify {
        fields.mistake(
            "notify",
            "is only for the sidecar: the node plugin never signals, posts or executes for a pod",
        );
        None
    } else {
        fields.section("notify").and_then(Notify::read)
    };
    fields.finish();
    Some(ObjectSpec {
        source: source?,
        name: name?,
        file,
        mode,
        uid,
        gid,
        optional,
        on_revoke,
        refresh,
        notify,
        newline,
    })
}

fn source(fields: &mut Fields<'_>, context: Context<'_>) -> Option<Source> {
    let template = fields.text("template");
    let from = fields.text("from");
    let key = fields.text("key");
    let decode = fields.choice(
        "decode",
        &[
            ("none", Decode::None),
            ("base64", Decode::Base64),
            ("base64url", Decode::Base64Url),
            ("hex", Decode::Hex),
        ],
    );
    let format = fields.choice("format", Format::WORDS);
    let password_from = fields.text("passwordFrom").map(str::to_owned);
    match (from, template) {
        (None, None) => {
            fields.mistake("from", "is missing: write the object's identifier as the Azure portal shows it");
            None
        }
        (Some(_), Some(_)) => {
            fields.mistake("template", "stands beside from; an entry has one of them");
            None
        }
        (None, Some(template)) => {
            for (name, written) in [
                ("key", key.is_some()),
                ("decode", decode.is_some()),
                ("format", format.is_some()),
                ("passwordFrom", password_from.is_some()),
            ] {
                if written {
                    fields.mistake(name, "has no meaning for a template");
                }
            }
            if template.len() > 64 << 10 {
                fields.mistake("template", "is longer than 64 KiB");
            }
            Some(Source::Template(template.to_owned()))
        }
        (Some(from), None) => {
            let (object, fragment) = match ObjectRef::parse(from, context.cloud) {
                Ok(parsed) => parsed,
                Err(error) => {
                    fields.mistake("from", error.message());
                    return None;
                }
            };
            let host = object.host();
            if !context.cloud.owns(host.as_str()) && !context.listed_hosts.contains(host) {
                fields.mistake(
                    "from",
                    format!(
                        "the host {host} is not a vault of {} (*.{}); list it under vaults to allow it",
                        context.cloud.name, context.cloud.vault_dns_suffix
                    ),
                );
            }
            if key.is_some() && fragment.is_some() {
                fields.mistake("key", "stands beside a fragment in from; write one of them");
            }
            let key = key.or(fragment).map(str::to_owned);
            if let Some(key) = &key
                && !(key.is_empty() || key.starts_with('/'))
            {
                fields.mistake("key", "must be a JSON Pointer such as /password");
            }
            let collection = object.collection();
            let format = format.unwrap_or_else(|| Format::default_for(collection));
            if !format.fits(collection) {
                fields.mistake(
                    "format",
                    format!("{} cannot be made from {}", format.as_str(), collection.as_str()),
                );
            }
            let decode = decode.unwrap_or_default();
            if collection != crate::Collection::Secrets && (decode != Decode::None || key.is_some()) {
                fields.mistake("decode", "decode and key are for secrets only");
            }
            if key.is_some() && format != Format::Raw {
                fields.mistake("format", "key picks a text, so the format stays raw");
            }
            if password_from.is_some() && !matches!(format, Format::Pfx | Format::Jks | Format::JksTrust) {
                fields.mistake("passwordFrom", "is for the formats pfx, jks and jks-truststore");
            }
            Some(Source::Object(ObjectSource { object, key, decode, format, password_from }))
        }
    }
}

/// Every path that an entry writes.
pub(super) fn paths(spec: &ObjectSpec) -> Vec<FilePath> {
    let Some(file) = &spec.file else { return Vec::new() };
    match &spec.source {
        Source::Object(source) if source.format == Format::PemPair => {
            [".crt", ".key"].iter().filter_map(|suffix| file.with_suffix(suffix).ok()).collect()
        }
        _ => vec![file.clone()],
    }
}

fn refuse_clashes(specs: &[(usize, ObjectSpec)], path: &str, mistakes: &Mistakes) {
    let mut names = std::collections::HashMap::new();
    let mut files: Vec<(FilePath, usize)> = Vec::new();
    for (index, spec) in specs {
        if let Some(first) = names.insert(spec.name.as_str(), *index) {
            mistakes.note(
                format!("{path}[{index}].name"),
                format!("{} is the name of {path}[{first}] already", spec.name),
            );
        }
        files.extend(paths(spec).into_iter().map(|file| (file, *index)));
    }
    // Sorted by elements, a path and what lies below it are neighbours.
    files.sort_by(|(a, _), (b, _)| a.elements().cmp(b.elements()));
    for ((first, at), (second, index)) in files.iter().zip(files.iter().skip(1)) {
        if first.clashes_with(second) {
            let (first_at, later) = (at.min(index), at.max(index));
            let file = if at.max(index) == index { second } else { first };
            mistakes.note(
                format!("{path}[{later}].file"),
                format!("{file} clashes with the file of {path}[{first_at}]"),
            );
        }
    }
    for (index, spec) in specs {
        if let Source::Object(ObjectSource { password_from: Some(from), .. }) = &spec.source
            && !names.contains_key(from.as_str())
        {
            mistakes.note(format!("{path}[{index}].passwordFrom"), "names no declared object");
        }
    }
}

pub(crate) fn parse_mode(text: &str) -> std::result::Result<u32, String> {
    if (3..=4).contains(&text.len()) && text.bytes().all(|digit| matches!(digit, b'0'..=b'7')) {
        let mode = u32::from_str_radix(text, 8).map_err(|_| "must be octal".to_owned())?;
        if mode <= 0o777 {
            return Ok(mode);
        }
    }
    Err("must be an octal text from \"0000\" to \"0777\", such as \"0440\"".to_owned())
}

fn is_name(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.chars().all(|c| !c.is_control() && !c.is_whitespace())
}

fn count_notify(items: &[Value]) -> usize {
    items.iter().filter(|item| item.get("notify").is_some()).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Vec<ObjectSpec>> {
        let cloud = Cloud::public();
        parse_objects_text(text.as_bytes(), Context { cloud: &cloud, listed_hosts: &[], notify: true })
    }

    fn complaint(text: &str) -> String {
        parse(text).unwrap_err().message().to_owned()
    }

    #[test]
    fn a_bare_identifier_is_an_object_under_its_own_name() {
        let specs = parse("[kv://shop/secrets/db-password]").unwrap();
        assert_eq!(specs[0].name, "db-password");
        assert_eq!(specs[0].file.as_ref().unwrap().as_str(), "db-password");
    }

    #[test]
    fn file_null_means_grpc_only() {
        assert_eq!(parse("[{from: kv://shop/secrets/a, file: null}]").unwrap()[0].file, None);
    }

    #[test]
    fn names_and_paths_that_clash_are_refused() {
        let text = "[{from: kv://shop/secrets/a, name: x, file: db}, {from: kv://shop/secrets/b, name: x, file: db/p}]";
        let complaint = complaint(text);
        assert!(complaint.contains("objects[1].name: x is the name of objects[0] already"), "{complaint}");
        assert!(
            complaint.contains("objects[1].file: db/p clashes with the file of objects[0]"),
            "{complaint}"
        );
    }

    #[test]
    fn a_host_outside_the_cloud_must_be_listed() {
        assert!(complaint("['https://vault.evil.example/secrets/a']").contains("list it under vaults"));
    }

    #[test]
    fn notify_in_a_volume_has_a_code_of_its_own() {
        let cloud = Cloud::public();
        let text = "[{from: kv://shop/secrets/a, notify: {exec: [x]}}]";
        let error =
            parse_objects_text(text.as_bytes(), Context { cloud: &cloud, listed_hosts: &[], notify: false })
                .unwrap_err();
        assert_eq!(error.code(), Code::NotifyNotHere);
    }

    #[test]
    fn a_certificate_needs_its_bundle_only_when_the_format_does() {
        let parts = |format: &str| {
            let specs = parse(&format!("[{{from: kv://shop/certificates/c, format: {format}}}]")).unwrap();
            let Source::Object(source) = &specs[0].source else { panic!() };
            source.parts()
        };
        assert_eq!(parts("pem"), crate::Parts::Object);
        assert_eq!(parts("pem-pair"), crate::Parts::Bundle);
    }

    proptest! {
        #[test]
        fn accepted_declarations_have_unique_names_and_paths(names in proptest::collection::vec("[ab]{1,2}", 1..5), files in proptest::collection::vec("[ab](/[ab])?", 5)) {
            let items: Vec<_> = names.iter().zip(&files).map(|(name, file)| format!("{{from: kv://shop/secrets/s, name: {name}, file: {file}}}")).collect();
            if let Ok(specs) = parse(&format!("[{}]", items.join(","))) {
                for (i, a) in specs.iter().enumerate() {
                    for b in &specs[i + 1..] {
                        prop_assert_ne!(&a.name, &b.name);
                        prop_assert!(!a.file.as_ref().unwrap().clashes_with(b.file.as_ref().unwrap()));
                    }
                }
            }
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,200}") {
            let _ = parse(&text);
        }
    }
}
