//! What to do next with a TrainingJob: `decide(facts) -> Decision`. No kube, no clock: the hub gathers the facts, acts, and
//! writes the conditions of [`conditions`].
//!
//! The order of the questions is the point: what a verdict undid is undone first, finished work is never redone but for that, a
//! person's wish (suspend) goes before repair, and a new epoch starts only when the old one can no longer train, or its member is silent and another
//! one can have it: then the old one is fenced (docs/spec/gateway.md section 6).
pub mod audits;
pub mod conditions;
pub mod failure;

pub use audits::{Audits, FailedStep, Rollback};
pub use failure::{Action, Failure, Rule, Verdict};

use crate::queue::{Leave, Size};

/// What a trainer ends with that found a step not finite.
const NON_FINITE: i32 = 65;

/// What the hub asks of a unit. Ordered: it only ever moves to the right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Desired {
    /// Train.
    Run,
    /// Stop at the end of the current interval.
    Drain,
    /// Stop now.
    Stop,
}

/// How far a unit is, as its agent says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitPhase {
    /// The agent has not said anything yet.
    Unseen,
    /// Envelope checked.
    Accepted,
    /// The agent will not run it.
    Refused,
    /// Waiting for room on the member.
    Queued,
    /// Pods exist, not all workers train.
    Starting,
    /// All workers train.
    Running,
    /// Stopping at the interval's end.
    Draining,
    /// Last step done, checkpoint durable.
    Succeeded,
    /// Given up; all pods are terminal.
    Failed,
    /// Nothing is left of it on the member.
    Released,
}

impl UnitPhase {
    /// Whether no worker of the unit can train any more. `Failed` qualifies: it is set only after all pods are terminal.
    #[must_use]
    pub fn ended(self) -> bool {
        matches!(self, Self::Refused | Self::Succeeded | Self::Failed | Self::Released)
    }
}

/// Whether the hub hears from the member that runs a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Member {
    /// Its lease is fresh.
    Connected,
    /// Its lease expired; it may still train until its grace ends.
    Away,
    /// Its lease expired longer ago than the grace: by contract it has stopped.
    Gone,
}

/// Whether the provider may keep what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tenure {
    /// Enabled or Cordoned.
    Keeps,
    /// Drained, or the ComputeProvider is being deleted: leave at the end of the interval.
    Leaves,
    /// Somebody deleted the unit: stop now; its member is as good as before.
    Ends,
    /// The provider is revoked: it is not waited for, and nothing that it says counts any more.
    Revoked,
}

/// A unit that does not get on, although its agent is there: by its own clock the agent should have ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stall {
    /// Not all of its workers run, for longer than `failurePolicy.scheduleTimeoutSeconds`.
    NotStarted,
    /// No new step, for longer than `failurePolicy.progressDeadlineSeconds`.
    NoStep,
}

/// One WorkUnit of the job, the one with the highest epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Object name.
    pub name: String,
    /// Provider that has it.
    pub provider: String,
    /// Its epoch.
    pub epoch: u64,
    /// What the hub asked so far.
    pub desired: Desired,
    /// What the agent said last.
    pub phase: UnitPhase,
    /// Attempts so far (1 = the first), 0 before the first.
    pub attempt: u32,
    /// How many of those after the first do not count as restarts.
    pub free: u32,
    /// Worker processes.
    pub workers: u32,
    /// Last step trained.
    pub step: u64,
    /// A checkpoint of its own is durable.
    pub delivered: bool,
    /// Last failure of an attempt, or the refusal.
    pub failure: Option<Failure>,
    /// Why pods do not run, while they do not (`ImagePullFailed`, ...).
    pub waiting: Option<Failure>,
    /// Do we hear from its member?
    pub member: Member,
    /// May it stay there?
    pub tenure: Tenure,
    /// Does it get on?
    pub stall: Option<Stall>,
    /// Restarts of the job counted before this unit was made.
    pub restarts_before: u32,
}

impl Unit {
    /// Restarts of the job up to now.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        let here = self.attempt.saturating_sub(1).saturating_sub(self.free);
        self.restarts_before.saturating_add(here)
    }
}

/// Whether it shall train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Train.
    Run,
    /// Pause at the next interval: a person's wish, in `spec.suspend`.
    Suspend,
    /// The same, for it waits in a queue of Kueue's.
    Queue,
}

/// Time left of `activeDeadlineSeconds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// None set, or not yet reached.
    Ahead,
    /// Running time used up.
    Passed,
}

/// Everything [`decide`] looks at; the job is accepted, resolved, not finished and not deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `spec.suspend`, and what Kueue says.
    pub wish: Wish,
    /// `spec.workers`: how many it may train with.
    pub size: Size,
    /// Why its unit shall make room or be made anew, if so.
    pub leave: Option<Leave>,
    /// `spec.training.steps`.
    pub steps: u64,
    /// The step after which the stop rule has ended the job, if the log has that and it counts.
    pub stopped_at: Option<u64>,
    /// Step of the newest checkpoint whose every file is in the store.
    pub durable_step: Option<u64>,
    /// Deadline of the running time.
    pub deadline: Deadline,
    /// `spec.failurePolicy.maxRestarts`.
    pub max_restarts: u32,
    /// `spec.failurePolicy.rules`.
    pub rules: Vec<Rule>,
    /// Restarts counted in the job's status; used when its units are gone.
    pub restarts: u32,
    /// Unit of the highest epoch, if it still exists.
    pub unit: Option<Unit>,
    /// How far its audits are.
    pub audits: Audits,
    /// The step that is not finite, if the log has one that counts.
    pub failed: Option<FailedStep>,
    /// The newest rollback, while no unit of its epoch or a later one was made.
    pub rollback: Option<Rollback>,
}

impl Facts {
    /// Why its unit ends with its interval to be made anew: for other jobs, or because it has too few or too many workers.
    #[must_use]
    pub fn leaving(&self) -> Option<Leave> {
        let fits = self.unit.as_ref().is_none_or(|unit| self.size.allows(unit.workers));
        let resized = || (!fits).then_some(Leave::Resized { workers: self.size.count });
        self.leave.clone().or_else(resized)
    }
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The last step is durable.
    Succeeded,
    /// It will not be tried again.
    Failed {
        /// CamelCase, for conditions and events.
        reason: String,
        /// What happened and what to do.
        message: String,
    },
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing but waiting for news.
    Wait,
    /// Suspended and at rest.
    Rest,
    /// Make a unit of a new epoch.
    Place {
        /// Restarts counted including this one.
        restarts: u32,
        /// Why the old one ended, if it failed.
        after: Option<Failure>,
    },
    /// The unit's member is silent: make a unit of a new epoch at once if another provider can have it, else wait for the
    /// member. Old epochs are fenced where effects happen, so two may train for a while and only one counts.
    Move {
        /// Restarts counted including this one.
        restarts: u32,
        /// That the member is lost.
        after: Failure,
    },
    /// Make the store forget what a verdict undid, then look again.
    RollBack,
    /// All steps are durable, or one is not finite: say so in the log, and wait for the audits.
    Settle,
    /// Record the end.
    Finish(Outcome),
}

/// Answer of [`decide`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What to ask of the current unit from now on (never less than it has been asked).
    pub desired: Option<Desired>,
    /// What comes next.
    pub next: Next,
}

/// What to do with a job that trains or wants to.
#[must_use]
pub fn decide(facts: &Facts) -> Decision {
    // 1. A verdict has undone steps, and the store does not know yet: nothing may start from them.
    if let Some(rollback) = facts.rollback.as_ref().filter(|rollback| rollback.store == audits::Store::Behind)
    {
        return Decision { desired: stop_before(facts, rollback), next: Next::RollBack };
    }
    // 2. All steps durable: whatever else happened, the result is there; what audits say of it is waited for.
    if facts.durable_step.is_some_and(|step| step >= facts.stopped_at.unwrap_or(facts.steps)) {
        let next = match facts.audits {
            Audits::None | Audits::Settled(_) => Next::Finish(Outcome::Succeeded),
            Audits::Unknown | Audits::Open(_) => Next::Settle,
        };
        return Decision { desired: let_end(facts), next };
    }
    // 3. The log has it that a step is not finite, and nothing follows on that.
    if let Some(failed) = &facts.failed {
        return after_failed_step(facts, failed);
    }
    // 4. Out of time.
    if facts.deadline == Deadline::Passed {
        let message = "activeDeadlineSeconds of running time are used up; the last checkpoint stays as \
                       checkpoints policy says. Raise spec.activeDeadlineSeconds in a new TrainingJob";
        return finish(facts, Outcome::Failed { reason: "DeadlineExceeded".into(), message: message.into() });
    }
    let Some(unit) = &facts.unit else {
        // 5. No unit: the first start, or a resume long after the last unit was removed.
        let after = facts.rollback.as_ref().map(|rollback| rollback.why.clone());
        return Decision { desired: None, next: again(facts, facts.restarts, after) };
    };
    // 6. It is of an epoch before a rollback: what it does is void.
    if let Some(rollback) = facts.rollback.as_ref().filter(|rollback| unit.epoch < rollback.epoch) {
        // Not the job's fault, so it does not count, whatever the unit has come to meanwhile.
        let next = again(facts, unit.restarts(), Some(rollback.why.clone()));
        return Decision { desired: Some(Desired::Stop), next };
    }
    // 7. Its provider is out: its key opens nothing any more, so its unit can neither report nor commit. What it may still
    //    compute until its grace ends is void.
    if unit.tenure == Tenure::Revoked && !unit.phase.ended() {
        return after_revocation(facts, unit);
    }
    if unit.phase.ended() || unit.member == Member::Gone {
        return after_end(facts, unit);
    }
    // 8. Its member is silent: it goes elsewhere if there is an elsewhere.
    if let Some(next) = move_away(facts, unit) {
        return Decision { desired: Some(unit.desired), next };
    }
    // 9. Its agent is there and it does not get on: somebody else does it, and the old epoch is fenced.
    if let (Some(stall), Wish::Run) = (unit.stall, facts.wish) {
        return retry(facts, unit, stalled(unit, stall));
    }
    // 10. An attempt has failed, its agent tries again, and the tenant wants it otherwise.
    if let (Some(failure), Wish::Run) = (ruled_out(facts, unit), facts.wish) {
        return retry(facts, unit, failure);
    }
    // 11. It lives: a wish, the provider's leaving, other jobs or another number of workers end it with its interval.
    let asked = match (facts.wish, unit.tenure) {
        (_, Tenure::Ends | Tenure::Revoked) => Desired::Stop,
        // Nothing will come of waiting for the end of the interval.
        _ if unit.stall == Some(Stall::NoStep) => Desired::Stop,
        (Wish::Suspend | Wish::Queue, _) | (_, Tenure::Leaves) => Desired::Drain,
        (Wish::Run, Tenure::Keeps) if facts.leaving().is_some() => Desired::Drain,
        (Wish::Run, Tenure::Keeps) => Desired::Run,
    };
    Decision { desired: Some(asked.max(unit.desired)), next: Next::Wait }
}

/// What a unit's last attempt ended of, or its pods wait for, if the first rule that matches it lets it not go on there.
fn ruled_out(facts: &Facts, unit: &Unit) -> Option<Failure> {
    let interferes = |failure: &&Failure| {
        facts.rules.iter().find(|rule| rule.matches(failure)).is_some_and(Rule::interferes)
    };
    // Of one that trains the last failure is long over.
    let trains = matches!(unit.phase, UnitPhase::Running | UnitPhase::Draining);
    let failure = unit.failure.as_ref().filter(|_| !trains);
    failure.into_iter().chain(&unit.waiting).find(interferes).cloned()
}

fn stalled(unit: &Unit, stall: Stall) -> Failure {
    let Unit { name, provider, step, .. } = unit;
    match stall {
        Stall::NotStarted => by_hub(
            "ScheduleTimeout",
            format!("unit {name} does not run on {provider} within failurePolicy.scheduleTimeoutSeconds"),
        ),
        Stall::NoStep => by_hub(
            "NoProgress",
            format!("{provider} has done no step after {step} within failurePolicy.progressDeadlineSeconds"),
        ),
    }
}

/// A provider's word alone ends no job that is audited: it waits until the failure's audit has found the same. If it finds
/// something else, a rollback follows.
fn after_failed_step(facts: &Facts, failed: &FailedStep) -> Decision {
    if facts.audits != Audits::None && !failed.matched {
        return Decision { desired: let_end(facts), next: Next::Settle };
    }
    let said = facts.unit.as_ref().and_then(|unit| unit.failure.clone());
    let said = said.filter(|said| said.exit_code == Some(NON_FINITE)).unwrap_or_else(|| Failure {
        rank: None,
        exit_code: Some(NON_FINITE),
        reason: "NonFinite".into(),
        message: format!("step {} is not finite", failed.step),
    });
    // The tenant's rules are about what may be tried again; the log takes nothing after it.
    match failure::judge(&said, &[]) {
        Verdict::Permanent { reason, message } => finish(facts, Outcome::Failed { reason, message }),
        Verdict::Again | Verdict::AgainFree => {
            finish(facts, Outcome::Failed { reason: said.reason.clone(), message: said.to_string() })
        }
    }
}

/// A new epoch, unless a person or Kueue wants the job to rest.
fn again(facts: &Facts, restarts: u32, after: Option<Failure>) -> Next {
    match facts.wish {
        Wish::Suspend | Wish::Queue => Next::Rest,
        Wish::Run => Next::Place { restarts, after },
    }
}

fn stop_before(facts: &Facts, rollback: &Rollback) -> Option<Desired> {
    let unit = facts.unit.as_ref()?;
    Some(if unit.epoch < rollback.epoch { Desired::Stop } else { unit.desired })
}

/// Where a unit of a silent member goes. A move that the job's policy would not count or allow once the member is given up
/// is not made before either.
fn move_away(facts: &Facts, unit: &Unit) -> Option<Next> {
    let may_train = unit.desired != Desired::Stop && facts.wish == Wish::Run;
    if unit.member != Member::Away || !may_train {
        return None;
    }
    let after = by_hub("MemberLost", format!("{} does not renew its lease", unit.provider));
    let restarts = match failure::judge(&after, &facts.rules) {
        Verdict::Permanent { .. } => return None,
        Verdict::Again if unit.desired == Desired::Run => unit.restarts().saturating_add(1),
        // It was about to go anyway.
        Verdict::Again | Verdict::AgainFree => unit.restarts(),
    };
    (restarts <= facts.max_restarts).then_some(Next::Move { restarts, after })
}

fn by_hub(reason: &str, message: String) -> Failure {
    Failure { rank: None, exit_code: None, reason: reason.into(), message }
}

/// On from the last durable checkpoint at once, under a new epoch. Not the job's fault, so it does not count.
fn after_revocation(facts: &Facts, unit: &Unit) -> Decision {
    let after = by_hub("ProviderRevoked", format!("provider {} was revoked", unit.provider));
    Decision { desired: Some(Desired::Stop), next: again(facts, unit.restarts(), Some(after)) }
}

/// The current unit will train no more.
fn after_end(facts: &Facts, unit: &Unit) -> Decision {
    let asked_to = match unit.desired {
        Desired::Run => false,
        Desired::Drain => true,
        Desired::Stop => unit.member != Member::Gone,
    };
    if asked_to {
        // It was asked to for this, and nobody had room then.
        if let Some(failure) = ruled_out(facts, unit).filter(|_| unit.desired == Desired::Stop) {
            return retry(facts, unit, failure);
        }
        // What was counted when it was asked to stays counted.
        let restarts = unit.restarts().max(facts.restarts);
        return Decision { desired: Some(Desired::Stop), next: again(facts, restarts, None) };
    }
    retry(facts, unit, unless_unlogged(facts, why_ended(facts, unit)))
}

/// The next epoch after a failure, if the job's policy lets it have one.
fn retry(facts: &Facts, unit: &Unit, failure: Failure) -> Decision {
    // Stop tells the agent to clean up what is left and say Released; a unit that is gone gets it on return.
    let and = |next| Decision { desired: Some(Desired::Stop), next };
    let counted = match failure::judge(&failure, &facts.rules) {
        Verdict::Permanent { reason, message } => {
            return and(Next::Finish(Outcome::Failed { reason, message }));
        }
        Verdict::Again => unit.restarts().saturating_add(1),
        // What is refused, or taken back before anything has come of it, would be begun for ever.
        Verdict::AgainFree if failure::is_taken_back(&failure) && is_barren(unit) => {
            unit.restarts().saturating_add(1)
        }
        Verdict::AgainFree => unit.restarts(),
    };
    if counted > facts.max_restarts {
        let message = format!(
            "restarted {} times, failurePolicy.maxRestarts is {}; last: {}",
            unit.restarts(),
            facts.max_restarts,
            failure
        );
        return and(Next::Finish(Outcome::Failed { reason: "MaxRestarts".into(), message }));
    }
    // A paused job stays paused, whatever its unit died of.
    and(again(facts, counted, Some(failure)))
}

/// Whether nothing came of a unit, other than that it waited for its turn.
fn is_barren(unit: &Unit) -> bool {
    unit.phase == UnitPhase::Refused || (unit.attempt > 0 && !unit.delivered)
}

/// That a step is not finite ends an audited job only by a record that can be audited. Who says so and has logged none, as an
/// older image or a pod that was lost in between, is as good as lost.
fn unless_unlogged(facts: &Facts, failure: Failure) -> Failure {
    let is_ruled = facts.rules.iter().any(|rule| rule.matches(&failure));
    if failure.exit_code != Some(NON_FINITE) || facts.audits == Audits::None || is_ruled {
        return failure;
    }
    let message = format!(
        "{}; the log has no record of that step which could be audited, so it is run again as after a lost worker",
        failure.message
    );
    by_hub("NonFinite", message)
}

fn why_ended(facts: &Facts, unit: &Unit) -> Failure {
    if unit.member == Member::Gone {
        return by_hub(
            "MemberLost",
            format!("{} has not been heard of for longer than disconnectGraceSeconds", unit.provider),
        );
    }
    if unit.phase == UnitPhase::Succeeded {
        let have = facts.durable_step.unwrap_or(0);
        return by_hub(
            "CheckpointIncomplete",
            format!("{} says it is done, but the store has only step {have} whole", unit.provider),
        );
    }
    unit.failure
        .clone()
        .unwrap_or_else(|| by_hub("UnitEnded", format!("{} ended unit {} early", unit.provider, unit.name)))
}

fn finish(facts: &Facts, outcome: Outcome) -> Decision {
    Decision { desired: facts.unit.as_ref().map(|_| Desired::Stop), next: Next::Finish(outcome) }
}

/// Workers that did their last step are about to end by themselves, with exit code 0: let them.
fn let_end(facts: &Facts) -> Option<Desired> {
    facts.unit.as_ref().filter(|unit| unit.phase.ended()).map(|_| Desired::Stop)
}

/// The epoch of the next unit of an island: above every epoch used, not below what the provider accepts.
#[must_use]
pub fn next_epoch(last: u64, min_epoch: u64) -> u64 {
    last.saturating_add(1).max(min_epoch).max(1)
}

#[cfg(test)]
mod tests;
