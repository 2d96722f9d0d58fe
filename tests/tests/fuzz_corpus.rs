//! Replays the committed corpora of `fuzz/` through the same functions.

use std::collections::BTreeSet;
use std::path::Path;

use keyward_tests::fuzz::TARGETS;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz"))
}

fn names(directory: &Path, suffix: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).expect("the directory is there");
    entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(suffix)?.to_owned()))
        .collect()
}

#[test]
fn every_input_of_every_corpus_is_survived() {
    let mut inputs = 0;
    for (name, target) in TARGETS {
        let corpus = root().join("corpus").join(name);
        for entry in std::fs::read_dir(&corpus).unwrap_or_else(|_| panic!("{name} has no corpus")) {
            target(&std::fs::read(entry.expect("an entry").path()).expect("an input"));
            inputs += 1;
        }
    }
    assert!(inputs >= TARGETS.len() * 3, "only {inputs} inputs");
}

#[test]
fn every_target_has_a_corpus_and_there_are_no_others() {
    let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&root().join("corpus"), ""), targets);
}
