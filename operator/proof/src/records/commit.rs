use serde::{Deserialize, Serialize};

use super::fields::{Epoch, Interval, Island, JobId, Nonce, Step};
use super::{Misfit, Payload, fit, names};
use crate::{Digest, steps};

/// A provider says: this is the state at the end of the interval. Signed by the key that is bound to rank 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Commit {
    /// The job.
    pub job: JobId,
    /// The island.
    pub island: Island,
    /// The grant's epoch.
    pub epoch: Epoch,
    /// The interval.
    pub interval: Interval,
    /// Its first step.
    pub first_step: Step,
    /// Its last step.
    pub last_step: Step,
    /// Record id of the accepted commit of the interval before; for the first, of the job record.
    pub previous: Digest,
    /// StateRoot after the last step.
    pub state_root: Digest,
    /// [`record_seal`].
    pub record_seal: Digest,
    /// The checkpoint manifest's blob.
    pub manifest: Digest,
    /// Whether the stop rule ends the job after the last step, before the job's own.
    pub ends: bool,
}

impl Payload for Commit {
    names!("commit");

    fn check(&self) -> Result<(), Misfit> {
        fit(self.first_step.get() >= 1, "firstStep", "a step from 1")?;
        fit(self.first_step <= self.last_step, "lastStep", "at least `firstStep`")
    }
}

impl Commit {
    /// What a replay answers that finds the same: StateRoot, or what stands for it where the job ends.
    pub fn answer(&self) -> Digest {
        steps::answer(&self.state_root, self.last_step.get(), self.ends)
    }
}

/// `H("muster.seal/1"; job, u64le island, u64le epoch, u64le interval, record root, salt)`: binds the records of an interval
/// without showing them. Whoever knows the record root has computed the interval.
pub fn record_seal(
    job: JobId,
    (island, epoch, interval): (Island, Epoch, Interval),
    record_root: &Digest,
    salt: &Nonce,
) -> Digest {
    let of =
        steps::Interval { job: job.0, island: island.get(), epoch: epoch.get(), interval: interval.get() };
    steps::record_seal(&of, record_root, salt.as_bytes())
}
