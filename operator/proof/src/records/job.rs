use serde::{Deserialize, Serialize};

use super::fields::{
    ChainLength, IntervalSteps, Islands, JobId, MicroCredits, Origin, Seconds, Step, Uid, ascending,
};
use super::{Misfit, Payload, fit, names};
use crate::Digest;
use crate::hash::{self, h};

/// What shall be computed, for whom and how it is checked; signed by the hub and logged before the first step. Its payload
/// gives the job id, so a copy of a job on another hub or by another tenant has another id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Job {
    /// The origin of the log that this record is for.
    pub hub: Origin,
    /// `H("muster.tenant/1"; namespace)`.
    pub tenant: Digest,
    /// `metadata.uid` of the TrainingJob.
    pub job_uid: Uid,
    /// What identifies the result.
    pub training_digest: Digest,
    /// The resolved spec's blob.
    pub spec: Digest,
    /// The dataset manifest's blob.
    pub dataset: Digest,
    /// StateRoot of state 0.
    pub genesis: Digest,
    /// The last step.
    pub steps: Step,
    /// C: steps of an interval.
    pub interval_steps: IntervalSteps,
    /// Training may end before `steps`, after a multiple of this, if the spec's stop rule says so.
    #[serde(deserialize_with = "Option::deserialize")]
    pub stop_every_steps: Option<Step>,
    /// How many islands train.
    pub islands: Islands,
    /// Digests of the images that may run, ascending.
    pub images: Vec<Digest>,
    /// How often an interval is replayed by somebody else.
    pub tier: Tier,
    /// How long the job may run.
    #[serde(deserialize_with = "Option::deserialize")]
    pub deadline_seconds: Option<Seconds>,
    /// Most that a million tokens may cost.
    #[serde(deserialize_with = "Option::deserialize")]
    pub price_micro_credits: Option<MicroCredits>,
    /// The chain that the draws come from.
    pub beacon: Beacon,
    /// Who may read the job's envelopes.
    pub visibility: Visibility,
}

/// How often intervals are replayed by an auditor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// Never: states are committed to, and nobody checks them.
    None,
    /// One in 50.
    Bronze,
    /// One in 20.
    Silver,
    /// One in 5.
    Gold,
    /// All.
    Platinum,
}

/// Who may read the envelopes of a job's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Visibility {
    /// The tenant and those who work on the job.
    Private,
    /// Everybody.
    Public,
}

/// A chain of preimages `h_n = H^n(seed)` whose end is known and whose seed is the hub's secret ([`crate::selection`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Beacon {
    /// `h_length`.
    pub anchor: Digest,
    /// How many draws the chain is good for.
    pub length: ChainLength,
}

impl Payload for Job {
    names!("job");

    fn check(&self) -> Result<(), Misfit> {
        fit(self.steps.get() >= 1, "steps", "at least one step")?;
        fit(self.interval_steps.get() <= self.steps.get(), "intervalSteps", "at most `steps`")?;
        let ends = |every: Step| every.get() >= 1 && every.get().is_multiple_of(self.interval_steps.get());
        fit(self.stop_every_steps.is_none_or(ends), "stopEverySteps", "a multiple of `intervalSteps`")?;
        // Where one island ends, the others would have nobody to average with.
        let alone = self.stop_every_steps.is_none() || self.islands.get() == 1;
        fit(alone, "stopEverySteps", "null where there are several islands")?;
        fit((1..=16).contains(&self.images.len()), "images", "1 to 16 digests")?;
        fit(ascending(&self.images), "images", "digests in ascending order, none twice")
    }
}

impl Job {
    /// How many intervals each island has; the last may be shorter.
    pub fn intervals(&self) -> u64 {
        self.steps.get().div_ceil(self.interval_steps.get())
    }

    /// First and last step of interval `k`, if the job has it.
    pub fn steps_of(&self, k: u64) -> Option<(u64, u64)> {
        let c = self.interval_steps.get();
        let before = k.checked_mul(c).filter(|before| *before < self.steps.get())?;
        Some((before + 1, (before + c).min(self.steps.get())))
    }

    /// Whether the stop rule may end training after this step, before the job's last.
    pub fn may_end_at(&self, step: u64) -> bool {
        let every = self.stop_every_steps.map_or(0, Step::get);
        every > 0 && step > 0 && step < self.steps.get() && step.is_multiple_of(every)
    }
}

/// `H("muster.job/1"; payload)`: the id of the job that a job record with this payload is of.
pub fn job_id(payload: &[u8]) -> JobId {
    JobId(h(hash::JOB, &[payload]))
}
