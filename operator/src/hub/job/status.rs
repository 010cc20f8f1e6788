//! The new status of a TrainingJob, from what was seen, decided and done. Pure.
use jiff::Timestamp;
use muster_api::v1alpha1::{
    Island, Progress, TrainingJob, TrainingJobPhase, TrainingJobStatus, WorkUnit, WorkUnitPhase,
};
use muster_core::lifecycle::conditions::{
    Acceptance, Before, Condition, Hold, Pause, Phase, Stage, Unplaced, View, conditions, phase,
};
use muster_core::lifecycle::{Audits, Decision, Member, Next, Outcome, Unit, UnitPhase, Wish};

use super::gather::{self, Gathered};
use super::{Acted, Look, audits};
use crate::hub::apply::{self, Said, time};
use crate::hub::names::provider_of;
use crate::runtime::sanitise::line;
use kube::ResourceExt;

/// The old status with new conditions and the phase that follows from them.
pub fn with_conditions(look: &Look<'_>, all: &[Condition], now: Timestamp) -> TrainingJobStatus {
    conclude(look.job, look.old(), all, now)
}

fn conclude(
    job: &TrainingJob,
    old: TrainingJobStatus,
    all: &[Condition],
    now: Timestamp,
) -> TrainingJobStatus {
    let said = all.iter().map(|condition| Said {
        kind: condition.kind.name(),
        status: condition.status.name(),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
    });
    let generation = job.metadata.generation;
    TrainingJobStatus {
        observed_generation: generation,
        conditions: apply::conditions(&old.conditions, said, generation, now),
        phase: Some(api_phase(phase(all))),
        ..old
    }
}

fn api_phase(phase: Phase) -> TrainingJobPhase {
    match phase {
        Phase::Pending => TrainingJobPhase::Pending,
        Phase::Placing => TrainingJobPhase::Placing,
        Phase::Running => TrainingJobPhase::Running,
        Phase::Recovering => TrainingJobPhase::Recovering,
        Phase::Suspended => TrainingJobPhase::Suspended,
        Phase::Settling => TrainingJobPhase::Settling,
        Phase::Succeeded => TrainingJobPhase::Succeeded,
        Phase::Failed => TrainingJobPhase::Failed,
    }
}

/// The whole new status.
pub fn render(
    look: &Look<'_>,
    seen: &Gathered,
    decision: &Decision,
    acted: &Acted,
    now: Timestamp,
) -> TrainingJobStatus {
    of_job(look.job, seen, decision, acted, now)
}

/// [`render`] without anything that could do more than compute.
pub fn of_job(
    job: &TrainingJob,
    seen: &Gathered,
    decision: &Decision,
    acted: &Acted,
    now: Timestamp,
) -> TrainingJobStatus {
    let old = job.status.clone().unwrap_or_default();
    let placed = match acted {
        Acted::Placed(unit) => Some(gather::unit_facts(unit, None, Member::Connected, now)),
        _ => None,
    };
    // The unit that trains or shall train; one that ended is only history.
    let unit = placed.as_ref().or(match decision.next {
        Next::Wait | Next::Move { .. } => seen.facts.unit.as_ref(),
        _ => None,
    });
    let running = unit.is_some_and(|unit| unit.phase == UnitPhase::Running);
    let trained = matches!(
        old.phase,
        Some(TrainingJobPhase::Running | TrainingJobPhase::Recovering | TrainingJobPhase::Settling)
    );
    let is_done = match decision.next {
        // A step that is not finite leads to no result.
        Next::Settle => seen.facts.failed.is_none(),
        Next::Finish(Outcome::Succeeded) => true,
        _ => false,
    };
    let outcome = match &decision.next {
        Next::Finish(outcome) => Some(outcome),
        _ => None,
    };
    let all = conditions(&View {
        accepted: Acceptance::Resolved(old.training_digest.clone().unwrap_or_default()),
        pause: pause(&old, seen, &decision.next),
        unit,
        leave: seen.facts.leaving().filter(|_| unit.is_some() && placed.is_none()),
        unplaced: unplaced(acted),
        after: match &decision.next {
            Next::Place { after, .. } => after.clone(),
            Next::Move { after, .. } => placed.is_some().then(|| after.clone()),
            Next::RollBack => seen.facts.rollback.as_ref().map(|rollback| rollback.why.clone()),
            _ => None,
        },
        before: if trained { Before::Trained } else { Before::Still },
        steps: seen.facts.steps,
        stopped_at: seen.facts.stopped_at,
        durable_step: seen.facts.durable_step.unwrap_or(0),
        stage: match (&decision.next, &seen.facts.failed) {
            (Next::Settle, Some(failed)) => Stage::Failing(failed.step),
            (Next::Settle, None) => Stage::Settling,
            _ => Stage::Training,
        },
        audits: seen.facts.audits.clone(),
        outcome,
    });
    let object = match acted {
        Acted::Placed(unit) => Some(unit.as_ref()),
        _ => seen.current.as_ref(),
    };
    let restarts = restarts(&old, unit, &decision.next, acted);
    let mut new = TrainingJobStatus {
        progress: progress(job, &old, seen, is_done, running),
        islands: islands(&old, object),
        providers: unit.map(|unit| unit.provider.clone()),
        checkpoint: seen.checkpoint.clone(),
        audits: audits::counts(&seen.facts.audits).or_else(|| old.audits.clone()),
        result: if is_done { seen.checkpoint.clone() } else { None },
        restarts: (restarts > 0).then_some(restarts),
        start_time: old.start_time.clone().or_else(|| running.then(|| time(now))),
        ..conclude(job, old.clone(), &all, now)
    };
    if is_ready(&old) && !is_ready(&new) {
        new.active_seconds = Some(seen.active_seconds);
    }
    if outcome.is_some() {
        new.completion_time = Some(time(now));
    }
    if outcome.is_some() || is_done {
        new.providers.clone_from(&old.providers);
    }
    new
}

/// The status of a job that has failed, as its audits go on.
pub fn of_failed(job: &TrainingJob, audits: &Audits, now: Timestamp) -> TrainingJobStatus {
    let old = job.status.clone().unwrap_or_default();
    // While nothing is known, what was known stays.
    let (Some(counts), Some(verified)) = (audits::counts(audits), audits.condition()) else { return old };
    let said = Said {
        kind: verified.kind.name(),
        status: verified.status.name(),
        reason: verified.reason,
        message: verified.message,
    };
    let new = apply::conditions(&old.conditions, [said], job.metadata.generation, now);
    let others = old.conditions.iter().filter(|c| c.type_ != verified.kind.name()).cloned();
    let conditions = others.chain(new).collect();
    TrainingJobStatus { audits: Some(counts), conditions, ..old }
}

fn is_ready(status: &TrainingJobStatus) -> bool {
    status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn pause(old: &TrainingJobStatus, seen: &Gathered, next: &Next) -> Pause {
    let hold = match seen.facts.wish {
        Wish::Suspend => Hold::User,
        Wish::Queue => {
            Hold::Kueue(seen.gate.as_ref().and_then(|gate| gate.waits.clone()).unwrap_or_default())
        }
        Wish::Run if old.conditions.iter().any(|c| c.type_ == "Suspended") => return Pause::Over,
        Wish::Run => return Pause::Never,
    };
    match next {
        Next::Rest => Pause::Resting(hold),
        _ => Pause::Draining(hold),
    }
}

fn unplaced(acted: &Acted) -> Option<Unplaced> {
    match acted {
        Acted::Unplaced(why) => Some(why.clone()),
        Acted::Delayed(_) => Some(Unplaced {
            reason: "BackingOff".into(),
            message: "waits a little longer after each restart".into(),
        }),
        Acted::Placed(_) | Acted::Stays | Acted::Awaits(_) | Acted::Nothing => None,
    }
}

fn restarts(old: &TrainingJobStatus, unit: Option<&Unit>, next: &Next, acted: &Acted) -> i32 {
    let now = match (next, acted) {
        (Next::Place { restarts, .. }, _) | (Next::Move { restarts, .. }, Acted::Placed(_)) => *restarts,
        _ => unit.map_or(0, Unit::restarts),
    };
    i32::try_from(now).unwrap_or(i32::MAX).max(old.restarts.unwrap_or(0))
}

fn islands(old: &TrainingJobStatus, object: Option<&WorkUnit>) -> Vec<Island> {
    let Some(object) = object else {
        // The unit is gone; its epoch must never be used again.
        let forget = |island: &Island| Island { phase: None, ..island.clone() };
        return old.islands.iter().map(forget).collect();
    };
    let namespace = object.namespace().unwrap_or_default();
    vec![Island {
        index: object.spec.island,
        provider: provider_of(&namespace).map(str::to_owned),
        work_unit: Some(object.name_any()),
        epoch: Some(object.spec.epoch),
        phase: object.status.as_ref().and_then(|status| status.phase),
    }]
}

/// What the unit reported last. A loss is an agent's text, so it is checked to be a number before people see it.
fn progress(
    job: &TrainingJob,
    old: &TrainingJobStatus,
    seen: &Gathered,
    is_done: bool,
    running: bool,
) -> Option<Progress> {
    let steps = job.spec.training.steps;
    if seen.facts.rollback.is_some() && !is_done {
        // What its unit has reached counts for nothing, and neither does the loss there.
        let step = seen.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.step).clamp(0, steps);
        let text = Some(format!("{step}/{steps}"));
        return Some(Progress { step: Some(step), text, ..Progress::default() });
    }
    let reported = seen.current.as_ref().and_then(|unit| unit.status.as_ref());
    let step = match (is_done, reported.and_then(|status| status.step)) {
        (true, _) => seen.facts.stopped_at.and_then(|step| i64::try_from(step).ok()).unwrap_or(steps),
        (false, Some(step)) => step.clamp(0, steps),
        (false, None) => {
            // A unit that has not stepped yet: what the last one reached still stands, but its speed does not.
            return old.progress.clone().map(|before| Progress { tokens_per_second: None, ..before });
        }
    };
    let number =
        |text: Option<&str>| text.map(|text| line(text, 24)).filter(|text| text.parse::<f64>().is_ok());
    let before = old.progress.as_ref();
    Some(Progress {
        step: Some(step),
        text: Some(format!("{step}/{steps}")),
        loss: number(reported.and_then(|status| status.loss.as_deref()))
            .or_else(|| before.and_then(|p| p.loss.clone())),
        eval_loss: number(reported.and_then(|status| status.eval_loss.as_deref()))
            .or_else(|| before.and_then(|p| p.eval_loss.clone())),
        tokens_per_second: reported.filter(|_| running).and_then(|status| status.tokens_per_second),
        update_time: reported
            .and_then(|status| status.progress_time.clone())
            .or_else(|| before.and_then(|p| p.update_time.clone())),
    })
}

/// Whether only what may wait ten seconds is different: numbers, the checkpoint, and the words that repeat them.
pub fn differs_in_progress_only(old: &TrainingJobStatus, new: &TrainingJobStatus) -> bool {
    still(old) == still(new)
}

fn still(status: &TrainingJobStatus) -> TrainingJobStatus {
    let mut still = TrainingJobStatus { progress: None, checkpoint: None, audits: None, ..status.clone() };
    for condition in &mut still.conditions {
        if matches!(condition.type_.as_str(), "Ready" | "Progressing" | "Verified") {
            condition.message.clear();
        }
    }
    for island in &mut still.islands {
        // The job's own phase says it; a unit's smaller steps may wait.
        if island.phase.is_some_and(|phase| !WorkUnitPhase::is_finished(phase)) {
            island.phase = None;
        }
    }
    still
}
