//! The end of WorkUnits. A unit is let go only when nothing of it can run any more; until then its finalizer holds it.
//!
//! Jobs that are deleted and providers that leave let their own units go at once ([`release`]). The controller here does the
//! rest: units that were over for a while, units that somebody deleted, units whose job is gone without a trace.
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt};
use muster_api::names::finalizers;
use muster_api::v1alpha1::{Desired, TrainingJob, WorkUnit, WorkUnitPhase};
use muster_core::lifecycle::Member;

use super::apply::{self, Presence};
use super::context::{Context, What};
use super::error::Error;
use super::job::{Jobs, ask, gather};
use super::metrics;
use crate::runtime::Shutdown;
use crate::runtime::client::within;
use crate::runtime::lean;
use crate::runtime::patience::{Patience, at_once};

type Guarded = DeserializeGuard<WorkUnit>;

/// People may look at finished units for so long.
const KEEP: Duration = Duration::from_secs(600);
/// The job must have had time to read a unit's last words.
pub const READ: Duration = Duration::from_secs(30);

struct Units {
    ctx: Arc<Context>,
    jobs: Jobs,
}

/// Runs until shutdown.
pub async fn run(ctx: Arc<Context>, jobs: Jobs, shutdown: Shutdown) {
    // A unit looks orphaned while the jobs are not known yet.
    tokio::select! {
        biased;
        () = shutdown.wait() => return,
        ready = jobs.wait_until_ready() => if ready.is_err() { return },
    }
    lean::controller(Api::<Guarded>::all(ctx.client.clone()))
        .with_config(at_once())
        .trigger_backoff(Patience::default())
        .graceful_shutdown_on(shutdown.wait())
        .run(reconcile, error_policy, Arc::new(Units { ctx, jobs }))
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(%error, "unit controller");
            }
        })
        .await;
}

fn error_policy(object: Arc<Guarded>, error: &Error, units: Arc<Units>) -> Action {
    units.ctx.retry(&key(&object.namespace().unwrap_or_default(), &object.name_any()), error)
}

fn key(namespace: &str, name: &str) -> String {
    format!("workunit/{namespace}/{name}")
}

/// Whether nothing of the unit can run any more: its agent saw the last child go, it never made one, or its member has
/// been silent for longer than it may go on alone.
#[must_use]
pub fn over(unit: &WorkUnit, member: Member) -> bool {
    let status = unit.status.as_ref();
    let never_ran = status.is_none_or(|status| status.attempt.unwrap_or(0) == 0);
    match status.and_then(|status| status.phase) {
        Some(WorkUnitPhase::Released) => true,
        Some(WorkUnitPhase::Refused) if never_ran => true,
        _ => member == Member::Gone,
    }
}

/// Lets a unit go that is [`over`].
///
/// # Errors
/// [`Error::Api`].
pub async fn release(ctx: &Context, unit: &WorkUnit) -> Result<(), Error> {
    let (namespace, name) = (unit.namespace().unwrap_or_default(), unit.name_any());
    let api: Api<WorkUnit> = Api::namespaced(ctx.client.clone(), &namespace);
    // Deleted first: without its finalizer and not deleted, a crash in between would leave it for nobody.
    if unit.metadata.deletion_timestamp.is_none() && !planted!("let-go-not-deleted") {
        apply::delete(&api, "workunit", &name, unit.uid()).await?;
    }
    let Some(fresh) = within(&format!("get workunit {name}"), api.get_opt(&name)).await? else {
        return Ok(());
    };
    if fresh.uid() != unit.uid() {
        return Ok(());
    }
    match apply::finalizer(&api, "workunit", &fresh, finalizers::UNIT, Presence::Absent).await {
        Ok(Some(gone)) => ctx.mirrors.units.wrote(&gone.metadata),
        Err(error) if !error.is_gone() => return Err(error),
        _ => {}
    }
    ctx.memory.forget(&name);
    tracing::info!(unit = name, namespace, "let go");
    Ok(())
}

async fn reconcile(object: Arc<Guarded>, units: Arc<Units>) -> Result<Action, Error> {
    let ctx = &units.ctx;
    let _timer = ctx.metrics.reconciles(metrics::Controller::Unit);
    let unit = match &object.0 {
        Ok(unit) => unit,
        Err(invalid) => {
            tracing::warn!(unit = object.name_any(), %invalid, "WorkUnit does not parse; left alone");
            return Ok(Action::await_change());
        }
    };
    let action = look(ctx, &units.jobs, unit).await?;
    ctx.succeeded(&key(&unit.namespace().unwrap_or_default(), &unit.name_any()));
    Ok(action)
}

async fn look(ctx: &Context, jobs: &Jobs, unit: &WorkUnit) -> Result<Action, Error> {
    let provider = gather::provider(ctx, unit).await?;
    let (member, gone_in) = gather::member(unit, provider.as_deref(), ctx.now());
    let orphan = is_orphan(ctx, jobs, unit).await?;
    if !over(unit, member) {
        if orphan {
            ask(ctx, unit, Desired::Stop).await?;
        }
        // A member that went silent is noticed by its provider's condition, which wakes nobody here: look then.
        return Ok(gone_in.map_or_else(Action::await_change, Action::requeue));
    }
    let name = unit.name_any();
    let age = ctx.memory.first(&name, What::UnitEnded);
    let keep = match (orphan, unit.metadata.deletion_timestamp.is_some()) {
        (true, _) => Duration::ZERO,
        (false, true) => READ,
        (false, false) => KEEP,
    };
    if age < keep {
        return Ok(Action::requeue(keep - age));
    }
    release(ctx, unit).await?;
    Ok(Action::await_change())
}

/// Whether the unit's job does not exist any more. The cache may be behind, so a miss is asked for live.
async fn is_orphan(ctx: &Context, jobs: &Jobs, unit: &WorkUnit) -> Result<bool, Error> {
    let uid = &unit.spec.job_uid;
    if jobs.find(|job| job.uid().as_ref() == Some(uid)).is_some() {
        return Ok(false);
    }
    let api: Api<TrainingJob> = Api::all(ctx.client.clone());
    let all = within("list trainingjobs", api.list_metadata(&ListParams::default())).await?;
    Ok(!all.items.iter().any(|job| job.uid().as_ref() == Some(uid)))
}
