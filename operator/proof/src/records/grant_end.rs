use serde::{Deserialize, Serialize};

use super::fields::{Epoch, Island, JobId};
use super::{Payload, names};

/// Nothing is accepted under this grant any more. Signed by the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrantEnd {
    /// The job.
    pub job: JobId,
    /// The island.
    pub island: Island,
    /// The grant's epoch.
    pub epoch: Epoch,
    /// Why.
    pub reason: GrantEndReason,
}

/// Why a grant ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GrantEndReason {
    /// The job's last step is committed.
    Completed,
    /// A failure is accepted.
    Failed,
    /// Drained, preempted, suspended or resized: it goes on elsewhere or later.
    Released,
    /// The provider was not heard of in time, or the unit failed there.
    Lost,
    /// The provider is not let in any more.
    Revoked,
    /// The job was cancelled.
    Cancelled,
}

impl Payload for GrantEnd {
    names!("grant-end");
}
