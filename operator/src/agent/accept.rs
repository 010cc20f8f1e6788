//! Whether a WorkUnit is one that this agent takes: the envelope, the mirror fields, the agent's own policy.
use jiff::Timestamp;
use kube::ResourceExt;
use muster_api::v1alpha1::{WorkUnit, WorkUnitKind};
use muster_core::envelope::{Mirror, Payload, Policy, Refusal, open};
use muster_proof::dsse::Envelope;
use muster_proof::key::PublicKey;

use super::units::Units;
use super::{ARITHMETIC, DEVICE_CLASS, Settings};

/// The payload that everything else reads, or why there is none.
///
/// # Errors
/// The [`Refusal`]; its reason and text become the condition Accepted.
pub async fn accept(
    settings: &Settings,
    trusted: &[PublicKey],
    units: &Units,
    object: &WorkUnit,
) -> Result<Payload, Refusal> {
    let envelope: Envelope = serde_json::to_value(&object.spec.envelope)
        .and_then(serde_json::from_value)
        .map_err(|error| Refusal::BadSignature(error.to_string()))?;
    let payload = open(&envelope, trusted)?;
    let kind = match object.spec.kind {
        WorkUnitKind::Train => "Train",
        WorkUnitKind::Audit => "Audit",
    };
    payload.check_mirror(&Mirror {
        name: &object.name_any(),
        provider: &settings.provider,
        kind,
        job_uid: &object.spec.job_uid,
        island: i64::from(object.spec.island),
        epoch: object.spec.epoch,
        workers: i64::from(object.spec.workers),
    })?;
    payload.check_policy(&Policy {
        images: &settings.images,
        arithmetic: ARITHMETIC,
        device_class: DEVICE_CLASS,
        workers: settings.workers,
        min_epoch: units.highest_epoch(&payload.job_uid, payload.island).await,
        now: Timestamp::now(),
    })?;
    Ok(payload)
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
        "ArithmeticUnsupported",
        "OverQuota",
        "Expired",
        "ForeignObject",
    ];
    REASONS.iter().find(|known| **known == reason).copied().unwrap_or("Refused")
}
