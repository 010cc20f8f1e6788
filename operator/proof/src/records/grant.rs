use serde::{Deserialize, Serialize};

use super::fields::{
    Epoch, Island, JobId, MicroCredits, OwnerName, ProviderName, Seconds, Step, Uid, UnitName,
};
use super::{Payload, names};
use crate::Digest;

/// Who computes an island of a job from here on, from which state, at which price. Signed by the hub and logged before work
/// starts. A move, a re-run or a resize is a new grant of a higher epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Grant {
    /// The job.
    pub job: JobId,
    /// Its island.
    pub island: Island,
    /// The fencing number.
    pub epoch: Epoch,
    /// Who computes.
    pub provider: ProviderName,
    /// Who stands behind it.
    pub owner: OwnerName,
    /// The WorkUnit, see [`unit_name`].
    pub unit: UnitName,
    /// What is computed.
    pub kind: UnitKind,
    /// Where it starts.
    pub start: Start,
    /// Price of a million tokens.
    #[serde(deserialize_with = "Option::deserialize")]
    pub price_micro_credits: Option<MicroCredits>,
    /// How long it may take.
    #[serde(deserialize_with = "Option::deserialize")]
    pub deadline_seconds: Option<Seconds>,
}

/// What a unit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnitKind {
    /// Train one island of a job.
    Train,
}

/// The state that a grant starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Start {
    /// The state after this step.
    pub step: Step,
    /// Its StateRoot.
    pub state_root: Digest,
    /// Record id of the commit that says so; for step 0, of the job record.
    pub record: Digest,
}

impl Payload for Grant {
    names!("grant");
}

/// `<first 8 characters of the job's uid>-<island>-<epoch>`.
pub fn unit_name(job_uid: &Uid, island: Island, epoch: Epoch) -> String {
    let short: String = job_uid.as_str().chars().take(8).collect();
    format!("{short}-{island}-{epoch}")
}
