//! Losses on held-out data: what one worker computes of an evaluation (docs/spec/numerics.md, 6.5).

use std::ops::Range;

use muster_numerics::exec::Executor;

use super::batch::append;
use crate::dataset::Dataset;
use crate::failure::Failure;

/// A dataset that the job is evaluated on, its samples in the order of the stream.
#[derive(Debug)]
pub(super) struct HeldOut {
    data: Dataset,
    sample: Vec<u32>,
}

impl HeldOut {
    /// Samples of `context` tokens of `data`, which has as many as the spec says.
    pub fn new(data: Dataset, context: u64) -> Self {
        // The spec's bounds keep the context far below any usize.
        Self { data, sample: vec![0; context as usize + 1] }
    }

    /// The loss of each of the samples `mine` under `weights`, in order. How many go into one call of the executor shows in no bit.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub fn losses(
        &mut self,
        mine: Range<u64>,
        executor: &mut Executor,
        weights: &[f32],
    ) -> Result<Vec<f32>, Failure> {
        let at_once = executor.sequences() as u64;
        let mut losses = Vec::new();
        let mut next = mine.start;
        while next < mine.end {
            let end = mine.end.min(next + at_once);
            let (mut tokens, mut targets) = (Vec::new(), Vec::new());
            for sample in next..end {
                append(&self.data, sample, &mut self.sample, &mut tokens, &mut targets)?;
            }
            let of = executor.sequence_losses(weights, &tokens, &targets);
            losses.extend(of.map_err(|error| Failure::usage(error.to_string()))?);
            next = end;
        }
        Ok(losses)
    }
}
