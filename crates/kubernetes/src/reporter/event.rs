//! Events on the pod.

use std::time::Duration;

use keyward_core::UnixTime;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

use super::{Outcome, PodRef};
use crate::names;

pub(super) const GROUP: &str = "events.k8s.io";
pub(super) const RESOURCE: &str = "events";

/// The longest note that the API takes, bytes.
const LONGEST_NOTE: usize = 1024;

/// The longest instance that the API takes, bytes.
const LONGEST_INSTANCE: usize = 128;

/// What an event says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct News {
    kind: &'static str,
    reason: &'static str,
    action: &'static str,
    note: String,
}

/// An event with the times it stands for.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) news: News,
    /// Its name, once the server has it.
    pub(super) name: Option<String>,
    pub(super) first: UnixTime,
    pub(super) last: UnixTime,
    pub(super) count: u32,
}

impl News {
    /// Whether something is wrong.
    pub(super) fn is_warning(&self) -> bool {
        self.kind == "Warning"
    }

    /// What is worth an event in an outcome.
    pub(super) fn of(volume: &str, class: Option<&str>, outcome: &Outcome) -> Option<Self> {
        let from = class.map(|class| format!(" (SecretProviderClass {class})")).unwrap_or_default();
        Some(match outcome {
            Outcome::Published { objects } => Self::new(
                "Normal",
                "SecretsMounted",
                "Mount",
                &format!("mounted volume {volume}{from} with {}", counted(objects.len())),
            ),
            Outcome::Failed { error, mounted: false } => Self::new(
                "Warning",
                "SecretsMountFailed",
                "Mount",
                &format!("volume {volume}{from} is not mounted: {error}"),
            ),
            Outcome::Failed { error, mounted: true } => Self::new(
                "Warning",
                "SecretsRotationFailed",
                "Rotate",
                &format!("volume {volume}{from} keeps what it holds: {error}"),
            ),
            Outcome::Rotated { changed, .. } => Self::new(
                "Normal",
                "SecretsRotated",
                "Rotate",
                &format!("volume {volume}{from} has new versions of {}", changed.join(", ")),
            ),
            Outcome::Gone => return None,
        })
    }

    pub(super) fn shortened(whole: usize, name: &str) -> Self {
        let note = format!(
            "the SecretProviderClassPodStatus is named {name}: its whole name would have {whole} characters"
        );
        Self::new("Warning", "SecretsStatusNameShortened", "Report", &note)
    }

    fn new(kind: &'static str, reason: &'static str, action: &'static str, note: &str) -> Self {
        Self { kind, reason, action, note: names::cut(note, LONGEST_NOTE).to_owned() }
    }
}

impl Event {
    pub(super) fn new(news: News, now: UnixTime) -> Self {
        Self { news, name: None, first: now, last: now, count: 1 }
    }

    /// A name that no other event has, short enough and telling.
    pub(super) fn new_name(&self, pod: &PodRef) -> String {
        let News { reason, note, .. } = &self.news;
        let digest = names::digest(&[&pod.uid, reason, note, &self.first.as_nanos().to_string()]);
        format!("{}.{digest}", names::cut(&pod.name, 200).trim_end_matches(['-', '.']))
    }

    /// The whole object, to be created.
    #[expect(clippy::indexing_slicing, reason = "the object is made here")]
    pub(super) fn object(&self, name: &str, pod: &PodRef, driver: &str, node: &str) -> Value {
        let mut object = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": { "name": name, "namespace": pod.namespace },
            "eventTime": micro(self.first),
            "reportingController": driver,
            "reportingInstance": names::cut(node, LONGEST_INSTANCE),
            "action": self.news.action,
            "reason": self.news.reason,
            "regarding": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": pod.namespace,
                "name": pod.name,
                "uid": pod.uid,
            },
            "note": self.news.note,
            "type": self.news.kind,
        });
        if self.count > 1 {
            object["series"] = self.series();
        }
        object
    }

    /// What the existing object is to become.
    pub(super) fn patch(&self) -> Value {
        json!({ "series": self.series() })
    }

    fn series(&self) -> Value {
        json!({ "count": self.count, "lastObservedTime": micro(self.last) })
    }
}

fn counted(objects: usize) -> String {
    if objects == 1 { "1 object".to_owned() } else { format!("{objects} objects") }
}

/// Kubernetes' MicroTime.
fn micro(at: Duration) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    i128::try_from(at.as_nanos())
        .ok()
        .and_then(|nanos| OffsetDateTime::from_unix_timestamp_nanos(nanos).ok())
        .and_then(|time| time.format(&format).ok())
        .unwrap_or_else(|| "1970-01-01T00:00:00.000000Z".to_owned())
}
