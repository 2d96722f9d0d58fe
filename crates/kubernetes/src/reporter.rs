//! What happened to volumes, told to Kubernetes: SecretProviderClassPodStatus and events. Never in the way of a mount:
//! [`Reporter::report`] only notes, one task writes.

mod event;
mod pace;
mod queue;
mod status;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use keyward_core::{Clock, Error};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::api::Api;

use queue::Queue;

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An object as the status shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectVersion {
    /// `secret/<name>`, `key/<name>`, `cert/<name>`.
    pub id: String,
    /// The version that was written.
    pub version: String,
}

/// What happened to a volume.
#[derive(Debug, Clone)]
pub struct Report {
    /// The pod.
    pub pod: PodRef,
    /// The volume's name in the pod.
    pub volume: String,
    /// The class, when the volume names one; only then is there a status.
    pub class: Option<String>,
    /// Where kubelet has the volume mounted.
    pub target_path: String,
    /// What happened.
    pub outcome: Outcome,
}

/// How it ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The volume is mounted with these objects.
    Published {
        /// What was written.
        objects: Vec<ObjectVersion>,
    },
    /// It failed; the error's public text is shown.
    Failed {
        /// Why.
        error: Error,
        /// Whether the volume is mounted all the same, with what it held before.
        mounted: bool,
    },
    /// A mounted volume has new content.
    Rotated {
        /// All that it holds now.
        objects: Vec<ObjectVersion>,
        /// The ids of what changed.
        changed: Vec<String>,
    },
    /// The volume is unmounted: what is not yet told need not be.
    Gone,
}

/// What the reporter has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReporterStats {
    /// Volumes remembered.
    pub volumes: usize,
    /// Volumes with something still to tell.
    pub waiting: usize,
    /// Writes that the server took.
    pub written: u64,
    /// Writes that failed, retried ones included.
    pub failed: u64,
    /// Reports and events left out: limits, or refused for good.
    pub dropped: u64,
}

/// Where outcomes go; clones share one queue, whose task ends with the last of them.
#[derive(Clone)]
pub struct Reporter {
    shared: Arc<Shared>,
    _task: Arc<Task>,
}

struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Shared {
    queue: parking_lot::Mutex<Queue>,
    wake: Notify,
    waiting: watch::Sender<usize>,
}

impl Reporter {
    pub(crate) fn start(api: Api, node: String, driver: String, clock: Arc<dyn Clock>) -> Self {
        let shared = Arc::new(Shared {
            queue: parking_lot::Mutex::new(Queue::new(clock)),
            wake: Notify::new(),
            waiting: watch::Sender::new(0),
        });
        let worker = worker::Worker::new(api, node, driver, Arc::clone(&shared));
        let task = Arc::new(Task(tokio::spawn(worker.forever()).abort_handle()));
        Self { shared, _task: task }
    }

    /// Notes what happened. Never waits; later news of a volume replace earlier ones that are not told yet.
    pub fn report(&self, report: Report) {
        self.shared.queue.lock().note(report);
        self.shared.count();
        self.shared.wake.notify_one();
    }

    /// Waits until everything is told, at most `patience`; answers whether it is.
    pub async fn drain(&self, patience: Duration) -> bool {
        let mut waiting = self.shared.waiting.subscribe();
        let done = waiting.wait_for(|waiting| *waiting == 0);
        matches!(tokio::time::timeout(patience, done).await, Ok(Ok(_)))
    }

    /// What has been done so far.
    #[must_use]
    pub fn stats(&self) -> ReporterStats {
        self.shared.queue.lock().stats()
    }
}

impl Shared {
    fn count(&self) {
        let waiting = self.queue.lock().waiting();
        self.waiting.send_if_modified(|known| std::mem::replace(known, waiting) != waiting);
    }
}
