//! tmpfs as it really is. What needs root is tried where it is permitted, and says so where not.

#![expect(clippy::unwrap_used, reason = "a helper of a test panics as the test does")]

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use keyward_core::Code;
use keyward_delivery::atomic::AtomicDirectory;
use keyward_delivery::saved;
use keyward_delivery::tmpfs::{Mode, NoSwap, Options, Room, ensure_room, prepare, unmount};

#[path = "support/tree.rs"]
#[allow(dead_code, reason = "every test file uses its part of it")]
mod support;
use support::{expected, seen, tree};

/// Swap on the machine that runs the tests is not what they are about.
const OPTIONS: Options = Options { directory_mode: 0o755, gid: None, allow_swap: true };

/// A directory and what may be mounted in it, which goes with it.
struct Place(tempfile::TempDir);

impl Place {
    fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for name in ["probe", "files", "volume", "deep/er"] {
            // Also when a test failed in the middle; what is not mounted is an error that does not matter.
            let _ = rustix::mount::unmount(self.join(name), rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// A place for mounts, and whether mounting is permitted here.
fn place() -> (Place, bool) {
    let parent = Place(tempfile::tempdir().unwrap());
    let path = parent.join("probe");
    let permitted = prepare(&path, Mode::Mount, 1 << 20, &OPTIONS).is_ok();
    assert_eq!(unmount(&path).unwrap(), permitted);
    if !permitted {
        // Not through the captured streams of the test harness: it should be seen.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED in part: mounting is not permitted here; run as root to test it"
        );
    }
    (parent, permitted)
}

fn mount_line(path: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let point = path.to_str().unwrap();
    table.lines().filter(|line| line.split(' ').nth(4) == Some(point)).map(str::to_owned).collect()
}

#[test]
fn a_mount_of_ours_is_capped_locked_down_found_again_and_not_stacked() {
    let (parent, permitted) = place();
    if !permitted {
        return;
    }
    let path = parent.join("deep/er");
    let options = Options { directory_mode: 0o750, gid: Some(4242), ..OPTIONS };
    let first = prepare(&path, Mode::Auto, 64 << 10, &options).unwrap();
    assert!(first.mounted && !first.reused);
    let root = fs::metadata(&path).unwrap();
    assert_eq!((root.mode() & 0o7777, root.gid()), (0o2750, 4242));
    AtomicDirectory::open(first.directory).unwrap().commit(&tree(&[("a", b"1", 0o444)])).unwrap();

    for mode in [Mode::Auto, Mode::Mount] {
        let again = prepare(&path, mode, 64 << 10, &options).unwrap();
        assert!(again.mounted && again.reused && again.noswap == first.noswap);
    }
    let lines = mount_line(&path);
    assert_eq!(lines.len(), 1, "{lines:?}");
    for word in ["nosuid", "nodev", "noexec", "noatime", "size=64k", "- tmpfs keyward "] {
        assert!(lines[0].contains(word), "{} lacks {word}", lines[0]);
    }
    assert_eq!(lines[0].contains("noswap"), first.noswap == NoSwap::Yes);
    assert_eq!(fs::read(path.join("a")).unwrap(), b"1");

    let held = fs::File::open(path.join("a")).unwrap();
    assert!(unmount(&path).unwrap(), "although a file is open");
    assert!(mount_line(&path).is_empty());
    drop(held);
    assert!(!unmount(&path).unwrap(), "there is nothing of ours any more");
}

#[test]
fn a_path_that_is_not_on_tmpfs_is_refused_with_the_type_found_and_the_fix() {
    let parent = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    if is_tmpfs(parent.path()) {
        return; // A build directory on tmpfs: nothing to refuse.
    }
    let path = parent.path().join("files");
    let refused =
        [prepare(&path, Mode::Require, 1 << 20, &OPTIONS).err().unwrap(), saved::open(&path).err().unwrap()];
    for error in &refused {
        assert_eq!(error.code(), Code::TmpfsRequired);
        assert!(error.message().starts_with(path.to_str().unwrap()), "{error}");
    }
    let message = refused[0].message();
    assert!(message.contains("not tmpfs") && message.contains("medium: Memory"), "{message}");
}

fn is_tmpfs(path: &Path) -> bool {
    rustix::fs::statfs(path).unwrap().f_type == 0x0102_1994
}

#[test]
fn a_directory_that_is_on_tmpfs_already_serves_without_a_mount() {
    let parent = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = parent.path().join("files");
    let prepared = prepare(&path, Mode::Require, 1 << 20, &OPTIONS).unwrap();
    assert!(!prepared.mounted && !prepared.reused && prepared.noswap != NoSwap::Unsupported);
    assert!(!unmount(&path).unwrap(), "what we did not mount we do not unmount");
    assert!(ensure_room(&prepared.directory, 10, 1).is_ok());
}

#[test]
fn a_tmpfs_volume_mounted_at_the_path_is_used_and_not_hidden_by_another_mount() {
    let (parent, permitted) = place();
    if !permitted {
        return;
    }
    let path = parent.join("volume");
    fs::create_dir(&path).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("somebody", &path, "tmpfs", flags, c"size=16k").unwrap();
    let prepared = prepare(&path, Mode::Auto, 1 << 20, &OPTIONS).unwrap();
    assert!(!prepared.mounted && prepared.noswap == NoSwap::NotOurs);
    assert!(matches!(ensure_room(&prepared.directory, 4096, 1), Ok(Room::Enough)));
    assert!(matches!(
        ensure_room(&prepared.directory, 8192, 1),
        Ok(Room::Tight { wanted: 24576, size: 16384 })
    ));
    let error = ensure_room(&prepared.directory, 16384, 1).err().unwrap();
    assert!(error.code() == Code::NoSpace && error.message().contains("sizeLimit"), "{error}");
    drop(prepared);
    assert!(!unmount(&path).unwrap());
    rustix::mount::unmount(&path, rustix::mount::UnmountFlags::empty()).unwrap();
}

#[test]
fn a_link_or_a_file_at_the_path_is_refused() {
    let parent = tempfile::tempdir_in("/dev/shm").unwrap();
    symlink("/tmp", parent.path().join("link")).unwrap();
    fs::write(parent.path().join("file"), "").unwrap();
    for name in ["link", "file"] {
        let error = prepare(&parent.path().join(name), Mode::Auto, 1 << 20, &OPTIONS).err().unwrap();
        assert!(error.code() == Code::FileSystem && error.message().contains(name), "{error}");
    }
}

#[test]
fn a_full_tmpfs_keeps_the_old_tree_and_leaves_no_half_written_one() {
    let (parent, permitted) = place();
    if !permitted {
        return;
    }
    let path = parent.join("files");
    let prepared = prepare(&path, Mode::Mount, 64 << 10, &OPTIONS).unwrap();
    let mut writer = AtomicDirectory::open(prepared.directory).unwrap();
    let sized = |byte: u8, kib: usize| tree(&[("a", b"x", 0o444), ("big", &vec![byte; kib << 10], 0o444)]);
    writer.commit(&sized(1, 24)).unwrap();
    writer.commit(&sized(2, 24)).unwrap();
    // The replaced generation goes before its grace is over rather than that the new one fails.
    let third = sized(3, 24);
    writer.commit(&third).unwrap();
    let error = writer.commit(&sized(4, 40)).err().unwrap();
    assert_eq!(error.code(), Code::NoSpace);
    assert_eq!(seen(&path), expected(&third));
    let left = fs::read_dir(&path)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("..kw_"));
    assert_eq!(left.count(), 1);
    // Grown for both generations at once, the mount's flags unharmed.
    assert!(matches!(ensure_room(writer.directory(), 41 << 10, 2), Ok(Room::Grown(_))));
    writer.commit(&sized(4, 40)).unwrap();
    let line = mount_line(&path).remove(0);
    assert!(["nosuid", "nodev", "noexec"].iter().all(|flag| line.contains(flag)), "{line}");
    drop(writer);
    assert!(unmount(&path).unwrap());
}

#[test]
fn what_others_put_into_a_directory_of_ours_makes_room_for_a_new_value() {
    let (parent, permitted) = place();
    if !permitted {
        return;
    }
    let path = parent.join("files");
    let prepared = prepare(&path, Mode::Mount, 64 << 10, &OPTIONS).unwrap();
    let mut writer = AtomicDirectory::open(prepared.directory).unwrap();
    writer.own_all_but(&[]);
    writer.commit(&tree(&[("a", b"1", 0o444)])).unwrap();
    fs::create_dir(path.join("..kw_9999")).unwrap();
    assert!(fs::write(path.join("..kw_9999/ballast"), vec![0; 1 << 20]).is_err(), "the tmpfs has a size");
    let next = tree(&[("a", b"2", 0o444)]);
    writer.commit(&next).unwrap();
    assert_eq!(seen(&path), expected(&next));
    drop(writer);
    assert!(unmount(&path).unwrap());
}

#[test]
fn a_state_directory_is_closed_to_others_and_a_damaged_snapshot_is_reported_once_and_removed() {
    let parent = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = parent.path().join("state");
    fs::create_dir(&path).unwrap();
    let directory: OwnedFd = saved::open(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
    assert!(
        saved::load(&directory, saved::ONLY, &[]).unwrap().damaged.is_none(),
        "nothing there is nothing wrong"
    );
    saved::save(&directory, saved::ONLY, &[]).unwrap();
    assert_eq!(fs::metadata(path.join("snapshot")).unwrap().mode() & 0o7777, 0o600);
    assert!(saved::load(&directory, saved::ONLY, &[]).unwrap().damaged.is_none());
    let spoil: [&dyn Fn(&Path); 3] = [
        &|file| fs::write(file, "KWSAVED\x01 not quite").unwrap(),
        &|file| {
            fs::remove_file(file).unwrap();
            symlink("/etc/passwd", file).unwrap();
        },
        &|file| {
            let _ = fs::remove_file(file);
            fs::create_dir(file).unwrap();
        },
    ];
    for spoil in spoil {
        saved::save(&directory, saved::ONLY, &[]).unwrap();
        spoil(&path.join("snapshot"));
        let loaded = saved::load(&directory, saved::ONLY, &[]).unwrap();
        assert!(loaded.objects.is_empty() && loaded.damaged.unwrap().message().contains("damaged"));
        assert!(saved::load(&directory, saved::ONLY, &[]).unwrap().damaged.is_none(), "once");
    }
    saved::save(&directory, saved::ONLY, &[]).unwrap();
    saved::remove(&directory, saved::ONLY).unwrap();
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
}
