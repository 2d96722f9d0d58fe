//! The tables of limits in the documents, as tests read them.

use std::fmt::Display;
use std::path::Path;

/// The documents that have a table of limits.
pub const DOCUMENTS: [&str; 3] =
    ["docs/csi-configuration.md", "docs/configuration.md", "docs/injector-configuration.md"];

/// One row.
#[derive(Debug, Clone)]
pub struct Row {
    /// The setting, or what a limit is called that is none.
    pub limit: String,
    /// How much it is where nothing is set.
    pub default: String,
    /// Of what.
    pub unit: String,
    /// What happens at it.
    pub at_it: String,
}

/// Whether a limit is a setting of the node plugin.
#[must_use]
pub fn is_setting(limit: &str) -> bool {
    limit.starts_with("limits.") || limit == "grpc.ratePerCaller"
}

/// The rows of every document.
#[must_use]
pub fn rows() -> Vec<Row> {
    DOCUMENTS.iter().flat_map(|document| rows_of(document)).collect()
}

/// The rows of one document, from its section "Limits".
#[must_use]
pub fn rows_of(document: &str) -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(document);
    let text = std::fs::read_to_string(&path).expect("a document");
    let section = text.split("\n## ").find(|section| section.starts_with("Limits\n")).expect("a section");
    let cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows = cells.map(|line| line.split(" | ").map(str::to_owned).collect::<Vec<_>>());
    let rows = rows.filter_map(|cells| <[String; 4]>::try_from(cells).ok()).map(|cells| {
        let [limit, default, unit, at_it] = cells;
        Row { limit: limit.trim_matches('`').to_owned(), default, unit, at_it }
    });
    rows.filter(|row| row.limit != "Limit" && !row.limit.starts_with("---")).collect()
}

/// The row of a limit that a test drives. The test `every_limit_has_a_row_and_every_row_a_test` looks for calls of this.
///
/// # Panics
/// When no table has it.
#[must_use]
pub fn limit(name: &str) -> Row {
    let row = rows().into_iter().find(|row| row.limit == name);
    row.unwrap_or_else(|| panic!("no table of limits has {name}"))
}

impl Row {
    /// The default as a number.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn number(&self) -> usize {
        self.default.parse().unwrap_or_else(|_| panic!("{}: {} is not a number", self.limit, self.default))
    }

    /// Holds that what is at the limit passes, and that one more is refused in words that name the setting, or else the
    /// number.
    ///
    /// # Panics
    /// When that is not so.
    #[track_caller]
    pub fn holds<T, E: Display>(&self, at: Result<T, E>, beyond: Result<T, E>) {
        if let Err(error) = at {
            panic!("{}: refused at the limit: {error}", self.limit);
        }
        self.refuses(beyond);
    }

    /// Holds that what is beyond the limit is refused in such words.
    ///
    /// # Panics
    /// When that is not so.
    #[track_caller]
    pub fn refuses<T, E: Display>(&self, beyond: Result<T, E>) {
        let Err(error) = beyond else { panic!("{}: not refused beyond the limit", self.limit) };
        let text = error.to_string();
        let named = if is_setting(&self.limit) { &self.limit } else { &self.default };
        assert!(text.contains(named.as_str()), "{}: {named} is not in: {text}", self.limit);
    }
}
