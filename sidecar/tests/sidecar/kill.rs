//! Nothing newer is ever taken back (promise 3), by enumeration: killed before a system call anywhere between the first
//! fetch of two rotations in a moment and two seconds after the second swap, started again while the vault is away.
//!
//! `cargo test` tries points at even distances that move with a seed, which is printed; KEYWARD_KILL_SEED repeats one, and
//! KEYWARD_KILL_ALL=1 tries every point.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use keyward_emulator::{Effect, Fault};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::client::Client;
use crate::process::PROGRAM;
use crate::rig::{Rig, in_time, until};
use crate::tracer::{Counted, Line, Shot, Traced, What, Who};

const POINTS: usize = 40;
/// Most of a walk is waiting.
const WORKERS: usize = 4;
/// A call to a sidecar that was killed meanwhile is given up after this.
const CALL: Duration = Duration::from_secs(15);

/// A pod whose sidecar is killed again and again.
struct Pod {
    rig: Rig,
    arguments: Vec<String>,
    sidecar: Option<Traced>,
    generation: u64,
}

impl Pod {
    async fn start() -> Self {
        let rig = Rig::start().await;
        rig.vault().set_secret("db", "g000000");
        let config = format!(
            "{}state: {{path: {}}}\n",
            rig.config("- kv://shop/secrets/db\n- {from: kv://shop/secrets/db, name: again, file: null}"),
            rig.path("state").display()
        );
        let config = rig.write("config.yaml", config.replace("level: debug", "level: warn"));
        let arguments = vec!["--config".to_owned(), config.display().to_string()];
        let mut pod = Self { rig, arguments, sidecar: None, generation: 0 };
        pod.run().await;
        pod.until_current().await;
        pod
    }

    /// Starts the sidecar unless it runs, and waits until it answers.
    async fn run(&mut self) -> Client {
        if self.sidecar.as_ref().is_some_and(Traced::is_dying) {
            // Waits for its end.
            self.sidecar = None;
        }
        if self.sidecar.is_none() {
            let (program, log) = (Path::new(PROGRAM), self.rig.path("sidecar.log"));
            let line = Line { program, arguments: &self.arguments, variables: &[], log: &log };
            self.sidecar = Some(Traced::spawn(&line, None));
        }
        in_time("the socket", async {
            loop {
                if let Ok(channel) = keyward_local_api::connect(&self.rig.path("keyward.sock")).await {
                    return Client::new(channel);
                }
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }

    async fn until_current(&self) {
        let current = format!("g{:06}", self.generation);
        until("the current version", || self.shown() == current).await;
    }

    /// What the file holds; nothing before the first version.
    fn shown(&self) -> String {
        std::fs::read_to_string(self.rig.file("db")).unwrap_or_default()
    }

    async fn walk(&mut self, nth: usize) -> Counted {
        let client = self.run().await;
        self.sidecar.as_ref().unwrap().arm(Shot { who: Who::Mounter, what: What::Kill, nth });
        let dying = |pod: &Self| pod.sidecar.as_ref().unwrap().is_dying();
        // By two names of the object, since one name is refreshed once in a while only.
        for name in ["db", "again"] {
            self.generation += 1;
            let next = format!("g{:06}", self.generation);
            self.rig.vault().rotate_secret("db", &next);
            // It may end while it is asked.
            let _ = timeout(CALL, client.refresh(name)).await;
            until("the rotation, or the end", || dying(self) || self.shown() == next).await;
        }
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end && !dying(self) {
            sleep(Duration::from_millis(5)).await;
        }
        let counted = self.sidecar.as_ref().unwrap().disarm();
        if counted.fired.is_some() {
            self.sidecar = None;
        }
        let newest = self.shown();
        let away = Effect::Status { status: 503, retry_after: None };
        let fault = self.rig.emulator.faults().set(Fault::on("secrets.*", away));
        let client = self.run().await;
        let asked = || self.rig.emulator.counters().with_status("secrets.get", 503);
        for more in [0, 2] {
            let target = asked() + more;
            until("the vault is asked in vain", || asked() >= target).await;
            // Its first look at what is there may be a moment away.
            let given = in_time("a value", async {
                loop {
                    if let Ok(secret) = client.get("db").await {
                        return String::from_utf8(secret.value.to_vec()).unwrap();
                    }
                    sleep(Duration::from_millis(5)).await;
                }
            })
            .await;
            assert!(given >= newest, "call {nth}: {given} is given, {newest} was delivered");
            assert_eq!(self.shown(), newest, "call {nth}: the file");
        }
        self.rig.emulator.faults().clear(fault);
        self.until_current().await;
        counted
    }
}

#[test]
fn killed_anywhere_between_two_rotations_and_two_seconds_later_a_sidecar_brings_nothing_older_back() {
    let all = std::env::var_os("KEYWARD_KILL_ALL").is_some_and(|set| set == "1");
    let given = std::env::var("KEYWARD_KILL_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let count = Mutex::new(0);
    on_pods(&[usize::MAX], &async |pod: &mut Pod, nth| *count.lock() = pod.walk(nth).await.calls);
    let count = count.into_inner();
    assert!(count > 0, "a rotation makes no call");
    let many = if all { count } else { POINTS.min(count) };
    let first = fastrand::Rng::with_seed(seed).usize(..count.div_ceil(many));
    let points: Vec<_> = (0..many).map(|index| 1 + (first + index * count / many) % count).collect();
    let names = Mutex::new(BTreeMap::<String, usize>::new());
    on_pods(&points, &async |pod: &mut Pod, nth| {
        if let Some(name) = pod.walk(nth).await.fired {
            *names.lock().entry(name).or_default() += 1;
        }
    });
    let killed: usize = names.lock().values().sum();
    let text = format!(
        "two rotations of a sidecar: killed at {killed} of {many} points, of {count} calls (seed {seed}, all: {all}); {:?}\n",
        names.into_inner()
    );
    // Past the test harness, which keeps what a passing test prints.
    let _ = std::io::stderr().write_all(text.as_bytes());
    assert!(killed * 2 > many, "most points are reached");
}

/// Does all of `work` in several pods side by side.
fn on_pods(work: &[usize], each: &(impl AsyncFn(&mut Pod, usize) + Sync)) {
    let queue = Mutex::new(work.to_vec());
    let worker = || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut pod = Pod::start().await;
            loop {
                let Some(next) = queue.lock().pop() else { break };
                each(&mut pod, next).await;
            }
        });
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS.min(work.len())).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}
