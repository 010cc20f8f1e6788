//! Whether a unit gets on.
use std::time::Duration;

use jiff::Timestamp;
use muster_api::v1alpha1::TrainingJob;
use muster_core::lifecycle::{Member, Stall, Unit, UnitPhase};

use super::number;
use crate::hub::context::Memory;

/// What an agent times by itself is left to it for so much longer.
const AGENT_FIRST: Duration = Duration::from_secs(60);
/// What takes long though nothing is wrong, a checkpoint on its way or steps that are trained again, may take so many times
/// `progressDeadlineSeconds`.
const SLOW: u32 = 3;

/// Whether the unit does not get on, by the hub's own clock since it first saw it as it is; else how long it may stay like that.
/// `progress` is when its agent was told of a step.
pub(super) fn stall(
    memory: &Memory,
    job: &TrainingJob,
    unit: &mut Unit,
    progress: Option<Timestamp>,
) -> Option<Duration> {
    if unit.member != Member::Connected {
        // When it comes back, its heartbeat may be here before what it has done meanwhile.
        memory.blind(Some(&unit.name));
    }
    if unit.phase.ended() || unit.member != Member::Connected || planted!("stuck-for-ever") {
        return None;
    }
    let policy = &job.spec.failure_policy;
    let seconds = |seconds: i32| Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let (no_step, no_start) =
        (seconds(policy.progress_deadline_seconds), seconds(policy.schedule_timeout_seconds));
    // Its agent measures the same, from a little later, and says more about it.
    let no_start = no_start + AGENT_FIRST;
    let runs = matches!(unit.phase, UnitPhase::Running | UnitPhase::Draining);
    let (stall, limit, mark) = match runs {
        true => {
            let limit = if has_trained_all(job, unit) { SLOW * no_step } else { no_step };
            let reported = progress.map_or(0, |at| number(at.as_second()));
            // Another attempt takes it on, and so does a step, be it one that is trained again.
            (Stall::NoStep, limit, [1 + u64::from(unit.attempt), unit.step, reported])
        }
        // Neither does how its agent names what it does before the first step, nor that its pods are refused again and again.
        false => (Stall::NotStarted, no_start, [0, unit.step, 0]),
    };
    let (same, no_further) = memory.unchanged(&unit.name, mark, unit.step);
    // Pushed out each time before it gets further than it was, it would begin for ever.
    let left = limit.checked_sub(same);
    let left_in_all = (no_start + SLOW * no_step).checked_sub(no_further);
    let left = left.min(left_in_all).filter(|left| !left.is_zero());
    unit.stall = left.is_none().then_some(stall);
    left
}

/// Whether nothing is left to train in its interval or at all: its last checkpoint is on its way, which may take long.
fn has_trained_all(job: &TrainingJob, unit: &Unit) -> bool {
    let training = &job.spec.training;
    let ends_interval = unit.step.is_multiple_of(number(training.interval_steps).max(1));
    unit.step >= number(training.steps) || (unit.phase == UnitPhase::Draining && ends_interval)
}

#[cfg(test)]
mod tests {
    use muster_api::v1alpha1::TrainingJobStatus;
    use muster_core::lifecycle::{Desired, Tenure};

    use super::*;

    fn job() -> TrainingJob {
        let policy = serde_json::json!({"scheduleTimeoutSeconds": 40, "progressDeadlineSeconds": 100});
        let mut job = crate::hub::job::tests::job(&TrainingJobStatus::default());
        job.spec.failure_policy = serde_json::from_value(policy).unwrap();
        (job.spec.training.steps, job.spec.training.interval_steps) = (200, 20);
        job
    }

    fn unit(phase: UnitPhase, attempt: u32, step: u64) -> Unit {
        Unit {
            name: "4f2a9c1b-0-1".into(),
            provider: "east".into(),
            epoch: 1,
            desired: Desired::Run,
            phase,
            attempt,
            free: 0,
            workers: 2,
            step,
            delivered: true,
            failure: None,
            waiting: None,
            member: Member::Connected,
            tenure: Tenure::Keeps,
            stall: None,
            restarts_before: 0,
        }
    }

    /// Seconds until the unit is given up; none once it is. `progress` is when a step was reported.
    fn left(memory: &Memory, mut unit: Unit, progress: i64) -> Result<u64, Stall> {
        let at = Timestamp::from_second(progress).unwrap();
        let left = stall(memory, &job(), &mut unit, Some(at));
        left.map(|left| left.as_secs()).ok_or_else(|| unit.stall.unwrap())
    }

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn steps_and_attempts_take_a_unit_on() {
        let memory = Memory::default();
        assert_eq!(left(&memory, unit(UnitPhase::Running, 1, 110), 0), Ok(100));
        pass(60).await;
        assert_eq!(left(&memory, unit(UnitPhase::Running, 1, 110), 0), Ok(40));
        assert_eq!(left(&memory, unit(UnitPhase::Running, 1, 111), 1), Ok(100));
        pass(60).await;
        assert_eq!(left(&memory, unit(UnitPhase::Running, 2, 111), 1), Ok(100), "another attempt");
        pass(60).await;
        assert_eq!(left(&memory, unit(UnitPhase::Running, 2, 111), 2), Ok(100), "it trains step 101 again");
        pass(100).await;
        assert_eq!(left(&memory, unit(UnitPhase::Running, 2, 111), 2), Err(Stall::NoStep));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_never_gets_further_is_given_up() {
        let memory = Memory::default();
        // Its pods are refused as soon as they are made.
        for attempt in 1..=5 {
            assert!(left(&memory, unit(UnitPhase::Starting, attempt, 0), 0).is_ok());
            pass(20).await;
        }
        assert_eq!(left(&memory, unit(UnitPhase::Starting, 6, 0), 0), Err(Stall::NotStarted));
        // Its pods are pushed out each time before it is where it was.
        let memory = Memory::default();
        for attempt in 1..=4 {
            assert!(left(&memory, unit(UnitPhase::Starting, attempt, 110), 0).is_ok());
            pass(40).await;
            assert!(left(&memory, unit(UnitPhase::Running, attempt, 110), 0).is_ok());
            pass(60).await;
        }
        assert_eq!(left(&memory, unit(UnitPhase::Starting, 5, 110), 0), Err(Stall::NotStarted));
    }

    #[tokio::test(start_paused = true)]
    async fn a_checkpoint_on_its_way_may_take_long() {
        let memory = Memory::default();
        for last in [unit(UnitPhase::Running, 1, 200), unit(UnitPhase::Draining, 1, 120)] {
            memory.forget("4f2a9c1b-0-1");
            assert_eq!(left(&memory, last.clone(), 0), Ok(300));
            pass(300).await;
            assert_eq!(left(&memory, last, 0), Err(Stall::NoStep));
        }
        memory.forget("4f2a9c1b-0-1");
        assert_eq!(left(&memory, unit(UnitPhase::Draining, 1, 121), 0), Ok(100));
    }
}
