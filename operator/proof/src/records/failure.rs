use serde::{Deserialize, Serialize};

use super::fields::{Epoch, Interval, Island, JobId, Step};
use super::{Misfit, Payload, fit, names};
use crate::{Digest, steps};

/// A provider says: step `failed_step` raises NonFinite, so the job ends here. It stands where the interval's commit would;
/// there is no checkpoint of a state that is none. Signed by the key that is bound to rank 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Failure {
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
    /// The step that cannot be taken.
    pub failed_step: Step,
    /// Record id of the accepted commit of the interval before; for the first, of the job record.
    pub previous: Digest,
    /// [`failed_root`].
    pub state_root: Digest,
    /// [`super::record_seal`] over the records of the steps that were taken.
    pub record_seal: Digest,
}

impl Payload for Failure {
    names!("failure");

    fn check(&self) -> Result<(), Misfit> {
        fit(self.first_step.get() >= 1, "firstStep", "a step from 1")?;
        fit(self.first_step <= self.failed_step, "failedStep", "at least `firstStep`")
    }
}

/// `H("muster.failed/1"; StateRoot of the state before, u64le step)`: what stands for the state after a step that raises
/// NonFinite, and for all states after it.
pub fn failed_root(before: &Digest, step: Step) -> Digest {
    steps::failed_state(before, step.get())
}
