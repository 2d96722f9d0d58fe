#![expect(
    clippy::arithmetic_side_effects,
    reason = "counts and times of this process; a pod can make at most so many refusals in its life"
)]

use std::collections::HashMap;
use std::time::Duration;

/// What the first refusal costs; each further one twice as much.
const FIRST: Duration = Duration::from_secs(1);
/// What a refusal costs at most.
const MOST: Duration = Duration::from_secs(300);
/// One refusal is forgiven after this, and one more after it again.
const FORGIVEN: Duration = Duration::from_secs(600);
/// Pods that are remembered: a node has far fewer, and those that are gone are forgiven.
const PODS: usize = 4096;

/// How long pods wait whose work was refused for its cost.
#[derive(Default)]
pub(super) struct Penalties(HashMap<String, Penalty>);

struct Penalty {
    refused: u32,
    last: Duration,
    until: Duration,
}

impl Penalty {
    fn forgive(&mut self, now: Duration) {
        let periods = u32::try_from(now.saturating_sub(self.last).as_secs() / FORGIVEN.as_secs());
        let periods = periods.unwrap_or(u32::MAX).min(self.refused);
        self.refused -= periods;
        self.last += FORGIVEN * periods;
    }
}

impl Penalties {
    /// Notes a refusal at `now`.
    pub(super) fn refuse(&mut self, pod: &str, now: Duration) {
        self.0.retain(|_, penalty| {
            penalty.forgive(now);
            penalty.refused > 0
        });
        if self.0.len() >= PODS
            && let Some(oldest) = self.0.iter().min_by_key(|(_, it)| it.last).map(|(pod, _)| pod.clone())
        {
            self.0.remove(&oldest);
        }
        let penalty = self.0.entry(pod.to_owned()).or_insert(Penalty { refused: 0, last: now, until: now });
        penalty.refused = penalty.refused.saturating_add(1);
        penalty.last = now;
        penalty.until = now + MOST.min(FIRST * 2u32.pow(penalty.refused.min(16) - 1));
    }

    /// How long the pod still waits.
    pub(super) fn left(&self, pod: &str, now: Duration) -> Option<Duration> {
        self.0.get(pod)?.until.checked_sub(now).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_costs_its_pod_twice_as_much_and_is_forgiven_in_time() {
        let (mut penalties, mut now) = (Penalties::default(), Duration::from_secs(1000));
        let mut costs = Vec::new();
        for _ in 0..11 {
            penalties.refuse("a", now);
            let left = penalties.left("a", now).unwrap();
            costs.push(left.as_secs());
            assert_eq!(penalties.left("b", now), None);
            now += left;
            assert_eq!(penalties.left("a", now), None);
        }
        assert_eq!(costs, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        // Ten of eleven are forgiven.
        now += FORGIVEN * 10;
        penalties.refuse("a", now);
        assert_eq!(penalties.left("a", now), Some(FIRST * 2));
        penalties.refuse("b", now + FORGIVEN * 3);
        assert_eq!(penalties.0.len(), 1, "who was forgiven all is forgotten");
    }

    #[test]
    fn pods_that_come_and_go_fill_no_memory() {
        let mut penalties = Penalties::default();
        for number in 0..PODS + 10 {
            penalties.refuse(&number.to_string(), Duration::from_millis(number as u64));
        }
        assert_eq!(penalties.0.len(), PODS);
        assert!(!penalties.0.contains_key("0") && penalties.0.contains_key(&(PODS + 9).to_string()));
    }
}
