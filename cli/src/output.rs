use std::io::{self, IsTerminal, Write};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::ValueEnum;
use keyward_proto::secrets::v1::{Secret, SecretMetadata};
use prost_types::Timestamp;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::failure::Failure;

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ValueFormat {
    /// The bytes and nothing else
    Raw,
    /// An object with the value and everything that is known about it
    Json,
}

/// Refuses to show a value on a terminal, where it stays in the scrollback, unless that is asked for.
pub(crate) fn may_show(reveal: bool) -> Result<(), Failure> {
    if reveal || !io::stdout().is_terminal() {
        return Ok(());
    }
    Err(Failure::usage(
        "a secret is not shown on a terminal; write it to a file or a pipe, or say --reveal if nobody looks on",
    ))
}

/// Writes a value as it is. On a terminal it must be text, and ends its line.
pub(crate) fn raw(value: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    if out.is_terminal() {
        if text(value).is_none() {
            return Err(Failure::usage(
                "the value holds bytes that a terminal may take for commands; write it to a file, or use -o json",
            ));
        }
        out.write_all(value)?;
        if !value.ends_with(b"\n") {
            out.write_all(b"\n")?;
        }
    } else {
        out.write_all(value)?;
    }
    Ok(out.flush()?)
}

/// Writes one line.
pub(crate) fn line(text: impl std::fmt::Display) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// A secret with everything that is known about it: the value in base64, and as text when it is text.
pub(crate) fn secret(secret: &Secret) -> Value {
    let mut object = Map::new();
    object.insert("name".to_owned(), json!(secret.name));
    object.insert(
        "value".to_owned(),
        json!({"base64": BASE64_STANDARD.encode(&secret.value), "utf8": text(&secret.value)}),
    );
    object.insert("version".to_owned(), json!(secret.version));
    object.insert("source".to_owned(), json!(secret.source));
    object.insert("contentType".to_owned(), json!(secret.content_type));
    times(&mut object, [&secret.created_at, &secret.updated_at, &secret.expires_at, &secret.fetched_at]);
    object.insert("stale".to_owned(), json!(secret.stale));
    object.insert("sequence".to_owned(), json!(secret.sequence));
    Value::Object(object)
}

/// What a list tells about a secret.
pub(crate) fn metadata(secret: &SecretMetadata) -> Value {
    let mut object = Map::new();
    object.insert("name".to_owned(), json!(secret.name));
    object.insert("state".to_owned(), json!(state(secret)));
    object.insert("reason".to_owned(), json!(secret.reason));
    object.insert("version".to_owned(), json!(secret.version));
    object.insert("source".to_owned(), json!(secret.source));
    object.insert("contentType".to_owned(), json!(secret.content_type));
    times(&mut object, [&secret.created_at, &secret.updated_at, &secret.expires_at, &secret.fetched_at]);
    object.insert("sequence".to_owned(), json!(secret.sequence));
    Value::Object(object)
}

/// The state in one word.
pub(crate) fn state(secret: &SecretMetadata) -> String {
    let name = secret.state().as_str_name();
    name.strip_prefix("SECRET_STATE_").unwrap_or(name).to_ascii_lowercase()
}

/// A time as RFC 3339 in UTC, or an empty text.
pub(crate) fn time(time: Option<&Timestamp>) -> String {
    time.and_then(|time| {
        let whole = OffsetDateTime::from_unix_timestamp(time.seconds).ok()?;
        let nanos = u32::try_from(time.nanos).ok()?;
        whole.replace_nanosecond(nanos).ok()?.format(&Rfc3339).ok()
    })
    .unwrap_or_default()
}

fn times(object: &mut Map<String, Value>, times: [&Option<Timestamp>; 4]) {
    for (name, value) in ["createdAt", "updatedAt", "expiresAt", "fetchedAt"].into_iter().zip(times) {
        if value.is_some() {
            object.insert(name.to_owned(), json!(time(value.as_ref())));
        }
    }
}

/// The bytes as text, when they are text that a terminal shows and does not obey.
fn text(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t')).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_json_has_base64_always_and_text_when_it_is_text() {
        let of = |value: &'static [u8]| {
            secret(&Secret { value: value.into(), ..Secret::default() })["value"].clone()
        };
        assert_eq!(of(b"p\xc3\xa4ss\n"), json!({"base64": "cMOkc3MK", "utf8": "p\u{e4}ss\n"}));
        assert_eq!(of(b"\xff\x00"), json!({"base64": "/wA=", "utf8": null}));
        assert_eq!(of(b"\x1b]0;title\x07")["utf8"], Value::Null);
        assert_eq!(of("\u{9b}31m".as_bytes())["utf8"], Value::Null);
    }

    #[test]
    fn times_are_rfc_3339_and_absent_ones_are_left_out() {
        let created_at = Some(Timestamp { seconds: 1_700_000_000, nanos: 250_000_000 });
        let shown = secret(&Secret { created_at, ..Secret::default() });
        assert_eq!(shown["createdAt"], "2023-11-14T22:13:20.25Z");
        assert!(shown.get("expiresAt").is_none());
    }
}
