//! YAML and JSON documents that people write, read so that every mistake is reported at once.
//!
//! A document becomes a plain tree first (bounded, no anchors, no duplicate keys), then [`Fields`] walks it: each
//! getter notes a mistake with its path instead of stopping, and [`Fields::finish`] notes the keys nobody asked for.

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::{Code, Error, Result};

/// Largest document, in bytes.
pub const MAX_DOCUMENT: usize = 1 << 20;

/// Reads a file of at most [`MAX_DOCUMENT`] bytes.
///
/// # Errors
/// `KW_CONFIG_INVALID` with its path when it cannot be read or is larger.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|error| cannot_be_read(path, &error))?;
    read_at_most(path, file)
}

/// As [`read_file`]; `-` is standard input.
///
/// # Errors
/// As [`read_file`].
pub fn read_file_or_stdin(path: &Path) -> Result<Vec<u8>> {
    if path == Path::new("-") { read_at_most(path, std::io::stdin().lock()) } else { read_file(path) }
}

fn read_at_most(path: &Path, from: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take((MAX_DOCUMENT as u64).saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| cannot_be_read(path, &error))?;
    if bytes.len() > MAX_DOCUMENT {
        return Err(Error::new(Code::ConfigInvalid, format!("{} is larger than 1 MiB", path.display())));
    }
    Ok(bytes)
}

fn cannot_be_read(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Code::ConfigInvalid, format!("{} cannot be read: {error}", path.display()))
}

/// Parses YAML (or JSON, its subset) into a tree.
///
/// # Errors
/// `KW_CONFIG_INVALID` with line and column when it is not UTF-8, larger than [`MAX_DOCUMENT`], deeper than 32 levels,
/// uses anchors or aliases, repeats a key, or is no YAML at all. The text itself is never quoted.
pub fn parse(bytes: &[u8]) -> Result<Value> {
    serde_saphyr::from_str_with_options(text_of(bytes)?, options(1)).map_err(|error| unreadable(&error))
}

/// Parses every document of a YAML stream, as Kubernetes manifests stand in one file; empty ones are null.
///
/// # Errors
/// As [`parse`], and for more than 200 documents.
pub fn parse_all(bytes: &[u8]) -> Result<Vec<Value>> {
    serde_saphyr::from_multiple_with_options(text_of(bytes)?, options(200))
        .map_err(|error| unreadable(&error))
}

fn text_of(bytes: &[u8]) -> Result<&str> {
    let invalid = |message: String| Error::new(Code::ConfigInvalid, message);
    if bytes.len() > MAX_DOCUMENT {
        return Err(invalid(format!(
            "the document has {} bytes, more than the {MAX_DOCUMENT} allowed",
            bytes.len()
        )));
    }
    std::str::from_utf8(bytes).map_err(|_| invalid("the document is not UTF-8".to_owned()))
}

fn options(documents: usize) -> serde_saphyr::Options {
    let mut options = serde_saphyr::Options::default();
    let mut budget = serde_saphyr::Budget::default();
    budget.max_anchors = 0;
    budget.max_aliases = 0;
    budget.max_depth = 32;
    budget.max_nodes = 50_000;
    budget.max_events = 200_000;
    budget.max_documents = documents;
    budget.max_merge_keys = 0;
    options.budget = Some(budget);
    options.duplicate_keys = serde_saphyr::DuplicateKeyPolicy::Error;
    options.leading_zero_numbers_as_strings = true;
    options.strict_booleans = true;
    options
}

fn unreadable(error: &serde_saphyr::Error) -> Error {
    let place = error
        .location()
        .map(|at| format!(" at line {} column {}", at.line(), at.column()))
        .unwrap_or_default();
    Error::new(
        Code::ConfigInvalid,
        format!(
            "the document cannot be read{place}: expected plain YAML without anchors, aliases or repeated keys"
        ),
    )
}

/// Mistakes that are told; a document of a thousand objects may have many thousands.
const SHOWN: usize = 100;

/// Mistakes found so far, each with the path of the setting: `objects[2].mode`.
#[derive(Debug, Default)]
pub struct Mistakes(RefCell<Vec<(String, String)>>);

impl Mistakes {
    /// Notes one.
    pub fn note(&self, path: impl Into<String>, message: impl Into<String>) {
        self.0.borrow_mut().push((path.into(), message.into()));
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.borrow().len()
    }

    /// `Ok` when there are none, else one error that lists them, one a line, and counts those beyond a hundred.
    ///
    /// # Errors
    /// `code` with the mistakes.
    pub fn into_result(self, code: Code) -> Result<()> {
        if self.count() == 0 { Ok(()) } else { Err(Error::new(code, self.to_string())) }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.0.borrow();
        for (index, (path, message)) in all.iter().take(SHOWN).enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}: {message}", if path.is_empty() { "document" } else { path })?;
        }
        match all.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more mistakes"),
        }
    }
}

/// One mapping of a document being read.
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: String,
    asked: Vec<&'static str>,
    mistakes: &'a Mistakes,
}

impl<'a> Fields<'a> {
    /// Begins to read `value`, which must be a mapping.
    #[must_use]
    pub fn new(value: &'a Value, path: impl Into<String>, mistakes: &'a Mistakes) -> Option<Self> {
        let path = path.into();
        if let Value::Object(map) = value {
            Some(Self { map, path, asked: Vec::new(), mistakes })
        } else {
            mistakes.note(path, format!("must be a mapping, not {}", type_name(value)));
            None
        }
    }

    /// The path of a key below this mapping.
    #[must_use]
    pub fn path(&self, key: &str) -> String {
        match (self.path.as_str(), key) {
            (path, "") => path.to_owned(),
            ("", key) => key.to_owned(),
            (path, key) => format!("{path}.{key}"),
        }
    }

    /// Notes a mistake about `key`.
    pub fn mistake(&self, key: &str, message: impl Into<String>) {
        self.mistakes.note(self.path(key), message);
    }

    /// Whether the key is written at all, even as null.
    pub fn has(&mut self, key: &'static str) -> bool {
        self.asked.push(key);
        self.map.contains_key(key)
    }

    /// The raw value; null counts as absent.
    pub fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.asked.push(key);
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// A text.
    pub fn text(&mut self, key: &'static str) -> Option<&'a str> {
        let value = self.value(key)?;
        let text = value.as_str();
        if text.is_none() {
            let hint = if value.is_number() { "; put it in quotes" } else { "" };
            self.mistake(key, format!("must be a text, not {}{hint}", type_name(value)));
        }
        text
    }

    /// A text that must be there.
    pub fn required_text(&mut self, key: &'static str) -> Option<&'a str> {
        if self.value(key).is_none() {
            self.mistake(key, "is missing");
        }
        self.text(key)
    }

    /// A text put through `parse`; its error's message is noted.
    pub fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> std::result::Result<T, String>,
    ) -> Option<T> {
        let text = self.text(key)?;
        parse(text).map_err(|message| self.mistake(key, message)).ok()
    }

    /// One of a closed set of words.
    pub fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        self.parsed(key, |text| {
            choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
                let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
                format!("must be one of {}", words.join(", "))
            })
        })
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        let flag = value.as_bool();
        if flag.is_none() {
            self.mistake(key, format!("must be true or false, not {}", type_name(value)));
        }
        flag
    }

    /// A whole number within `range`.
    pub fn number(&mut self, key: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let value = self.value(key)?;
        let number = value.as_u64().filter(|number| range.contains(number));
        if number.is_none() {
            self.mistake(key, format!("must be a whole number from {} to {}", range.start(), range.end()));
        }
        number
    }

    /// A number within `range`.
    pub fn fraction(&mut self, key: &'static str, range: std::ops::RangeInclusive<f64>) -> Option<f64> {
        let value = self.value(key)?;
        let number = value.as_f64().filter(|number| range.contains(number));
        if number.is_none() {
            self.mistake(key, format!("must be a number from {} to {}", range.start(), range.end()));
        }
        number
    }

    /// A duration such as `30s`, within `range`.
    pub fn duration(
        &mut self,
        key: &'static str,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Option<Duration> {
        self.parsed(key, |text| {
            let duration = parse_duration(text)?;
            if range.contains(&duration) {
                Ok(duration)
            } else {
                Err(format!(
                    "must be from {} to {}",
                    show_duration(*range.start()),
                    show_duration(*range.end())
                ))
            }
        })
    }

    /// A list; empty when absent.
    pub fn list(&mut self, key: &'static str) -> &'a [Value] {
        match self.value(key) {
            None => &[],
            Some(Value::Array(items)) => items,
            Some(other) => {
                self.mistake(key, format!("must be a list, not {}", type_name(other)));
                &[]
            }
        }
    }

    /// A list of texts; empty when absent.
    pub fn texts(&mut self, key: &'static str) -> Vec<&'a str> {
        let items = self.list(key);
        items
            .iter()
            .enumerate()
            .filter_map(|(index, item)| {
                if item.as_str().is_none() {
                    self.mistake(
                        &format!("{key}[{index}]"),
                        format!("must be a text, not {}", type_name(item)),
                    );
                }
                item.as_str()
            })
            .collect()
    }

    /// A mapping below this one, or `None` when absent.
    pub fn section(&mut self, key: &'static str) -> Option<Fields<'a>> {
        let value = self.value(key)?;
        Fields::new(value, self.path(key), self.mistakes)
    }

    /// The mistakes being collected.
    #[must_use]
    pub fn mistakes(&self) -> &'a Mistakes {
        self.mistakes
    }

    /// Notes every key that nobody asked for, with the nearest known one as a hint.
    pub fn finish(self) {
        for key in self.map.keys().filter(|key| !self.asked.contains(&key.as_str())) {
            let shown: String = key.chars().filter(|c| !c.is_control()).take(64).collect();
            let hint =
                nearest(key, &self.asked).map(|known| format!("; did you mean {known}?")).unwrap_or_default();
            self.mistake(&shown, format!("is not a setting{hint}"));
        }
    }
}

/// Parses `500ms`, `30s`, `5m`, `24h`, `7d`: one whole number and one unit.
///
/// # Errors
/// The message for the user.
pub fn parse_duration(text: &str) -> std::result::Result<Duration, String> {
    let bad = || "must be a duration such as 30s, 5m or 24h".to_owned();
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(bad()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(bad)
}

/// Shows a duration in the largest unit that fits it exactly.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if let Some(whole) =
            millis.checked_div(size).filter(|whole| *whole > 0 && millis.is_multiple_of(size))
        {
            return format!("{whole}{unit}");
        }
    }
    format!("{millis}ms")
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

/// The known key within two edits of `key`, so that a typing mistake explains itself.
fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    if key.len() > 64 {
        return None;
    }
    known
        .iter()
        .map(|candidate| (distance(&key.to_ascii_lowercase(), &candidate.to_ascii_lowercase()), *candidate))
        .filter(|(edits, candidate)| *edits <= 2 && *edits < candidate.len())
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut left = i.saturating_add(1);
        let mut next = vec![left];
        // What is above to the left, what is above.
        for ((diagonal, above), y) in row.iter().zip(row.iter().skip(1)).zip(b.bytes()) {
            let change = diagonal.saturating_add(usize::from(x != y));
            left = change.min(left.min(*above).saturating_add(1));
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_mistakes_are_reported_together_with_their_paths() {
        let tree = parse(b"interval: 5\njiter: 0.1\nlist: {}\n").unwrap();
        let mistakes = Mistakes::default();
        let mut fields = Fields::new(&tree, "rotation", &mistakes).unwrap();
        assert_eq!(fields.duration("interval", Duration::ZERO..=Duration::MAX), None);
        assert_eq!(fields.fraction("jitter", 0.0..=1.0), None);
        assert!(fields.list("list").is_empty());
        fields.finish();
        assert_eq!(
            mistakes.to_string(),
            "rotation.interval: must be a text, not a number; put it in quotes\n\
             rotation.list: must be a list, not a mapping\n\
             rotation.jiter: is not a setting; did you mean jitter?"
        );
    }

    #[test]
    fn of_thousands_of_mistakes_a_hundred_are_told_and_the_others_are_counted() {
        let mistakes = Mistakes::default();
        (0..2_000).for_each(|number| mistakes.note(format!("objects[{number}]"), "is wrong"));
        let text = mistakes.to_string();
        assert_eq!(text.lines().count(), 101);
        assert!(text.ends_with("objects[99]: is wrong\nand 1900 more mistakes"), "{text}");
    }

    #[test]
    fn anchors_aliases_repeated_keys_and_deep_nesting_are_refused() {
        for text in ["a: &x 1\nb: *x\n", "a: 1\na: 2\n", &"[".repeat(40), "a: 1\n---\nb: 2\n", "\u{0}"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_mode_with_a_leading_zero_stays_a_text() {
        assert_eq!(parse(b"mode: 0440").unwrap()["mode"], "0440");
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused_without_quoting_them(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn durations_print_and_parse_to_themselves(millis in 0u64..10_000_000_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
    }
}
