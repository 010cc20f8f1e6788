//! The decision: from what is remembered and what is the case to what to do and what to say.

use jiff::Timestamp;

use super::conclude::{conclude, withdraw};
use super::{Attempts, Desired, Job, Memory, Obstacle, Outcome, Plan, Pod, PodState, World};

/// What a pod of a doomed attempt gets between SIGTERM and SIGKILL. Not 0: that would take the object away before the
/// kubelet has said that the pod is gone.
pub const GRACE_SECONDS: i64 = 1;

/// Something to do at the member's API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make the Job of this attempt.
    Create {
        /// Its number.
        attempt: i64,
    },
    /// Delete a Job, pods in the background.
    DeleteJob {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// Delete a pod with a short grace: what it computes is of no use any more.
    DeletePod {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
}

/// A condition without its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// True or False.
    pub status: bool,
    /// CamelCase, from api.md.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// What to remember, do and say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// To be made durable before the actions.
    pub memory: Memory,
    /// In order.
    pub actions: Vec<Action>,
    /// `status.phase`.
    pub phase: &'static str,
    /// Condition Scheduled; `None` = not known yet, leave it out.
    pub scheduled: Option<Condition>,
    /// Condition Ready.
    pub ready: Condition,
    /// Condition Released, once the unit is over: the only proof that nothing runs any more.
    pub released: Option<Condition>,
    /// Decide again after this many seconds even if nothing is seen to happen.
    pub wake: Option<i64>,
}

/// See the module's rules.
#[must_use]
pub fn decide(plan: &Plan, memory: &Memory, world: &World) -> Decision {
    let mut memory = memory.clone();
    recover(&mut memory, world);
    if memory.outcome.is_none() {
        conclude(plan, &mut memory, world);
    }
    if memory.outcome.is_none() {
        withdraw(&mut memory, world);
    }
    match memory.outcome {
        Some(outcome) => wind_down(plan, memory, outcome, world),
        None if memory.attempt == 0 || memory.over => between(plan, memory, world),
        None => during(plan, memory, world),
    }
}

/// An agent that lost its state finds its attempts again: no number is ever used twice.
fn recover(memory: &mut Memory, world: &World) {
    if let Some(job) = world.jobs.iter().max_by_key(|job| job.attempt) {
        if job.attempt > memory.attempt {
            let since = Some(job.created);
            let start_step = world.checkpoint_step;
            *memory = Memory {
                attempt: job.attempt,
                since,
                start_step,
                ran: false,
                over: false,
                created: true,
                ..memory.clone()
            };
        } else if job.attempt == memory.attempt {
            memory.created = true;
        }
    }
    let highest = world.pods.iter().map(|pod| pod.attempt).max().unwrap_or(0).max(world.known_attempt);
    if highest > memory.attempt {
        *memory = Memory { attempt: highest, over: true, created: true, ..memory.clone() };
    }
}

/// The unit is over: remove everything, and say so when nothing is left.
fn wind_down(plan: &Plan, memory: Memory, outcome: Outcome, world: &World) -> Decision {
    let clean = world.jobs.is_empty() && world.pods.is_empty();
    let phase = match outcome {
        // The hub takes a finished phase as proof that no worker of the unit can train any more.
        _ if !is_quiet(&world.jobs, &world.pods) => "Draining",
        Outcome::Stopped if !clean => "Draining",
        Outcome::Stopped => "Released",
        _ if clean && world.desired == Desired::Stop => "Released",
        Outcome::Succeeded => "Succeeded",
        Outcome::Failed => "Failed",
    };
    let message = match (&memory.last_failure, outcome) {
        (Some(failure), Outcome::Failed) => failure.message.clone(),
        (_, Outcome::Succeeded) if plan.attempts == Attempts::One => "the replay is sealed".to_owned(),
        (_, Outcome::Succeeded) => format!("step {} is durable", world.checkpoint_step),
        (_, Outcome::Stopped) => format!("stopped by the hub at checkpoint {}", world.checkpoint_step),
        (None, Outcome::Failed) => String::new(),
    };
    let reason = match outcome {
        Outcome::Stopped if !clean => "Draining",
        Outcome::Failed if memory.last_failure.as_ref().is_some_and(|f| f.reason == "GraceExpired") => {
            "GraceExpired"
        }
        _ => "Finished",
    };
    Decision {
        actions: removals(world, |_| true),
        phase,
        scheduled: None,
        ready: Condition { status: false, reason, message },
        released: Some(released(world)),
        wake: (!clean).then_some(2),
        memory,
    }
}

/// No attempt is under way: clear the ground, then make the next one.
fn between(plan: &Plan, mut memory: Memory, world: &World) -> Decision {
    let why = memory.last_failure.as_ref().map_or_else(
        || format!("starting {} workers", plan.workers),
        |failure| format!("after attempt {}: {}", failure.attempt, failure.message),
    );
    let mut decision = Decision {
        actions: removals(world, |_| true),
        phase: "Starting",
        scheduled: None,
        ready: Condition { status: false, reason: starting(&memory), message: why },
        released: None,
        wake: Some(2),
        memory: memory.clone(),
    };
    if !is_quiet(&world.jobs, &world.pods) {
        return decision;
    }
    if let Some(until) = memory.not_before.filter(|until| *until > world.now) {
        decision.wake = Some(seconds_between(world.now, until));
        return decision;
    }
    if let Some(message) = &world.waits_for {
        decision.phase = "Queued";
        decision.scheduled =
            Some(Condition { status: false, reason: "Unschedulable", message: message.clone() });
        decision.wake = Some(3);
        return decision;
    }
    memory.attempt += 1;
    memory.restarted = memory.restarts;
    memory.created = false;
    memory.since = Some(world.now);
    memory.ran = false;
    memory.over = false;
    memory.start_step = world.checkpoint_step;
    decision.actions.push(Action::Create { attempt: memory.attempt });
    decision.memory = memory;
    decision
}

/// An attempt is under way and nothing is wrong that a person need not wait for.
fn during(plan: &Plan, memory: Memory, world: &World) -> Decision {
    let pods: Vec<&Pod> = current(&world.pods, &memory).collect();
    let job = world.jobs.iter().find(|job| job.attempt == memory.attempt);
    let started = pods.iter().filter(|pod| matches!(pod.state, PodState::Running | PodState::Done)).count();
    let workers = format!("{started}/{} workers", plan.workers);
    let mut actions = removals(world, |attempt| attempt != memory.attempt);
    if job.is_none() {
        // The agent stopped between remembering and making it. The name is the same, so this cannot make two.
        actions.push(Action::Create { attempt: memory.attempt });
    }
    let draining = world.desired == Desired::Drain;
    let queued = job.is_some_and(|job| job.suspended.is_some());
    let (phase, reason) = match (memory.ran, draining) {
        (false, false) if queued => ("Queued", starting(&memory)),
        (true, false) => ("Running", "Training"),
        (_, true) => ("Draining", "Draining"),
        (false, false) => ("Starting", starting(&memory)),
    };
    let scheduled = if memory.ran {
        Condition { status: true, reason: "AllRunning", message: workers.clone() }
    } else {
        let obstacle = obstacle(world, job, &pods)
            .unwrap_or_else(|| Obstacle { reason: "Starting", message: format!("{workers} run") });
        Condition { status: false, reason: obstacle.reason, message: obstacle.message }
    };
    let message = match &memory.last_failure {
        Some(failure) if !memory.ran => {
            format!("{workers} after attempt {}: {}", failure.attempt, failure.message)
        }
        _ => workers,
    };
    Decision {
        actions,
        phase,
        ready: Condition { status: memory.ran && !draining, reason, message },
        scheduled: Some(scheduled),
        released: None,
        // While it starts, look now and then: events of a Job are not watched.
        wake: if memory.ran {
            None
        } else {
            remaining(plan, &memory, world.now).map(|left| left.clamp(1, 5))
        },
        memory,
    }
}

/// The first start is no restart.
fn starting(memory: &Memory) -> &'static str {
    if memory.last_failure.is_some() { "Restarting" } else { "Starting" }
}

/// Whether nothing can run. Rule 1: a pod that is terminal but still listed cannot run again; a Job that is not being deleted may
/// make pods.
#[must_use]
pub fn is_quiet(jobs: &[Job], pods: &[Pod]) -> bool {
    jobs.iter().all(|job| job.deleting) && pods.iter().all(|pod| pod.terminal)
}

/// Deletions of the Jobs and pods of the chosen attempts that are not on their way out yet. A pod that someone else
/// deleted with a long grace is told again: its end is what the next attempt waits for.
fn removals(world: &World, chosen: impl Fn(i64) -> bool) -> Vec<Action> {
    let jobs = world.jobs.iter().filter(|job| chosen(job.attempt) && !job.deleting);
    let pods = world.pods.iter().filter(|pod| {
        let leaving = if pod.terminal {
            pod.grace.is_some()
        } else {
            pod.grace.is_some_and(|grace| grace <= GRACE_SECONDS)
        };
        chosen(pod.attempt) && !leaving
    });
    jobs.map(|job| Action::DeleteJob { name: job.name.clone(), uid: job.uid.clone() })
        .chain(pods.map(|pod| Action::DeletePod { name: pod.name.clone(), uid: pod.uid.clone() }))
        .collect()
}

fn released(world: &World) -> Condition {
    if world.jobs.is_empty() && world.pods.is_empty() {
        return Condition {
            status: true,
            reason: "ChildrenGone",
            message: "no Job or pod is left".to_owned(),
        };
    }
    let message = format!("{} pods, {} Jobs", world.pods.len(), world.jobs.len());
    Condition { status: false, reason: "PodsTerminating", message }
}

/// What keeps the attempt from starting: that there is no Job, then the Job's own trouble, then the lowest rank's.
pub(super) fn obstacle(world: &World, job: Option<&Job>, pods: &[&Pod]) -> Option<Obstacle> {
    let refused = job.map_or(&world.refused_create, |job| &job.failed_create);
    if let Some(message) = refused.clone() {
        let security = message.contains("PodSecurity");
        let reason = if security { "PodSecurityRejected" } else { "Unschedulable" };
        return Some(Obstacle { reason, message });
    }
    if let Some(message) = job.and_then(|job| job.suspended.clone()) {
        return Some(Obstacle { reason: "QueuedByKueue", message });
    }
    let mut waiting: Vec<&&Pod> = pods.iter().collect();
    waiting.sort_by_key(|pod| pod.rank);
    waiting.into_iter().find_map(|pod| match &pod.state {
        PodState::Waiting(obstacle) => obstacle.clone(),
        _ => None,
    })
}

pub(super) fn current<'a>(pods: &'a [Pod], memory: &Memory) -> impl Iterator<Item = &'a Pod> {
    let attempt = memory.attempt;
    pods.iter().filter(move |pod| pod.attempt == attempt)
}

pub(super) fn covers_all_ranks(plan: &Plan, ranks: impl Iterator<Item = i64>) -> bool {
    let distinct: std::collections::BTreeSet<i64> = ranks.collect();
    distinct == (0..plan.workers).collect()
}

/// Seconds left of the schedule timeout.
pub(super) fn remaining(plan: &Plan, memory: &Memory, now: Timestamp) -> Option<i64> {
    let since = memory.since?;
    Some((plan.schedule_timeout_seconds - now.duration_since(since).as_secs()).max(0))
}

fn seconds_between(now: Timestamp, until: Timestamp) -> i64 {
    until.duration_since(now).as_secs() + 1
}
