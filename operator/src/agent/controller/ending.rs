//! Units of which nothing may stay: refused, gone, or such that must end before anything else is known or can be remembered of them.
use std::time::Duration;

use muster_api::v1alpha1::{Placement, WorkUnit, WorkUnitPhase};
use muster_core::attempt::{self, Condition, Desired, Stop};

use super::object::{remember, seen, want};
use super::{Controller, IDLE, Next, TurnError};
use crate::agent::hub::Look;
use crate::agent::member::MemberError;
use crate::agent::state::UnitState;
use crate::agent::status::Wanted;
use crate::agent::units::Unit;
use crate::agent::{accept, upload};

/// As a job has it that does not say. What the unit's own job says, nobody can know.
fn grace_of_unknown() -> Duration {
    let seconds = Placement::default().disconnect_grace_seconds;
    Duration::from_secs(u64::from(seconds.unsigned_abs()))
}

impl Controller {
    /// A unit that is refused, or gone before it was understood: nothing of it may stay.
    pub(super) async fn clear(
        &self,
        unit: &Unit,
        object: Option<&WorkUnit>,
        state: &UnitState,
        jobs: Vec<attempt::Job>,
        pods: Vec<attempt::Pod>,
    ) -> Result<Next, TurnError> {
        let clean = jobs.is_empty() && pods.is_empty();
        if let (Some(object), Some((reason, message))) = (object, &state.refused) {
            let released = state.desired == Some(Desired::Stop) && clean;
            let phase = if released { WorkUnitPhase::Released } else { WorkUnitPhase::Refused };
            let reason = accept::known_reason(reason);
            let refused = Condition { status: false, reason, message: message.clone() };
            let children = Condition {
                status: clean,
                reason: if clean { "ChildrenGone" } else { "PodsTerminating" },
                message: format!("{} pods, {} Jobs", pods.len(), jobs.len()),
            };
            let conditions = vec![
                ("Accepted", refused.clone()),
                ("Ready", Condition { reason: "Finished", ..refused }),
                ("Released", children),
            ];
            let (uid, generation) = (state.uid.clone(), object.metadata.generation);
            want(unit, Wanted { uid, generation, phase, conditions });
        }
        self.remove(&jobs, &pods).await?;
        Ok(Next::Again(if clean { IDLE } else { Duration::from_secs(2) }))
    }

    /// A unit of which nothing is known but what it has on the member: an agent that lost its state finds such, and only the hub knows
    /// what they are. Nothing is started, and nothing is stopped but by who may stop everything, or because the hub has not said
    /// anything for as long as a unit may go on without it.
    pub(super) async fn await_payload(
        &self,
        unit: &Unit,
        jobs: &[attempt::Job],
        pods: &[attempt::Pod],
    ) -> Result<Next, TurnError> {
        let grace = grace_of_unknown();
        let late = || {
            let message = format!("nobody has said what it is for {} s", grace.as_secs());
            (unit.age() > grace).then_some(Stop { reason: "GraceExpired", message })
        };
        let is_there = !jobs.is_empty() || !pods.is_empty();
        if let Some(stop) = self.stop_of_all().or_else(late).filter(|_| is_there) {
            let (reason, why) = (stop.reason, stop.message);
            tracing::warn!(unit = unit.name(), reason, why, "pods of a unit that is not known are ended");
            self.remove(jobs, pods).await?;
        }
        Ok(Next::Again(Duration::from_secs(2)))
    }

    async fn remove(&self, jobs: &[attempt::Job], pods: &[attempt::Pod]) -> Result<(), MemberError> {
        for job in jobs.iter().filter(|job| !job.deleting) {
            self.member.delete_job(&job.name, &job.uid).await?;
        }
        for pod in pods.iter().filter(|pod| pod.grace.is_none()) {
            self.member.delete_pod(&pod.name, &pod.uid).await?;
        }
        Ok(())
    }

    /// A unit whose state cannot be saved. Nothing is done that was not remembered, but for this: pods that must end do not wait for
    /// room on a disk. To delete them needs no memory, for it names their UIDs and may be done twice; it is told once it is remembered.
    pub(super) async fn end_unremembered(&self, unit: &Unit, look: &Look) -> Result<(), MemberError> {
        let mut state = unit.state().await;
        let is_gone = self.is_gone(look, &state);
        remember(&mut state, seen(look), is_gone);
        // Its pods are another's to end.
        if state.continued_as.is_some() || self.units.heir(unit.name()).is_some() {
            return Ok(());
        }
        let stop = match &state.payload {
            Some(payload) => self.stop(unit, &state, payload).await,
            None => self.stop_of_all(),
        };
        if stop.is_none() && state.desired < Some(Desired::Stop) {
            return Ok(());
        }
        let (jobs, pods) = self.member.children.listed(&state.names(unit.name())).await?;
        if !jobs.is_empty() || !pods.is_empty() {
            let why = stop.map_or_else(|| "the hub asked for it".to_owned(), |stop| stop.message);
            tracing::warn!(unit = unit.name(), why, "its pods are ended, though that cannot be remembered");
        }
        self.remove(&jobs, &pods).await
    }

    pub(super) async fn forget(&self, unit: &Unit, state: &UnitState) -> Result<Next, TurnError> {
        self.units.forget(unit.name())?;
        // What goes on elsewhere may still be asked for there.
        if state.continued_as.is_none() {
            unit.forget_committed(state.earlier.iter().map(String::as_str).chain([unit.name()]))?;
        }
        self.units.changed.notify_one();
        let starts = [state.rounds.start, state.payload.as_ref().and_then(|payload| payload.start)];
        let manifests = state.checkpoints.iter().map(|commit| commit.manifest);
        let manifests: Vec<_> =
            manifests.chain(starts.into_iter().flatten().map(|start| start.manifest)).collect();
        upload::remove_checkpoints(&self.units, &self.blobs, &manifests).await;
        Ok(Next::Forget)
    }
}
