//! YAML as Go reads it into fields of text: a scalar is what is written, whatever type it looks like.

use keyward_core::document::MAX_DOCUMENT;
use serde::de::DeserializeOwned;

/// Reads the first document of `text`, or says why not; the text itself is never quoted.
pub(crate) fn read<T: DeserializeOwned>(text: &str, expected: &str) -> Result<Option<T>, String> {
    if text.len() > MAX_DOCUMENT {
        return Err(format!("has {} bytes, more than the {MAX_DOCUMENT} allowed", text.len()));
    }
    let mut options = serde_saphyr::Options::default();
    let mut budget = serde_saphyr::Budget::default();
    budget.max_anchors = 0;
    budget.max_aliases = 0;
    budget.max_depth = 16;
    budget.max_nodes = 50_000;
    budget.max_events = 200_000;
    budget.max_documents = 8;
    budget.max_merge_keys = 0;
    options.budget = Some(budget);
    options.duplicate_keys = serde_saphyr::DuplicateKeyPolicy::Error;
    // YAML 1.1, as Go reads numbers: 010 is 8.
    options.legacy_octal_numbers = true;
    let documents: Vec<Option<T>> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
            let place = error
                .location()
                .map(|at| format!(" at line {} column {}", at.line(), at.column()))
                .unwrap_or_default();
            format!("cannot be read{place}: expected {expected}, without anchors, aliases or repeated keys")
        })?;
    Ok(documents.into_iter().next().flatten())
}
