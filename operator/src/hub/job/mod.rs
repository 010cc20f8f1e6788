//! The job controller. One look at a TrainingJob is: read everything, decide (muster-core), act, write one status, tell people what
//! changed. Units and providers are read as their watches tell of them (`mirror`): a look that is woken by a change has seen it.
//!
//! | file | step |
//! |---|---|
//! | `accept` | names become digests, once; `resolutions`: for jobs of one YAML together |
//! | `gather` | what the API server and the store say, as facts |
//! | `act` | what was decided is done |
//! | `place` | a provider and a unit for the next epoch |
//! | `unit` | the WorkUnit and its signed envelope, pure |
//! | `status` | the new status, pure |
//! | `news` | events from old and new status, pure |
//! | `audits` | what the log's audits mean for all of this |
//! | `end` | deletion, and what follows after the end |
//! | `wakes` | what makes it look |
mod accept;
mod act;
pub mod audits;
mod end;
pub mod gather;
mod news;
pub mod place;
pub mod resolutions;
mod status;
#[cfg(test)]
mod tests;
pub mod unit;
mod wakes;

pub use act::{Acted, ask};
pub use wakes::controller;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::Store as Cache;
use kube::{Api, Resource, ResourceExt};
use muster_api::names::{MANAGED_BY, finalizers};
use muster_api::v1alpha1::{TrainingJob, TrainingJobStatus};
use muster_core::lifecycle::conditions::NO_AUDITORS;
use muster_core::lifecycle::{self, Decision, Next};

use super::apply::{self, Presence};
use super::context::{Context, What};
use super::error::Error;
use super::kueue::{self, Gate, Stage};
use super::metrics;
use crate::runtime::Shutdown;
use crate::runtime::patience::{Patience, at_once};
use accept::Accepted;
use gather::Gathered;

type Guarded = DeserializeGuard<TrainingJob>;

/// Progress alone is written at most this often; a change of state at once.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// Without a place: the queue wakes it with another answer; this is for the case that it does not.
const PLACE_AGAIN: Duration = Duration::from_secs(300);
/// A unit whose member is silent and that nobody else can have: nothing in the queue waits for that.
const MOVE_AGAIN: Duration = Duration::from_secs(30);
/// The catalogue is a directory and cannot wake us.
const CATALOGUE_AGAIN: Duration = Duration::from_secs(5);
/// While the log cannot be reached.
const LOG_AGAIN: Duration = Duration::from_secs(5);
/// Reason of conditions that wait for the log.
const LOG_UNAVAILABLE: &str = "LogUnavailable";
/// A unit names a checkpoint that the store does not know (yet).
const CHECKPOINT_AGAIN: Duration = Duration::from_secs(3);
/// The watch brings our own write within moments, and wakes us with it; this is for the case that it does not.
const BEHIND_AGAIN: Duration = Duration::from_secs(2);

/// All jobs as last seen: only to find out whom an event concerns.
pub type Jobs = Cache<Guarded>;

/// Runs until shutdown.
pub async fn run(controller: Controller<Guarded>, ctx: Arc<Context>, shutdown: Shutdown) {
    controller
        .reconcile_on(ctx.queue.wakes())
        .reconcile_on(ctx.kueue.wakes())
        .with_config(at_once())
        .trigger_backoff(Patience::default())
        .graceful_shutdown_on(shutdown.wait())
        .run(reconcile, error_policy, ctx)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(%error, "job controller");
            }
        })
        .await;
}

fn error_policy(object: Arc<Guarded>, error: &Error, ctx: Arc<Context>) -> Action {
    ctx.retry(&key(object.as_ref()), error)
}

fn key(object: &impl Resource) -> String {
    let meta = object.meta();
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("trainingjob/{}/{}", part(&meta.namespace), part(&meta.name))
}

async fn reconcile(object: Arc<Guarded>, ctx: Arc<Context>) -> Result<Action, Error> {
    let _timer = ctx.metrics.reconciles(metrics::Controller::Job);
    let job = match &object.0 {
        Ok(job) => job,
        Err(invalid) => {
            tracing::warn!(job = key(object.as_ref()), %invalid, "TrainingJob does not parse; left alone");
            return Ok(Action::await_change());
        }
    };
    let look = Look::new(&ctx, job)?;
    if ctx.memory.is_behind(&look.uid, job.metadata.resource_version.as_deref()) {
        return Ok(Action::requeue(BEHIND_AGAIN));
    }
    let action = self::look(&look).await;
    if action.is_ok() {
        ctx.succeeded(&key(job));
    }
    action
}

/// One job and what is needed to act on it.
pub struct Look<'a> {
    ctx: &'a Context,
    /// With what this look has found out about it, written or not.
    job: &'a TrainingJob,
    /// The status that is written.
    written: Arc<TrainingJobStatus>,
    api: Api<TrainingJob>,
    uid: String,
}

impl<'a> Look<'a> {
    fn new(ctx: &'a Context, job: &'a TrainingJob) -> Result<Self, Error> {
        let namespace = job.namespace().ok_or(Error::Incomplete("TrainingJob", "namespace"))?;
        let uid = job.uid().ok_or(Error::Incomplete("TrainingJob", "uid"))?;
        let written = Arc::new(job.status.clone().unwrap_or_default());
        Ok(Self { ctx, job, written, api: Api::namespaced(ctx.client.clone(), &namespace), uid })
    }

    /// The same look, at what the job is by now.
    fn at<'b>(&'b self, job: &'b TrainingJob) -> Look<'b> {
        let (api, uid) = (self.api.clone(), self.uid.clone());
        Look { ctx: self.ctx, job, written: self.written.clone(), api, uid }
    }

    fn old(&self) -> TrainingJobStatus {
        self.job.status.clone().unwrap_or_default()
    }

    /// Writes the status if it changed, and only then tells people what is new. Whether it did.
    async fn write(&self, new: &TrainingJobStatus) -> Result<bool, Error> {
        let old = &*self.written;
        let written = apply::status(&self.api, "trainingjob", self.job, old, new).await?;
        if let Some(now) = &written {
            self.ctx.memory.wrote(&self.uid, now.resource_version());
            let ready = new.conditions.iter().find(|c| c.type_ == "Ready");
            tracing::info!(
                job = key(self.job),
                phase = new.phase.map(|phase| format!("{phase:?}")),
                reason = ready.map(|c| c.reason.as_str()),
                step = new.progress.as_ref().map(|progress| progress.step),
                "job"
            );
            self.tell(old, new);
        }
        Ok(written.is_some())
    }

    fn tell(&self, old: &TrainingJobStatus, new: &TrainingJobStatus) {
        let object = self.job.object_ref(&());
        for item in news::between(old, new) {
            let steady = item.reason == news::CHECKPOINT_SAVED;
            let recent = self.ctx.memory.since(&self.uid, What::CheckpointEvent);
            if steady && recent.is_some_and(|age| age < PROGRESS_EVERY) {
                continue;
            }
            if steady {
                self.ctx.memory.mark(&self.uid, What::CheckpointEvent);
            }
            self.ctx.recorder.tell(&object, &item, self.ctx.now());
        }
    }
}

async fn look(look: &Look<'_>) -> Result<Action, Error> {
    let (ctx, job) = (look.ctx, look.job);
    // 1. Somebody else's.
    if job.spec.managed_by != MANAGED_BY {
        return accept::not_managed(look).await;
    }
    // 2. On its way out, at whatever phase.
    if job.metadata.deletion_timestamp.is_some() {
        ctx.queue.withdraw(&look.uid);
        return end::delete(look).await;
    }
    // 3. Over: nothing but cleaning up.
    if job.status.as_ref().and_then(|status| status.phase).is_some_and(|phase| phase.is_finished()) {
        ctx.queue.withdraw(&look.uid);
        return end::finished(look).await;
    }
    // 4. From here on it cannot vanish without step 2.
    let held = match planted!("no-job-finalizer") {
        true => None,
        false => apply::finalizer(&look.api, "trainingjob", job, finalizers::JOB, Presence::Present).await?,
    };
    if let Some(held) = &held {
        ctx.memory.wrote(&look.uid, held.resource_version());
    }
    let look = &look.at(held.as_ref().unwrap_or(job));
    // 5. Names become digests, and the job a record of the log, once.
    let accepted = |status: &TrainingJobStatus| status.resolved.is_some() && status.job_id.is_some();
    if look.job.status.as_ref().is_some_and(accepted) {
        return go_on(look).await;
    }
    let status = match accept::accept(look).await? {
        Accepted::Yes(status) => status,
        Accepted::Not(again) => return Ok(again),
    };
    // The log has it, so it can be given a unit at once, and all of that be one write.
    let accepted = TrainingJob { status: Some(*status), ..look.job.clone() };
    let look = &look.at(&accepted);
    let action = go_on(look).await;
    if action.is_err() {
        look.write(&look.old()).await?;
    }
    action
}

/// A look at a job that is accepted and not over.
async fn go_on(look: &Look<'_>) -> Result<Action, Error> {
    let (ctx, job) = (look.ctx, look.job);
    // 6. Read, decide, act.
    let mut seen = gather::gather(look).await?;
    let mut decision = lifecycle::decide(&seen.facts);
    if decision.next == Next::RollBack {
        // The store first: then nothing is started from what does not count, whatever is seen next.
        audits::roll_back(look).await?;
        seen = gather::gather(look).await?;
        decision = lifecycle::decide(&seen.facts);
    }
    tracing::debug!(job = key(job), ?decision, "decided");
    let acted = act::act(look, &seen, &decision).await?;
    if let Some(stage) = stage(&seen, &decision) {
        kueue::tell(ctx, job, seen.gate.as_ref(), stage).await?;
    }
    // 7. One status.
    let new = status::render(look, &seen, &decision, &acted, ctx.now());
    let old = &*look.written;
    if status::differs_in_progress_only(old, &new) && *old != new {
        let age = ctx.memory.since(&look.uid, What::Progress).unwrap_or(PROGRESS_EVERY);
        if age < PROGRESS_EVERY {
            return Ok(Action::requeue(PROGRESS_EVERY - age));
        }
    }
    if look.write(&new).await? {
        ctx.memory.mark(&look.uid, What::Progress);
    }
    Ok(next_look(&seen, &decision, &acted))
}

/// How far it is, for Kueue; `None` at its end, of which there is more to say than that its workers go.
fn stage(seen: &Gathered, decision: &Decision) -> Option<Stage> {
    let trains = |unit: &lifecycle::Unit| unit.phase == lifecycle::UnitPhase::Running;
    Some(match &decision.next {
        Next::Settle | Next::Finish(_) => return None,
        Next::Rest => Stage::Rests,
        _ if seen.facts.unit.as_ref().is_some_and(trains) => Stage::Runs,
        _ => Stage::Starts,
    })
}

fn next_look(seen: &Gathered, decision: &Decision, acted: &Acted) -> Action {
    let waits = [
        seen.checkpoint_pending.then_some(CHECKPOINT_AGAIN),
        seen.deadline_in,
        seen.member_gone_in,
        seen.stalls_in,
        seen.gate.as_ref().and_then(Gate::look_again),
        // A newer rollback came in between.
        (decision.next == Next::RollBack).then_some(Duration::ZERO),
        audits::look_again(&seen.facts.audits),
        match acted {
            Acted::Delayed(wait) | Acted::Awaits(wait) => Some(*wait),
            Acted::Unplaced(why) if why.reason == LOG_UNAVAILABLE => Some(LOG_AGAIN),
            // No watch tells that the hub's own auditor has come up.
            Acted::Unplaced(why) if why.reason == NO_AUDITORS => Some(LOG_AGAIN),
            Acted::Unplaced(_) => Some(PLACE_AGAIN),
            Acted::Stays => Some(MOVE_AGAIN),
            Acted::Placed(_) | Acted::Nothing => None,
        },
    ];
    if matches!(decision.next, Next::Finish(_)) {
        return Action::await_change();
    }
    waits.into_iter().flatten().min().map_or_else(Action::await_change, Action::requeue)
}
