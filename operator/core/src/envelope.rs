//! The payload of a WorkUnit's envelope (docs/spec/protocol.md section 6): what the hub signs and the only thing
//! an agent acts on.
//!
//! The hub [`seal`]s a [`Payload`]; the agent [`open`]s the envelope, compares the object's readable mirror
//! fields ([`Payload::check_mirror`]) and asks its own policy ([`Payload::check_policy`]). Each refusal is a
//! variant of [`Refusal`], whose [`Refusal::reason`] is the reason of the condition `Accepted=False`.
//!
//! The signature is checked over the payload's bytes before they are parsed, and only the canonical form of the
//! closed schema is accepted: no field can be defaulted, pruned or added between the two ends.

use jiff::Timestamp;
use muster_proof::dsse::{self, Envelope};
use muster_proof::hash::{Context, h};
use muster_proof::key::{PublicKey, SigningKey};
use muster_proof::{Digest, jcs};
use serde::{Deserialize, Serialize};

mod audit;
mod checks;
mod resources;
#[cfg(test)]
pub(crate) mod tests;

pub use audit::Audit;
pub use checks::{Mirror, Policy, Refusal};
pub(crate) use checks::{is_image, is_label};
pub use resources::Resources;

/// DSSE payload type; part of what is signed.
pub const PAYLOAD_TYPE: &str = "application/vnd.muster.workunit.v1+json";
/// The value of [`Payload::format`].
pub const FORMAT: &str = "muster.workunit/1";
/// No payload is longer; the whole object must stay small in etcd.
pub const MAX_PAYLOAD_BYTES: usize = 6144;

/// What a unit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Train one island of a job.
    Train,
    /// Replay one interval that another has committed.
    Audit,
}

impl Kind {
    /// The spelling in JSON and in `spec.kind`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "Train",
            Self::Audit => "Audit",
        }
    }
}

/// A checkpoint by the digest of its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointRef {
    /// The state after this step.
    pub step: i64,
    /// The manifest's blob.
    pub manifest: Digest,
}

/// What workers compute again on their way back instead of keeping it. It shows in no bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recompute {
    /// What is inside of layers.
    Layers,
}

/// Where workers keep the optimiser's moments, if not all of them on each. It shows in no bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OptimizerState {
    /// A slice on each.
    Sharded,
}

/// The signed content of a WorkUnit. A closed schema; all fields but the last four are required.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Payload {
    /// [`FORMAT`].
    pub format: String,
    /// What the unit is for.
    pub kind: Kind,
    /// The object's name, `<job uid, 8>-<island>-<epoch>`; of an audit `<job uid, 8>-a<log index of the assignment>-<epoch>`.
    pub name: String,
    /// The provider that shall run it; its namespace on the hub is `muster-p-<provider>`.
    pub provider: String,
    /// `metadata.uid` of the TrainingJob.
    #[serde(rename = "jobUID")]
    pub job_uid: String,
    /// The job's id: of the job record in the log, and what commits name.
    pub job: Digest,
    /// Origin of the log that everything of this unit is committed in.
    pub log: String,
    /// What the provider does it by: record id of the UnitGrant in that log, of an audit that of the audit-assign.
    pub grant: Digest,
    /// What the unit's first commit names as `previous`: record id of the commit of [`Payload::start`], for genesis of the
    /// job record.
    pub start_record: Digest,
    /// Whose job it is, as [`tenant`] of the namespace: a provider who lends to some tenants only recognises those that he
    /// names, and others stay a number.
    pub tenant: Digest,
    /// Island of the job, from 0.
    pub island: i64,
    /// Fencing number, from 1: of (job, island), of an audit that of the unit itself.
    pub epoch: i64,
    /// Pods of an attempt.
    pub workers: i64,
    /// What each worker needs, such as `cpu`.
    pub device_class: String,
    /// Per worker.
    pub resources: Resources,
    /// `NAME@sha256:<hex>`.
    pub image: String,
    /// The resolved spec's blob.
    pub spec: Digest,
    /// What identifies the result.
    pub training_digest: Digest,
    /// The dataset manifest's blob.
    pub dataset: Digest,
    /// The op set's arithmetic, such as `f32-chain`.
    pub arithmetic: String,
    /// The job's last step.
    pub steps: i64,
    /// A checkpoint is committed after every so many steps.
    pub interval_steps: i64,
    /// Checkpoints to keep, newest first.
    pub keep_last: i64,
    /// The state to start from; `None` is genesis.
    // `deserialize_with` makes the field required: an absent start must not read as genesis.
    #[serde(deserialize_with = "Option::deserialize")]
    pub start: Option<CheckpointRef>,
    /// How many restarts the unit may use up.
    pub max_restarts: i64,
    /// How long an attempt may take until all its workers run.
    pub schedule_timeout_seconds: i64,
    /// How long the agent goes on without hearing from the hub.
    pub disconnect_grace_seconds: i64,
    /// The hub's incarnation; it grows when the hub's database is restored.
    pub incarnation: i64,
    /// After this the envelope is void.
    #[serde(with = "whole_seconds")]
    pub not_after: Timestamp,
    /// The unit of an earlier incarnation whose pods this one may go on with ([`crate::recovery`]). Absent if there is none,
    /// so that an envelope without it is what it always was.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub continues: Option<String>,
    /// Which activations the workers compute again; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub recompute: Option<Recompute>,
    /// Where the workers keep the optimiser's moments; absent: all of them on each.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub optimizer_state: Option<OptimizerState>,
    /// What is audited; there if and only if [`Payload::kind`] says so.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub audit: Option<Audit>,
}

/// A field that is there has a value: `null` is not a second way to leave it out.
fn present<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

const TENANT: Context = Context::new("muster.tenant/1");

/// What stands for a tenant: H("muster.tenant/1"; name of the namespace on the hub). It hides no name from whoever guesses it.
#[must_use]
pub fn tenant(namespace: &str) -> Digest {
    h(TENANT, &[namespace.as_bytes()])
}

/// Signs `payload` with the hub's key.
///
/// # Errors
/// [`SealError::Bounds`] if a field is outside what [`open`] accepts, [`SealError::TooLong`] beyond
/// [`MAX_PAYLOAD_BYTES`]: the hub never sends what an agent would refuse as malformed.
pub fn seal(payload: &Payload, key: &SigningKey) -> Result<Envelope, SealError> {
    payload.check_bounds().map_err(SealError::Bounds)?;
    let bytes = jcs::serialize(payload).map_err(dsse::Error::from)?;
    if bytes.len() > MAX_PAYLOAD_BYTES {
        return Err(SealError::TooLong(bytes.len()));
    }
    Ok(Envelope::sign(PAYLOAD_TYPE, &bytes, key)?)
}

/// Verifies the signature over the payload's bytes with one of the `trusted` keys, then parses them.
///
/// # Errors
/// [`Refusal::BadSignature`] if no trusted key signed these bytes as this type, or somebody else did as well,
/// [`Refusal::BadPayload`] if the signed bytes are not a payload.
pub fn open(envelope: &Envelope, trusted: &[PublicKey]) -> Result<Payload, Refusal> {
    let signatures = envelope.signatures().len();
    if signatures != 1 {
        return Err(Refusal::BadSignature(format!("{signatures} signatures, a unit has one")));
    }
    let verified =
        envelope.verify(PAYLOAD_TYPE, trusted).map_err(|error| Refusal::BadSignature(error.to_string()))?;
    read(verified.payload())
}

/// Parses a payload whose signature is not asked for: for the hub's own processes, where the object itself is trusted.
///
/// # Errors
/// [`Refusal::BadPayload`].
pub fn read(payload: &[u8]) -> Result<Payload, Refusal> {
    if payload.len() > MAX_PAYLOAD_BYTES {
        let what = format!("{} bytes, at most {MAX_PAYLOAD_BYTES} are allowed", payload.len());
        return Err(Refusal::BadPayload(what));
    }
    let payload: Payload =
        jcs::deserialize_canonical(payload).map_err(|error| Refusal::BadPayload(error.to_string()))?;
    payload.check_bounds().map_err(Refusal::BadPayload)?;
    Ok(payload)
}

/// Why a payload cannot be sealed: a mistake of the hub.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// A field is out of bounds.
    #[error("{0}")]
    Bounds(String),
    /// The canonical form is too long.
    #[error("the payload has {0} bytes, at most {MAX_PAYLOAD_BYTES} are allowed")]
    TooLong(usize),
    /// No canonical form, or over the limits of DSSE.
    #[error(transparent)]
    Dsse(#[from] dsse::Error),
}

/// RFC 3339 in UTC with whole seconds, `2026-11-23T19:00:00Z`, and no other spelling.
mod whole_seconds {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}", floor(*time)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse::<Timestamp>() {
            Ok(time) if floor(time).to_string() == text => Ok(time),
            _ => Err(D::Error::custom("notAfter is written YYYY-MM-DDTHH:MM:SSZ")),
        }
    }

    fn floor(time: Timestamp) -> Timestamp {
        Timestamp::from_second(time.as_second()).unwrap_or(time)
    }
}
