//! Crash consistency by enumeration (promise 1): the victim is killed at every system call that it makes, and every
//! call is made to fail in every way that is worth a try. After each, a reader sees a whole tree that was or was to be
//! committed, and the next start recovers.
//!
//! Needs strace. Without it the test says so and passes, unless KEYWARD_REQUIRE_STRACE is 1, as in continuous
//! integration.

#![expect(clippy::unwrap_used, reason = "a helper of a test panics as the test does")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use keyward_delivery::atomic::Committed;
use keyward_delivery::{saved, tmpfs};

#[path = "crash/scenario.rs"]
#[allow(dead_code, reason = "the victim uses the rest")]
mod scenario;
#[path = "crash/strace.rs"]
mod strace;
#[path = "support/tree.rs"]
#[allow(dead_code, reason = "every test file uses its part of it")]
mod support;
use scenario::{Scenario, identity, numbered, snapshot, start};
use strace::{End, Victim};
use support::{expected, seen};

/// What a call may fail with.
const ERRORS: [&str; 5] = ["ENOSPC", "EIO", "EINTR", "ENOMEM", "EMFILE"];
/// Calls that only our own code makes: interrupted, they are repeated as if nothing had been.
const OURS: [&str; 13] = [
    "openat2",
    "mkdirat",
    "symlinkat",
    "renameat",
    "unlinkat",
    "readlinkat",
    "fchmod",
    "write",
    "getdents64",
    "fsopen",
    "fsconfig",
    "fsmount",
    "move_mount",
];

#[test]
fn killed_or_failing_at_any_system_call_readers_see_a_whole_tree_and_the_next_start_recovers() {
    if let Some(why) = strace::missing() {
        assert!(std::env::var_os("KEYWARD_REQUIRE_STRACE").is_none_or(|set| set != "1"), "{why}");
        tell(&format!("SKIPPED: crash consistency is NOT tested here, install strace ({why})"));
        return;
    }
    let parent = tempfile::tempdir_in("/dev/shm").unwrap();
    let victim = Victim::new();
    let mut work = Vec::new();
    for scenario in Scenario::ALL {
        if scenario == Scenario::StartMounting && !may_mount() {
            tell("SKIPPED in part: crash consistency of mounting, which is not permitted here; run as root");
            continue;
        }
        let place = Place::new(&victim, parent.path(), 0, scenario);
        place.reset();
        let counts = victim.count(scenario, &place.path, &parent.path().join("log"));
        place.check(End::Success);
        work.extend(counts.into_iter().map(|(call, count)| (scenario, call, count)));
    }
    let total: usize = work.iter().map(|(.., count)| count).sum();
    // The longest pieces first, so that the workers end together.
    work.sort_by_key(|(.., count)| *count);
    let work = Mutex::new(work);
    let (kills, errors) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let workers = thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    thread::scope(|scope| {
        for worker in 0..workers {
            let (work, kills, errors, parent, victim) = (&work, &kills, &errors, parent.path(), &victim);
            scope.spawn(move || {
                while let Some((scenario, call, _)) = { work.lock().unwrap().pop() } {
                    let place = Place::new(victim, parent, worker, scenario);
                    let killed = place.kill_at_every(&call);
                    kills.fetch_add(killed, Ordering::Relaxed);
                    errors.fetch_add(place.fail_every(&call, killed), Ordering::Relaxed);
                }
            });
        }
    });
    let (kills, errors) = (kills.into_inner(), errors.into_inner());
    // The injector itself makes the execve of each scenario; addresses that differ from run to run cost a call or two.
    assert!(kills + 4 * Scenario::ALL.len() >= total, "{kills} of {total} calls were reached");
    tell(&format!(
        "crash consistency: killed at each of {kills} system calls and failed {errors} times ({}); all covered",
        ERRORS.join(", ")
    ));
}

/// Past the test harness, which keeps what a passing test prints.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn may_mount() -> bool {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("probe");
    let options = tmpfs::Options { allow_swap: true, ..tmpfs::Options::default() };
    tmpfs::prepare(&path, tmpfs::Mode::Mount, 1 << 16, &options).is_ok() && tmpfs::unmount(&path).unwrap()
}

/// A directory of one worker for one scenario; a mount on it goes with it.
struct Place<'a> {
    victim: &'a Victim,
    scenario: Scenario,
    path: PathBuf,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let _ = tmpfs::unmount(&self.path);
    }
}

impl<'a> Place<'a> {
    fn new(victim: &'a Victim, parent: &Path, worker: usize, scenario: Scenario) -> Self {
        Self { victim, scenario, path: parent.join(format!("{worker}-{}", scenario.word())) }
    }

    /// Kills at call 1, 2, … of one name until the victim survives; returns how often it did not.
    fn kill_at_every(&self, call: &str) -> usize {
        for nth in 1.. {
            self.reset();
            let end = self.victim.inject(self.scenario, &self.path, call, "signal=KILL", nth);
            self.check(end);
            match end {
                End::Killed => {}
                End::Success => return nth - 1,
                End::Error(code) => {
                    panic!("{:?}: {call} {nth}: {code:?} without an injection", self.scenario)
                }
            }
        }
        unreachable!("a victim makes a finite number of calls")
    }

    /// Makes each of the first `count` calls of one name fail in every way; returns how many failures that were.
    fn fail_every(&self, call: &str, count: usize) -> usize {
        for nth in 1..=count {
            for error in ERRORS {
                self.reset();
                let end = self.victim.inject(self.scenario, &self.path, call, &format!("error={error}"), nth);
                let interrupted = error == "EINTR" && OURS.contains(&call);
                assert!(
                    !interrupted || end == End::Success,
                    "{:?}: {call} {nth} is not repeated",
                    self.scenario
                );
                self.check(end);
            }
        }
        count * ERRORS.len()
    }

    /// Brings about what the scenario starts from.
    fn reset(&self) {
        let path = &self.path;
        tmpfs::unmount(path).unwrap();
        if path.exists() {
            fs::remove_dir_all(path).unwrap();
        }
        match self.scenario {
            Scenario::Start | Scenario::StartMounting => {}
            Scenario::Save => saved::save(&saved::open(path).unwrap(), saved::ONLY, &snapshot(1)).unwrap(),
            Scenario::Swap | Scenario::Rotate | Scenario::Recover => {
                let mut writer = start(path, tmpfs::Mode::Require).unwrap();
                writer.commit(&numbered(3)).unwrap();
                writer.commit(&numbered(1)).unwrap();
            }
        }
        if self.scenario == Scenario::Recover {
            let half = path.join("..kw_0000000000000003/turns");
            fs::create_dir_all(&half).unwrap();
            fs::write(half.join("into"), "2").unwrap();
            fs::set_permissions(path.join("..kw_0000000000000003"), fs::Permissions::from_mode(0o700))
                .unwrap();
            std::os::unix::fs::symlink("..kw_0000000000000003", path.join("..data_tmp")).unwrap();
            std::os::unix::fs::symlink("..data/comes", path.join("comes")).unwrap();
        }
    }

    /// What must hold however the victim ended, now and after the next start.
    fn check(&self, end: End) {
        if self.scenario == Scenario::Save {
            return self.check_saved(end);
        }
        let before = self.visible();
        assert!(end != End::Success || before == Some(self.scenario.last()), "success, but not done");

        let mut writer = start(&self.path, self.scenario.mode()).unwrap();
        assert_eq!(self.visible(), before, "a start changes nothing for readers");
        let last = numbered(self.scenario.last());
        let done = writer.commit(&last).unwrap();
        assert_eq!(done == Committed::Unchanged, before == Some(self.scenario.last()));
        assert_eq!(seen(&self.path), expected(&last));
        writer.sweep_old();
        writer.sweep_old();
        let left = fs::read_dir(&self.path).unwrap().count();
        let wanted = last.files.len() + 2;
        assert_eq!(left, wanted, "links, ..data and one generation are left, nothing else");
    }

    /// Number of the tree that a reader sees: one that is allowed, whole, or the test fails.
    fn visible(&self) -> Option<u8> {
        if !self.path.exists() {
            assert!(self.scenario.allowed().contains(&None));
            return None;
        }
        let current = fs::read_link(self.path.join("..data")).unwrap_or_default();
        for entry in fs::read_dir(&self.path).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            let open = entry.metadata().unwrap().permissions().mode() & 0o077 != 0;
            if name.starts_with("..kw_") && Path::new(&name) > current.as_path() && open {
                assert!(self.number(&entry.path()).is_some(), "a half-written generation can be entered");
            }
        }
        self.number(&self.path)
    }

    /// Which of the allowed trees is seen below `path`.
    fn number(&self, path: &Path) -> Option<u8> {
        let seen = seen(path);
        let is_seen = |number: &Option<u8>| {
            seen == number.map_or_else(Default::default, |number| expected(&numbered(number)))
        };
        self.scenario.allowed().iter().copied().find(is_seen).unwrap_or_else(|| {
            let names: Vec<_> = seen.keys().collect();
            panic!("{:?}: a reader sees a tree that nobody committed: {names:?}", self.scenario)
        })
    }

    fn check_saved(&self, end: End) {
        let directory = saved::open(&self.path).unwrap();
        let loaded = saved::load(&directory, saved::ONLY, &[identity()]).unwrap();
        assert!(loaded.damaged.is_none());
        let number = loaded.objects.len();
        assert!(number == 2 || (number == 1 && end != End::Success), "{number} objects after {end:?}");
        let whole = loaded.objects.iter().zip(snapshot(number as u8));
        assert!(whole.into_iter().all(|(found, saved)| found.fetched.same_as(&saved.fetched)));
        saved::save(&directory, saved::ONLY, &snapshot(2)).unwrap();
        assert_eq!(fs::read_dir(&self.path).unwrap().count(), 1);
    }
}
