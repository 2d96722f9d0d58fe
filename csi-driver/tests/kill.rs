//! Commit, then mount (promise 1), by enumeration: each of the driver's two processes is killed before every system
//! call that it makes while it starts, publishes, rotates, repairs and unpublishes, and calls are made to fail. After
//! each the container starts again and kubelet goes on in its order: no reader ever saw an empty or a torn volume,
//! nothing leaks, and every volume still rotates and answers.
//!
//! `cargo test` tries points at even distances that move with a seed, which is printed; KEYWARD_KILL_SEED repeats one,
//! and KEYWARD_KILL_ALL=1 tries every point, in about a quarter of an hour. KEYWARD_KILL_TELL=1 names each one as it
//! comes.

#![cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
#![expect(clippy::unwrap_used, reason = "a helper of a test panics as the test does")]

use std::collections::BTreeMap;
use std::io::Write;

use nix::errno::Errno;
use parking_lot::Mutex;

#[path = "kill/calls.rs"]
mod calls;
#[path = "kill/random.rs"]
mod random;
#[path = "kill/reader.rs"]
mod reader;
#[path = "kill/rig.rs"]
mod rig;
#[path = "kill/tracer.rs"]
mod tracer;

use rig::{Phase, Rig};
use tracer::{Shot, What, Who};

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_keyward-csi-driver");
/// Points of each phase and process, when not all are tried.
const KILLS: usize = 6;
const FAILURES: usize = 4;
/// Points of the walk with two rotations.
const POINTS: usize = 40;
const ERRORS: [Errno; 4] = [Errno::EIO, Errno::ENOMEM, Errno::EMFILE, Errno::ENOSPC];
/// Most of a walk is waiting.
const WORKERS: usize = 4;

/// A part of the enumeration: every `stride`-th point from `first` on.
#[derive(Clone, Copy)]
struct Part {
    phase: Phase,
    who: Who,
    what: What,
    first: usize,
    stride: usize,
}

/// What came of a phase and process.
#[derive(Default)]
struct Tally {
    calls: usize,
    killed: usize,
    failed: usize,
    names: BTreeMap<String, usize>,
}

type Tallies = Mutex<BTreeMap<(Phase, Who), Tally>>;

#[test]
fn killed_or_failing_at_any_system_call_no_volume_is_torn_or_leaks_and_every_one_still_rotates() {
    let all = std::env::var_os("KEYWARD_KILL_ALL").is_some_and(|set| set == "1");
    let seed = seed();
    let tallies = Tallies::default();
    let counted = on_nodes(&pairs(), &async |rig: &mut Rig, (phase, who): (Phase, Who)| {
        for what in [What::Kill, What::Fail(Errno::EIO)] {
            let counted = rig.walk(phase, Shot { who, what, nth: usize::MAX }).await;
            assert!(counted.calls > 0, "{who:?} makes no call in {phase:?}");
            tallies.lock().entry((phase, who)).or_default().calls += counted.calls;
            COUNTS.lock().insert((phase, who, what == What::Kill), counted.calls);
        }
    });
    if !counted {
        return;
    }
    let parts = parts(all, seed);
    on_nodes(&parts, &async |rig: &mut Rig, part: Part| enumerate(rig, part, &tallies).await);
    for ((phase, who), tally) in tallies.lock().iter() {
        tell(&format!(
            "{phase:?}, {who:?}: {} calls counted, killed at {}, failed {}; {:?}",
            tally.calls, tally.killed, tally.failed, tally.names
        ));
        assert!(tally.killed > 0 && tally.failed > 0);
    }
    let sum = |of: fn(&Tally) -> usize| tallies.lock().values().map(of).sum::<usize>();
    tell(&format!(
        "crash consistency of the driver: killed at {} points, failed at {}, of {} counted (seed {seed}, all: {all})",
        sum(|tally| tally.killed),
        sum(|tally| tally.failed),
        sum(|tally| tally.calls)
    ));
}

static COUNTS: Mutex<BTreeMap<(Phase, Who, bool), usize>> = Mutex::new(BTreeMap::new());

/// KEYWARD_KILL_SEED, or a new one.
fn seed() -> u64 {
    let given = std::env::var("KEYWARD_KILL_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| fastrand::u64(..1_000_000))
}

fn pairs() -> Vec<(Phase, Who)> {
    let pairs = Phase::ALL.into_iter().flat_map(|phase| [(phase, Who::Mounter), (phase, Who::Broker)]);
    // Nobody asks the mounter for anything when there is room.
    pairs.filter(|pair| *pair != (Phase::Rotate, Who::Mounter)).collect()
}

fn parts(all: bool, seed: u64) -> Vec<Part> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut parts = Vec::new();
    for ((phase, who, kill), count) in COUNTS.lock().iter() {
        let (phase, who) = (*phase, *who);
        let what = |random: &mut fastrand::Rng| {
            if *kill { What::Kill } else { What::Fail(*random.choice(&ERRORS[..]).unwrap()) }
        };
        if all {
            // In pieces, so that the workers end together.
            let pieces = WORKERS.min(*count);
            parts.extend((0..pieces).map(|piece| Part {
                phase,
                who,
                what: what(&mut random),
                first: piece + 1,
                stride: pieces,
            }));
        } else {
            let points = if *kill { KILLS } else { FAILURES };
            let stride = count.div_ceil(points);
            parts.push(Part { phase, who, what: what(&mut random), first: random.usize(1..=stride), stride });
        }
    }
    random.shuffle(&mut parts);
    parts
}

/// Every point of a part, until a walk survives because it makes fewer calls.
async fn enumerate(rig: &mut Rig, part: Part, tallies: &Tallies) {
    let Part { phase, who, mut what, .. } = part;
    let mut survived = 0;
    let mut nth = part.first;
    // The number of calls differs from walk to walk: one that survives is not the end yet.
    while survived < 2 {
        if matches!(what, What::Fail(_)) {
            what = What::Fail(ERRORS[nth % ERRORS.len()]);
        }
        if std::env::var_os("KEYWARD_KILL_TELL").is_some() {
            tell(&format!("{phase:?} {who:?} {what:?} {nth}"));
        }
        match rig.walk(phase, Shot { who, what, nth }).await.fired {
            Some(name) => {
                survived = 0;
                let mut tallies = tallies.lock();
                let tally = tallies.entry((phase, who)).or_default();
                *if what == What::Kill { &mut tally.killed } else { &mut tally.failed } += 1;
                *tally.names.entry(name).or_default() += 1;
            }
            None => survived += 1,
        }
        nth += part.stride;
    }
}

#[test]
fn killed_anywhere_between_two_rotations_and_two_seconds_later_nothing_older_comes_back_while_the_vault_is_away()
 {
    let all = std::env::var_os("KEYWARD_KILL_ALL").is_some_and(|set| set == "1");
    let seed = seed();
    let count = Mutex::new(0);
    let counted = on_nodes(&[()], &async |rig: &mut Rig, (): ()| {
        let shot = Shot { who: Who::Broker, what: What::Kill, nth: usize::MAX };
        *count.lock() = rig.walk(Phase::Twice, shot).await.calls;
    });
    if !counted {
        return;
    }
    let count = count.into_inner();
    let points = points(count, if all { count } else { POINTS }, seed);
    let (killed, names) = (Mutex::new(0), Mutex::new(BTreeMap::<String, usize>::new()));
    on_nodes(&points, &async |rig: &mut Rig, nth: usize| {
        let shot = Shot { who: Who::Broker, what: What::Kill, nth };
        // A walk that makes fewer calls than the counted one ends at its end, which is a point too.
        if let Some(name) = rig.walk(Phase::Twice, shot).await.fired {
            *killed.lock() += 1;
            *names.lock().entry(name).or_default() += 1;
        }
    });
    let (killed, points) = (killed.into_inner(), points.len());
    tell(&format!(
        "two rotations: killed at {killed} of {points} points, of {count} calls (seed {seed}, all: {all}); {:?}",
        names.into_inner()
    ));
    assert!(killed * 2 > points, "most points are reached");
}

/// So many of `count` calls, at even distances that move with the seed.
fn points(count: usize, many: usize, seed: u64) -> Vec<usize> {
    let many = many.clamp(1, count.max(1));
    let first = fastrand::Rng::with_seed(seed).usize(..count.div_ceil(many).max(1));
    (0..many).map(|index| 1 + (first + index * count / many) % count.max(1)).collect()
}

/// Does all of `work` on several nodes side by side. False without the right to mount.
fn on_nodes<W: Copy + Send + Sync>(work: &[W], each: &(impl AsyncFn(&mut Rig, W) + Sync)) -> bool {
    let queue = Mutex::new(work.to_vec());
    let looks = Mutex::new((0, 0));
    let worker = || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let Some(mut rig) = Rig::start().await else { return false };
            loop {
                let Some(next) = queue.lock().pop() else { break };
                each(&mut rig, next).await;
            }
            let mut looks = looks.lock();
            *looks = (looks.0 + rig.looks(), looks.1 + rig.starts);
            true
        })
    };
    let run = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .all(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let (looks, starts) = *looks.lock();
    tell(&format!("readers looked {looks} times, {starts} starts"));
    run
}

/// Past the test harness, which keeps what a passing test prints.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
