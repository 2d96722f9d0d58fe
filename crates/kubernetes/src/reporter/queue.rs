//! What is still to be told, one entry a volume, bounded.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "counts of what is queued, of tries, and times a bounded wait ahead"
)]

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use keyward_core::Clock;
use keyward_core::backoff::exponential;
use tokio::time::Instant;

use super::event::{Event, News};
use super::pace::Bucket;
use super::status::{self, Desired, Said};
use super::{Outcome, PodRef, Report, ReporterStats};
use crate::names;

/// Volumes remembered; a node runs a few hundred pods.
const VOLUMES: usize = 1024;

/// Volumes of one pod that are remembered, published or not.
const VOLUMES_OF_POD: usize = 64;

/// Those of a pod that are remembered although there are no places left, up to as many again in all.
const KEPT_FOR_POD: usize = 2;

/// Events of one volume that wait.
const EVENTS: usize = 4;

/// Events that one pod may have at once, and how often there is one more.
const EVENTS_OF_POD: u32 = 10;
const ONE_OF_POD: Duration = Duration::from_secs(30);

/// Events of one pod, of those that it may have at once, that are not for good news.
const FOR_FAILURES: u32 = 3;

/// Attempts at one write.
const ATTEMPTS: u32 = 30;

/// Rests of a volume whose name is taken: from, to.
const RESTS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long the same news counts as the same event.
const SERIES: Duration = Duration::from_secs(600);

/// How often a series is told.
const SERIES_TOLD: Duration = Duration::from_secs(60);

pub(super) struct Queue {
    clock: Arc<dyn Clock>,
    volumes: HashMap<Key, Volume>,
    order: VecDeque<Key>,
    /// Volumes that rest, and when each comes back.
    resting: Vec<(Instant, Key)>,
    under_way: bool,
    pods: HashMap<String, Bucket>,
    all_pods: Bucket,
    written: u64,
    failed: u64,
    dropped: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    uid: String,
    volume: String,
}

struct Volume {
    pod: PodRef,
    class: Option<String>,
    target: String,
    desired: Option<Desired>,
    /// What the status says; `None` until it was written once.
    said: Option<Said>,
    events: VecDeque<Event>,
    last: Option<Told>,
    queued: bool,
    attempts: u32,
}

/// The event that repeats are counted on.
struct Told {
    event: Event,
    at: Instant,
}

/// One write.
pub(super) struct Job {
    pub(super) key: Key,
    pub(super) pod: PodRef,
    pub(super) step: Step,
}

pub(super) enum Step {
    Status { class: String, target: String, desired: Desired, said: Said, exists: bool },
    Event(Event),
}

/// How a write ended.
pub(super) enum End {
    Written,
    /// To be tried again.
    Later,
    /// To be tried again after a rest, while other volumes go on: what is in the way is of this one alone.
    Rest,
    /// Refused for good.
    Never,
}

impl Queue {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            volumes: HashMap::new(),
            order: VecDeque::new(),
            resting: Vec::new(),
            under_way: false,
            pods: HashMap::new(),
            all_pods: Bucket::new(100, Duration::from_millis(200)),
            written: 0,
            failed: 0,
            dropped: 0,
        }
    }

    pub(super) fn note(&mut self, report: Report) {
        let key = Key { uid: report.pod.uid.clone(), volume: report.volume.clone() };
        if matches!(report.outcome, Outcome::Gone) {
            self.forget(&key);
            return;
        }
        if self.is_full_for(&key) || !is_sound(&report) {
            self.dropped += 1;
            return;
        }
        let news = News::of(&report.volume, report.class.as_deref(), &report.outcome);
        let volume = self.volumes.entry(key.clone()).or_insert_with(|| Volume::new(report.pod));
        if report.class.is_some()
            && let Some(desired) = Desired::of(&report.outcome)
        {
            volume.desired = Some(match volume.desired.take() {
                Some(earlier) => earlier.then(desired),
                None => desired,
            });
            if volume.said.is_none()
                && let Some(class) = &report.class
                && volume.class != report.class
            {
                let (name, shortened) = status::name(&volume.pod, class);
                if shortened {
                    let whole = volume.pod.name.len() + volume.pod.namespace.len() + class.len() + 2;
                    let event = Event::new(News::shortened(whole, &name), self.clock.wall());
                    volume.events.push_back(event);
                }
            }
        }
        if volume.class != report.class {
            volume.said = None;
        }
        (volume.class, volume.target) = (report.class, report.target_path);
        if let Some(news) = news {
            self.note_news(&key, news);
        }
        self.enqueue(key);
    }

    /// Whether there is no place for one more volume: a pod that declares thousands takes none from other pods.
    fn is_full_for(&self, key: &Key) -> bool {
        if self.volumes.contains_key(key) {
            return false;
        }
        let of_pod = self.volumes.keys().filter(|known| known.uid == key.uid).count();
        let places = if of_pod < KEPT_FOR_POD { 2 * VOLUMES } else { VOLUMES };
        of_pod >= VOLUMES_OF_POD || self.volumes.len() >= places
    }

    fn note_news(&mut self, key: &Key, news: News) {
        let now = self.clock.wall();
        let Some(volume) = self.volumes.get_mut(key) else { return };
        if let Some(waiting) = volume.events.iter_mut().find(|event| event.news == news) {
            (waiting.count, waiting.last) = (waiting.count.saturating_add(1), now);
            return;
        }
        if let Some(told) = &mut volume.last
            && told.event.news == news
            && now.saturating_sub(told.event.first) < SERIES
        {
            (told.event.count, told.event.last) = (told.event.count.saturating_add(1), now);
            if told.at.elapsed() >= SERIES_TOLD {
                told.at = Instant::now();
                volume.events.push_back(told.event.clone());
            }
            return;
        }
        let pod = self.pods.entry(key.uid.clone()).or_insert_with(|| Bucket::new(EVENTS_OF_POD, ONE_OF_POD));
        // A failure is told once: good news leave it room, and make it where they wait in its way.
        let kept = if news.is_warning() { 0 } else { FOR_FAILURES };
        let full = volume.events.len() >= EVENTS;
        let good = volume.events.iter().position(|event| !event.news.is_warning() && news.is_warning());
        if (full && good.is_none()) || pod.take_above(kept).is_err() || self.all_pods.take().is_err() {
            self.dropped += 1;
            return;
        }
        if let Some(good) = good.filter(|_| full) {
            volume.events.remove(good);
            self.dropped += 1;
        }
        volume.events.push_back(Event::new(news, now));
    }

    fn enqueue(&mut self, key: Key) {
        if let Some(volume) = self.volumes.get_mut(&key)
            && !volume.queued
            && (volume.desired.is_some() || !volume.events.is_empty())
        {
            volume.queued = true;
            self.order.push_back(key);
        }
    }

    fn forget(&mut self, key: &Key) {
        self.volumes.remove(key);
        self.order.retain(|waiting| waiting != key);
        self.resting.retain(|(_, waiting)| waiting != key);
        if !self.volumes.keys().any(|other| other.uid == key.uid) {
            self.pods.remove(&key.uid);
        }
    }

    /// The next write; a status comes before the events of its volume.
    pub(super) fn next(&mut self) -> Option<Job> {
        let now = Instant::now();
        for (_, key) in self.resting.extract_if(.., |(due, _)| *due <= now) {
            self.order.push_back(key);
        }
        while let Some(key) = self.order.pop_front() {
            let Some(volume) = self.volumes.get_mut(&key) else { continue };
            volume.queued = false;
            if let Some(step) = volume.step() {
                self.under_way = true;
                return Some(Job { pod: volume.pod.clone(), step, key });
            }
        }
        None
    }

    /// When the first of those that rest comes back.
    pub(super) fn due(&self) -> Option<Instant> {
        self.resting.iter().map(|(due, _)| *due).min()
    }

    /// Takes note of how a write ended, and comes back to the volume when there is more.
    pub(super) fn end(&mut self, job: Job, end: &End) {
        self.under_way = false;
        match end {
            End::Written => self.written += 1,
            End::Later | End::Rest => self.failed += 1,
            End::Never => (self.failed, self.dropped) = (self.failed + 1, self.dropped + 1),
        }
        if let Some(volume) = self.volumes.get_mut(&job.key) {
            volume.end(job.step, end);
            if matches!(end, End::Rest) && volume.attempts > 0 && !volume.queued {
                volume.queued = true;
                let rest = exponential(RESTS.0, RESTS.1, volume.attempts - 1);
                self.resting.push((Instant::now() + rest, job.key));
                return;
            }
        }
        self.enqueue(job.key);
    }

    pub(super) fn waiting(&self) -> usize {
        self.order.len() + self.resting.len() + usize::from(self.under_way)
    }

    pub(super) fn stats(&self) -> ReporterStats {
        ReporterStats {
            volumes: self.volumes.len(),
            waiting: self.waiting(),
            written: self.written,
            failed: self.failed,
            dropped: self.dropped,
        }
    }
}

/// Names end up in paths of requests.
fn is_sound(report: &Report) -> bool {
    let names = [Some(&report.pod.namespace), Some(&report.pod.name), report.class.as_ref()];
    names.into_iter().flatten().all(|name| names::is_name(name))
}

impl Volume {
    fn new(pod: PodRef) -> Self {
        Self {
            pod,
            class: None,
            target: String::new(),
            desired: None,
            said: None,
            events: VecDeque::new(),
            last: None,
            queued: false,
            attempts: 0,
        }
    }

    fn step(&mut self) -> Option<Step> {
        if let (Some(desired), Some(class)) = (self.desired.take(), &self.class) {
            let said = desired.said(self.said.unwrap_or_default(), &self.target);
            if self.said != Some(said) {
                let (class, target) = (class.clone(), self.target.clone());
                return Some(Step::Status { class, target, desired, said, exists: self.said.is_some() });
            }
        }
        self.events.pop_front().map(Step::Event)
    }

    fn end(&mut self, step: Step, end: &End) {
        let again = matches!(end, End::Later | End::Rest) && self.attempts < ATTEMPTS;
        self.attempts = if again { self.attempts + 1 } else { 0 };
        match step {
            Step::Status { desired, class, .. } if again && self.class.as_ref() == Some(&class) => {
                self.desired = Some(match self.desired.take() {
                    Some(later) => desired.then(later),
                    None => desired,
                });
            }
            Step::Status { said, class, .. } if matches!(end, End::Written) => {
                if self.class.as_ref() == Some(&class) {
                    self.said = Some(said);
                }
            }
            Step::Status { .. } => {}
            Step::Event(event) if again => {
                let event = self.with_repeats(event);
                self.events.push_front(event);
            }
            Step::Event(event) if matches!(end, End::Written) => {
                let event = self.with_repeats(event);
                self.last = Some(Told { event, at: Instant::now() });
            }
            Step::Event(_) => {}
        }
    }

    /// An event that was under way, and what was noted of the same news meanwhile.
    fn with_repeats(&mut self, mut event: Event) -> Event {
        if let Some(at) = self.events.iter().position(|waiting| waiting.news == event.news)
            && let Some(repeat) = self.events.remove(at)
        {
            event.count = event.count.saturating_add(repeat.count);
            event.last = repeat.last;
        }
        event
    }
}

#[cfg(test)]
mod tests;
