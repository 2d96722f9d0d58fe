//! Whoever changes the file is found out.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::super::ledger::Ledger;
use super::super::record::Body;
use super::*;

/// A file of three logs, with records between and after checkpoints, the second log ended by a crash.
static FILE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    write_log(&path, "keyward/n/1", &[3, 2], 0, true);
    write_log(&path, "keyward/n/2", &[1, 4], 2, false);
    write_log(&path, "keyward/n/3", &[2, 2, 5], 0, true);
    std::fs::read(&path).unwrap()
});

/// `signed` are the numbers of records before each checkpoint, `after` those behind the last.
fn write_log(path: &Path, origin: &str, signed: &[u32], after: u32, close: bool) {
    let file::Opened { file, predecessor, .. } = file::open(path).unwrap();
    let key = SigningKey::generate().unwrap();
    let mut ledger = Ledger::new(origin.to_owned(), key, Sink::new(Box::new(file), None));
    let now = Duration::from_secs(1_795_416_011);
    ledger.append(now, &Body::Open { key: ledger.verifier(), predecessor });
    let act = |ledger: &mut Ledger, count| {
        (0..count).for_each(|i| ledger.append(now, &Body::Act(event(&format!("object-{i}"), Action::Fetch))));
    };
    for (index, count) in signed.iter().enumerate() {
        act(&mut ledger, *count);
        if close && index + 1 == signed.len() {
            ledger.append(now, &Body::Close);
        }
        ledger.checkpoint();
    }
    act(&mut ledger, after);
    ledger.flush().unwrap();
}

fn split(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').collect()
}

fn broken(bytes: &[u8]) -> bool {
    check(bytes).is_err_and(|error| error.code() == Code::AuditBroken)
}

#[test]
fn the_untouched_file_verifies() {
    let report = check(&FILE).unwrap();
    let shape: Vec<_> = report.logs.iter().map(|l| (l.records, l.signed, l.checkpoints, l.closed)).collect();
    assert_eq!(shape, [(7, 7, 2, true), (8, 6, 2, false), (11, 11, 3, true)]);
}

#[test]
fn every_removal_of_a_line_is_found() {
    let lines = split(&FILE);
    for gone in 0..lines.len() - 1 {
        let mut rest = lines.clone();
        rest.remove(gone);
        assert!(broken(&rest.concat()), "line {gone}");
    }
}

#[test]
fn every_swap_of_two_lines_is_found() {
    let lines = split(&FILE);
    for first in 0..lines.len() {
        for second in first + 1..lines.len() {
            let mut swapped = lines.clone();
            swapped.swap(first, second);
            assert!(broken(&swapped.concat()), "lines {first} and {second}");
        }
    }
}

#[test]
fn every_copy_of_a_line_to_another_place_is_found() {
    let lines = split(&FILE);
    for line in &lines {
        for place in 0..lines.len() {
            let mut copied = lines.clone();
            copied.insert(place, line);
            assert!(broken(&copied.concat()), "at line {place}");
        }
    }
}

#[test]
fn a_log_cut_after_an_older_checkpoint_is_found_with_a_checkpoint_kept_elsewhere() {
    let kept = check(&FILE).unwrap().logs[2].checkpoint.clone();
    let lines = split(&FILE);
    let options = VerifyOptions { checkpoint: kept, ..VerifyOptions::default() };
    assert!(verify(&**FILE, &options).is_ok());
    for end in 1..lines.len() - 1 {
        let error = verify(&*lines[..end].concat(), &options).unwrap_err();
        assert_eq!(error.code(), Code::AuditBroken, "cut after line {end}");
    }
}

#[test]
fn a_file_replaced_by_a_sound_one_is_found_with_a_checkpoint_kept_elsewhere() {
    let kept = check(&FILE).unwrap().logs[0].checkpoint.clone();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    write_log(&path, "keyward/n/1", &[3, 2], 0, true);
    let forged = std::fs::read(&path).unwrap();
    assert!(check(&forged).is_ok());
    let options = VerifyOptions { checkpoint: kept, ..VerifyOptions::default() };
    assert!(verify(&*forged, &options).is_err());
}

#[test]
fn a_removed_first_log_shows_as_a_log_that_continues_another() {
    let lines = split(&FILE);
    let second = lines.iter().position(|line| line.windows(13).any(|w| w == b"\"keyward/n/2\"")).unwrap();
    let report = check(&lines[second..].concat()).unwrap();
    assert_eq!(report.continues.unwrap().head.unwrap().log, "keyward/n/1");
}

#[test]
fn a_line_that_is_longer_than_any_of_ours_is_refused_without_reading_it() {
    let endless = [FILE.as_slice(), &vec![b'x'; 4 * MAX_LINE]].concat();
    assert!(broken(&endless));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_changed_byte_is_found(at: prop::sample::Index, byte: u8) {
        // Without the last line feed, after which nothing is signed.
        let at = at.index(FILE.len() - 1);
        let mut changed = FILE.clone();
        prop_assume!(changed[at] != byte);
        changed[at] = byte;
        prop_assert!(broken(&changed), "byte {} of {}", at, FILE.len());
    }

    #[test]
    fn every_removed_run_of_bytes_is_found(from: prop::sample::Index, length in 1usize..400) {
        // Up to the last checkpoint: to remove that one is to cut the log off, which only a kept checkpoint shows.
        let last = FILE.len() - split(&FILE).last().unwrap().len();
        let from = from.index(last);
        let to = (from + length).min(last);
        let changed = [&FILE[..from], &FILE[to..]].concat();
        prop_assert!(broken(&changed), "bytes {} to {}", from, to);
    }

    #[test]
    fn any_file_is_verified_or_refused_without_a_panic(bytes: Vec<u8>, pick in prop::collection::vec(any::<prop::sample::Index>(), 0..40)) {
        let _ = check(&bytes);
        let lines = split(&FILE);
        let shuffled: Vec<_> = pick.iter().map(|index| *index.get(&lines)).collect();
        let _ = check(&shuffled.concat());
    }
}
