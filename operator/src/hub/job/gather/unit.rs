//! A WorkUnit as the decision about its job sees it.
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use muster_api::v1alpha1::{self as api, ComputeProvider, WorkUnit};
use muster_core::envelope::Payload;
use muster_core::lifecycle::{Desired, Failure, Member, Tenure, Unit, UnitPhase};
use muster_core::provider::Scheduling;

use super::{number, small};
use crate::hub::names::{RESTARTS_BEFORE, provider_of};
use crate::hub::provider::{CONNECTED, scheduling};
use crate::runtime::sanitise::line;

/// Added to a unit's grace before its member counts as gone: the agent measures from its last word with the hub, which
/// was earlier than ours with it, and needs a moment to stop its pods.
const GRACE_MARGIN: Duration = Duration::from_secs(30);

/// Whether the unit's member is heard of, and if not, for how long it may still train.
pub fn member(
    unit: &WorkUnit,
    provider: Option<&ComputeProvider>,
    now: Timestamp,
) -> (Member, Option<Duration>) {
    // A provider is let go only after its units; one that is missing was removed by force.
    let Some(provider) = provider else { return (Member::Gone, None) };
    let conditions = provider.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let Some(silent) = conditions.iter().find(|c| c.type_ == CONNECTED && c.status == "False") else {
        return (Member::Connected, None);
    };
    let grace = payload(unit).map_or(86_400, |payload| payload.disconnect_grace_seconds);
    let grace = Duration::from_secs(number(grace)) + GRACE_MARGIN;
    let silence = now.duration_since(silent.last_transition_time.0);
    let silence = Duration::try_from(silence).unwrap_or_default();
    match grace.checked_sub(silence).filter(|left| !left.is_zero()) {
        Some(left) => (Member::Away, Some(left)),
        None => (Member::Gone, None),
    }
}

/// What this hub signed. Not verified: nobody else may write a WorkUnit's spec, and nothing is run by it here.
pub fn payload(unit: &WorkUnit) -> Option<Payload> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(&unit.spec.envelope.payload).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// A WorkUnit as the decision sees it.
pub fn unit_facts(
    unit: &WorkUnit,
    provider: Option<&ComputeProvider>,
    member: Member,
    now: Timestamp,
) -> Unit {
    let status = unit.status.clone().unwrap_or_default();
    let phase = phase(status.phase);
    let failure = match phase {
        UnitPhase::Refused => condition(&status.conditions, "Accepted").map(said_by),
        _ => status.last_failure.as_ref().map(failure),
    };
    let waiting = condition(&status.conditions, "Scheduled")
        .filter(|c| c.status == "False" && c.reason != "Starting")
        .map(said_by);
    let attempt = status.attempt.map_or(0, small);
    // An attempt that had to make room for others is none that counts.
    let free = status.restarts.map_or(0, |counted| attempt.saturating_sub(1).saturating_sub(small(counted)));
    let restarts_before = unit.annotations().get(RESTARTS_BEFORE).and_then(|text| text.parse().ok());
    Unit {
        name: unit.name_any(),
        provider: provider_of(&unit.namespace().unwrap_or_default()).unwrap_or("?").to_owned(),
        epoch: number(unit.spec.epoch),
        desired: match unit.spec.desired {
            api::Desired::Run => Desired::Run,
            api::Desired::Drain => Desired::Drain,
            api::Desired::Stop => Desired::Stop,
        },
        phase,
        attempt,
        free,
        workers: small(unit.spec.workers),
        step: status.step.map_or(0, number),
        delivered: status.checkpoint.is_some(),
        failure,
        waiting,
        member,
        tenure: tenure(unit, provider.map(|provider| scheduling(provider, now))),
        stall: None,
        restarts_before: restarts_before.unwrap_or(0),
    }
}

pub(super) fn tenure(unit: &WorkUnit, scheduling: Option<Scheduling>) -> Tenure {
    match scheduling {
        Some(Scheduling::Revoked) => Tenure::Revoked,
        // Somebody deleted the unit: it is let go, and the job goes on with the next epoch.
        _ if unit.metadata.deletion_timestamp.is_some() => Tenure::Ends,
        Some(Scheduling::Deleting) => Tenure::Leaves,
        Some(Scheduling::Drained) if !planted!("drain-ignored") => Tenure::Leaves,
        _ => Tenure::Keeps,
    }
}

fn phase(phase: Option<api::WorkUnitPhase>) -> UnitPhase {
    use api::WorkUnitPhase as Api;
    match phase {
        None => UnitPhase::Unseen,
        Some(Api::Accepted) => UnitPhase::Accepted,
        Some(Api::Refused) => UnitPhase::Refused,
        Some(Api::Queued) => UnitPhase::Queued,
        Some(Api::Starting) => UnitPhase::Starting,
        Some(Api::Running) => UnitPhase::Running,
        Some(Api::Draining) => UnitPhase::Draining,
        Some(Api::Succeeded) => UnitPhase::Succeeded,
        Some(Api::Failed) => UnitPhase::Failed,
        Some(Api::Released) => UnitPhase::Released,
    }
}

pub(super) fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == kind)
}

/// Longest text of a member that is passed on.
const MAX_SAID: usize = 300;

fn said_by(condition: &Condition) -> Failure {
    Failure {
        rank: None,
        exit_code: None,
        reason: line(&condition.reason, 63),
        message: line(&condition.message, MAX_SAID),
    }
}

fn failure(failure: &api::UnitFailure) -> Failure {
    Failure {
        rank: failure.rank.map(small),
        exit_code: failure.exit_code,
        reason: line(failure.reason.as_deref().unwrap_or("Unknown"), 63),
        message: line(failure.message.as_deref().unwrap_or_default(), MAX_SAID),
    }
}
