use keyward_core::{Result, SecretBytes, document};
use serde::Deserializer as _;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use zeroize::Zeroize;

use super::invalid;
use crate::conversions::check_here;

/// Picks one member of a JSON or YAML value by its JSON Pointer (RFC 6901).
///
/// Texts come out as they are; numbers, `true` and `false` as JSON writes them, digit for digit; lists and mappings as
/// JSON without white space. JSON is read first, so that a pointer never changes what a JSON value holds; what is not
/// JSON is read as YAML without anchors.
///
/// # Errors
/// `KW_CONTENT_INVALID` when the value is neither, the pointer leads nowhere or to null, a name on the way is written
/// twice, or a YAML number would lose digits; what ends a [`Turn`](crate::conversions::Turn) early.
pub fn pick(value: &SecretBytes, pointer: &str) -> Result<SecretBytes> {
    let tokens = parse_pointer(pointer)?;
    let text =
        value.expose_str().ok_or_else(|| invalid("the value is not UTF-8, so `key` cannot look into it"))?;
    match serde_json::from_str::<&RawValue>(text) {
        Ok(raw) => pick_json(raw, &tokens, pointer),
        Err(_) => pick_yaml(value.expose(), pointer),
    }
}

fn parse_pointer(pointer: &str) -> Result<Vec<String>> {
    let Some(rest) = pointer.strip_prefix('/') else {
        return if pointer.is_empty() {
            Ok(Vec::new())
        } else {
            Err(invalid("`key` must begin with a slash"))
        };
    };
    Ok(rest.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect())
}

fn pick_json(document: &RawValue, tokens: &[String], pointer: &str) -> Result<SecretBytes> {
    let mut at = document;
    for token in tokens {
        // Each level reads what is inside it once more.
        check_here()?;
        let found = match at.get().as_bytes().first() {
            Some(b'{') => (&mut serde_json::Deserializer::from_str(at.get()))
                .deserialize_map(Member(token))
                .map_err(|_| {
                    invalid(format!("a name on the way of `key: {pointer}` is written twice or is no text"))
                })?,
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(at.get())
                    .map_err(|_| invalid("a list of the value cannot be read"))?;
                index(token).and_then(|index| items.get(index).copied())
            }
            _ => None,
        };
        at = found.ok_or_else(|| nowhere(pointer))?;
    }
    let raw = at.get();
    match raw.as_bytes().first() {
        Some(b'"') => serde_json::from_str::<String>(raw)
            .map(SecretBytes::from)
            .map_err(|_| invalid(format!("the text at `key: {pointer}` has an escape that is no character"))),
        Some(b'n') => Err(null(pointer)),
        _ => Ok(SecretBytes::new(compact(raw))),
    }
}

/// An array index of RFC 6901 §4: no leading zeros, no sign.
fn index(token: &str) -> Option<usize> {
    let plain = token.bytes().all(|byte| byte.is_ascii_digit()) && (token == "0" || !token.starts_with('0'));
    plain.then(|| token.parse().ok()).flatten()
}

/// JSON without the white space between tokens; numbers keep their digits and mappings their order.
fn compact(raw: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let (mut in_text, mut escaped) = (false, false);
    for &byte in raw.as_bytes() {
        if in_text {
            in_text = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            in_text = byte == b'"';
        }
        out.push(byte);
    }
    out
}

/// Finds one member of an object, and refuses a second one of that name.
struct Member<'a>(&'a str);

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(wanted) = map.next_key_seed(IsName(self.0))? {
            if !wanted {
                map.next_value::<IgnoredAny>()?;
            } else if found.replace(map.next_value::<&RawValue>()?).is_some() {
                return Err(serde::de::Error::custom("repeated name"));
            }
        }
        Ok(found)
    }
}

/// Compares a member's name without keeping it.
struct IsName<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for IsName<'_> {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> std::result::Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for IsName<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> std::result::Result<bool, E> {
        Ok(name == self.0)
    }
}

fn pick_yaml(bytes: &[u8], pointer: &str) -> Result<SecretBytes> {
    let mut tree = document::parse(bytes).map_err(|_| {
        invalid(
            "`key` looks into JSON or plain YAML (no anchors, no repeated names), and the value is neither",
        )
    })?;
    let picked = match tree.pointer_mut(pointer) {
        None => Err(nowhere(pointer)),
        Some(Value::Null) => Err(null(pointer)),
        Some(Value::String(text)) => Ok(SecretBytes::from(std::mem::take(text))),
        Some(Value::Number(number)) if number.is_f64() => {
            Err(invalid(format!("the YAML number at `key: {pointer}` would lose digits; write it in quotes")))
        }
        Some(other) => serde_json::to_vec(other)
            .map(SecretBytes::new)
            .map_err(|_| invalid(format!("what `key: {pointer}` names cannot be written as JSON"))),
    };
    wipe(&mut tree);
    picked
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(map) => map.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn nowhere(pointer: &str) -> keyward_core::Error {
    invalid(format!("the value has nothing at `key: {pointer}`"))
}

fn null(pointer: &str) -> keyward_core::Error {
    invalid(format!("the value is null at `key: {pointer}`"))
}
