//! Kills at random moments under load.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use keyward_test_support::kubelet::PodVolume;
use keyward_test_support::node::{DRIVER, Node, PATIENCE};
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use crate::reader::{Reader, Seen, look};
use crate::rig::{content, is_refusal, mounted, objects, quiet, records, value};
use crate::{BINARY, seed, tell};

const VOLUMES: usize = 12;
const KILLS: usize = 100;
const CALL: Duration = Duration::from_secs(15);

struct Load {
    node: Node,
    /// Until when all must be as it should, once nobody kills any more.
    limit: OnceLock<Instant>,
    publishes: AtomicU64,
    unpublishes: AtomicU64,
    refusals: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_hundred_random_kills_under_load_no_volume_is_torn_or_leaks_and_every_one_still_rotates() {
    let Some(node) = Node::start(BINARY).await else { return };
    quiet(&node);
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    node.vault().set_secret("doc", value(&content(0, false)));
    let mut driver = node.drive().await;
    let nothing = mounted(&node);
    let volumes: Vec<_> = (0..VOLUMES)
        .map(|number| {
            let more: &[_] = if number % 2 == 0 { &[("grpc", "true")] } else { &[] };
            node.volume_of(&node.pod(&format!("web-{number}")), &objects("doc"), more)
        })
        .collect();
    let reader = Reader::start(volumes.iter().map(|volume| node.kubelet.target(volume)).collect());
    let load = Arc::new(Load {
        node,
        limit: OnceLock::new(),
        publishes: AtomicU64::new(0),
        unpublishes: AtomicU64::new(0),
        refusals: AtomicU64::new(0),
    });
    let kubelets: Vec<_> = volumes
        .iter()
        .map(|volume| tokio::spawn(come_and_go(Arc::clone(&load), volume.clone(), random.u64(..))))
        .collect();

    let mut generation = 0;
    let mut killed = [0, 0];
    for number in 0..KILLS {
        sleep(Duration::from_millis(random.u64(..400))).await;
        if number % 3 == 0 {
            generation += 1;
            load.node.vault().rotate_secret("doc", value(&content(generation, false)));
        }
        let broker = random.bool();
        match driver.broker().filter(|_| broker) {
            Some(pid) => {
                driver.kill(pid).await;
                killed[0] += 1;
            }
            None => {
                driver.kill(driver.mounter()).await;
                killed[1] += 1;
            }
        }
        if let Some(bad) = reader.bad() {
            panic!("kill {number} of seed {seed}: {bad}\n{}", driver.log());
        }
        driver = load.node.spawn();
    }
    // From here on the driver lives, so that everything must come to its end.
    load.limit.set(Instant::now() + 2 * PATIENCE).unwrap();
    for kubelet in kubelets {
        kubelet.await.unwrap();
    }

    // Every volume is there, rotates, and goes without a trace.
    generation += 1;
    load.node.vault().rotate_secret("doc", value(&content(generation, false)));
    for volume in &volumes {
        load.publish(volume).await;
    }
    let is_current =
        |volume| look(&load.node.kubelet.target(volume)) == Ok(Seen::Whole(content(generation, false)));
    while !volumes.iter().all(is_current) {
        assert!(!load.is_over(), "seed {seed}: not every volume rotates\n{}", driver.log());
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(load.node.kubelet.mounts().len(), VOLUMES, "seed {seed}");
    for volume in &volumes {
        load.unpublish(volume).await;
    }
    assert_eq!(reader.bad(), None, "seed {seed}");
    assert_eq!(mounted(&load.node), nothing, "seed {seed}");
    assert_eq!(records(&load.node), [""; 0], "seed {seed}");
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    tell(&format!(
        "random kills: {} of brokers, {} of mounters (seed {seed}); {} publishes, {} unpublishes, {} answers or connections lost; {} looks",
        killed[0],
        killed[1],
        count(&load.publishes),
        count(&load.unpublishes),
        count(&load.refusals),
        reader.looks()
    ));
}

/// A pod that comes, is republished, and goes, again and again.
async fn come_and_go(load: Arc<Load>, volume: PodVolume, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    while load.limit.get().is_none() {
        for _ in 0..random.usize(1..4) {
            load.publish(&volume).await;
            sleep(Duration::from_millis(random.u64(..100))).await;
        }
        load.unpublish(&volume).await;
    }
}

impl Load {
    async fn publish(&self, volume: &PodVolume) {
        loop {
            match self.call(self.node.publish(volume)).await {
                Ok(()) => break,
                Err(status) => self.refused(volume, &status),
            }
            sleep(Duration::from_millis(20)).await;
        }
        self.publishes.fetch_add(1, Ordering::Relaxed);
        let seen = look(&self.node.kubelet.target(volume));
        assert!(matches!(seen, Ok(Seen::Whole(_))), "published, but {seen:?}");
    }

    async fn unpublish(&self, volume: &PodVolume) {
        while self.node.kubelet.target(volume).parent().is_some_and(std::path::Path::exists) {
            match self.call(self.node.kubelet.unpublish(volume)).await {
                Ok(()) => break,
                Err(status) => self.refused(volume, &status),
            }
            sleep(Duration::from_millis(20)).await;
        }
        self.unpublishes.fetch_add(1, Ordering::Relaxed);
        assert_eq!(look(&self.node.kubelet.target(volume)), Ok(Seen::NotMounted));
    }

    async fn call(&self, call: impl Future<Output = Result<(), Status>>) -> Result<(), Status> {
        timeout(CALL, call).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")))
    }

    /// Only a driver that is not there refuses; nothing is wrong with these volumes.
    fn refused(&self, volume: &PodVolume, status: &Status) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
        let starting = status.code() == tonic::Code::FailedPrecondition;
        assert!(starting || !is_refusal(status), "{DRIVER} refuses {}: {status:?}", volume.pod.name);
        assert!(!self.is_over(), "{} at last: {status:?}", volume.pod.name);
    }

    fn is_over(&self) -> bool {
        self.limit.get().is_some_and(|limit| Instant::now() > *limit)
    }
}
