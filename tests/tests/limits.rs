//! The tables of limits in the documents: whole, true, and driven by tests.

#[path = "limits/constants.rs"]
mod constants;
#[path = "limits/registry.rs"]
mod registry;
#[path = "limits/sources.rs"]
mod sources;

use std::collections::BTreeSet;

use keyward_core::config::node;
use keyward_core::document;
use keyward_test_support::limits::{DOCUMENTS, is_setting, limit, rows, rows_of};

use registry::{ELSEWHERE, FIXED, NOT_REACHED, WITHOUT_NUMBER};
use sources::{Sources, value_of};

#[test]
fn every_limit_has_a_row_and_every_row_a_test() {
    let sources = Sources::read();
    let rows = rows();
    let names: BTreeSet<&str> = rows.iter().map(|row| row.limit.as_str()).collect();
    assert_eq!(names.len(), rows.len(), "a limit has two rows");
    let driven = sources.driven();
    let mut wrong = Vec::new();
    for name in &names {
        let elsewhere = ELSEWHERE.iter().filter(|(row, ..)| row == name);
        let mut found = driven.contains(*name);
        for (row, file, test, says) in elsewhere {
            let body = sources.test(file, test);
            match body {
                None => wrong.push(format!("{row}: {file} has no test {test}")),
                Some(body) if !body.contains(says) => {
                    wrong.push(format!("{row}: {test} says nothing of {says}"));
                }
                Some(_) => found = true,
            }
        }
        if !found {
            wrong.push(format!("no test drives {name}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (row, ..) in ELSEWHERE {
        assert!(names.contains(row), "{row} is in no table");
    }
    for name in &driven {
        assert!(names.contains(name.as_str()), "a test drives {name}, which is in no table");
    }
}

#[test]
fn every_setting_that_limits_has_a_row_with_its_default() {
    let rows = rows_of(DOCUMENTS[0]);
    let mut seen = 0;
    for setting in node::SETTINGS.iter().filter(|setting| is_setting(setting.path)) {
        let row = rows.iter().find(|row| row.limit == setting.path);
        let row = row.unwrap_or_else(|| panic!("{} has no row", setting.path));
        assert_eq!(row.default, setting.default, "{}", setting.path);
        seen += 1;
    }
    let settings = rows.iter().filter(|row| is_setting(&row.limit)).count();
    assert_eq!(seen, settings, "a row is of no setting");
}

#[test]
fn every_fixed_limit_is_what_its_row_says() {
    let sources = Sources::read();
    let rows = rows();
    let mut without: BTreeSet<&str> =
        rows.iter().map(|row| row.limit.as_str()).filter(|name| !is_setting(name)).collect();
    for (name, file, constant) in FIXED {
        let row = rows.iter().find(|row| row.limit == *name).unwrap_or_else(|| panic!("{name} has no row"));
        let text = sources.text(file);
        let value = value_of(text, constant).unwrap_or_else(|| panic!("{file} has no number {constant}"));
        assert_eq!(row.default, value.to_string(), "{name} is {constant} of {file}");
        without.remove(name);
    }
    without.retain(|name| !WITHOUT_NUMBER.contains(name));
    assert!(without.is_empty(), "nothing in the code is named for {without:?}");
}

#[test]
fn every_constant_that_limits_has_a_row_or_a_reason() {
    let sources = Sources::read();
    let found = constants::limiting(&sources);
    assert!(found.len() > 80, "only {} constants are found", found.len());
    let named: BTreeSet<(&str, &str)> = FIXED.iter().map(|(_, file, constant)| (*file, *constant)).collect();
    let excused: BTreeSet<(&str, &str)> =
        NOT_REACHED.iter().flat_map(|(_, all)| all.iter().copied()).collect();
    let known = |(file, constant): &&(String, String)| {
        let key = (file.as_str(), constant.as_str());
        !named.contains(&key) && !excused.contains(&key)
    };
    let unknown: Vec<_> = found.iter().filter(known).collect();
    assert!(unknown.is_empty(), "these limit something, and have no row: {unknown:#?}");
    let found: BTreeSet<(&str, &str)> =
        found.iter().map(|(file, constant)| (file.as_str(), constant.as_str())).collect();
    let gone: Vec<_> = excused.difference(&found).collect();
    assert!(gone.is_empty(), "these are excused and are no more: {gone:#?}");
}

#[test]
fn documents_and_declarations_of_a_sidecar_are_bounded_as_the_table_says() {
    let row = limit("levels of a document");
    let levels = |count: usize| format!("{}{}", "[".repeat(count), "]".repeat(count));
    assert!(document::parse(levels(row.number()).as_bytes()).is_ok());
    assert!(document::parse(levels(row.number() + 1).as_bytes()).is_err());
    let row = limit("values of a document");
    // The list is a value too.
    let values = |count: usize| format!("[{}]", vec!["1"; count - 1].join(","));
    assert!(document::parse(values(row.number()).as_bytes()).is_ok());
    assert!(document::parse(values(row.number() + 1).as_bytes()).is_err());
    let row = limit("objects of a sidecar");
    let objects = |count: usize| {
        let object = |n| format!("- kv://shop/secrets/s{n}\n");
        let objects: String = (0..count).map(object).collect();
        keyward_core::config::parse(format!("grpc: {{socket: /run/s}}\nobjects:\n{objects}").as_bytes())
            .map(drop)
    };
    row.holds(objects(row.number()), objects(row.number() + 1));
}
