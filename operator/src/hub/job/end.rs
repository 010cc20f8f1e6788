//! After the end of a job, and its deletion.
use std::time::Duration;

use jiff::SignedDuration;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use muster_api::names::finalizers;
use muster_api::v1alpha1::{Desired, TrainingJobPhase};
use muster_proof::records::Outcome;

use super::gather::{self, all_units_of, units_of};
use super::{LOG_AGAIN, Look, ask, key};
use crate::hub::apply::{self, Presence};
use crate::hub::context::What;
use crate::hub::error::Error;
use crate::hub::ledger::{LedgerError, grants};
use crate::hub::units;

/// Units of a deleted job are looked at again after this even without news: a member may be gone.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// A deleted job whose end the log refuses for so long goes without.
const GIVE_UP: SignedDuration = SignedDuration::from_secs(60);

/// The workers of a job that succeeded end by themselves; after so long they are asked to.
const LINGER: Duration = Duration::from_secs(30);

/// Stops the job's units, waits until nothing of them can run, lets them and then the job go.
pub async fn delete(look: &Look<'_>) -> Result<Action, Error> {
    let (ctx, job) = (look.ctx, look.job);
    if !job.finalizers().iter().any(|finalizer| finalizer == finalizers::JOB) {
        return Ok(Action::await_change());
    }
    let mut left = 0;
    for unit in all_units_of(ctx, &look.uid).await? {
        let provider = gather::provider(ctx, &unit).await?;
        let (member, _) = gather::member(&unit, provider.as_ref(), ctx.now());
        if units::over(&unit, member) {
            units::release(ctx, &unit).await?;
        } else {
            ask(ctx, &unit, Desired::Stop).await?;
            left += 1;
        }
    }
    if left > 0 {
        tracing::info!(job = key(job), units = left, "waiting for units to end before the job goes");
        return Ok(Action::requeue(LOOK_AGAIN));
    }
    if let Some(wait) = log_end(look, Outcome::Cancelled).await? {
        return Ok(Action::requeue(wait));
    }
    // Its checkpoints' names go now, their blobs with the next garbage collection.
    ctx.store.forget_job(&look.uid).await?;
    apply::finalizer(&look.api, "trainingjob", job, finalizers::JOB, Presence::Absent).await?;
    ctx.memory.forget(&look.uid);
    tracing::info!(job = key(job), "gone");
    Ok(Action::await_change())
}

/// A job that succeeded or failed: its units clean up, and the object goes after its TTL.
pub async fn finished(look: &Look<'_>) -> Result<Action, Error> {
    let succeeded = look.old().phase == Some(TrainingJobPhase::Succeeded);
    let outcome = if succeeded { Outcome::Completed } else { Outcome::Failed };
    let log_again = log_end(look, outcome).await?;
    let mut lingers = None;
    for unit in units_of(look.ctx, &look.uid).await? {
        let ended =
            unit.status.as_ref().and_then(|status| status.phase).is_some_and(|phase| phase.is_finished());
        let left = LINGER.saturating_sub(look.ctx.memory.first(&unit.name_any(), What::Lingers));
        if succeeded && !ended && !left.is_zero() {
            lingers = Some(left);
        } else {
            ask(look.ctx, &unit, Desired::Stop).await?;
        }
    }
    if let Some(left) = lingers {
        return Ok(Action::requeue(left));
    }
    if let Some(wait) = log_again {
        return Ok(Action::requeue(wait));
    }
    let completed = look.old().completion_time;
    let (Some(ttl), Some(completed)) = (look.job.spec.ttl_seconds_after_finished, completed) else {
        return Ok(Action::await_change());
    };
    let due = completed.0.checked_add(SignedDuration::from_secs(ttl)).unwrap_or(jiff::Timestamp::MAX);
    let left = Duration::try_from(due.duration_since(look.ctx.now())).unwrap_or_default();
    if !left.is_zero() {
        return Ok(Action::requeue(left + Duration::from_millis(100)));
    }
    tracing::info!(job = key(look.job), ttl, "removing the finished job after its TTL");
    apply::delete(&look.api, "trainingjob", &look.job.name_any(), Some(look.uid.clone())).await?;
    Ok(Action::await_change())
}

/// Logs the job's end; after how long to try again, if it is not in the log. The object stays until it is.
async fn log_end(look: &Look<'_>, outcome: Outcome) -> Result<Option<Duration>, Error> {
    let status = look.old();
    // Never accepted, or by a hub that had no log.
    if status.job_id.is_none() {
        return Ok(None);
    }
    let newest = gather::newest_checkpoint(&look.ctx.store, &look.uid, &status).await?;
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
