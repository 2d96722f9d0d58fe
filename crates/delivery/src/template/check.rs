#![expect(clippy::arithmetic_side_effects, reason = "places in a text of at most 64 KiB")]

use keyward_core::{Code, Error, Result};

/// Longest template, in bytes.
const MAX_TEMPLATE: usize = 64 << 10;
/// Tags that neither assign nor capture: with assignment, a short template can double a text until memory ends.
const TAGS: &[&str] = &["if", "elif", "else", "endif", "for", "endfor"];

/// Refuses what the template language here does not have, before the engine sees it.
///
/// The engine bounds steps, not memory: `~`, `+`, `*`, assignment and captured blocks could build texts of any size in
/// few steps. Comparisons are refused because a secret is no plain text to the engine and would silently differ.
pub(super) fn check(template: &str) -> Result<()> {
    if template.len() > MAX_TEMPLATE {
        return Err(refused(template, 0, "is longer than 64 KiB"));
    }
    let bytes = template.as_bytes();
    let mut at = 0;
    while let Some(open) = find(bytes, at, b"{") {
        at = match bytes.get(open + 1) {
            Some(b'{') => code(template, open + 2, "}}")?,
            Some(b'%') => {
                tag(template, open + 2)?;
                code(template, open + 2, "%}")?
            }
            Some(b'#') => match find(bytes, open + 2, b"#}") {
                Some(close) => close + 2,
                None => return Err(refused(template, open, "has a comment that does not end")),
            },
            _ => open + 1,
        };
    }
    Ok(())
}

/// Where `what` stands from `from` on.
fn find(bytes: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    bytes.get(from..)?.windows(what.len()).position(|found| found == what).map(|found| from + found)
}

fn tag(template: &str, from: usize) -> Result<()> {
    let rest = template.get(from..).unwrap_or_default().trim_start_matches(['-', '+']).trim_start();
    let name = rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
    if TAGS.contains(&name) {
        Ok(())
    } else {
        Err(refused(template, from, "has a tag other than if, elif, else, endif, for and endfor"))
    }
}

/// Walks over code up to `close` and gives the place after it.
fn code(template: &str, from: usize, close: &str) -> Result<usize> {
    let bytes = template.as_bytes();
    let mut at = from;
    // Whitespace control after the opening.
    if matches!(bytes.get(at), Some(b'-' | b'+')) {
        at += 1;
    }
    while let Some(&byte) = bytes.get(at) {
        let follows = |at: usize| bytes.get(at..).is_some_and(|rest| rest.starts_with(close.as_bytes()));
        if follows(at) {
            return Ok(at + close.len());
        }
        at = match byte {
            b'"' | b'\'' => text(template, at)?,
            b'+' if follows(at + 1) => at + 1,
            b'_' | b'(' | b')' | b',' | b'|' | b'.' | b'[' | b']' | b'-' => at + 1,
            _ if byte.is_ascii_alphanumeric() || byte.is_ascii_whitespace() => at + 1,
            b'~' | b'+' | b'*' => {
                return Err(refused(template, at, "uses an operator; join texts with concat(a, b)"));
            }
            b'=' | b'!' | b'<' | b'>' => {
                return Err(refused(template, at, "compares or assigns; compare texts with equal(a, b)"));
            }
            _ => return Err(refused(template, at, "has a character that no expression here uses")),
        };
    }
    Err(refused(template, from, "has an expression that does not end"))
}

/// Walks over a quoted text and gives the place after it.
fn text(template: &str, open: usize) -> Result<usize> {
    let bytes = template.as_bytes();
    let mut at = open + 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 2,
            _ if bytes.get(open) == Some(&byte) => return Ok(at + 1),
            _ => at += 1,
        }
    }
    Err(refused(template, open, "has a text whose quote does not end"))
}

fn refused(template: &str, at: usize, what: &str) -> Error {
    let line = template.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
    Error::new(Code::TemplateFailed, format!("the template {what} (line {line})"))
}
