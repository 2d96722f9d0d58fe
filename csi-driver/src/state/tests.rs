use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use keyward_core::Version;
use tempfile::TempDir;

use super::*;
use crate::request::{Asked, Source};

const UID: &str = "0f3c9a52-7a55-4d1c-b5a5-5a4b1b0c7c11";

fn state() -> (TempDir, State) {
    let directory = tempfile::tempdir().unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory.path(), flags, Mode::empty()).unwrap();
    (directory, State::new(opened))
}

fn record() -> Record {
    let pod = Pod {
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
        uid: UID.to_owned(),
        service_account: "web".to_owned(),
    };
    let basis = Basis {
        source: Source::Objects("- kv://shop/secrets/a".to_owned()),
        asked: Asked { client_id: Some("id".to_owned()), ..Asked::default() },
        group: Some(2000),
        principal: None,
        class: None,
        account: None,
    };
    let mut record = Record::new("secrets".to_owned(), "/target".to_owned(), pod, basis, true);
    let info = VersionInfo {
        version: Version::parse(&"a".repeat(32)).unwrap(),
        enabled: true,
        created: Some(std::time::Duration::from_secs(7)),
        updated: None,
    };
    record.histories.insert("kv".to_owned(), vec![Known::of(&info)]);
    record
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_record_is_read_back_as_it_was_written_and_is_for_its_owner_alone() {
    let (directory, state) = state();
    let record = record();
    let id = record.place().unwrap().volume_id().to_owned();
    state.save(&id, &record, |_| Ok(())).unwrap();
    state.save(&id, &record, |_| Ok(())).unwrap();
    assert_eq!(names(directory.path()), std::slice::from_ref(&id));
    let mode = std::fs::metadata(directory.path().join(&id)).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let loaded = state.load().unwrap();
    assert!(loaded.len() == 1 && loaded[0].0 == id && loaded[0].1 == record);
    assert_eq!(
        loaded[0].1.histories["kv"][0].info().unwrap().created,
        Some(std::time::Duration::from_secs(7))
    );
}

#[test]
fn a_volume_is_forgotten_once_and_again() {
    let (directory, state) = state();
    state.save("csi-a", &record(), |_| Ok(())).unwrap();
    state.forget("csi-a").unwrap();
    state.forget("csi-a").unwrap();
    assert!(names(directory.path()).is_empty());
}

#[test]
fn what_is_not_a_whole_record_of_this_format_is_removed_and_left_out() {
    let (directory, state) = state();
    state.save("csi-good", &record(), |_| Ok(())).unwrap();
    let good = std::fs::read(directory.path().join("csi-good")).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).unwrap();
    write("csi-empty", b"");
    write("csi-cut", &good[..good.len() / 2]);
    write("csi-more", &[good.as_slice(), b"{}"].concat());
    write(
        "csi-other",
        &String::from_utf8(good).unwrap().replacen("\"format\":1", "\"format\":2", 1).into_bytes(),
    );
    write("csi-huge", &vec![b' '; LARGEST + 1]);
    write(".new-csi-half", b"{");
    symlink("/etc/passwd", directory.path().join("csi-link")).unwrap();
    let loaded = state.load().unwrap();
    assert_eq!(loaded.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["csi-good"]);
    assert_eq!(names(directory.path()), ["csi-good"]);
}

#[test]
fn the_largest_class_that_a_cluster_stores_fits_into_a_record() {
    let (_directory, state) = state();
    let mut record = record();
    record.basis.source = Source::Objects("\"".repeat(3 << 19));
    state.save("csi-a", &record, |_| Ok(())).unwrap();
    assert!(state.load().unwrap()[0].1 == record);
}

#[test]
fn a_record_that_cannot_be_written_leaves_the_old_one_and_no_half() {
    let (directory, state) = state();
    state.save("csi-a", &record(), |_| Ok(())).unwrap();
    // The place of the unfinished file is taken by what cannot be opened as one.
    std::fs::create_dir(directory.path().join(".new-csi-a")).unwrap();
    let mut changed = record();
    changed.grpc = false;
    let error = state.save("csi-a", &changed, |_| Ok(())).unwrap_err();
    assert_eq!(error.code(), Code::FileSystem);
    std::fs::remove_dir(directory.path().join(".new-csi-a")).unwrap();
    assert!(state.load().unwrap()[0].1 == record());
}
