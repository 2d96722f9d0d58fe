use keyward_core::Error;
use keyward_kubernetes::{ObjectVersion, Outcome, PodRef, Report, Reporter};

use crate::request::Pod;

/// Tells Kubernetes what became of one volume. Nothing waits for it, and without an API nothing is told.
#[derive(Clone)]
pub(crate) struct Teller {
    reporter: Option<Reporter>,
    pod: PodRef,
    volume: String,
    class: Option<String>,
    target: String,
}

impl Teller {
    pub(crate) fn new(
        reporter: Option<Reporter>,
        pod: &Pod,
        volume: &str,
        class: Option<&str>,
        target: &str,
    ) -> Self {
        let pod = PodRef { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() };
        Self {
            reporter,
            pod,
            volume: volume.to_owned(),
            class: class.map(str::to_owned),
            target: target.to_owned(),
        }
    }

    pub(crate) fn published(&self, objects: Vec<ObjectVersion>) {
        self.tell(Outcome::Published { objects });
    }

    pub(crate) fn failed(&self, error: &Error, mounted: bool) {
        self.tell(Outcome::Failed { error: error.clone(), mounted });
    }

    pub(crate) fn rotated(&self, objects: Vec<ObjectVersion>, changed: Vec<String>) {
        self.tell(Outcome::Rotated { objects, changed });
    }

    pub(crate) fn gone(&self) {
        self.tell(Outcome::Gone);
    }

    fn tell(&self, outcome: Outcome) {
        if let Some(reporter) = &self.reporter {
            reporter.report(Report {
                pod: self.pod.clone(),
                volume: self.volume.clone(),
                class: self.class.clone(),
                target_path: self.target.clone(),
                outcome,
            });
        }
    }
}
