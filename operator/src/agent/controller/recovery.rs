//! After a restore of the hub (docs/spec/gateway.md section 5): units that the hub does not know or count any more, and
//! those that go on in place of others. Nothing here ends a unit because the hub has forgotten it.
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use muster_api::v1alpha1::{WorkUnit, WorkUnitPhase};
use muster_core::attempt::{Condition, Desired, Stop};
use muster_core::envelope::Payload;
use muster_proof::dsse::Envelope;

use super::object::want;
use super::{Controller, IDLE, Next, TurnError};
use crate::agent::fence::Floor;
use crate::agent::hub::Look;
use crate::agent::state::UnitState;
use crate::agent::status::Wanted;
use crate::agent::units::{Handed, Unit};
use crate::wire::gateway::Recovered;

/// While another unit's Job is being made.
pub(super) const NOT_NOW: Duration = Duration::from_millis(300);

impl Controller {
    /// Whether the hub's word that it does not have the unit is no proof that it wants it to end. A unit is asked to stop
    /// before its object goes; one that is not was forgotten. Unless nobody has heard of us for longer than the grace: then
    /// it was let go.
    fn is_forgotten(&self, state: &UnitState) -> bool {
        let grace = state.payload.as_ref().map_or(0, |payload| payload.disconnect_grace_seconds);
        state.is_living() && self.contact.before() <= Duration::from_secs(grace.unsigned_abs())
    }

    /// Whether the hub has let the unit go.
    pub(super) fn is_gone(&self, look: &Look, state: &UnitState) -> bool {
        matches!(look, Look::Gone) && !self.is_forgotten(state)
    }

    /// Remembers since when the hub does not know or count the unit, or that it does again.
    pub(super) async fn orphan(&self, unit: &Unit, is_unknown: bool) -> Result<UnitState, TurnError> {
        let floor = self.fence.floor();
        let news = unit
            .update(|state| {
                let before = state.orphaned;
                let void = state.payload.as_ref().and_then(|payload| floor.voids(payload));
                let is_orphaned = state.is_living() && (is_unknown || void.is_some());
                state.orphaned = is_orphaned.then(|| before.unwrap_or_else(Timestamp::now));
                (before.is_some() != is_orphaned).then_some(void)
            })
            .await?;
        let state = unit.state().await;
        match (news, state.orphaned) {
            (Some(void), Some(_)) => {
                let why = void.unwrap_or_else(|| "the hub does not know the unit".to_owned());
                tracing::warn!(unit = unit.name(), why, "orphaned; it goes on within its grace");
            }
            (Some(_), None) if state.is_living() => {
                tracing::info!(unit = unit.name(), "not orphaned any more");
                // What waited for that.
                unit.committed.notify_one();
            }
            _ => {}
        }
        if state.orphaned.is_none() {
            unit.forget_orphaned();
        }
        Ok(state)
    }

    /// A reason to end a unit that the hub does not know or count.
    pub(super) fn end_of_orphan(
        &self,
        unit: &Unit,
        state: &UnitState,
        payload: &Payload,
        since: Timestamp,
    ) -> Option<Stop> {
        let stop = |reason, message| Some(Stop { reason, message });
        // The log has forgotten nothing: the hub asks again for what it still wants.
        if payload.is_audit() && self.fence.floor().voids(payload).is_some() {
            return stop("Superseded", "the hub was restored; it asks for replays anew".to_owned());
        }
        match state.recovered.as_ref().map(|said| &said.answer) {
            Some(Recovered::Stop) => {
                return stop("Superseded", "the hub was restored and does not continue this unit".to_owned());
            }
            Some(Recovered::As(name)) if self.refused(name) => {
                return stop("Superseded", format!("it was to go on as {name}, which is refused here"));
            }
            _ => {}
        }
        let grace = Duration::from_secs(payload.disconnect_grace_seconds.unsigned_abs());
        let orphaned = unit.orphaned_for(since);
        if orphaned > grace {
            let (orphaned, grace) = (orphaned.as_secs(), grace.as_secs());
            let text =
                format!("the hub has not known or counted it for {orphaned} s, the grace is {grace} s");
            return stop("GraceExpired", text);
        }
        None
    }

    fn refused(&self, name: &str) -> bool {
        // A state that is being changed just now is looked at in the next turn.
        self.units.get(name).and_then(|unit| unit.try_state()).is_some_and(|state| state.refused.is_some())
    }

    /// Whether the gateway's word that a newer epoch is there holds. After a restore it says the same of every unit, and may
    /// do so before we have heard of the restore.
    pub(super) async fn is_superseded(&self, unit: &Unit, payload: &Payload) -> bool {
        let heard = match self.session.heartbeat().await {
            Ok(answer) => {
                let said = Floor { incarnation: answer.incarnation, min_epoch: answer.min_epoch };
                self.fence.hear(said).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = heard {
            tracing::warn!(
                unit = unit.name(),
                error,
                "called superseded; asking whether the hub was restored"
            );
            return false;
        }
        let is_void = self.fence.floor().voids(payload).is_some();
        if is_void {
            unit.wake.notify_one();
        }
        !is_void
    }

    /// Takes a unit that was judged good, with the pods of the one that it continues. `None` if it has to be tried again.
    pub(super) async fn take(
        &self,
        unit: &Arc<Unit>,
        payload: Payload,
        envelope: Envelope,
    ) -> Result<Option<()>, TurnError> {
        let before = payload.continues.as_ref().and_then(|name| self.units.get(name));
        let handed = match &before {
            Some(before) => self.units.hand_over(before, unit, &payload, &envelope).await?,
            None => Handed::Never,
        };
        match (handed, before) {
            (Handed::NotNow, _) => return Ok(None),
            (Handed::Over, Some(before)) => {
                let state = unit.state().await;
                let (attempt, step) = (state.memory.attempt, state.checkpoint_step());
                tracing::info!(
                    unit = unit.name(),
                    before = before.name(),
                    attempt,
                    step,
                    "goes on with its pods"
                );
                before.round.send_modify(|count| *count += 1);
                before.wake.notify_one();
                unit.committed.notify_one();
                self.units.changed.notify_one();
            }
            _ => {
                unit.update(|state| {
                    state.payload = Some(payload);
                    state.envelope = Some(envelope);
                })
                .await?;
            }
        }
        Ok(Some(()))
    }

    /// A unit in whose place another one goes on: it has nothing of its own any more.
    pub(super) async fn rest(
        &self,
        unit: &Unit,
        object: Option<&WorkUnit>,
        state: &UnitState,
        heir: &str,
    ) -> Result<Next, TurnError> {
        if state.continued_as.is_none() {
            let heir = heir.to_owned();
            unit.update(|state| state.continued_as = Some(heir)).await?;
        }
        if state.gone {
            return self.forget(unit, &unit.state().await).await;
        }
        if let Some(object) = object.filter(|_| state.desired == Some(Desired::Stop)) {
            let message = format!("goes on as {heir}");
            let said = |status, reason| Condition { status, reason, message: message.clone() };
            let conditions =
                vec![("Ready", said(false, "Finished")), ("Released", said(true, "ChildrenGone"))];
            let (uid, generation) = (state.uid.clone(), object.metadata.generation);
            want(unit, Wanted { uid, generation, phase: WorkUnitPhase::Released, conditions });
        }
        Ok(Next::Again(IDLE))
    }
}
