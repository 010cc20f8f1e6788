//! The agent's own reasons: to refuse a unit, to end it, to let it wait.
use std::time::Duration;

use jiff::Timestamp;
use muster_api::v1alpha1::WorkUnit;
use muster_core::attempt::Stop;
use muster_core::envelope::{Payload, Refusal};
use muster_core::quota::{of_unit, of_worker};
use muster_proof::dsse::Envelope;

use super::{Controller, diligence};
use crate::agent::accept::{self, Measure, Rejection};
use crate::agent::hub_keys::HubKeysError;
use crate::agent::nodes;
use crate::agent::state::UnitState;
use crate::agent::units::Unit;
use crate::log::client::HttpLog;

/// A unit signed by a key that nobody here knows is not refused for so long: news of a rotation may be under way.
const NEWS: Duration = Duration::from_secs(6);

impl Controller {
    fn measure(&self) -> Measure<'_> {
        Measure {
            provider: &self.provider,
            policies: &self.policies,
            keys: &self.trusted,
            floor: self.fence.floor(),
            witness: &self.witness,
        }
    }

    /// Whether the unit is taken; `None` while that cannot be said. A refusal is final, so a signer that is not known is
    /// first looked for in the hub's newest set of keys: the unit may be quicker here than the news of a rotation.
    pub(super) async fn judge(
        &self,
        unit: &Unit,
        object: &WorkUnit,
    ) -> Option<Result<(Payload, Envelope), Refusal>> {
        for refreshed in [false, true] {
            let refusal = match accept::accept(self.measure(), &self.units, object).await {
                Ok((payload, envelope)) => {
                    let log = HttpLog::new(self.session.clone());
                    match diligence::check(&log, &payload, &self.provider).await {
                        Ok(Ok(())) => return Some(Ok((payload, envelope))),
                        Ok(Err(refusal)) => refusal,
                        Err(error) => {
                            tracing::warn!(unit = unit.name(), %error, "an audit that cannot be looked up in the log yet");
                            return None;
                        }
                    }
                }
                Err(Rejection::UnknownSigner(refusal)) if !refreshed => {
                    match self.trusted.refresh(self.session.gateway()).await {
                        Ok(true) => continue,
                        // The hub publishes its keys, the gateway reads them: the unit may be quicker still.
                        Ok(false) if unit.age() < NEWS => return None,
                        // A chain that is no continuation of what we know makes no signer known.
                        Ok(false) | Err(HubKeysError::Chain(_)) => refusal,
                        Err(error) => {
                            tracing::warn!(unit = unit.name(), %error, "signed by a key that is not known; asking again");
                            return None;
                        }
                    }
                }
                Err(Rejection::UnknownSigner(refusal) | Rejection::Refused(refusal)) => refusal,
            };
            tracing::warn!(unit = unit.name(), reason = refusal.reason(), %refusal, "unit refused");
            return Some(Err(refusal));
        }
        None
    }

    /// Where the provider lets the agent look at nodes: pods that would only wait for room are not made. While nothing is known of
    /// the nodes, the scheduler decides.
    fn waits_for_nodes(&self, payload: &Payload) -> Option<String> {
        let worker = of_worker(&payload.resources.cpu, &payload.resources.memory)?;
        let policy = self.policies.current();
        match policy.observes().then(|| self.policies.observed().room(&worker))? {
            nodes::Standing::Known { room, .. } if room < payload.workers => {
                Some(format!("waits: the nodes have room for {room} of {} workers", payload.workers))
            }
            _ => None,
        }
    }

    /// A reason to end everything, whatever is known of it.
    pub(super) fn stop_of_all(&self) -> Option<Stop> {
        let revoked = || self.session.is_revoked().then(|| "the hub has revoked this provider".to_owned());
        match self.policies.stopped() {
            Some(message) => Some(Stop { reason: "ProviderStopped", message }),
            None => revoked().map(|message| Stop { reason: "Revoked", message }),
        }
    }

    /// A reason of our own to end the unit.
    pub(super) async fn stop(&self, unit: &Unit, state: &UnitState, payload: &Payload) -> Option<Stop> {
        let stop = |reason, message| Some(Stop { reason, message });
        // The provider's own word first, then what voids the unit, then what is only late.
        if let Some(all) = self.stop_of_all() {
            return Some(all);
        }
        if let Some(since) = state.orphaned {
            if let Some(end) = self.end_of_orphan(unit, state, payload, since) {
                return Some(end);
            }
        } else if let Some(why) = &state.superseded
            && self.is_superseded(unit, payload).await
        {
            return stop("Superseded", why.clone());
        }
        let highest = self.units.highest_epoch(payload);
        if highest > payload.epoch {
            let (epoch, what) = (payload.epoch, if payload.is_audit() { "audit" } else { "island" });
            return stop(
                "Superseded",
                format!("epoch {highest} of this {what} is here, this is epoch {epoch}"),
            );
        }
        let grace = Duration::from_secs(payload.disconnect_grace_seconds.unsigned_abs());
        let silence = self.contact.silence();
        if silence > grace {
            let (silence, grace) = (silence.as_secs(), grace.as_secs());
            return stop(
                "GraceExpired",
                format!("no word from the hub for {silence} s, the grace is {grace} s"),
            );
        }
        let now = Timestamp::now();
        if now > payload.not_after {
            return stop("Expired", format!("the envelope expired at {}", payload.not_after));
        }
        let overrun = self.policies.current().overrun(state.started?, now)?;
        stop("MaxRuntime", overrun)
    }

    /// Why no attempt more may begin of a unit that was taken.
    pub(super) fn withdrawn(&self, payload: &Payload) -> Option<Stop> {
        let refusal = accept::still_lent(self.measure(), payload).err()?;
        Some(Stop { reason: refusal.reason(), message: refusal.to_string() })
    }

    /// All workers must fit at once: half a unit only takes room. A unit that has not begun waits for the hours in which is lent.
    pub(super) fn waits_for(&self, payload: &Payload, attempt: i64, now: Timestamp) -> Option<String> {
        if let Some(closed) = self.policies.closed(now).filter(|_| attempt == 0) {
            return Some(format!("waits: {closed}"));
        }
        let held = self.units.holding(&payload.name);
        let idle = self.policies.current().workers() - held.workers;
        if idle < payload.workers {
            return Some(format!("waits for {} idle workers, {} are", payload.workers, idle.max(0)));
        }
        let over = self.policies.quota().refuse(&held.amounts, &of_unit(payload));
        over.map(|why| format!("waits: {why}")).or_else(|| self.waits_for_nodes(payload))
    }
}
