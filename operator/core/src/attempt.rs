//! Attempts at a unit: one Indexed Job each, until one ends well or the unit is over.
//!
//! The agent observes the member's API ([`Job`], [`Pod`]), remembers a little durably ([`Memory`]) and asks
//! [`decide`] what to do next; it persists the new memory **before** it acts, so a crash between the two repeats
//! the act instead of forgetting it. Nothing here reads a clock or an API.
//!
//! Rules, in the order in which they matter:
//! 1. attempt n+1 is made only after no pod of any earlier attempt can still run;
//! 2. any pod's end that is not exit 0 ends its attempt: the survivors cannot go on without it;
//!    but once the relay was told that a step is not finite, no pod is needed any more, and the log decides;
//! 3. the job's own faults stop a unit quickly ([`Class::Permanent`], or a few attempts without a new checkpoint),
//!    the world's faults (evictions, kills, lost nodes) are met with another attempt.

mod conclude;
mod decide;
mod end;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use decide::{Action, Condition, Decision, GRACE_SECONDS, decide, is_quiet};
pub use end::{Class, Container, End, Reason, classify};

/// How many attempts in a row may end by the job's own fault without a new checkpoint.
pub const MAX_FRUITLESS: i64 = 3;
/// The same for running out of memory, which is as deterministic as a fault gets.
pub const MAX_OUT_OF_MEMORY: i64 = 2;

/// What of the unit's payload the decisions depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The unit's name.
    pub unit: String,
    /// Pods of an attempt.
    pub workers: i64,
    /// The job's last step.
    pub steps: i64,
    /// Memory of one worker, for the message of an out-of-memory end.
    pub memory: String,
    /// Counted restarts that are allowed.
    pub max_restarts: i64,
    /// Whether there may be a second attempt at all.
    pub attempts: Attempts,
    /// From a Job's creation until all its workers run.
    pub schedule_timeout_seconds: i64,
}

/// How often a unit is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempts {
    /// As long as its restarts are not used up, and for ever where the world is to blame.
    Many,
    /// Once: somebody else is asked if that fails, whyever.
    One,
}

/// What the hub wants of the unit; it only ever moves down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Desired {
    /// Train.
    Run,
    /// Stop at the next interval boundary.
    Drain,
    /// Stop now.
    Stop,
}

/// A Job with this unit's labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// Its UID, the precondition of its deletion.
    pub uid: String,
    /// From its label.
    pub attempt: i64,
    /// `metadata.creationTimestamp`.
    pub created: Timestamp,
    /// Deletion has begun.
    pub deleting: bool,
    /// Message of its Failed condition.
    pub failed: Option<String>,
    /// It may have no pods now; what it waits for, as far as that is known.
    pub suspended: Option<String>,
    /// Why it cannot make its pods, from its FailedCreate events.
    pub failed_create: Option<String>,
}

/// A pod with this unit's labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its UID, the precondition of its deletion.
    pub uid: String,
    /// From its label.
    pub attempt: i64,
    /// Completion index.
    pub rank: i64,
    /// Deletion has begun, with this grace in seconds.
    pub grace: Option<i64>,
    /// Nothing of it can run any more.
    pub terminal: bool,
    /// How far it is.
    pub state: PodState,
}

/// How far a pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodState {
    /// Its worker has not started; what keeps it, if that is known.
    Waiting(Option<Obstacle>),
    /// Its worker runs.
    Running,
    /// Its worker ended with exit code 0.
    Done,
    /// It ended otherwise.
    Ended(End),
}

/// Why a pod does not start. It may go away by itself or by a person's act, so only the timeout ends the attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// Reason of `Scheduled=False`.
    pub reason: &'static str,
    /// What and what to do.
    pub message: String,
}

/// What the agent must not forget about a unit's attempts. Part of its durable state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// The newest attempt, from 1; 0 before the first.
    pub attempt: i64,
    /// Its Job was seen or made: if it is missing later, someone deleted it.
    pub created: bool,
    /// Since when it is being started.
    pub since: Option<Timestamp>,
    /// All its workers ran at some time.
    pub ran: bool,
    /// It has ended; its children are being removed.
    pub over: bool,
    /// The newest checkpoint when it began.
    pub start_step: i64,
    /// Ends that count against `maxRestarts`.
    pub restarts: i64,
    /// So many of them when the newest attempt began: restarts that have been made.
    #[serde(default)]
    pub restarted: i64,
    /// Attempts in a row that ended by the job's own fault without a new checkpoint.
    pub own_faults: i64,
    /// Attempts in a row without a single step, whoever is to blame: decides the pause before the next.
    pub barren: i64,
    /// The next attempt may not begin before this.
    pub not_before: Option<Timestamp>,
    /// How the last failed attempt ended.
    pub last_failure: Option<Failure>,
    /// Set once: the unit is over.
    pub outcome: Option<Outcome>,
}

/// How an attempt failed; becomes `status.lastFailure`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Which attempt.
    pub attempt: i64,
    /// The worker that ended first, or told most.
    pub rank: Option<i64>,
    /// Its exit code.
    pub exit_code: Option<i64>,
    /// See [`Reason::name`], or a stop's reason.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// How a unit is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// All steps done, the last checkpoint is durable.
    Succeeded,
    /// `last_failure` says why.
    Failed,
    /// On the hub's request: drained or stopped.
    Stopped,
}

/// A reason of the agent's own to end the unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// `GraceExpired`, `Expired`, `Superseded`, `ImageNotAllowed` and so on.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// A step that is not finite, as a pod has told the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedStep {
    /// Which.
    pub step: i64,
    /// How far that is.
    pub standing: Standing,
}

/// How far what was told is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// On its way to the log: no pod is needed for that.
    Waits,
    /// The log has it.
    Logged,
}

/// What is the case now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    /// Now.
    pub now: Timestamp,
    /// The hub's wish.
    pub desired: Desired,
    /// A reason of the agent's own to end the unit.
    pub stop: Option<Stop>,
    /// The step of the newest committed checkpoint, 0 for genesis.
    pub checkpoint_step: i64,
    /// Whether the stop rule ends the job with that checkpoint, before its last step.
    pub ends: bool,
    /// The last step that the current attempt reported.
    pub step: i64,
    /// What the relay says if worker processes of the current attempt die again and again inside their pods.
    pub crash_loop: Option<String>,
    /// The step that is not finite, once the relay was told of one.
    pub failed: Option<FailedStep>,
    /// The newest attempt number that the hub's status knows, for an agent that lost its state.
    pub known_attempt: i64,
    /// What the unit must wait for before it may start, if anything: capacity, or the hours in which is lent.
    pub waits_for: Option<String>,
    /// Why the member has not taken the attempt's Job, if it was asked and has not.
    pub refused_create: Option<String>,
    /// Why nothing more may be started of it, if so: what it needs is lent no more. What runs goes on.
    pub withdrawn: Option<Stop>,
    /// Jobs with this unit's labels.
    pub jobs: Vec<Job>,
    /// Pods with this unit's labels.
    pub pods: Vec<Pod>,
}
