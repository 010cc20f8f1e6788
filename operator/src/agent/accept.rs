//! Whether a WorkUnit is one that this agent takes: the envelope, the mirror fields, the agent's own policy.
use jiff::Timestamp;
use kube::ResourceExt;
use muster_api::v1alpha1::{WorkUnit, WorkUnitKind};
use muster_core::envelope::{Mirror, Payload, Policy, Refusal, open};
use muster_core::policy::ProviderPolicy;
use muster_core::quota::{Amounts, of_unit};
use muster_proof::dsse::Envelope;

use super::fence::Floor;
use super::hub_keys::HubKeys;
use super::policy::Policies;
use super::units::Units;
use super::witness::Witness;
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
    /// The hub's log.
    pub witness: &'a Witness,
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
    // What runs already is nothing new.
    if let Some(why) = measure.witness.distrust()
        && !continues(units, payload).await
    {
        return Err(Refusal::LogInconsistent(why));
    }
    let highest = units.highest_epoch(payload);
    let now = Timestamp::now();
    payload.check_policy(&terms(measure, &policy, highest, now))?;
    // More than there is in all can never start. What only others hold now is waited for.
    let never = measure.policies.quota().refuse(&Amounts::new(), &of_unit(payload));
    match never.or_else(|| measure.policies.closed(now)) {
        Some(why) if !continues(units, payload).await => Err(Refusal::OverQuota(why)),
        _ => Ok(()),
    }
}

/// What is lent, and to whom.
fn terms<'a>(measure: Measure<'a>, policy: &'a ProviderPolicy, highest: i64, now: Timestamp) -> Policy<'a> {
    Policy {
        log: measure.witness.origin(),
        images: policy.images(),
        tenants: policy.tenants(),
        audits: policy.audits(),
        arithmetic: ARITHMETIC,
        device_class: DEVICE_CLASS,
        workers: policy.workers(),
        min_epoch: highest.max(measure.floor.min_epoch),
        incarnation: measure.floor.incarnation,
        now,
    }
}

/// Whether what a unit needs that was taken is still lent to it.
///
/// # Errors
/// What is not.
pub fn still_lent(measure: Measure<'_>, payload: &Payload) -> Result<(), Refusal> {
    let policy = measure.policies.current();
    payload.check_lent(&terms(measure, &policy, payload.epoch, Timestamp::now()))
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
        "OtherLog",
        "LogInconsistent",
        "ImageNotAllowed",
        "TenantNotAllowed",
        "AuditsNotOffered",
        "NotAssigned",
        "ArithmeticUnsupported",
        "OverQuota",
        "Expired",
        "ForeignObject",
    ];
    REASONS.iter().find(|known| **known == reason).copied().unwrap_or("Refused")
}

#[cfg(test)]
mod tests {
    use muster_core::envelope::{CheckpointRef, Resources, open, seal};
    use muster_proof::Digest;
    use muster_proof::key::SigningKey;
    use serde_json::{Value, json};

    use super::*;
    use crate::agent::render::{self, Site};
    use crate::agent::testing::payload;

    /// Pods of a unit without what a unit may say of them: image, size, number of threads.
    fn template(payload: &Payload) -> Value {
        fn strip(value: &mut Value) {
            match value {
                Value::Object(members) => {
                    members.retain(|name, _| !["image", "resources"].contains(&name.as_str()));
                    members.values_mut().for_each(strip);
                }
                Value::Array(items) => {
                    items.retain(|item| item["name"] != "MUSTER_THREADS");
                    items.iter_mut().for_each(strip);
                }
                _ => {}
            }
        }
        let site = Site {
            namespace: "muster-lent".to_owned(),
            audience: "muster-agent/east".to_owned(),
            relay_url: "https://10.9.0.2:9443".to_owned(),
            relay_ca: "PEM".to_owned(),
        };
        let job = render::job(&site, payload, "0b5c6f0e-7d0d-4d0b-9f33-000000000001", 1, None);
        let mut pod = serde_json::to_value(job.spec.unwrap().template.spec).unwrap();
        strip(&mut pod);
        pod
    }

    /// A hub in wrong hands signs whatever it likes: what opens at all changes nothing of the template but this.
    #[test]
    fn a_unit_says_image_and_size_and_nothing_else_of_a_pod() {
        let key = SigningKey::generate([1; 32]).unwrap();
        let mut other = payload();
        other.name = "a".repeat(40);
        other.job_uid = "x".repeat(63);
        other.provider = "z".repeat(40);
        other.device_class = "d".repeat(63);
        other.arithmetic = "a".repeat(63);
        other.image = format!("{}@{}", "i".repeat(255), Digest::of(b"other"));
        other.resources = Resources { cpu: "10000".to_owned(), memory: "64Ti".to_owned() };
        (other.island, other.epoch, other.workers) = (255, i64::from(i32::MAX), 256);
        (other.steps, other.interval_steps, other.keep_last) = (1 << 40, 1 << 40, 1000);
        other.start = Some(CheckpointRef { step: 1 << 40, manifest: Digest::of(b"start") });
        let sealed = seal(&other, &key).unwrap();
        let other = open(&sealed, &[key.public().clone()]).unwrap();
        assert_eq!(template(&payload()), template(&other));
        assert_eq!(template(&other)["automountServiceAccountToken"], json!(false));
    }
}
