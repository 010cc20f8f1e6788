//! What the API server and the store say about a job right now, as facts for the decision.
mod stall;
mod unit;

pub use unit::{member, payload, unit_facts};

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::{Api, ResourceExt};
use muster_api::v1alpha1::{self as api, ComputeProvider, JobCheckpoint, WorkUnit};
use muster_core::audits::JobAudits;
use muster_core::lifecycle::{Action, Deadline, Facts, Rule, Wish};

use unit::condition;

use super::{Look, audits, place};
use crate::hub::context::Context;
use crate::hub::error::Error;
use crate::hub::kueue::{self, Gate};
use crate::hub::ledger::grants;
use crate::hub::names::provider_of;
use crate::runtime::client::within;
use crate::store::{Noted, Store, Whole};

/// Everything one look needs.
pub struct Gathered {
    /// For the decision.
    pub facts: Facts,
    /// How it stands with Kueue, if it has to do with it.
    pub gate: Option<Gate>,
    /// Unit of the highest epoch ever used, while it exists.
    pub current: Option<WorkUnit>,
    /// Units of lower epochs that still exist.
    pub older: Vec<WorkUnit>,
    /// Highest epoch ever used, 0 if none.
    pub last_epoch: i64,
    /// Newest checkpoint that the gateway has recorded in the store, and that counts.
    pub checkpoint: Option<JobCheckpoint>,
    /// A unit names a newer checkpoint, which the store does not know (yet).
    pub checkpoint_pending: bool,
    /// Seconds of running so far.
    pub active_seconds: i64,
    /// Time left until activeDeadlineSeconds, while it runs.
    pub deadline_in: Option<Duration>,
    /// Time left until an absent member counts as gone.
    pub member_gone_in: Option<Duration>,
    /// Time left until a unit that does not get on is given up.
    pub stalls_in: Option<Duration>,
}

/// Reads all of it.
pub async fn gather(look: &Look<'_>) -> Result<Gathered, Error> {
    let (ctx, job, now) = (look.ctx, look.job, look.ctx.now());
    let status = look.old();
    let mut units = units_of(ctx, &look.uid).await?;
    units.sort_by_key(|unit| unit.spec.epoch);
    let book = audits::book(ctx, job, &look.uid);
    let checkpoint = newest_checkpoint(&ctx.store, &look.uid, &status, book.as_deref()).await?;
    let void_below = book.as_ref().and_then(|book| book.rollback.as_ref()).map_or(0, |undone| undone.epoch);
    let mut counting = units.iter().filter(|unit| unit.spec.epoch >= void_below);
    let checkpoint_pending = counting.any(|unit| names_newer(unit, checkpoint.as_ref()));
    let known_epoch = status.islands.iter().filter_map(|island| island.epoch).max().unwrap_or(0);
    // One that outlives its successor, as its member is silent for longer, does not come back for that.
    let current = units.pop_if(|unit| unit.spec.epoch >= known_epoch);
    let last_epoch = current.as_ref().map_or(0, |unit| unit.spec.epoch).max(known_epoch);
    let rollback = audits::pending(ctx, &look.uid, book.as_deref(), last_epoch).await?;
    let (unit, member_gone_in, stalls_in) = match &current {
        Some(unit) => {
            let provider = provider(ctx, unit).await?;
            let (member, gone_in) = member(unit, provider.as_deref(), now);
            let mut facts = unit_facts(unit, provider.as_deref(), member, now);
            let progress = unit.status.as_ref().and_then(|status| status.progress_time.as_ref());
            let stalls_in = stall::stall(&ctx.memory, job, &mut facts, progress.map(|at| at.0));
            (Some(facts), gone_in, stalls_in)
        }
        None => (None, None, None),
    };
    let failed = audits::failed(ctx, job, &look.uid, book.as_deref(), unit.as_ref()).await?;
    let durable_step = checkpoint.as_ref().map(|checkpoint| number(checkpoint.step));
    let stopped_at = match job.spec.training.eval.as_ref().is_some_and(|eval| eval.stop_at.is_some()) {
        true => grants::stopped_at(ctx, &look.uid, durable_step).await?,
        false => None,
    };
    let gate = kueue::gate(ctx, job, &look.uid).await?;
    let (active_seconds, running) = active(&status, now);
    let left = job.spec.active_deadline_seconds.map(|limit| limit - active_seconds);
    let facts = Facts {
        wish: match gate.as_ref().is_some_and(|gate| gate.waits.is_some()) && !planted!("queue-ignored") {
            _ if job.spec.suspend && !planted!("suspend-ignored") => Wish::Suspend,
            true => Wish::Queue,
            false => Wish::Run,
        },
        size: place::size(&job.spec),
        leave: ctx.queue.leave(&look.uid).filter(|_| !planted!("nobody-makes-way")),
        steps: number(job.spec.training.steps),
        stopped_at,
        durable_step,
        deadline: if left.is_some_and(|left| left <= 0) { Deadline::Passed } else { Deadline::Ahead },
        max_restarts: small(job.spec.failure_policy.max_restarts),
        rules: job.spec.failure_policy.rules.iter().map(rule).collect(),
        restarts: status.restarts.map_or(0, small),
        unit,
        audits: audits::standing(job, book.as_deref()),
        failed,
        rollback,
    };
    Ok(Gathered {
        facts,
        gate,
        current,
        older: units,
        last_epoch,
        checkpoint,
        checkpoint_pending,
        active_seconds,
        deadline_in: left.filter(|_| running).map(|left| Duration::from_secs(number(left))),
        member_gone_in,
        stalls_in,
    })
}

/// The units that train the job, in whatever namespace.
pub async fn units_of(ctx: &Context, job_uid: &str) -> Result<Vec<WorkUnit>, Error> {
    let mut units = all_units_of(ctx, job_uid).await?;
    units.retain(trains);
    Ok(units)
}

/// Whether a unit trains, and does not replay what another has trained: its epoch is one of its island then.
pub fn trains(unit: &WorkUnit) -> bool {
    unit.spec.kind == api::WorkUnitKind::Train
}

/// All units with the job's label, those that audit it too.
pub async fn all_units_of(ctx: &Context, job_uid: &str) -> Result<Vec<WorkUnit>, Error> {
    let theirs = ctx.mirrors.units.of(&[job_uid]).await?;
    Ok(theirs.iter().map(|unit| unit.object.clone()).collect())
}

/// The provider in whose namespace the unit is. That there is none ends units, so it is asked for.
pub async fn provider(ctx: &Context, unit: &WorkUnit) -> Result<Option<Arc<ComputeProvider>>, Error> {
    let namespace = unit.namespace().unwrap_or_default();
    let Some(name) = provider_of(&namespace) else { return Ok(None) };
    if let Some(known) = ctx.mirrors.providers.known("", name) {
        return Ok(Some(known));
    }
    let api: Api<ComputeProvider> = Api::all(ctx.client.clone());
    Ok(within("get computeprovider", api.get_opt(name)).await?.map(Arc::new))
}

fn rule(rule: &api::FailureRule) -> Rule {
    let reasons = rule.on_reasons.iter().flatten();
    // The schema's spelling is the agent's: one enum for both.
    let spelled = reasons.filter_map(|reason| serde_json::to_value(reason).ok()?.as_str().map(str::to_owned));
    Rule {
        name: rule.name.clone(),
        on_reasons: spelled.collect(),
        on_exit_codes: rule.on_exit_codes.clone().unwrap_or_default(),
        action: match rule.action {
            api::FailureAction::Restart => Action::Restart,
            api::FailureAction::RestartFree => Action::RestartFree,
            api::FailureAction::Move => Action::Move,
            api::FailureAction::FailJob => Action::FailJob,
        },
    }
}

/// The checkpoint to go on from: the newest that the store has, or what the status knows. What a verdict has undone is neither,
/// as far as the job's audits are known.
///
/// # Errors
/// The store's.
pub async fn newest_checkpoint(
    store: &Store,
    job: &str,
    status: &api::TrainingJobStatus,
    book: Option<&JobAudits>,
) -> Result<Option<JobCheckpoint>, Error> {
    let stands = |known: &&JobCheckpoint| book.is_none_or(|book| audits::still_counts(book, known));
    let known = status.checkpoint.as_ref().filter(stands);
    let from = known.map_or(0, |known| number(known.step));
    let newer = newer_checkpoint(store, job, status.training_digest.as_deref(), from, book).await?;
    Ok(newer.or_else(|| known.cloned()))
}

/// The newest checkpoint that the gateway recorded after step `known`. What units say of their checkpoints is not
/// asked: the gateway has checked manifest, step and job before it recorded anything, and a member that vanished right
/// after its commit can say nothing more.
async fn newer_checkpoint(
    store: &Store,
    job: &str,
    training_digest: Option<&str>,
    known: u64,
    book: Option<&JobAudits>,
) -> Result<Option<JobCheckpoint>, Error> {
    let recorded = store.checkpoints(job).await?;
    for (step, digest) in recorded.iter().rev().take_while(|(step, _)| **step > known) {
        // A blob may have been lost since; an older checkpoint that is whole is better than none.
        let manifest = match store.whole_checkpoint(digest).await? {
            Whole::Yes(manifest) => manifest,
            Whole::Missing(blob) => {
                tracing::error!(job, step, %blob, "a recorded checkpoint lacks a blob; passed over");
                continue;
            }
            Whole::Invalid(why) => {
                tracing::error!(job, step, why, "a recorded checkpoint is none; passed over");
                continue;
            }
        };
        let same_job = training_digest == Some(manifest.training_digest().to_string().as_str());
        if manifest.step() != *step || !same_job {
            tracing::error!(job, step, "a recorded checkpoint is of another step or job; passed over");
            continue;
        }
        let logged = match store.noted_commit(job, *step).await? {
            Some(Noted::Logged(entry)) => Some(entry),
            _ => None,
        };
        if book.is_some_and(|book| !audits::is_on_path(book, *step, digest, logged.as_ref())) {
            tracing::warn!(job, step, "a recorded checkpoint counts no more; passed over");
            continue;
        }
        return Ok(Some(JobCheckpoint {
            step: i64::try_from(*step).unwrap_or(i64::MAX),
            state_root: manifest.state_root().to_string(),
            manifest: digest.to_string(),
            log_index: logged.and_then(|entry| i64::try_from(entry.index).ok()),
        }));
    }
    Ok(None)
}

/// Whether a unit says more than the store knows: it is asked again soon, not believed.
fn names_newer(unit: &WorkUnit, newest: Option<&JobCheckpoint>) -> bool {
    let named = unit.status.as_ref().and_then(|status| status.checkpoint.as_ref());
    named.is_some_and(|named| newest.is_none_or(|newest| named.step > newest.step))
}

/// Seconds of running so far, and whether it runs now.
fn active(status: &api::TrainingJobStatus, now: Timestamp) -> (i64, bool) {
    let before = status.active_seconds.unwrap_or(0);
    match condition(&status.conditions, "Ready").filter(|c| c.status == "True") {
        Some(ready) => {
            let current = now.duration_since(ready.last_transition_time.0).as_secs();
            (before.saturating_add(current.max(0)), true)
        }
        None => (before, false),
    }
}

fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn small(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests;
