use serde::{Deserialize, Serialize};

use super::fields::{Epoch, Interval, Island, JobId};
use super::{Payload, names};
use crate::Digest;

/// An island goes back to the start of an interval. Signed by the hub; one for each island of the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rollback {
    /// The job.
    pub job: JobId,
    /// The island.
    pub island: Island,
    /// The interval that is run again, with all after it.
    pub to_interval: Interval,
    /// The lowest epoch that counts from here on.
    pub epoch: Epoch,
    /// Record id of the verdict that is the reason.
    pub verdict: Digest,
}

impl Payload for Rollback {
    names!("rollback");
}
