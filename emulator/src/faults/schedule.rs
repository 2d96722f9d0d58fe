//! Fault schedules: an incident as a file with a seed, replayed compressed in time.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Call, Effect, Fault, concerns, hit};
use crate::rng::Rng;

/// The course of one incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Schedule {
    /// Short name, such as `lt7p-9w0`.
    pub name: String,
    /// What happened, in a sentence or two.
    pub description: String,
    /// Seeds the draws of `share`, so that one replay is like the other.
    pub seed: u64,
    /// Only an emulator of this region is hit. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Stretches of time with their faults; they may overlap and leave gaps.
    pub phases: Vec<Phase>,
}

/// One stretch of an incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Phase {
    /// Hours since the beginning, inclusive.
    pub from_hours: f64,
    /// Hours since the beginning, exclusive.
    pub to_hours: f64,
    /// What goes wrong meanwhile. `times` has no meaning here.
    pub faults: Vec<Fault>,
}

/// A schedule that cannot be played, with the reason.
#[derive(Debug, PartialEq, Eq)]
pub struct ScheduleError(String);

impl std::fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "bad fault schedule: {}", self.0)
    }
}

impl std::error::Error for ScheduleError {}

const SHIPPED: [&str; 3] = [
    include_str!("../../schedules/lt7p-9w0.json"),
    include_str!("../../schedules/ftvr-l9z.json"),
    include_str!("../../schedules/m5b-9rz.json"),
];

impl Schedule {
    /// Reads a schedule from JSON.
    ///
    /// # Errors
    /// Text that is not of this form, a phase that ends before it begins, a share outside 0 to 1.
    pub fn parse(json: &[u8]) -> Result<Self, ScheduleError> {
        let schedule: Self = serde_json::from_slice(json).map_err(|e| ScheduleError(e.to_string()))?;
        for phase in &schedule.phases {
            let ordered =
                phase.from_hours >= 0.0 && phase.from_hours < phase.to_hours && phase.to_hours.is_finite();
            if !ordered {
                return Err(ScheduleError(format!("phase {} to {} hours", phase.from_hours, phase.to_hours)));
            }
            if let Some(fault) = phase.faults.iter().find(|fault| !(0.0..=1.0).contains(&fault.share)) {
                return Err(ScheduleError(format!("share {}", fault.share)));
            }
            if phase.faults.iter().any(|fault| fault.times.is_some()) {
                return Err(ScheduleError("`times` in a phase".to_owned()));
            }
        }
        Ok(schedule)
    }

    /// The schedules that come with the emulator: `lt7p-9w0`, `ftvr-l9z` and `m5b-9rz`.
    #[must_use]
    pub fn shipped() -> Vec<Self> {
        SHIPPED
            .iter()
            .map(|json| Self::parse(json.as_bytes()).expect("a test reads each shipped schedule"))
            .collect()
    }

    /// One of the shipped schedules.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::shipped().into_iter().find(|schedule| schedule.name.eq_ignore_ascii_case(name))
    }

    /// The incident's length in hours.
    #[must_use]
    pub fn hours(&self) -> f64 {
        self.phases.iter().map(|phase| phase.to_hours).fold(0.0, f64::max)
    }
}

/// A schedule under way.
pub(super) struct Playing {
    schedule: Arc<Schedule>,
    speed: f64,
    started_millis: i64,
    rng: Rng,
}

impl Playing {
    pub(super) fn new(schedule: Arc<Schedule>, speed: f64, now_millis: i64) -> Self {
        let rng = Rng::seeded(schedule.seed);
        Self { schedule, speed, started_millis: now_millis, rng }
    }

    pub(super) fn name(&self) -> &str {
        &self.schedule.name
    }

    pub(super) fn finished(&self, now_millis: i64) -> bool {
        self.hours_in(now_millis) >= self.schedule.hours()
    }

    pub(super) fn effects(&mut self, call: &Call, region: &str, now_millis: i64) -> Vec<Effect> {
        if self.schedule.region.as_ref().is_some_and(|wanted| wanted != region) {
            return Vec::new();
        }
        let hours = self.hours_in(now_millis);
        self.schedule
            .phases
            .iter()
            .filter(|phase| phase.from_hours <= hours && hours < phase.to_hours)
            .flat_map(|phase| &phase.faults)
            .filter(|fault| concerns(fault, call) && hit(fault, &self.rng))
            .map(|fault| fault.effect.clone())
            .collect()
    }

    #[expect(clippy::cast_precision_loss, reason = "milliseconds of an incident fit 53 bits")]
    fn hours_in(&self, now_millis: i64) -> f64 {
        (now_millis - self.started_millis) as f64 * self.speed / 3_600_000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::{Action, Collection, Operation};

    fn get() -> Call {
        Call {
            operation: Operation::Vault(Collection::Secrets, Action::Get),
            site: "shop".to_owned(),
            object: None,
            authenticated: true,
        }
    }

    #[test]
    fn the_three_shipped_schedules_are_readable_and_as_long_as_the_incidents() {
        let lengths: Vec<_> = Schedule::shipped().iter().map(|s| (s.name.clone(), s.hours())).collect();
        assert_eq!(
            lengths,
            [("lt7p-9w0".to_owned(), 124.0), ("ftvr-l9z".to_owned(), 5.5), ("m5b-9rz".to_owned(), 6.0)]
        );
    }

    #[test]
    fn a_replay_compressed_in_time_is_like_the_other() {
        let schedule = Arc::new(Schedule::named("LT7P-9W0").expect("shipped"));
        let run = || -> Vec<bool> {
            let mut playing = Playing::new(schedule.clone(), 3600.0, 0);
            (0..130_000).step_by(50).map(|ms| !playing.effects(&get(), "any", ms).is_empty()).collect()
        };
        let first = run();
        assert_eq!(first, run());
        // 124 hours at 3600 times the speed last 124 s; nothing is hit after that.
        assert!(first[..2_400].iter().any(|hit| *hit) && first[..2_400].iter().any(|hit| !*hit));
        assert!(first[2_480..].iter().all(|hit| !*hit));
    }

    #[test]
    fn a_schedule_for_one_region_leaves_the_others_alone() {
        let schedule = Arc::new(Schedule::named("ftvr-l9z").expect("shipped"));
        let imds = Call { operation: Operation::ImdsToken, ..get() };
        let hits = |region: &str| {
            let mut playing = Playing::new(schedule.clone(), 1.0, 0);
            (0..200).filter(|n| !playing.effects(&imds, region, 3_600_000 + n).is_empty()).count()
        };
        let region = schedule.region.clone().expect("it was one region");
        assert!(hits(&region) > 100);
        assert_eq!(hits("elsewhere"), 0);
    }

    #[test]
    fn impossible_schedules_are_refused() {
        for bad in [
            r"{}",
            r#"{"name":"x","description":"","seed":1,"phases":[{"fromHours":2,"toHours":1,"faults":[]}]}"#,
            r#"{"name":"x","description":"","seed":1,"phases":[{"fromHours":0,"toHours":1,"faults":[{"share":2,"effect":{"kind":"hang"}}]}]}"#,
            r#"{"name":"x","description":"","seed":1,"phases":[{"fromHours":0,"toHours":1,"faults":[{"effect":{"kind":"unheard-of"}}]}]}"#,
        ] {
            assert!(Schedule::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
