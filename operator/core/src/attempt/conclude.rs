//! Whether an attempt, or the unit, is over.

use jiff::SignedDuration;

use super::decide::{covers_all_ranks, current, obstacle, remaining};
use super::end::{describe, most_telling};
use super::{
    Attempts, Class, Desired, End, FailedStep, Failure, Job, MAX_FRUITLESS, MAX_OUT_OF_MEMORY, Memory,
    Outcome, Plan, Pod, PodState, Reason, Standing, Stop, World,
};

/// Sets the outcome or ends the attempt if there is a reason to.
pub(super) fn conclude(plan: &Plan, memory: &mut Memory, world: &World) {
    if let Some(stop) = &world.stop {
        return end_unit(memory, stop);
    }
    if world.desired == Desired::Stop {
        memory.outcome = Some(Outcome::Stopped);
        return;
    }
    if let Some(failed) = world.failed {
        return conclude_failed(plan, memory, world, failed);
    }
    let running = memory.attempt > 0 && !memory.over;
    if running {
        conclude_attempt(plan, memory, world);
    }
    // A drain waits for the interval's end only if there is an interval under way.
    if memory.outcome.is_none()
        && world.desired == Desired::Drain
        && (memory.attempt == 0 || memory.over || !memory.ran)
    {
        memory.outcome = Some(Outcome::Stopped);
    }
}

fn end_unit(memory: &mut Memory, stop: &Stop) {
    memory.last_failure = Some(Failure {
        attempt: memory.attempt,
        rank: None,
        exit_code: None,
        reason: stop.reason.to_owned(),
        message: stop.message.clone(),
    });
    memory.outcome = Some(Outcome::Failed);
}

/// Ends a unit of which nothing more may be started and nothing runs: it waits, is between two attempts, or its Job is not made or
/// is suspended.
pub(super) fn withdraw(memory: &mut Memory, world: &World) {
    let Some(stop) = &world.withdrawn else { return };
    let is_made = |job: &Job| job.attempt == memory.attempt && job.suspended.is_none();
    let runs = memory.attempt > 0 && !memory.over && (memory.ran || world.jobs.iter().any(is_made));
    if !runs {
        end_unit(memory, stop);
    }
}

/// The relay was told of a step that is not finite. What the pods still do is of no use; of rank 0's, which says why, the end
/// is waited for, and it ends once the log has it.
fn conclude_failed(plan: &Plan, memory: &mut Memory, world: &World, failed: FailedStep) {
    let rank_0 = current(&world.pods, memory).find(|pod| pod.rank == 0).map(|pod| &pod.state);
    if failed.standing == Standing::Waits || matches!(rank_0, Some(PodState::Waiting(_) | PodState::Running))
    {
        return;
    }
    memory.over = true;
    if plan.attempts == Attempts::One {
        memory.outcome = Some(Outcome::Succeeded);
        return;
    }
    let message = format!("step {} is not finite; lower the learning rate or check the data", failed.step);
    let own = End { reason: Reason::NonFinite, exit_code: Some(65), message };
    let end = match rank_0 {
        Some(PodState::Ended(end)) if end.reason == Reason::NonFinite => end,
        _ => &own,
    };
    memory.last_failure = Some(describe(plan, memory.attempt, Some(0), end));
    memory.outcome = Some(Outcome::Failed);
}

/// Looks at the running attempt's Job and pods.
fn conclude_attempt(plan: &Plan, memory: &mut Memory, world: &World) {
    let pods: Vec<&Pod> = current(&world.pods, memory).collect();
    let job = world.jobs.iter().find(|job| job.attempt == memory.attempt && !job.deleting);
    let started = |pod: &&&Pod| matches!(pod.state, PodState::Running | PodState::Done);
    if covers_all_ranks(plan, pods.iter().filter(started).map(|pod| pod.rank)) {
        memory.ran = true;
    }
    // 1. Kueue, or a person, has taken back what it had: its pods are being deleted, whatever they say of their end.
    if let Some(why) = job.and_then(|job| job.suspended.as_ref())
        && (memory.ran || !pods.is_empty())
    {
        let end = End { reason: Reason::Preempted, exit_code: None, message: why.clone() };
        return end_attempt(plan, memory, world, None, &end);
    }
    // 2. A worker ended badly.
    let ends = pods.iter().filter_map(|pod| match &pod.state {
        PodState::Ended(end) => Some((pod.rank, end)),
        _ => None,
    });
    if let Some((rank, end)) = most_telling(ends) {
        return end_attempt(plan, memory, world, Some(rank), end);
    }
    // 3. The relay saw its worker processes die again and again.
    if let Some(message) = &world.crash_loop {
        let end = End { reason: Reason::Crashed, exit_code: None, message: message.clone() };
        return end_attempt(plan, memory, world, None, &end);
    }
    // 4. All ended well.
    let done = |pod: &&&Pod| pod.state == PodState::Done;
    if covers_all_ranks(plan, pods.iter().filter(done).map(|pod| pod.rank)) {
        if world.ends || world.checkpoint_step >= plan.steps {
            memory.outcome = Some(Outcome::Succeeded);
        } else if world.desired == Desired::Drain {
            memory.outcome = Some(Outcome::Stopped);
        } else {
            let message = format!("the newest checkpoint is of step {}", world.checkpoint_step);
            let end = End { reason: Reason::EndedEarly, exit_code: Some(0), message };
            end_attempt(plan, memory, world, None, &end);
        }
        return;
    }
    // 5. The Job is gone or given up although no pod of it shows why: the pod went before it was seen.
    let lost = match job {
        None if memory.created => Some("its Job was deleted".to_owned()),
        None => None,
        Some(job) => job.failed.clone(),
    };
    if let Some(message) = lost {
        let end = End { reason: Reason::PodLost, exit_code: None, message };
        return end_attempt(plan, memory, world, None, &end);
    }
    // 6. It does not get started.
    if !memory.ran && remaining(plan, memory, world.now) == Some(0) {
        let why = obstacle(world, job, &pods)
            .map_or_else(String::new, |obstacle| format!(": {}", obstacle.message));
        memory.last_failure = Some(Failure {
            attempt: memory.attempt,
            rank: None,
            exit_code: None,
            reason: "ScheduleTimeout".to_owned(),
            message: format!(
                "{} of {} workers ran after {} s{why}",
                pods.iter().filter(started).count(),
                plan.workers,
                plan.schedule_timeout_seconds
            ),
        });
        memory.outcome = Some(Outcome::Failed);
    }
}

/// Counts, and decides whether there may be another attempt.
fn end_attempt(plan: &Plan, memory: &mut Memory, world: &World, rank: Option<i64>, end: &End) {
    let mut failure = describe(plan, memory.attempt, rank, end);
    memory.over = true;
    let class = end.reason.class();
    if world.checkpoint_step > memory.start_step {
        memory.own_faults = 0;
    } else if class == Class::Own {
        memory.own_faults += 1;
    }
    memory.barren = if world.step > memory.start_step { 0 } else { memory.barren + 1 };
    if class != (Class::World { counted: false }) {
        memory.restarts += 1;
    }
    let limit = if end.reason == Reason::OomKilled { MAX_OUT_OF_MEMORY } else { MAX_FRUITLESS };
    let give_up = if class == Class::Permanent || plan.attempts == Attempts::One {
        true
    } else if class == Class::Own && memory.own_faults >= limit {
        // For lack of memory the remedy says it all.
        if end.reason != Reason::OomKilled {
            failure.message +=
                &format!(" ({} attempts in a row without a new checkpoint)", memory.own_faults);
        }
        true
    } else if memory.restarts > plan.max_restarts {
        failure.message += &format!(" (maxRestarts {} used up)", plan.max_restarts);
        true
    } else {
        false
    };
    if give_up {
        memory.outcome = Some(Outcome::Failed);
    }
    memory.last_failure = Some(failure);
    memory.not_before = world.now.checked_add(SignedDuration::from_secs(pause(memory.barren))).ok();
}

/// Seconds before the next attempt: none after an attempt that got somewhere, none after the first that did not.
fn pause(barren: i64) -> i64 {
    match barren {
        ..=1 => 0,
        n => 1 << (n - 2).min(6),
    }
}
