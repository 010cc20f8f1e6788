//! Whether a WorkUnit is one that this agent takes: the envelope, the mirror fields, the agent's own policy.
use jiff::Timestamp;
use kube::ResourceExt;
use muster_api::v1alpha1::{WorkUnit, WorkUnitKind};
use muster_core::envelope::{Mirror, Payload, Policy, Refusal, open};
use muster_core::quota::{Amounts, of_unit};
use muster_proof::dsse::Envelope;

use super::fence::Floor;
use super::hub_keys::HubKeys;
use super::policy::Policies;
use super::units::Units;
use super::{ARITHMETIC, DEVICE_CLASS};

/// Why a unit is not taken.
#[derive(Debug)]
pub enum Rejection {
    /// Final: reason and text become the condition Accepted.
    Refused(Refusal),
    /// None of our keys signed it: a newer set of the hub's keys may have, so that has to be asked for first.
    UnknownSigner(Refusal),
}

/// Whose word and which floor a unit is measured by.
#[derive(Debug, Clone, Copy)]
pub struct Measure<'a> {
    /// Our name at the hub.
    pub provider: &'a str,
    /// The provider's policy.
    pub policies: &'a Policies,
    /// Whose envelopes are believed.
    pub keys: &'a HubKeys,
    /// What the hub has declared void.
    pub floor: Floor,
}

/// The payload that everything else reads and what was signed, or why there is none.
///
/// # Errors
/// [`Rejection`].
pub async fn accept(
    measure: Measure<'_>,
    units: &Units,
    object: &WorkUnit,
) -> Result<(Payload, Envelope), Rejection> {
    let envelope: Envelope = serde_json::to_value(&object.spec.envelope)
        .and_then(serde_json::from_value)
        .map_err(|error| Rejection::Refused(Refusal::BadSignature(error.to_string())))?;
    let payload = open(&envelope, measure.keys.current().keys()).map_err(|refusal| match refusal {
        Refusal::BadSignature(_) if !measure.keys.knows_signer(&envelope) => {
            Rejection::UnknownSigner(refusal)
        }
        refusal => Rejection::Refused(refusal),
    })?;
    match judge(measure, units, object, &payload).await {
        Ok(()) => Ok((payload, envelope)),
        Err(refusal) => Err(Rejection::Refused(refusal)),
    }
}

async fn judge(
    measure: Measure<'_>,
    units: &Units,
    object: &WorkUnit,
    payload: &Payload,
) -> Result<(), Refusal> {
    let kind = match object.spec.kind {
        WorkUnitKind::Train => "Train",
        WorkUnitKind::Audit => "Audit",
    };
    payload.check_mirror(&Mirror {
        name: &object.name_any(),
        provider: measure.provider,
        kind,
        job_uid: &object.spec.job_uid,
        island: i64::from(object.spec.island),
        epoch: object.spec.epoch,
        workers: i64::from(object.spec.workers),
    })?;
    let policy = measure.policies.current();
    let highest = units.highest_epoch(&payload.job_uid, payload.island).await;
    let now = Timestamp::now();
    payload.check_policy(&Policy {
        images: policy.images(),
        tenants: policy.tenants(),
        arithmetic: ARITHMETIC,
        device_class: DEVICE_CLASS,
        workers: policy.workers(),
        min_epoch: highest.max(measure.floor.min_epoch),
        incarnation: measure.floor.incarnation,
        now,
    })?;
    // More than there is in all can never start. What only others hold now is waited for.
    let never = measure.policies.quota().refuse(&Amounts::new(), &of_unit(payload));
    match never.or_else(|| measure.policies.closed(now)) {
        // What runs already is nothing new.
        Some(why) if !continues(units, payload).await => Err(Refusal::OverQuota(why)),
        _ => Ok(()),
    }
}

/// Whether the unit goes on with the pods of one that is here.
async fn continues(units: &Units, payload: &Payload) -> bool {
    let Some(before) = payload.continues.as_ref().and_then(|name| units.get(name)) else { return false };
    let state = before.state().await;
    state.is_living() && state.payload.is_some_and(|before| payload.takes_over(&before))
}

/// A remembered reason as the constant it was.
#[must_use]
pub fn known_reason(reason: &str) -> &'static str {
    const REASONS: &[&str] = &[
        "BadSignature",
        "BadPayload",
        "MirrorMismatch",
        "OldEpoch",
        "ImageNotAllowed",
        "TenantNotAllowed",
        "ArithmeticUnsupported",
        "OverQuota",
        "Expired",
        "ForeignObject",
    ];
    REASONS.iter().find(|known| **known == reason).copied().unwrap_or("Refused")
}
