//! The directory is hostile: whatever is put in the way, nothing outside of it is read, changed or removed.

#![expect(clippy::unwrap_used, reason = "a helper of a test panics as the test does")]

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use keyward_delivery::atomic::AtomicDirectory;
use keyward_delivery::tree::Tree;
use tempfile::TempDir;

#[path = "support/tree.rs"]
#[allow(dead_code, reason = "every test file uses its part of it")]
mod support;
use support::{expected, seen, tree};

/// A directory to write in, and beside it one that must stay as it is.
struct Place {
    _parent: TempDir,
    root: std::path::PathBuf,
    outside: std::path::PathBuf,
}

impl Place {
    fn new() -> Self {
        let parent = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let (root, outside) = (parent.path().join("root"), parent.path().join("outside"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), "do not touch").unwrap();
        Self { _parent: parent, root, outside }
    }

    fn open(&self) -> keyward_core::Result<AtomicDirectory> {
        AtomicDirectory::open(OwnedFd::from(fs::File::open(&self.root).unwrap()))
    }

    fn assert_untouched(&self) {
        let names: Vec<_> =
            fs::read_dir(&self.outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["precious"]);
        assert_eq!(fs::read_to_string(self.outside.join("precious")).unwrap(), "do not touch");
    }
}

fn wanted() -> Tree {
    tree(&[("precious", b"secret", 0o444), ("sub/precious", b"secret", 0o444)])
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn reserved_names_that_are_links_fifos_or_directories_are_replaced_and_never_followed() {
    for name in ["..data_tmp", "..data", "..kw_0000000000000001", "..kw_0000000000000007"] {
        for kind in ["link", "fifo", "directory of links"] {
            let place = Place::new();
            let taken = place.root.join(name);
            match kind {
                "link" => symlink(&place.outside, &taken).unwrap(),
                "fifo" => fifo(&taken),
                _ => {
                    fs::create_dir(&taken).unwrap();
                    symlink(&place.outside, taken.join("sub")).unwrap();
                    symlink(place.outside.join("precious"), taken.join("precious")).unwrap();
                }
            }
            let done = place.open().and_then(|mut writer| writer.commit(&wanted()));
            done.unwrap_or_else(|error| panic!("{name} as {kind}: {error}"));
            assert_eq!(seen(&place.root), expected(&wanted()), "{name} as {kind}");
            place.assert_untouched();
        }
    }
}

#[test]
fn a_data_link_that_leads_out_of_the_directory_is_never_taken_for_ours() {
    let place = Place::new();
    for target in [
        "/",
        "../outside",
        "..kw_0000000000000001/../../outside",
        "..kw_1",
        "..kw_9999999999999999",
        "..kw_18446744073709551615",
    ] {
        let link = place.root.join("..data");
        let _ = fs::remove_file(&link);
        symlink(target, &link).unwrap();
        assert_eq!(place.open().unwrap().current(), None, "{target}");
    }
    place.open().unwrap().commit(&wanted()).unwrap();
    assert_eq!(seen(&place.root), expected(&wanted()));
    place.assert_untouched();
}

#[test]
fn a_marker_that_was_moved_is_noticed_without_reading_and_repaired_by_the_next_commit_of_the_same_tree() {
    let place = Place::new();
    let mut writer = place.open().unwrap();
    assert!(!writer.marker_is_intact());
    writer.commit(&wanted()).unwrap();
    let generation =
        |writer: &AtomicDirectory| place.root.join(format!("..kw_{:016}", writer.current().unwrap()));
    let attacks: [&dyn Fn(&AtomicDirectory); 5] = [
        &|_| fs::remove_file(place.root.join("..data")).unwrap(),
        &|_| {
            fs::remove_file(place.root.join("..data")).unwrap();
            symlink("../outside", place.root.join("..data")).unwrap();
        },
        &|_| {
            fs::remove_file(place.root.join("..data")).unwrap();
            fs::create_dir(place.root.join("..data")).unwrap();
            fs::write(place.root.join("..data/precious"), "forged").unwrap();
        },
        &|writer| {
            fs::rename(generation(writer), place.root.join("..away")).unwrap();
            symlink("../outside", generation(writer)).unwrap();
        },
        &|writer| {
            let _ = fs::remove_dir_all(place.root.join("..away"));
            fs::rename(generation(writer), place.root.join("..away")).unwrap();
            fs::create_dir(generation(writer)).unwrap();
            fs::write(generation(writer).join("precious"), "forged").unwrap();
        },
    ];
    for (index, attack) in attacks.iter().enumerate() {
        assert!(writer.marker_is_intact(), "before {index}");
        attack(&writer);
        assert!(!writer.marker_is_intact(), "after {index}");
        writer.commit(&wanted()).unwrap_or_else(|error| panic!("{index}: {error}"));
        assert!(writer.marker_is_intact(), "repaired {index}");
        let read = fs::read(place.root.join("precious")).unwrap();
        assert_eq!(read, b"secret", "{index}");
        place.assert_untouched();
    }
}

#[test]
fn a_changed_file_in_the_current_generation_is_repaired_once_it_is_distrusted() {
    let place = Place::new();
    let mut writer = place.open().unwrap();
    writer.commit(&wanted()).unwrap();
    fs::remove_file(place.root.join("..data/precious")).unwrap();
    fs::write(place.root.join("..data/precious"), "forged").unwrap();
    writer.distrust();
    writer.commit(&wanted()).unwrap();
    assert_eq!(fs::read(place.root.join("precious")).unwrap(), b"secret");
}

#[test]
fn a_planted_generation_is_never_taken_for_the_content_that_is_wanted() {
    let place = Place::new();
    let planted = place.root.join("..kw_0000000000000009");
    fs::create_dir(&planted).unwrap();
    fs::write(planted.join("precious"), "forged").unwrap();
    symlink("..kw_0000000000000009", place.root.join("..data")).unwrap();
    let mut writer = place.open().unwrap();
    writer.commit(&wanted()).unwrap();
    assert_eq!(seen(&place.root), expected(&wanted()));
}

#[test]
fn a_tree_deeper_than_any_path_or_stack_is_removed_with_few_descriptors() {
    let place = Place::new();
    let name = "..kw_0000000000000005";
    let mut directory = OwnedFd::from(fs::File::open(&place.root).unwrap());
    let open = |parent: &OwnedFd, name: &str| {
        use rustix::fs::{Mode, OFlags, mkdirat, openat};
        mkdirat(parent, name, Mode::from_raw_mode(0o755)).unwrap();
        openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    };
    directory = open(&directory, name);
    for level in 0..5000 {
        if level % 500 == 0 {
            rustix::fs::symlinkat("/proc/self/root", &directory, "link").unwrap();
            drop(open(&directory, "beside"));
        }
        directory = open(&directory, "d");
    }
    let mut writer = place.open().unwrap();
    writer.commit(&wanted()).unwrap();
    writer.sweep_old();
    writer.sweep_old();
    let left: Vec<_> = fs::read_dir(&place.root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("..kw_"))
        .collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(seen(&place.root), expected(&wanted()));
    place.assert_untouched();
}

#[test]
fn where_all_is_ours_whatever_was_planted_goes_and_what_may_stay_stays() {
    let place = Place::new();
    let mut writer = place.open().unwrap();
    writer.own_all_but(&["keyward.sock"]);
    for name in ["precious", "sub"] {
        fs::create_dir(place.root.join(name)).unwrap();
        symlink(&place.outside, place.root.join(name).join("link")).unwrap();
    }
    fs::write(place.root.join("keyward.sock"), "").unwrap();
    fs::write(place.root.join("foreign"), "").unwrap();
    fs::create_dir(place.root.join("..kw_out_0")).unwrap();
    symlink(&place.outside, place.root.join("elsewhere")).unwrap();
    writer.commit(&wanted()).unwrap();
    writer.sweep_old();
    let mut names: Vec<_> = fs::read_dir(&place.root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let generation = format!("..kw_{:016}", writer.current().unwrap());
    assert_eq!(names, ["..data", &generation, "keyward.sock", "precious", "sub"]);
    assert_eq!(fs::read(place.root.join("sub/precious")).unwrap(), b"secret");
    place.assert_untouched();
}

#[test]
fn a_fifo_in_place_of_a_file_blocks_neither_start_nor_commit() {
    let place = Place::new();
    place.open().unwrap().commit(&wanted()).unwrap();
    let file = place.root.join("..data/precious");
    fs::remove_file(&file).unwrap();
    fifo(&file);
    place.open().unwrap().commit(&wanted()).unwrap();
    assert_eq!(seen(&place.root), expected(&wanted()));
}

#[test]
fn a_mount_inside_a_generation_is_not_entered_when_it_is_removed() {
    let place = Place::new();
    let mut writer = place.open().unwrap();
    writer.commit(&wanted()).unwrap();
    let inside = place.root.join("..data/sub").canonicalize().unwrap();
    if rustix::mount::mount_bind(&place.outside, &inside).is_err() {
        return; // Only root can try.
    }
    let mount = Mounted(inside);
    writer.commit(&tree(&[("precious", b"2", 0o444)])).unwrap();
    (0..3).for_each(|_| writer.sweep_old());
    place.assert_untouched();
    let inside = mount.0.clone();
    drop(mount);
    writer.sweep_old();
    assert!(!inside.exists(), "tried again, and removed");
}

/// Unmounts also when the test fails.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_racing_attacker_who_swaps_directories_for_links_gets_nothing_written_outside() {
    let place = Place::new();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for entry in fs::read_dir(&place.root).into_iter().flatten().flatten() {
                    if entry.file_name().to_string_lossy().starts_with("..kw_") {
                        let sub = entry.path().join("sub");
                        if fs::rename(&sub, entry.path().join("moved")).is_ok() {
                            let _ = symlink(&place.outside, &sub);
                        }
                    }
                }
            }
        });
        let mut writer = place.open().unwrap();
        for number in 0..200u8 {
            let files: Vec<_> = (0..8).map(|file| format!("sub/{file}/precious")).collect();
            let files: Vec<_> =
                files.iter().map(|path| (path.as_str(), std::slice::from_ref(&number), 0o444)).collect();
            // It may well fail: the attacker is of our own uid.
            let _ = writer.commit(&tree(&files));
            writer.sweep_old();
        }
        stop.store(true, Ordering::Relaxed);
    });
    place.assert_untouched();
}
