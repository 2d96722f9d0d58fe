//! Whether the audit log tells of everything that victims got.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use keyward_telemetry::audit::{VerifyOptions, verify};
use serde_json::Value;

use crate::Outcome;

/// What is missing from a log.
#[derive(Debug, Default)]
pub(crate) struct Missing {
    /// Records that a gap record counts.
    pub(crate) lost: u64,
    /// Deliveries to victims that no record tells of.
    pub(crate) deliveries: usize,
    /// Why the log does not verify.
    pub(crate) broken: Option<String>,
    /// Records in all.
    pub(crate) records: u64,
}

/// Reads a log that was closed and looks for each expected delivery: pod uid, object and, where it is known, version.
pub(crate) fn missing(log: &Path, expected: &BTreeSet<(String, String, Option<String>)>) -> Outcome<Missing> {
    let mut missing = Missing::default();
    match verify(BufReader::new(File::open(log)?), &VerifyOptions::default()) {
        Ok(report) => missing.records = report.records(),
        Err(error) => missing.broken = Some(error.to_string()),
    }
    let mut told: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for line in BufReader::new(File::open(log)?).split(b'\n') {
        let line = line?;
        // Most lines are of an attacker; only few are worth a parser.
        let is_of_use = |word: &[u8]| line.windows(word.len()).any(|window| window == word);
        if !is_of_use(b"\"gap\"") && !is_of_use(b"\"deliver\"") {
            continue;
        }
        let Ok(record) = serde_json::from_slice::<Value>(&line) else { continue };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if record["action"] == "gap" {
            missing.lost += record["count"].as_u64().unwrap_or(1);
        } else if record["action"] == "deliver" && record["result"] == "OK" {
            told.entry((text(&record["actor"]["uid"]), text(&record["object"])))
                .or_default()
                .insert(text(&record["version"]));
        }
    }
    missing.deliveries = expected
        .iter()
        .filter(|(pod, object, version)| {
            let versions = told.get(&(pod.clone(), object.clone()));
            !versions.is_some_and(|told| version.as_ref().is_none_or(|version| told.contains(version)))
        })
        .count();
    Ok(missing)
}
