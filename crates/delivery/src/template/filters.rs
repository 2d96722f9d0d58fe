#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "lengths of texts that are in memory, times six at most; a digit is one of sixteen"
)]

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_core::SecretBytes;
use keyward_core::spec::Decode;
use minijinja::value::Rest;
use minijinja::{Environment, Error, Value};
use zeroize::Zeroizing;

use super::MAX_OUTPUT;
use super::text::Session;
use crate::content::{decode, pick, wiped};

type Bytes = Zeroizing<Vec<u8>>;

/// Adds every function and filter of the language.
pub(super) fn add(environment: &mut Environment<'_>, session: &Arc<Session>) {
    let at = Arc::clone(session);
    environment.add_function("secret", move |name: &str| at.secret(name));
    let at = Arc::clone(session);
    environment.add_function("has", move |name: &str| at.has(name));
    let at = Arc::clone(session);
    environment.add_function("equal", move |a: Value, b: Value| {
        at.with_text(&a, |a| {
            at.with_text(&b, |b| {
                Ok(SecretBytes::copy_from(a.as_bytes()).same_as(&SecretBytes::copy_from(b.as_bytes())))
            })
        })
    });
    let at = Arc::clone(session);
    environment.add_function("concat", move |parts: Rest<Value>| concat(&at, &parts));

    let at = Arc::clone(session);
    environment.add_filter("json_key", move |value: Value, pointer: &str| {
        let value = at.with_text(&value, |text| Ok(SecretBytes::copy_from(text.as_bytes())))?;
        let picked = pick(&value, pointer)
            .map_err(|error| at.complain(&format!("picks nothing: {}", error.message())))?;
        at.text(picked, "picks what is not UTF-8")
    });
    let at = Arc::clone(session);
    environment.add_filter("b64decode", move |value: Value| {
        let value = at.with_text(&value, |text| Ok(SecretBytes::copy_from(text.as_bytes())))?;
        let decoded =
            decode(&value, Decode::Base64).map_err(|_| at.complain("decodes what is not base64"))?;
        at.text(decoded, "decodes to what is not UTF-8")
    });
    for (name, quote) in QUOTES {
        let at = Arc::clone(session);
        environment.add_filter(*name, move |value: Value| {
            let quoted = at.with_text(&value, |text| quote(text).map_err(|what| at.complain(what)))?;
            at.made(&quoted)
        });
    }
}

type Quote = fn(&str) -> Result<Bytes, &'static str>;

const QUOTES: &[(&str, Quote)] = &[
    ("json", json),
    ("pgpass", |text| escaped(text, None, ":\\", '\\')),
    ("conninfo", |text| escaped(text, Some('\''), "'\\", '\\')),
    ("userlist", |text| escaped(text, Some('"'), "\"", '"')),
    ("ini", |text| escaped(text, Some('"'), "\"\\", '\\')),
    ("dotenv", dotenv),
    ("urlencode", urlencode),
    ("b64encode", b64encode),
];

fn concat(session: &Session, parts: &[Value]) -> Result<Value, Error> {
    let mut joined = Bytes::default();
    for part in parts {
        session.with_text(part, |text| {
            if joined.len() + text.len() > MAX_OUTPUT {
                return Err(session.complain("joins more than 1 MiB"));
            }
            wiped::append(&mut joined, text.as_bytes());
            Ok(())
        })?;
    }
    session.made(&joined)
}

/// Puts `escape` before each of `special`, and `around` around it all; a line end would begin another entry.
fn escaped(text: &str, around: Option<char>, special: &str, escape: char) -> Result<Bytes, &'static str> {
    if text.contains(['\n', '\r', '\0']) {
        return Err("quotes a value with a line end, which this kind of file cannot hold");
    }
    let mut out = Bytes::new(Vec::with_capacity(2 * text.len() + 2));
    let mut buffer = [0; 4];
    let mut push = |c: char| out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
    around.into_iter().for_each(&mut push);
    for c in text.chars() {
        if special.contains(c) {
            push(escape);
        }
        push(c);
    }
    around.into_iter().for_each(&mut push);
    Ok(out)
}

/// A JSON string (RFC 8259 §7). Its escapes mean the same in Python.
fn json(text: &str) -> Result<Bytes, &'static str> {
    // Every byte becomes at most six: \u001f.
    let mut out = Bytes::new(Vec::with_capacity(6 * text.len() + 2));
    serde_json::to_writer(&mut *out, text).map_err(|_| "cannot write JSON")?;
    Ok(out)
}

/// Single quotes, in which every reader takes all characters as they are; double quotes for what those cannot hold.
fn dotenv(text: &str) -> Result<Bytes, &'static str> {
    let mut out = Bytes::new(Vec::with_capacity(2 * text.len() + 2));
    if !text.contains(['\'', '\\', '\n', '\r']) {
        out.push(b'\'');
        out.extend_from_slice(text.as_bytes());
        out.push(b'\'');
        return Ok(out);
    }
    if text.contains(['$', '`', '\0']) {
        return Err("quotes a value that readers of .env files take differently; use a file of its own");
    }
    out.push(b'"');
    for &byte in text.as_bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
    Ok(out)
}

/// Everything but the unreserved characters of RFC 3986 §2.3.
fn urlencode(text: &str) -> Result<Bytes, &'static str> {
    let mut out = Bytes::new(Vec::with_capacity(3 * text.len()));
    for &byte in text.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte);
        } else {
            let digit = |nibble: u8| b"0123456789ABCDEF"[usize::from(nibble)];
            out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    Ok(out)
}

fn b64encode(text: &str) -> Result<Bytes, &'static str> {
    let mut out = Bytes::new(vec![0; text.len().div_ceil(3) * 4]);
    STANDARD.encode_slice(text, &mut out).map_err(|_| "cannot write base64")?;
    Ok(out)
}
