use serde::{Deserialize, Serialize};

use super::fields::{JobId, Step};
use super::{Payload, names};
use crate::Digest;

/// The job trains no more: its grants end, its windows close and are audited. Signed by the hub. A rollback opens it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobEnd {
    /// The job.
    pub job: JobId,
    /// The last step that counts, of island 0.
    pub last_step: Step,
    /// StateRoot after it.
    pub state_root: Digest,
    /// Record id of its commit, for state 0 of the job record. A job that is rolled back may come to the same state again, and
    /// this end is then another record.
    pub record: Digest,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a job's training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// All steps are committed.
    Completed,
    /// A step cannot be taken, or the job's own limits were reached.
    Failed,
    /// Its tenant gave it up.
    Cancelled,
}

impl Payload for JobEnd {
    names!("job-end");
}
