#![expect(clippy::arithmetic_side_effects, reason = "each thread's place is taken before it is given back")]

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// One piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Job(pub(super) u64);

/// Who works next: pods in turn, and the work of one pod one after another. `W` wakes whoever waits.
pub(super) struct Queue<W> {
    free: usize,
    closed: bool,
    /// Pods with work that may begin or go on, the next one first.
    ring: VecDeque<Arc<str>>,
    lines: HashMap<Arc<str>, Line<W>>,
}

struct Line<W> {
    waiting: VecDeque<(Job, W)>,
    active: Option<(Job, At)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// Has a place.
    Work,
    /// Gave its place to another pod, and waits first in its own line.
    Rest,
}

impl<W> Default for Line<W> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), active: None }
    }
}

impl<W> Queue<W> {
    pub(super) fn new(places: usize) -> Self {
        Self { free: places, closed: false, ring: VecDeque::new(), lines: HashMap::new() }
    }

    /// Puts a job at the end of its pod's line, where those that `gone` tells are removed. `false` once closed.
    pub(super) fn enter(&mut self, pod: &Arc<str>, job: Job, wake: W, gone: impl Fn(&W) -> bool) -> bool {
        if self.closed {
            return false;
        }
        let line = self.lines.entry(Arc::clone(pod)).or_default();
        let resting = line.active.is_some_and(|(_, at)| at == At::Rest);
        // What rests stays: its thread holds a half-made result.
        let mut first = true;
        line.waiting.retain(|(_, wake)| (std::mem::take(&mut first) && resting) || !gone(wake));
        line.waiting.push_back((job, wake));
        if line.active.is_none() && !self.ring.contains(pod) {
            self.ring.push_back(Arc::clone(pod));
        }
        true
    }

    /// Takes a free place for the job whose turn it is.
    pub(super) fn next(&mut self) -> Option<(Arc<str>, Job, W)> {
        if self.free == 0 {
            return None;
        }
        loop {
            let pod = self.ring.pop_front()?;
            let Some(line) = self.lines.get_mut(&pod) else { continue };
            let Some((job, wake)) = line.waiting.pop_front() else { continue };
            line.active = Some((job, At::Work));
            self.free -= 1;
            return Some((pod, job, wake));
        }
    }

    /// Whether another pod waits for a place.
    pub(super) fn is_wanted(&self) -> bool {
        !self.ring.is_empty()
    }

    /// Gives the job's place to the next pod; the job goes on before all others of its own pod. `false` once closed.
    pub(super) fn rest(&mut self, pod: &Arc<str>, job: Job, wake: W) -> bool {
        if self.closed {
            return false;
        }
        let line = self.lines.entry(Arc::clone(pod)).or_default();
        line.waiting.push_front((job, wake));
        line.active = Some((job, At::Rest));
        self.ring.push_back(Arc::clone(pod));
        self.free += 1;
        true
    }

    /// The job has ended: its place is free.
    pub(super) fn leave(&mut self, pod: &Arc<str>, job: Job) {
        let Some(line) = self.lines.get_mut(pod) else { return };
        if line.active != Some((job, At::Work)) {
            return;
        }
        line.active = None;
        self.free += 1;
        if line.waiting.is_empty() {
            self.lines.remove(pod);
        } else {
            self.ring.push_back(Arc::clone(pod));
        }
    }

    /// Admits no further work; returns what was waiting.
    pub(super) fn close(&mut self) -> Vec<W> {
        self.closed = true;
        self.ring.clear();
        self.lines.values_mut().flat_map(|line| line.waiting.drain(..)).map(|(_, wake)| wake).collect()
    }

    /// Whether [`Self::close`] was called.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pod(name: &str) -> Arc<str> {
        name.into()
    }

    fn enter(queue: &mut Queue<bool>, name: &str, job: u64) {
        assert!(queue.enter(&pod(name), Job(job), false, |gone| *gone));
    }

    #[test]
    fn pods_take_turns_whoever_asked_first_and_however_often() {
        let mut queue = Queue::new(1);
        for job in 0..8 {
            enter(&mut queue, "hostile", job);
        }
        enter(&mut queue, "quiet", 100);
        enter(&mut queue, "other", 200);
        let mut order = Vec::new();
        while let Some((pod, job, _)) = queue.next() {
            assert!(queue.next().is_none(), "there is one place");
            order.push(job.0);
            queue.leave(&pod, job);
        }
        assert_eq!(order, [0, 100, 200, 1, 2, 3, 4, 5, 6, 7]);
        assert!(queue.lines.is_empty() && queue.ring.is_empty());
    }

    #[test]
    fn a_pod_has_one_job_under_way_although_places_are_free() {
        let mut queue = Queue::new(4);
        enter(&mut queue, "a", 1);
        enter(&mut queue, "a", 2);
        let (a, first, _) = queue.next().unwrap();
        assert!(first == Job(1) && queue.next().is_none());
        queue.leave(&a, first);
        assert_eq!(queue.next().unwrap().1, Job(2));
    }

    #[test]
    fn a_long_job_gives_its_place_to_another_pod_and_goes_on_before_its_own() {
        let mut queue = Queue::new(1);
        enter(&mut queue, "a", 1);
        enter(&mut queue, "a", 2);
        let (a, long, _) = queue.next().unwrap();
        assert!(!queue.is_wanted(), "its own pod's work does not interrupt it");
        enter(&mut queue, "b", 3);
        assert!(queue.is_wanted() && queue.rest(&a, long, false));
        let (b, other, _) = queue.next().unwrap();
        assert_eq!(other, Job(3));
        queue.leave(&b, other);
        assert_eq!(queue.next().unwrap().1, Job(1));
        queue.leave(&a, long);
        assert_eq!(queue.next().unwrap().1, Job(2));
    }

    #[test]
    fn who_went_away_is_removed_from_the_line_and_nobody_enters_a_closed_pool() {
        let mut queue = Queue::new(1);
        enter(&mut queue, "a", 1);
        for job in 2..100 {
            assert!(queue.enter(&pod("a"), Job(job), true, |gone| *gone));
        }
        assert_eq!(queue.lines[&pod("a")].waiting.len(), 2);
        assert_eq!(queue.close().len(), 2);
        assert!(queue.is_closed() && queue.next().is_none());
        assert!(!queue.enter(&pod("b"), Job(200), false, |gone| *gone));
    }

    proptest! {
        /// Whatever happens, places are neither lost nor invented, and every job gets one.
        #[test]
        fn no_place_is_lost(places in 1usize..4, steps in prop::collection::vec((0u8..3, 0u8..5), 1..200)) {
            let mut queue = Queue::new(places);
            let (mut working, mut entered, mut ended, mut number) = (Vec::new(), 0, 0, 0);
            let take = |queue: &mut Queue<bool>, working: &mut Vec<(Arc<str>, Job)>| {
                while let Some((pod, job, _)) = queue.next() {
                    prop_assert!(working.iter().all(|(other, _)| *other != pod), "two jobs of one pod");
                    working.push((pod, job));
                }
                Ok(())
            };
            for (what, who) in steps {
                match what {
                    0 => {
                        number += 1;
                        entered += 1;
                        enter(&mut queue, &who.to_string(), number);
                    }
                    1 if !working.is_empty() => {
                        let (pod, job) = working.remove(usize::from(who) % working.len());
                        queue.leave(&pod, job);
                        ended += 1;
                    }
                    2 if !working.is_empty() && queue.is_wanted() => {
                        let (pod, job) = working.remove(usize::from(who) % working.len());
                        queue.rest(&pod, job, false);
                    }
                    _ => {}
                }
                take(&mut queue, &mut working)?;
                prop_assert!(working.len() <= places && queue.free + working.len() == places);
            }
            while let Some((pod, job)) = working.pop() {
                queue.leave(&pod, job);
                ended += 1;
                take(&mut queue, &mut working)?;
            }
            prop_assert_eq!(entered, ended);
            prop_assert!(queue.lines.is_empty() && queue.ring.is_empty() && queue.free == places);
        }
    }
}
