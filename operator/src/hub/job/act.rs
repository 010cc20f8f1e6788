//! What was decided is done, but for the status.
use std::time::Duration;

use kube::api::Patch;
use kube::{Api, ResourceExt};
use muster_api::v1alpha1::{Desired, WorkUnit};
use muster_core::lifecycle::conditions::Unplaced;
use muster_core::lifecycle::{self, Audits, Decision, Next, Outcome, Tenure};

use super::gather::{self, Gathered};
use super::{LOG_AGAIN, Look, audits, end, key, place};
use crate::hub::context::{Context, What};
use crate::hub::error::Error;
use crate::hub::ledger::grants;
use crate::hub::ledger::records::why_over;
use crate::hub::{apply, units};
use crate::runtime::client::within;

/// What was done about a decision.
pub enum Acted {
    /// Nothing was to be done.
    Nothing,
    /// This unit was made.
    Placed(Box<WorkUnit>),
    /// Nobody can have it now.
    Unplaced(Unplaced),
    /// Nobody else can have it now; it stays with its silent member.
    Stays,
    /// Too soon after the last failure.
    Delayed(Duration),
    /// Something else must happen first; looked at again after this.
    Awaits(Duration),
}

/// Does it.
///
/// # Errors
/// What the API server, the store or the log say.
pub(super) async fn act(look: &Look<'_>, seen: &Gathered, decision: &Decision) -> Result<Acted, Error> {
    if !matches!(decision.next, Next::Place { .. } | Next::Move { .. }) {
        look.ctx.queue.withdraw(&look.uid);
    }
    if let (Some(current), Some(desired)) = (&seen.current, decision.desired) {
        ask(look.ctx, current, to_api(desired)).await?;
    }
    for older in &seen.older {
        match succession(seen.current.as_ref(), older) {
            Succession::None => ask(look.ctx, older, Desired::Stop).await?,
            Succession::Announced => {}
            // Its pods are the other unit's now, so there is no end to wait for.
            Succession::Done => units::release(look.ctx, older).await?,
        }
    }
    let unit = seen.facts.unit.as_ref();
    if matches!(decision.next, Next::Place { .. } | Next::Rest) {
        // Its unit is over, and so is its grant; should the log be away, the next placement says it.
        let reason = why_over(unit);
        if let Err(error) = grants::end_grant(look.ctx, &look.uid, 0, seen.last_epoch, reason).await {
            tracing::warn!(job = key(look.job), %error, "the end of a grant is not logged yet");
        }
    }
    match &decision.next {
        Next::Place { restarts, after } => {
            // Neither a revoked provider nor a convicted one gets the job again, so going on at once cannot spin.
            let unit = unit.filter(|unit| unit.tenure != Tenure::Revoked && seen.facts.rollback.is_none());
            if let (Some(unit), Some(_)) = (unit, after) {
                // Those that do not count are not begun again in one breath either.
                let failed = place::failures(seen).values().sum::<u32>().max(*restarts);
                let wait = Duration::from_secs(lifecycle::failure::restart_delay_seconds(failed));
                let age = look.ctx.memory.first(&unit.name, What::UnitEnded);
                if age < wait {
                    return Ok(Acted::Delayed(wait - age));
                }
            }
            place::place(look, seen, *restarts, false).await
        }
        Next::Move { restarts, .. } => move_on(look, seen, *restarts).await,
        Next::Settle if planted!("settles-forever") => Ok(Acted::Nothing),
        Next::Settle => settle(look, seen).await,
        Next::Finish(Outcome::Failed { reason, .. }) => {
            tracing::info!(job = key(look.job), reason, "job fails");
            Ok(Acted::Nothing)
        }
        Next::Wait | Next::Rest | Next::RollBack | Next::Finish(_) => Ok(Acted::Nothing),
    }
}

/// To another provider that has room, once others are heard while this one is not.
async fn move_on(look: &Look<'_>, seen: &Gathered, restarts: u32) -> Result<Acted, Error> {
    let ctx = look.ctx;
    let provider = match &seen.current {
        Some(unit) => gather::provider(ctx, unit).await?,
        None => None,
    };
    let too_early = provider.and_then(|provider| {
        ctx.leases.too_early(&provider.name_any(), provider.spec.lease_duration_seconds)
    });
    if let Some(wait) = too_early.filter(|_| !planted!("moves-though-deaf")) {
        ctx.queue.withdraw(&look.uid);
        return Ok(Acted::Awaits(wait));
    }
    match place::place(look, seen, restarts, true).await? {
        Acted::Unplaced(why) => {
            ctx.queue.withdraw(&look.uid);
            tracing::debug!(job = key(look.job), reason = why.reason, message = why.message, "stays");
            Ok(Acted::Stays)
        }
        acted => Ok(acted),
    }
}

/// The log hears that training is over, so that all windows close; the last units clean up.
async fn settle(look: &Look<'_>, seen: &Gathered) -> Result<Acted, Error> {
    let lingers = end::let_go(look, end::Manner::Succeeded).await?;
    // What an unread log would say of the last step is not known.
    let log_again = match seen.facts.audits {
        Audits::Unknown => Some(LOG_AGAIN),
        _ if seen.facts.failed.is_some() => {
            end::log_end(look, muster_proof::records::Outcome::Failed).await?
        }
        _ => end::log_end(look, muster_proof::records::Outcome::Completed).await?,
    };
    Ok(Acted::Awaits([lingers, log_again].into_iter().flatten().min().unwrap_or(audits::SOON)))
}

/// Whether a unit goes on as another one, after a restore of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Succession {
    /// It does not.
    None,
    /// The agent has not spoken of the other one yet: to be told to stop now would stop the pods of both.
    Announced,
    /// The agent knows.
    Done,
}

pub(super) fn succession(current: Option<&WorkUnit>, older: &WorkUnit) -> Succession {
    let heir = current.filter(|current| {
        let continues = gather::payload(current).and_then(|payload| payload.continues);
        current.namespace() == older.namespace() && continues == older.metadata.name
    });
    match heir.map(|heir| heir.status.as_ref().and_then(|status| status.phase)) {
        None => Succession::None,
        Some(None) => Succession::Announced,
        Some(Some(_)) => Succession::Done,
    }
}

fn to_api(desired: lifecycle::Desired) -> Desired {
    match desired {
        lifecycle::Desired::Run => Desired::Run,
        lifecycle::Desired::Drain => Desired::Drain,
        lifecycle::Desired::Stop => Desired::Stop,
    }
}

/// Asks a unit for more than it was asked so far; never for less.
pub async fn ask(ctx: &Context, unit: &WorkUnit, desired: Desired) -> Result<(), Error> {
    if unit.spec.desired >= desired {
        return Ok(());
    }
    let namespace = unit.namespace().unwrap_or_default();
    let api: Api<WorkUnit> = Api::namespaced(ctx.client.clone(), &namespace);
    let name = unit.name_any();
    let patch = serde_json::json!({"metadata": {"uid": unit.uid()}, "spec": {"desired": desired}});
    let (params, patch) = (apply::params(), Patch::Merge(&patch));
    let what = format!("patch workunit {name}");
    match within(&what, api.patch(&name, &params, &patch)).await.map_err(Error::from) {
        Ok(unit) => {
            ctx.mirrors.units.wrote(&unit.metadata);
            tracing::info!(unit = name, namespace, ?desired, "asked");
            Ok(())
        }
        Err(error) if error.is_gone() => Ok(()),
        Err(error) => Err(error),
    }
}
