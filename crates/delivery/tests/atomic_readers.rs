//! Hot readers across some hundred swaps: no read is torn, mixed, missing or empty.

#![expect(clippy::unwrap_used, reason = "a helper of a test panics as the test does")]

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use keyward_delivery::atomic::AtomicDirectory;
use keyward_delivery::tree::Tree;
use rustix::fs::{Mode, OFlags};

#[path = "support/tree.rs"]
#[allow(dead_code, reason = "every test file uses its part of it")]
mod support;
use support::tree;

const SWAPS: u64 = 300;

/// Two files that belong together, of a length that changes with every generation, larger than one page.
fn generation(number: u64) -> Tree {
    let line = format!("{number:08}\n");
    let content = line.repeat(600 + (number as usize * 37) % 400).into_bytes();
    tree(&[("pair/cert", &content, 0o444), ("pair/key", &content, 0o444), ("single", &content, 0o444)])
}

/// The generation that `content` is a whole file of.
fn whole(content: &[u8]) -> u64 {
    let number = std::str::from_utf8(&content[..8]).unwrap().parse().unwrap();
    let expected = generation(number);
    assert!(expected.files.values().next().unwrap().content.expose() == content, "torn read of {number}");
    number
}

#[test]
fn no_read_is_torn_mixed_missing_or_empty_while_the_tree_is_swapped_some_hundred_times() {
    let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let mut writer = AtomicDirectory::open(OwnedFd::from(File::open(root.path()).unwrap())).unwrap();
    writer.commit(&generation(0)).unwrap();
    let stop = AtomicBool::new(false);
    let reads = [AtomicU64::new(0), AtomicU64::new(0)];
    let by_path = || {
        let mut latest = 0;
        while !stop.load(Ordering::Relaxed) {
            let number = whole(&fs::read(root.path().join("single")).unwrap());
            assert!(number >= latest, "{latest} was seen before {number}");
            latest = number;
            reads[0].fetch_add(1, Ordering::Relaxed);
        }
    };
    // What an application does that needs several files of one generation: it opens the directory once.
    let by_directory = || {
        while !stop.load(Ordering::Relaxed) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let directory = rustix::fs::open(root.path().join("pair"), flags, Mode::empty()).unwrap();
            let read = |name: &str| {
                let mut content = Vec::new();
                let file = rustix::fs::openat(&directory, name, OFlags::RDONLY, Mode::empty()).unwrap();
                File::from(file).read_to_end(&mut content).unwrap();
                whole(&content)
            };
            assert_eq!(read("cert"), read("key"), "a pair of two generations");
            reads[1].fetch_add(1, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        let readers = [scope.spawn(by_path), scope.spawn(by_directory)];
        for number in 1..=SWAPS {
            writer.commit(&generation(number)).unwrap();
            // Every reader gets its turn within the grace of a generation, as a timer would give it.
            let before = reads.each_ref().map(|count| count.load(Ordering::Relaxed));
            while reads.iter().zip(before).any(|(count, before)| count.load(Ordering::Relaxed) < before + 2)
                && !readers.iter().any(thread::ScopedJoinHandle::is_finished)
            {
                thread::yield_now();
            }
            writer.sweep_old();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(reads.iter().all(|count| count.load(Ordering::Relaxed) >= 2 * SWAPS));
}
