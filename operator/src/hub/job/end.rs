//! After the end of a job, and its deletion.
use std::time::Duration;

use jiff::SignedDuration;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use muster_api::names::finalizers;
use muster_api::v1alpha1::{Desired, TrainingJobPhase, WorkUnit};
use muster_proof::records::Outcome;

use super::gather::{self, all_units_of, units_of};
use super::{LOG_AGAIN, Look, ask, audits, key, status};
use crate::hub::apply::{self, Presence};
use crate::hub::context::What;
use crate::hub::error::Error;
use crate::hub::kueue;
use crate::hub::ledger::{LedgerError, grants};
use crate::hub::units;

/// Units of a deleted job are looked at again after this even without news: a member may be gone.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// A deleted job whose end the log refuses for so long goes without.
const GIVE_UP: SignedDuration = SignedDuration::from_secs(60);

/// The workers of a job that succeeded end by themselves; after so long they are asked to.
const LINGER: Duration = Duration::from_secs(30);

/// How a job has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// All steps are durable: its workers end by themselves.
    Succeeded,
    /// It was given up: they are stopped.
    Failed,
}

/// Stops the job's units, waits until nothing of them can run, lets its audits end, lets them and then the job go.
pub async fn delete(look: &Look<'_>) -> Result<Action, Error> {
    let (ctx, job) = (look.ctx, look.job);
    if !job.finalizers().iter().any(|finalizer| finalizer == finalizers::JOB) {
        return Ok(Action::await_change());
    }
    if let Some(wait) = stop(look, units_of(ctx, &look.uid).await?).await? {
        return Ok(Action::requeue(wait));
    }
    audits::roll_back(look).await?;
    if !planted!("end-not-logged")
        && let Some(wait) = log_end(look, Outcome::Cancelled).await?
    {
        return Ok(Action::requeue(wait));
    }
    // Its last windows are closed and audited like any others, if somebody can do it soon.
    if let Some(wait) = audits::awaited(look) {
        return Ok(Action::requeue(wait));
    }
    if let Some(wait) = stop(look, all_units_of(ctx, &look.uid).await?).await? {
        return Ok(Action::requeue(wait));
    }
    // Its checkpoints' names go now, their blobs with the next garbage collection.
    ctx.store.forget_job(&look.uid).await?;
    apply::finalizer(&look.api, "trainingjob", job, finalizers::JOB, Presence::Absent).await?;
    ctx.memory.forget(&look.uid);
    tracing::info!(job = key(job), "gone");
    Ok(Action::await_change())
}

/// Lets units of a deleted job go that are over, and stops the others; after how long to look again if there are any.
async fn stop(look: &Look<'_>, all: Vec<WorkUnit>) -> Result<Option<Duration>, Error> {
    let ctx = look.ctx;
    let mut left = 0;
    for unit in all {
        let provider = gather::provider(ctx, &unit).await?;
        let (member, _) = gather::member(&unit, provider.as_deref(), ctx.now());
        if units::over(&unit, member) {
            units::release(ctx, &unit).await?;
        } else {
            ask(ctx, &unit, Desired::Stop).await?;
            left += 1;
        }
    }
    if left > 0 {
        tracing::info!(job = key(look.job), units = left, "waiting for units to end before the job goes");
    }
    Ok((left > 0).then_some(LOOK_AGAIN))
}

/// A job that succeeded or failed: its units clean up, and the object goes after its TTL.
pub async fn finished(look: &Look<'_>) -> Result<Action, Error> {
    let (manner, outcome) = match look.old().phase {
        Some(TrainingJobPhase::Succeeded) => (Manner::Succeeded, Outcome::Completed),
        _ => (Manner::Failed, Outcome::Failed),
    };
    kueue::finish(look.ctx, look.job, &look.uid, manner == Manner::Succeeded).await?;
    // Its audits go on, and a fault undoes also what led to nothing: the log is told anew where it ends.
    audits::roll_back(look).await?;
    let log_again = log_end(look, outcome).await?;
    if let Some(left) = let_go(look, manner).await? {
        return Ok(Action::requeue(left));
    }
    let audits_again = match manner {
        Manner::Succeeded => None,
        Manner::Failed => look_after(look).await?,
    };
    if let Some(wait) = log_again {
        return Ok(Action::requeue(wait));
    }
    let completed = look.old().completion_time;
    let (Some(ttl), Some(completed)) = (look.job.spec.ttl_seconds_after_finished, completed) else {
        return Ok(audits_again.map_or_else(Action::await_change, Action::requeue));
    };
    let due = completed.0.checked_add(SignedDuration::from_secs(ttl)).unwrap_or(jiff::Timestamp::MAX);
    let left = Duration::try_from(due.duration_since(look.ctx.now())).unwrap_or_default();
    if !left.is_zero() {
        let left = left + Duration::from_millis(100);
        return Ok(Action::requeue(audits_again.map_or(left, |again| again.min(left))));
    }
    tracing::info!(job = key(look.job), ttl, "removing the finished job after its TTL");
    apply::delete(&look.api, "trainingjob", &look.job.name_any(), Some(look.uid.clone())).await?;
    Ok(Action::await_change())
}

/// Writes how far the audits of a failed job are; after how long to look again.
async fn look_after(look: &Look<'_>) -> Result<Option<Duration>, Error> {
    let book = audits::book(look.ctx, look.job, &look.uid);
    let standing = audits::standing(look.job, book.as_deref());
    look.write(&status::of_failed(look.job, &standing, look.ctx.now())).await?;
    Ok(audits::look_again(&standing))
}

/// Asks the units that trained a job to clean up; after how long to look again if their workers still end by themselves.
///
/// # Errors
/// [`Error::Api`].
pub async fn let_go(look: &Look<'_>, manner: Manner) -> Result<Option<Duration>, Error> {
    let mut lingers = None;
    for unit in units_of(look.ctx, &look.uid).await? {
        let ended =
            unit.status.as_ref().and_then(|status| status.phase).is_some_and(|phase| phase.is_finished());
        let left = LINGER.saturating_sub(look.ctx.memory.first(&unit.name_any(), What::Lingers));
        if manner == Manner::Succeeded && !ended && !left.is_zero() {
            lingers = Some(left);
        } else {
            ask(look.ctx, &unit, Desired::Stop).await?;
        }
    }
    Ok(lingers)
}

/// Logs the job's end; after how long to try again, if it is not in the log. The object stays until it is.
///
/// # Errors
/// The store's.
pub async fn log_end(look: &Look<'_>, outcome: Outcome) -> Result<Option<Duration>, Error> {
    let status = look.old();
    // Never accepted, or by a hub that had no log.
    if status.job_id.is_none() {
        return Ok(None);
    }
    let book = audits::book(look.ctx, look.job, &look.uid);
    let newest = gather::newest_checkpoint(&look.ctx.store, &look.uid, &status, book.as_deref()).await?;
    match grants::end_job(look.ctx, &look.uid, newest.as_ref(), outcome).await {
        Ok(()) => Ok(None),
        Err(error) if is_hopeless(look, &error) => {
            // No waiting helps, and a job that cannot be deleted helps nobody.
            tracing::error!(job = key(look.job), %error, "the job's end will never be in the log");
            Ok(None)
        }
        Err(error) => {
            tracing::warn!(job = key(look.job), %error, "the job's end is not in the log yet");
            Ok(Some(LOG_AGAIN))
        }
    }
}

/// Whether the log will never take the end. A refusal may be mended by what it has brought to light, so it is tried again.
fn is_hopeless(look: &Look<'_>, error: &LedgerError) -> bool {
    let deleted = look.job.metadata.deletion_timestamp.as_ref();
    let waited = deleted.is_some_and(|since| look.ctx.now().duration_since(since.0) > GIVE_UP);
    matches!(error, LedgerError::Incomplete(_)) || (waited && error.refusal().is_some())
}
