//! The conditions of a TrainingJob, and the phase that people read, from one look at the job.
//!
//! Conditions are computed whole each time; what they were before matters only for `lastTransitionTime`, which the hub
//! keeps. The phase is derived from them and from nothing else.
use super::audits::Audits;
use super::{Member, Outcome, Unit, UnitPhase, failure::Failure};
use crate::queue::Leave;

/// Reason of `Placed` while nobody could audit the job.
pub const NO_AUDITORS: &str = "NoAuditors";
/// Reason of `Placed` while a unit makes room for another job.
pub const PREEMPTED: &str = "Preempted";
/// Reason of `Placed` while a unit ends its interval to be made again with another number of workers.
pub const RESIZING: &str = "Resizing";
/// Reason of `Progressing` after a conviction.
pub const FAULT_FOUND: &str = "FaultFound";
/// Reason of `Progressing` after an audit that could not tell who is wrong.
pub const RECOVERING: &str = "Recovering";
/// Reason of `Progressing` when there is nothing left to train.
const ALL_STEPS_DONE: &str = "AllStepsDone";
/// Reason of `Progressing` while a step that is said not to be finite is audited.
const NOT_FINITE: &str = "NotFinite";

/// metav1.Condition without the times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Its type.
    pub kind: Kind,
    /// True, False or Unknown.
    pub status: Status,
    /// CamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Types of conditions on a TrainingJob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The summary.
    Ready,
    /// The spec makes sense and its names are resolved.
    Accepted,
    /// Each island has a provider.
    Placed,
    /// Steps are being trained.
    Progressing,
    /// Paused.
    Suspended,
    /// What was drawn was replayed, and is right.
    Verified,
    /// All done.
    Succeeded,
    /// Given up.
    Failed,
}

impl Kind {
    /// As it is spelled in the object.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Accepted => "Accepted",
            Self::Placed => "Placed",
            Self::Progressing => "Progressing",
            Self::Suspended => "Suspended",
            Self::Verified => "Verified",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// Value of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Cannot be said yet.
    Unknown,
}

impl Status {
    /// As it is spelled in the object.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// For people and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not accepted (yet).
    Pending,
    /// Waiting for a provider, or for its pods.
    Placing,
    /// Steps advance.
    Running,
    /// Ran before, does not now, will again.
    Recovering,
    /// Paused.
    Suspended,
    /// All steps done, audits open.
    Settling,
    /// Done.
    Succeeded,
    /// Given up.
    Failed,
}

/// Whether the spec is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acceptance {
    /// Not looked at yet, or being resolved.
    Working,
    /// With its training digest.
    Resolved(String),
    /// Reason and message.
    No(String, String),
}

/// Why there is no unit, while there should be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplaced {
    /// NoProviders, NoCapacity, NoneEligible, NoAuditors.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Who wants a job to rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// A person, by `spec.suspend`.
    User,
    /// Kueue, which says this.
    Kueue(String),
}

/// Whether the job is paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pause {
    /// Never paused.
    Never,
    /// Was paused, runs again.
    Over,
    /// Asked for; the unit still drains.
    Draining(Hold),
    /// At rest.
    Resting(Hold),
}

/// One look at a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View<'a> {
    /// Is the spec accepted?
    pub accepted: Acceptance,
    /// Paused?
    pub pause: Pause,
    /// The unit that trains or shall train, if there is one.
    pub unit: Option<&'a Unit>,
    /// Why the unit makes room or is made anew, while it is asked to.
    pub leave: Option<Leave>,
    /// If there is none although there should be: why.
    pub unplaced: Option<Unplaced>,
    /// Why the last unit ended, if it failed and no new one runs yet.
    pub after: Option<Failure>,
    /// Whether training was under way at the last look and has not come back since.
    pub before: Before,
    /// `spec.training.steps`.
    pub steps: u64,
    /// The step after which the stop rule has ended the job.
    pub stopped_at: Option<u64>,
    /// Newest durable step.
    pub durable_step: u64,
    /// Whether there are steps left to train.
    pub stage: Stage,
    /// How far its audits are.
    pub audits: Audits,
    /// If it is over.
    pub outcome: Option<&'a Outcome>,
}

/// Whether there are steps left to train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// There are.
    Training,
    /// All are durable, and the audits are waited for.
    Settling,
    /// This one is not finite, and its audit is waited for.
    Failing(u64),
}

/// What the job did at the last look: the difference between a start (or a resumption) and a recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// It did not train: new, or at rest.
    Still,
    /// It trained, or was recovering already.
    Trained,
}

fn all_done(view: &View<'_>) -> String {
    match view.stopped_at {
        Some(step) => format!(
            "training ended after step {step} of {}, whose evaluation loss is at or below training.eval.stopAt, and the \
             result is durable",
            view.steps
        ),
        None => format!("all {} steps are done and the result is durable", view.steps),
    }
}

/// All conditions of the job, `Ready` first.
#[must_use]
pub fn conditions(view: &View<'_>) -> Vec<Condition> {
    let mut all = Vec::with_capacity(8);
    all.push(accepted(&view.accepted));
    if matches!(view.accepted, Acceptance::Resolved(_)) {
        match view.outcome {
            Some(outcome) => all.push(ended(outcome)),
            None => match view.stage {
                Stage::Settling => all.push(condition(
                    Kind::Progressing,
                    Status::False,
                    ALL_STEPS_DONE,
                    all_done(view),
                )),
                Stage::Failing(step) => all.push(condition(
                    Kind::Progressing,
                    Status::False,
                    NOT_FINITE,
                    format!(
                        "step {step} is not finite, says whoever trained it; the job fails if an audit finds the same"
                    ),
                )),
                Stage::Training => {
                    all.extend(placed(view));
                    all.extend(progressing(view));
                    all.extend(suspended(&view.pause));
                }
            },
        }
        all.extend(view.audits.condition());
    }
    let ready = ready(&all, view);
    all.insert(0, ready);
    all
}

/// The one word for `kubectl get`.
#[must_use]
pub fn phase(conditions: &[Condition]) -> Phase {
    let find = |kind| conditions.iter().find(|c| c.kind == kind);
    let is = |kind, wanted| find(kind).map(|c| c.status) == Some(wanted);
    let because = |kind, reason: &str| find(kind).is_some_and(|c| c.reason == reason);
    if is(Kind::Failed, Status::True) {
        Phase::Failed
    } else if is(Kind::Succeeded, Status::True) {
        Phase::Succeeded
    } else if !is(Kind::Accepted, Status::True) {
        Phase::Pending
    } else if is(Kind::Suspended, Status::True) {
        Phase::Suspended
    } else if is(Kind::Progressing, Status::True) {
        Phase::Running
    } else if because(Kind::Progressing, ALL_STEPS_DONE) || because(Kind::Progressing, NOT_FINITE) {
        Phase::Settling
    } else if is(Kind::Progressing, Status::False) {
        Phase::Recovering
    } else if because(Kind::Placed, NO_AUDITORS) {
        Phase::Pending
    } else {
        Phase::Placing
    }
}

pub(super) fn condition(kind: Kind, status: Status, reason: &str, message: impl Into<String>) -> Condition {
    Condition { kind, status, reason: reason.into(), message: message.into() }
}

fn accepted(acceptance: &Acceptance) -> Condition {
    match acceptance {
        Acceptance::Working => {
            condition(Kind::Accepted, Status::Unknown, "Resolving", "computing the training digest")
        }
        Acceptance::Resolved(digest) => {
            condition(Kind::Accepted, Status::True, "Resolved", format!("training digest {digest}"))
        }
        Acceptance::No(reason, message) => condition(Kind::Accepted, Status::False, reason, message.clone()),
    }
}

fn ended(outcome: &Outcome) -> Condition {
    match outcome {
        Outcome::Succeeded => {
            condition(Kind::Succeeded, Status::True, "Completed", "the last step is durable")
        }
        Outcome::Failed { reason, message } => condition(Kind::Failed, Status::True, reason, message.clone()),
    }
}

/// Why it trains again.
fn because(failure: &Failure) -> &str {
    match failure.reason.as_str() {
        FAULT_FOUND => FAULT_FOUND,
        RECOVERING => RECOVERING,
        _ => "Restarting",
    }
}

fn placed(view: &View<'_>) -> Option<Condition> {
    if matches!(view.pause, Pause::Resting(_)) {
        return None;
    }
    if let Some(why) = &view.unplaced {
        return Some(condition(Kind::Placed, Status::False, &why.reason, why.message.clone()));
    }
    let unit = view.unit?;
    let message = format!("on {} as unit {}, epoch {}", unit.provider, unit.name, unit.epoch);
    let (reason, message) = match &view.leave {
        Some(Leave::Preempted { message: why }) => {
            (PREEMPTED, format!("{message}; it stops at the end of its interval: {why}"))
        }
        Some(Leave::Resized { workers }) => {
            (RESIZING, format!("{message}; it goes on with {workers} workers from the end of its interval"))
        }
        None => ("Placed", message),
    };
    Some(condition(Kind::Placed, Status::True, reason, message))
}

fn progressing(view: &View<'_>) -> Option<Condition> {
    if matches!(view.pause, Pause::Resting(_)) {
        return None;
    }
    let no =
        |reason: &str, message: String| Some(condition(Kind::Progressing, Status::False, reason, message));
    let resumes = format!("training goes on from step {}", view.durable_step);
    // A job that did not train is Placing, not Recovering: False is kept for work that was interrupted.
    let (Some(unit), None) = (view.unit, &view.unplaced) else {
        return match (&view.after, view.before) {
            (Some(failure), _) => no(because(failure), format!("{failure}; {resumes} once it is placed")),
            (None, Before::Trained) => no("Restarting", format!("{resumes} once it is placed")),
            (None, Before::Still) => None,
        };
    };
    if let Some(failure) = &view.after {
        // The unit is new and takes over from one that failed: this is the moment to say why.
        let message = format!("{failure}; {resumes}");
        return match view.before {
            Before::Trained => no(because(failure), message),
            Before::Still => Some(condition(Kind::Progressing, Status::Unknown, because(failure), message)),
        };
    }
    if unit.member != Member::Connected {
        let message = format!(
            "{} does not renew its lease, and the job is with nobody else; it may go on training until its grace ends; \
             elsewhere {resumes}",
            unit.provider
        );
        return no("DisconnectedWithinGrace", message);
    }
    match unit.phase {
        UnitPhase::Running | UnitPhase::Draining | UnitPhase::Succeeded => {
            let message = format!("step {} of {}", reached(view, unit), view.steps);
            Some(condition(Kind::Progressing, Status::True, "StepAdvanced", message))
        }
        _ => match (&unit.waiting, &unit.failure, view.before) {
            (Some(why), _, Before::Still) => {
                Some(condition(Kind::Progressing, Status::Unknown, &why.reason, why.message.clone()))
            }
            (Some(why), _, Before::Trained) => no(&why.reason, why.message.clone()),
            (None, Some(failure), _) => no("PodLost", format!("{failure}; {resumes}")),
            (None, _, Before::Trained) => no("Restarting", format!("workers start; {resumes}")),
            (None, _, Before::Still) => {
                let message = format!("{} workers start on {}", unit.workers, unit.provider);
                Some(condition(Kind::Progressing, Status::Unknown, "Starting", message))
            }
        },
    }
}

/// A unit that has just taken over has made no step of its own yet.
fn reached(view: &View<'_>, unit: &Unit) -> u64 {
    unit.step.max(view.durable_step)
}

fn suspended(pause: &Pause) -> Option<Condition> {
    let (status, reason, message) = match pause {
        Pause::Never => return None,
        Pause::Over => (Status::False, "Resumed", "nothing holds it any more".to_owned()),
        Pause::Draining(hold) => {
            let why = match hold {
                Hold::User => "spec.suspend is true",
                Hold::Kueue(why) => why,
            };
            (Status::False, "Draining", format!("{why}; stops at the end of the interval"))
        }
        Pause::Resting(Hold::User) => {
            (Status::True, "SuspendedByUser", "spec.suspend is true; set it to false to go on".to_owned())
        }
        Pause::Resting(Hold::Kueue(why)) => (Status::True, "QueuedByKueue", why.clone()),
    };
    Some(condition(Kind::Suspended, status, reason, message))
}

/// The summary repeats the condition that matters most right now.
fn ready(others: &[Condition], view: &View<'_>) -> Condition {
    let find = |kind| others.iter().find(|c: &&Condition| c.kind == kind);
    let text = |kind| find(kind).map_or_else(String::new, |c| c.message.clone());
    let no = |reason: &str, message: String| condition(Kind::Ready, Status::False, reason, message);
    match phase(others) {
        Phase::Running => {
            let message = view.unit.map_or_else(String::new, |unit| {
                let n = unit.workers;
                let workers = if n == 1 { "worker" } else { "workers" };
                format!("{n} {workers} on {}, step {} of {}", unit.provider, reached(view, unit), view.steps)
            });
            condition(Kind::Ready, Status::True, "Training", message)
        }
        // The reason of the refusal is what a column should show.
        Phase::Pending => match (find(Kind::Accepted), find(Kind::Placed)) {
            (Some(c), _) | (_, Some(c)) if c.status == Status::False => no(&c.reason, c.message.clone()),
            _ => no("Pending", text(Kind::Accepted)),
        },
        Phase::Placing => match (find(Kind::Placed), find(Kind::Progressing)) {
            (Some(c), _) if c.status == Status::False => no(&c.reason, c.message.clone()),
            (_, Some(c)) if c.reason != "Starting" => no(&c.reason, c.message.clone()),
            (_, Some(c)) => no("Placing", c.message.clone()),
            (Some(c), None) => no("Placing", c.message.clone()),
            (None, None) => no("Placing", "looking for a provider".into()),
        },
        Phase::Recovering => match find(Kind::Placed) {
            Some(c) if c.status == Status::False => {
                no("Recovering", format!("{}; {}", c.message, text(Kind::Progressing)))
            }
            _ => no("Recovering", text(Kind::Progressing)),
        },
        Phase::Suspended => no("Suspended", text(Kind::Suspended)),
        Phase::Settling => {
            let done = text(Kind::Progressing);
            no("Settling", format!("{done}; {}", text(Kind::Verified)))
        }
        Phase::Succeeded => no("Finished", all_done(view)),
        Phase::Failed => {
            let failed = find(Kind::Failed);
            let why = failed.map_or("Failed", |c| c.reason.as_str());
            no("Failed", format!("{why}: {}", text(Kind::Failed)))
        }
    }
}
