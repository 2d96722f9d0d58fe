#![expect(clippy::arithmetic_side_effects, reason = "a count of tries, one more than the waits")]

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use keyward_core::backoff::exponential;

use super::event::Event;
use super::pace::Bucket;
use super::queue::{End, Job, Step};
use super::status::{self, Desired};
use super::{PodRef, Shared, event};
use crate::api::{Api, Ask, Failure};
use crate::quiet::Quiet;

/// How long one write may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits after failures: from, to.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Writes at once, and then one each.
const BURST: (u32, Duration) = (20, Duration::from_millis(50));

/// The one task that writes.
pub(super) struct Worker {
    api: Api,
    node: String,
    driver: String,
    shared: Arc<Shared>,
    quiet: Quiet,
    pace: Bucket,
}

impl Worker {
    pub(super) fn new(api: Api, node: String, driver: String, shared: Arc<Shared>) -> Self {
        let pace = Bucket::new(BURST.0, BURST.1);
        let quiet = Quiet::new("telling Kubernetes what happened to volumes");
        Self { api, node, driver, shared, quiet, pace }
    }

    pub(super) async fn forever(mut self) {
        let mut failed = 0;
        loop {
            let next = self.shared.queue.lock().next();
            self.shared.count();
            let Some(mut job) = next else {
                let due = self.shared.queue.lock().due();
                let rested = async {
                    match due {
                        Some(due) => tokio::time::sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = self.shared.wake.notified() => {}
                    () = rested => {}
                }
                continue;
            };
            let result = self.write(&mut job).await;
            let end = self.judge(&result);
            failed = if matches!(end, End::Later) { failed + 1 } else { 0 };
            self.shared.queue.lock().end(job, &end);
            self.shared.count();
            if failed > 0 {
                let wait = exponential(BACKOFF.0, BACKOFF.1, failed - 1);
                tokio::time::sleep(wait.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
            }
        }
    }

    fn judge(&self, result: &Result<(), Failure>) -> End {
        match result {
            Ok(()) => {
                self.quiet.worked();
                End::Written
            }
            // The pod's namespace is going away, or the definition is not installed: nobody is left to read it.
            Err(failure) if failure.is_absent() || failure.is_of_ending_namespace() => End::Never,
            Err(failure) if failure.is_occupied() => {
                tracing::debug!(error = %failure.error, "a status of the same name may not be changed; it is tried again");
                End::Rest
            }
            Err(failure) => {
                self.quiet.failed(&failure.error);
                if failure.is_transient() || failure.is_conflict() { End::Later } else { End::Never }
            }
        }
    }

    async fn write(&mut self, job: &mut Job) -> Result<(), Failure> {
        match &mut job.step {
            Step::Status { class, target, desired, exists, .. } => {
                let status = Status { pod: &job.pod, class, target, desired };
                if *exists {
                    self.update_or_create(&status).await
                } else {
                    self.create_or_update(&status).await
                }
            }
            Step::Event(event) => self.event(&job.pod, event).await,
        }
    }

    async fn create_or_update(&mut self, status: &Status<'_>) -> Result<(), Failure> {
        match self.create(status).await {
            // An earlier pod's, which goes with it; until then only the node that wrote it may change it.
            Err(failure) if failure.is_conflict() => self.update(status).await.map_err(Failure::of_another),
            done => done,
        }
    }

    async fn update_or_create(&mut self, status: &Status<'_>) -> Result<(), Failure> {
        match self.update(status).await {
            Err(failure) if failure.is_absent() => self.create(status).await,
            done => done,
        }
    }

    async fn create(&mut self, status: &Status<'_>) -> Result<(), Failure> {
        self.paced().await;
        let Status { pod, class, target, desired } = *status;
        let object = desired.object(&status.name(), pod, class, &self.node, target);
        let answer = self.api.create(ask("create"), &status.collection(), &object, PATIENCE).await?;
        self.finish(status, &answer).await
    }

    async fn update(&mut self, status: &Status<'_>) -> Result<(), Failure> {
        self.paced().await;
        let Status { pod, class, target, desired } = *status;
        let patch = desired.patch(pod, class, &self.node, target);
        let answer = self.api.patch(ask("patch"), &status.path(), &patch, PATIENCE).await?;
        self.finish(status, &answer).await
    }

    /// A definition with a status subresource keeps the status out of the object; then it is written there.
    async fn finish(&mut self, status: &Status<'_>, answer: &serde_json::Value) -> Result<(), Failure> {
        let wanted = status.desired.status(status.pod, status.class, status.target);
        if status::took(answer, &wanted) {
            return Ok(());
        }
        self.paced().await;
        let path = status.path() + "/status";
        let patch = serde_json::json!({ "status": wanted });
        self.api.patch(ask("patch"), &path, &patch, PATIENCE).await.map(|_| ())
    }

    async fn event(&mut self, pod: &PodRef, event: &mut Event) -> Result<(), Failure> {
        self.paced().await;
        let ask = |verb| Ask { verb, resource: event::RESOURCE, group: event::GROUP };
        let collection = format!("/apis/{}/v1/namespaces/{}/events", event::GROUP, pod.namespace);
        if let Some(name) = &event.name {
            let path = format!("{collection}/{name}");
            match self.api.patch(ask("patch"), &path, &event.patch(), PATIENCE).await {
                Err(failure) if failure.is_absent() => self.paced().await,
                done => return done.map(|_| ()),
            }
        }
        let name = event.new_name(pod);
        let object = event.object(&name, pod, &self.driver, &self.node);
        match self.api.create(ask("create"), &collection, &object, PATIENCE).await {
            // An answer that got lost.
            Err(failure) if failure.status != Some(StatusCode::CONFLICT) => return Err(failure),
            _ => {}
        }
        event.name = Some(name);
        Ok(())
    }

    async fn paced(&mut self) {
        while let Err(wait) = self.pace.take() {
            tokio::time::sleep(wait).await;
        }
    }
}

#[derive(Clone, Copy)]
struct Status<'a> {
    pod: &'a PodRef,
    class: &'a str,
    target: &'a str,
    desired: &'a Desired,
}

impl Status<'_> {
    fn name(&self) -> String {
        status::name(self.pod, self.class).0
    }

    fn collection(&self) -> String {
        format!("/apis/{}/v1/namespaces/{}/{}", status::GROUP, self.pod.namespace, status::RESOURCE)
    }

    fn path(&self) -> String {
        format!("{}/{}", self.collection(), self.name())
    }
}

fn ask(verb: &'static str) -> Ask {
    Ask { verb, resource: status::RESOURCE, group: status::GROUP }
}
