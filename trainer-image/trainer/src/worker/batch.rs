//! Which tokens a shard of a step trains on.

use muster_numerics::order::DataOrder;
use muster_numerics::spec::TrainingSpec;

use crate::dataset::{self, Dataset};
use crate::failure::Failure;
use crate::protocol::ExitCode;

/// A dataset in the order of a job.
#[derive(Debug)]
pub struct Batches {
    data: Dataset,
    order: DataOrder,
    shards: u64,
    context: usize,
    sample: Vec<u32>,
}

impl Batches {
    /// The batches of the job `spec` over `data`.
    ///
    /// # Errors
    /// A dataset without a sample.
    pub fn new(spec: &TrainingSpec, data: Dataset) -> Result<Self, Failure> {
        let order = DataOrder::new(spec.training.seed, data.samples(spec.model.context), spec.training.batch)
            .map_err(|error| Failure::new(ExitCode::BadData, error.to_string()))?;
        // The spec's bounds keep the context far below any usize.
        let context = spec.model.context as usize;
        Ok(Self { data, order, shards: spec.training.shards, context, sample: vec![0; context + 1] })
    }

    /// The tokens and targets of shard `shard` of step `step` (from 1): context ids per sequence, one sequence after
    /// the other.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub fn shard(&mut self, step: u64, shard: u64) -> Result<(Vec<u32>, Vec<u32>), dataset::Error> {
        let samples = self.order.shard_samples(step, shard, self.shards);
        let mut tokens = Vec::with_capacity(samples.len() * self.context);
        let mut targets = Vec::with_capacity(samples.len() * self.context);
        for sample in samples {
            append(&self.data, sample, &mut self.sample, &mut tokens, &mut targets)?;
        }
        Ok((tokens, targets))
    }
}

/// Adds sample number `sample` of a stream to `tokens` and `targets`. `scratch` has room for one token more than the context: the
/// target of the last.
pub(super) fn append(
    data: &Dataset,
    sample: u64,
    scratch: &mut [u32],
    tokens: &mut Vec<u32>,
    targets: &mut Vec<u32>,
) -> Result<(), dataset::Error> {
    let context = scratch.len() - 1;
    data.read(sample * context as u64, scratch)?;
    tokens.extend_from_slice(&scratch[..context]);
    targets.extend_from_slice(&scratch[1..]);
    Ok(())
}
