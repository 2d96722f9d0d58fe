//! The atomic directory as applications see it.

#![expect(clippy::unwrap_used, reason = "a helper of a test panics as the test does")]

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use keyward_core::Code;
use keyward_delivery::atomic::{AtomicDirectory, Committed};
use proptest::prelude::*;
use tempfile::TempDir;

#[path = "support/tree.rs"]
#[allow(dead_code, reason = "every test file uses its part of it")]
mod support;
use support::{expected, seen, tree};

fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn open(path: &Path) -> AtomicDirectory {
    AtomicDirectory::open(OwnedFd::from(fs::File::open(path).unwrap())).unwrap()
}

/// Everything directly in the directory.
fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn generations(path: &Path) -> usize {
    names(path).iter().filter(|name| name.starts_with("..kw_")).count()
}

#[test]
fn a_tree_is_laid_out_as_kubelet_does() {
    let root = directory();
    let wanted =
        tree(&[("password", b"hunter2", 0o400), ("db/a/key", b"\0\xff", 0o444), ("db/user", b"", 0o640)]);
    let done = open(root.path()).commit(&wanted).unwrap();
    assert_eq!(done, Committed::Swapped { files: 3, generation: 1 });
    assert_eq!(names(root.path()), ["..data", "..kw_0000000000000001", "db", "password"]);
    assert_eq!(fs::read_link(root.path().join("..data")).unwrap(), Path::new("..kw_0000000000000001"));
    assert_eq!(fs::read_link(root.path().join("db")).unwrap(), Path::new("..data/db"));
    assert_eq!(seen(root.path()), expected(&wanted));
    for directory in ["..data/", "db/", "db/a"] {
        assert_eq!(fs::metadata(root.path().join(directory)).unwrap().permissions().mode() & 0o7777, 0o755);
    }
}

#[test]
fn nothing_is_written_when_nothing_changed_not_even_after_a_restart() {
    let root = directory();
    let wanted = tree(&[("a", b"1", 0o444), ("d/b", b"2", 0o400)]);
    let mut writer = open(root.path());
    writer.commit(&wanted).unwrap();
    let stamp = |path: &str| {
        let found = fs::metadata(root.path().join(path)).unwrap();
        (found.ino(), found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec())
    };
    let before = [stamp("."), stamp("a"), stamp("d/b")];
    assert_eq!(writer.commit(&wanted.clone()).unwrap(), Committed::Unchanged);
    drop(writer);
    let mut writer = open(root.path());
    assert_eq!(writer.current(), Some(1));
    assert_eq!(writer.commit(&wanted).unwrap(), Committed::Unchanged);
    assert_eq!([stamp("."), stamp("a"), stamp("d/b")], before);
}

#[test]
fn a_change_of_mode_alone_is_a_change_and_every_file_gets_a_fresh_mtime() {
    let root = directory();
    let mut writer = open(root.path());
    writer.commit(&tree(&[("a", b"1", 0o444), ("b", b"2", 0o444)])).unwrap();
    let before = fs::metadata(root.path().join("a")).unwrap();
    let wanted = tree(&[("a", b"1", 0o444), ("b", b"2", 0o400)]);
    assert_eq!(writer.commit(&wanted).unwrap(), Committed::Swapped { files: 2, generation: 2 });
    assert_eq!(seen(root.path()), expected(&wanted));
    let after = fs::metadata(root.path().join("a")).unwrap();
    assert!(after.ino() != before.ino() && after.modified().unwrap() >= before.modified().unwrap());
}

#[test]
fn what_somebody_did_to_the_files_is_undone_by_the_next_start() {
    let wanted = tree(&[("a", b"1", 0o644), ("d/b", b"2", 0o644)]);
    let attacks: [&dyn Fn(PathBuf); 6] = [
        &|data| fs::write(data.join("a"), "x").unwrap(),
        &|data| fs::write(data.join("a"), "longer").unwrap(),
        &|data| fs::remove_file(data.join("d/b")).unwrap(),
        &|data| fs::write(data.join("d/extra"), "").unwrap(),
        &|data| fs::set_permissions(data.join("a"), fs::Permissions::from_mode(0o666)).unwrap(),
        &|data| {
            fs::remove_file(data.join("a")).unwrap();
            symlink("/etc/passwd", data.join("a")).unwrap();
        },
    ];
    for (number, attack) in attacks.iter().enumerate() {
        let root = directory();
        open(root.path()).commit(&wanted).unwrap();
        attack(root.path().join("..data"));
        let done = open(root.path()).commit(&wanted).unwrap();
        assert_eq!(done, Committed::Swapped { files: 2, generation: 2 }, "attack {number}");
        assert_eq!(seen(root.path()), expected(&wanted));
    }
}

#[test]
fn a_removed_data_link_is_made_again_although_nothing_changed() {
    let root = directory();
    let wanted = tree(&[("a", b"1", 0o444)]);
    let mut writer = open(root.path());
    writer.commit(&wanted).unwrap();
    fs::remove_file(root.path().join("..data")).unwrap();
    assert!(matches!(writer.commit(&wanted).unwrap(), Committed::Swapped { .. }));
    fs::remove_file(root.path().join("a")).unwrap();
    assert_eq!(writer.commit(&wanted).unwrap(), Committed::Unchanged);
    assert_eq!(seen(root.path()), expected(&wanted));
}

#[test]
fn a_replaced_generation_stays_readable_until_the_second_sweep_after_it() {
    let root = directory();
    let mut writer = open(root.path());
    writer.commit(&tree(&[("a", b"1", 0o444)])).unwrap();
    let held = root.path().join("..kw_0000000000000001/a");
    writer.commit(&tree(&[("a", b"2", 0o444)])).unwrap();
    writer.sweep_old();
    assert_eq!(fs::read(&held).unwrap(), b"1");
    writer.sweep_old();
    assert!(!held.exists());
    assert_eq!(names(root.path()), ["..data", "..kw_0000000000000002", "a"]);
}

#[test]
fn a_restart_keeps_the_grace_of_what_was_replaced_and_removes_what_was_never_finished() {
    let root = directory();
    let mut writer = open(root.path());
    for content in [b"1", b"2"] {
        writer.commit(&tree(&[("a", content, 0o444)])).unwrap();
    }
    fs::create_dir(root.path().join("..kw_0000000000000003")).unwrap();
    fs::write(root.path().join("..kw_0000000000000003/a"), "half").unwrap();
    symlink("..kw_0000000000000003", root.path().join("..data_tmp")).unwrap();
    symlink("..data/new", root.path().join("new")).unwrap();
    let mut writer = open(root.path());
    assert_eq!(names(root.path()), ["..data", "..kw_0000000000000001", "..kw_0000000000000002", "a"]);
    writer.sweep_old();
    writer.sweep_old();
    assert_eq!(names(root.path()), ["..data", "..kw_0000000000000002", "a"]);
}

#[test]
fn many_swaps_between_two_sweeps_keep_a_bounded_number_of_generations() {
    let root = directory();
    let mut writer = open(root.path());
    for number in 0..20u8 {
        writer.commit(&tree(&[("a", &[number], 0o444)])).unwrap();
    }
    assert_eq!(generations(root.path()), 4);
}

#[test]
fn a_name_that_is_taken_is_an_error_that_names_it_and_changes_nothing() {
    let root = directory();
    let mut writer = open(root.path());
    let old = tree(&[("a", b"1", 0o444)]);
    writer.commit(&old).unwrap();
    fs::write(root.path().join("b"), "the user's").unwrap();
    symlink("/etc", root.path().join("c")).unwrap();
    fs::create_dir(root.path().join("d")).unwrap();
    let before = names(root.path());
    for name in ["b", "c", "d/x"] {
        let error = writer
            .commit(&tree(&[("a", b"2", 0o444), ("aa", b"", 0o444), (name, b"", 0o444)]))
            .err()
            .unwrap();
        assert_eq!(error.code(), Code::FileSystem);
        let taken = format!("{}/{}", root.path().display(), &name[..1]);
        assert!(error.message().contains(&taken), "{error}");
    }
    assert_eq!(names(root.path()), before);
    assert_eq!(fs::read(root.path().join("a")).unwrap(), b"1");
    assert_eq!(fs::read(root.path().join("b")).unwrap(), b"the user's");
    drop(open(root.path()));
    assert_eq!(names(root.path()), before, "a restart leaves them alone too");
}

#[test]
fn a_group_comes_from_the_setgid_bit_of_the_directory_or_from_the_file() {
    let root = directory();
    let group = give_another_group(root.path());
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o2755)).unwrap();
    let mut wanted = tree(&[("d/inherits", b"1", 0o440), ("own", b"2", 0o440)]);
    let own = fs::metadata("/proc/self").unwrap().gid();
    wanted
        .files
        .iter_mut()
        .filter(|(path, _)| path.as_str() == "own")
        .for_each(|(_, file)| file.gid = Some(own));
    open(root.path()).commit(&wanted).unwrap();
    let gid = |path: &str| fs::metadata(root.path().join(path)).unwrap().gid();
    assert_eq!((gid("d/inherits"), gid("d"), gid("own")), (group, group, own));
    assert_eq!(fs::metadata(root.path().join("d")).unwrap().mode() & 0o7777, 0o2755);
    assert_eq!(seen(root.path()), expected(&wanted));
    assert_eq!(open(root.path()).commit(&wanted).unwrap(), Committed::Unchanged);
}

/// Gives the directory a group that is not the process's own where that is permitted, and returns what it has.
fn give_another_group(path: &Path) -> u32 {
    let _ = std::os::unix::fs::chown(path, None, Some(4242));
    fs::metadata(path).unwrap().gid()
}

#[test]
fn an_owner_is_given_before_there_is_content_or_the_error_says_what_to_do() {
    let root = directory();
    let mut wanted = tree(&[("a", b"1", 0o400)]);
    wanted.files.values_mut().for_each(|file| (file.uid, file.gid) = (Some(1234), Some(5678)));
    match open(root.path()).commit(&wanted) {
        Ok(_) => {
            let found = fs::metadata(root.path().join("a")).unwrap();
            assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (1234, 5678, 0o400));
        }
        Err(error) => {
            assert!(
                error.message().contains("a to uid 1234 and gid 5678") && error.message().contains("fsGroup")
            );
            assert!(names(root.path()).is_empty());
        }
    }
}

type Files = BTreeMap<&'static str, (Vec<u8>, u32)>;

fn any_files() -> impl Strategy<Value = Files> {
    prop::collection::btree_map(
        prop::sample::select(vec!["a", "b/c", "b/d/e", "f-g", "f/h", "i/j"]),
        (prop::collection::vec(any::<u8>(), 0..9), prop::sample::select(vec![0o400, 0o444, 0o640])),
        0..6,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn readers_see_the_last_tree_and_nothing_else_through_any_run_of_commits_restarts_and_sweeps(
        steps in prop::collection::vec((any_files(), 0u8..3), 1..8)
    ) {
        let root = directory();
        let mut writer = open(root.path());
        for (files, then) in steps {
            let files: Vec<_> = files.iter().map(|(path, (content, mode))| (*path, &content[..], *mode)).collect();
            let wanted = tree(&files);
            writer.commit(&wanted).unwrap();
            match then {
                0 => writer = open(root.path()),
                1 => writer.sweep_old(),
                _ => {}
            }
            prop_assert_eq!(seen(root.path()), expected(&wanted));
            prop_assert!(matches!(writer.commit(&wanted), Ok(Committed::Unchanged)));
        }
        writer.sweep_old();
        writer.sweep_old();
        prop_assert_eq!(generations(root.path()), 1);
    }
}
