//! The repository's Rust sources, as far as the test of limits reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Every source by its path in the repository.
pub(crate) struct Sources(BTreeMap<String, String>);

impl Sources {
    pub(crate) fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut found = BTreeMap::new();
        for room in ["crates", "csi-driver", "injector", "sidecar", "tests"] {
            collect(&root, &root.join(room), &mut found);
        }
        Self(found)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    pub(crate) fn text(&self, path: &str) -> &str {
        self.0.get(path).unwrap_or_else(|| panic!("there is no {path}"))
    }

    /// The body of a test.
    pub(crate) fn test(&self, path: &str, name: &str) -> Option<&str> {
        tests(self.text(path)).into_iter().find(|(found, _)| *found == name).map(|(_, body)| body)
    }

    /// The rows that some test asks for by `limit("…")`.
    pub(crate) fn driven(&self) -> BTreeSet<String> {
        let bodies = self.iter().flat_map(|(_, text)| tests(text)).map(|(_, body)| body);
        let asked = bodies.flat_map(|body| body.split("limit(\"").skip(1));
        asked.filter_map(|rest| Some(rest.split_once("\")")?.0.to_owned())).collect()
    }
}

fn collect(root: &Path, directory: &Path, found: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            if name != "target" {
                collect(root, &path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source");
            let path = path.strip_prefix(root).expect("below the root").display().to_string();
            found.insert(path, text);
        }
    }
}

/// The tests of a source: each name with its body, as rustfmt sets them.
fn tests(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for attribute in ["#[test]\n", "#[tokio::test"] {
        for (at, _) in text.match_indices(attribute) {
            let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
            let (indent, rest) = (&text[line..at], &text[at..]);
            let Some(name) = rest.split_once("fn ").and_then(|(_, rest)| rest.split_once('(')) else {
                continue;
            };
            let end = rest.find(&format!("\n{indent}}}\n")).unwrap_or(rest.len());
            if indent.trim().is_empty() {
                found.push((name.0, &rest[..end]));
            }
        }
    }
    found
}

/// The number that a source gives to a constant, a field or a setting of a budget: `NAME: TYPE = …;`, `name: …,` or
/// `name = …;`. A duration counts in seconds.
pub(crate) fn value_of(text: &str, name: &str) -> Option<u64> {
    let lines = text.lines().map(str::trim);
    let mut values = lines.filter_map(|line| {
        let at = line.find(name).filter(|at| {
            let before = line[..*at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
        })?;
        let rest = &line[at + name.len()..];
        let value = match rest.split_once('=') {
            Some((kind, value)) if rest.starts_with([':', ' ']) && !kind.contains('(') => value,
            _ => rest.strip_prefix(':')?,
        };
        number(value.trim().trim_end_matches([';', ',']))
    });
    values.next()
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    let inner = text.strip_prefix("Duration::from_secs(").and_then(|rest| rest.strip_suffix(')'));
    if let Some(inner) = inner {
        return number(inner);
    }
    if let Some(inner) = text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        return number(inner);
    }
    if let Some((left, right)) = text.split_once("<<") {
        return Some(number(left)? << number(right)?);
    }
    if let Some((left, right)) = text.split_once('*') {
        return Some(number(left)? * number(right)?);
    }
    text.trim_end_matches(".0").replace('_', "").parse().ok()
}
