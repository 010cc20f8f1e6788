//! Between a unit's object and what is remembered of it: what the object says is taken over, what was decided is said.
use kube::ResourceExt;
use muster_api::v1alpha1::{self as api, WorkUnit, WorkUnitPhase};
use muster_core::attempt::{self, Attempts, Condition, Decision, Desired, Plan};
use muster_core::envelope::Payload;

use crate::agent::hub::Look;
use crate::agent::state::{Commit, UnitState};
use crate::agent::status::Wanted;
use crate::agent::units::Unit;

/// The object, if there is one.
pub(super) fn seen(look: &Look) -> Option<&WorkUnit> {
    match look {
        Look::Object(object) => Some(object),
        Look::Gone | Look::Unknown => None,
    }
}

/// Takes over what the object says; what the hub has once asked for stays asked for.
pub(super) fn remember(state: &mut UnitState, object: Option<&WorkUnit>, gone: bool) {
    if gone {
        state.gone = true;
        state.desired = Some(Desired::Stop);
    }
    let Some(object) = object else { return };
    let uid = object.uid().unwrap_or_default();
    if state.uid != uid {
        // Another object of the same name. The old one's children go first, and no attempt number is used twice.
        let memory = attempt::Memory {
            attempt: state.memory.attempt,
            over: true,
            created: true,
            ..attempt::Memory::default()
        };
        let earlier = std::mem::take(&mut state.earlier);
        *state = UnitState { uid, memory, earlier, ..UnitState::default() };
    }
    state.gone = false;
    let asked = match (object.spec.desired, object.metadata.deletion_timestamp.is_some()) {
        (_, true) | (api::Desired::Stop, _) => Desired::Stop,
        (api::Desired::Drain, _) => Desired::Drain,
        (api::Desired::Run, _) => Desired::Run,
    };
    state.desired = state.desired.max(Some(asked));
    // An agent that lost its state learns from its own words what is durable.
    let said = object.status.as_ref().and_then(|status| status.checkpoint.as_ref());
    if let Some(said) = said
        && state.newest().is_none_or(|newest| newest.step < said.step)
        && let (Ok(manifest), Ok(state_root)) = (said.manifest.parse(), said.state_root.parse())
        && let Some(Ok(record)) = said.record.as_ref().map(|record| record.parse())
    {
        let (step, attempt, ends) = (said.step, 0, said.ends.unwrap_or(false));
        state.checkpoints.push(Commit { step, manifest, state_root, record, attempt, durable: true, ends });
    }
}

pub(super) fn plan(payload: &Payload) -> Plan {
    Plan {
        unit: payload.name.clone(),
        workers: payload.workers,
        steps: payload.last_step(),
        memory: payload.resources.memory.clone(),
        max_restarts: payload.max_restarts,
        attempts: if payload.is_audit() { Attempts::One } else { Attempts::Many },
        schedule_timeout_seconds: payload.schedule_timeout_seconds,
    }
}

pub(super) fn say(unit: &Unit, uid: &str, object: Option<&WorkUnit>, payload: &Payload, decision: &Decision) {
    let accepted = Condition {
        status: true,
        reason: "PolicyMatched",
        message: format!("signed by the hub, {} workers of {}", payload.workers, payload.device_class),
    };
    let mut conditions = vec![("Accepted", accepted)];
    conditions.extend(decision.scheduled.clone().map(|scheduled| ("Scheduled", scheduled)));
    conditions.push(("Ready", decision.ready.clone()));
    conditions.extend(decision.released.clone().map(|released| ("Released", released)));
    let generation = object.and_then(|object| object.metadata.generation);
    want(unit, Wanted { uid: uid.to_owned(), generation, phase: phase(decision.phase), conditions });
}

pub(super) fn want(unit: &Unit, wanted: Wanted) {
    unit.wanted.send_if_modified(|known| {
        let mut wanted = wanted;
        if wanted.generation.is_none() {
            let same = known.as_ref().filter(|known| known.uid == wanted.uid);
            wanted.generation = same.and_then(|known| known.generation);
        }
        let news = known.as_ref() != Some(&wanted);
        *known = Some(wanted);
        news
    });
}

fn phase(name: &str) -> WorkUnitPhase {
    match name {
        "Queued" => WorkUnitPhase::Queued,
        "Running" => WorkUnitPhase::Running,
        "Draining" => WorkUnitPhase::Draining,
        "Succeeded" => WorkUnitPhase::Succeeded,
        "Failed" => WorkUnitPhase::Failed,
        "Released" => WorkUnitPhase::Released,
        _ => WorkUnitPhase::Starting,
    }
}
