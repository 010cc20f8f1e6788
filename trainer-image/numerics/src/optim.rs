//! The step's tail: loss, gradient norm, clipping, AdamW (spec 6), and what is not finite (spec 1.4).

use std::ops::Range;

use crate::env::{Env, Failed};
use crate::graph::Graph;
use crate::isa::{Isa, IsaUnavailable, Level};
use crate::ops::{Moments, clip_factor, would_be_finite};
pub use crate::ops::{Part, squares_in};
use crate::schedule::Schedule;
use crate::spec::HyperParameters;
use crate::state::State;

/// A step ran into an infinity or a NaN: a defined end of the run, not garbage to hash. Every worker
/// finds the same one, since all see the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("step {step}: {what} is not finite; lower the learning rate or check the data")]
pub struct NonFinite {
    /// The step, counted from 1.
    pub step: u64,
    /// What was not finite.
    pub what: Quantity,
}

/// What can be found not to be finite, in the order of checking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// The mean loss of a logical shard.
    ShardLoss(usize),
    /// The gradient norm.
    GradientNorm,
    /// A parameter or moment after the update.
    State,
}

impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Quantity::ShardLoss(shard) => write!(f, "the loss of shard {shard}"),
            Quantity::GradientNorm => f.write_str("the gradient norm"),
            Quantity::State => f.write_str("a parameter or moment after the update"),
        }
    }
}

/// Why a step was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptimError {
    /// The job's defined end: the run failed at this step.
    #[error(transparent)]
    NonFinite(#[from] NonFinite),
    /// The CPU lacks the instruction set asked for.
    #[error(transparent)]
    Isa(#[from] IsaUnavailable),
    /// A flat buffer of the wrong length.
    #[error("{what} has {got} elements where {expected} belong")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// Its length.
        got: usize,
        /// The right length.
        expected: usize,
    },
    /// Threads could not be started, or a kernel panicked.
    #[error("{0}")]
    Internal(String),
}

impl From<Failed> for OptimError {
    fn from(failed: Failed) -> OptimError {
        OptimError::Internal(failed.to_string())
    }
}

/// What a step reports. The step record takes the bits of `norm` and `lr`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepStats {
    /// Gradient norm before clipping.
    pub norm: f32,
    /// Learning rate.
    pub lr: f32,
    /// What the gradient was multiplied with: 1 unless clipped.
    pub factor: f32,
}

/// The loss of a step from the losses of all shards, in shard order: their tree times f32(1/S). `step`
/// counts from 1 and only names the error.
pub fn mean_loss(step: u64, shard_losses: &[f32]) -> Result<f32, NonFinite> {
    crate::float::normalize();
    if let Some(shard) = shard_losses.iter().position(|loss| !loss.is_finite()) {
        return Err(NonFinite { step, what: Quantity::ShardLoss(shard) });
    }
    let scale = (1.0 / shard_losses.len() as f64) as f32;
    Ok(crate::kernel::tree(shard_losses.to_vec()) * scale)
}

/// The evaluation loss of a state from the losses of all held-out sequences, in their order (spec 6.5). Always finite: an evaluation
/// changes no state, so a loss that is not finite fails no step, and is [`f32::MAX`].
pub fn evaluation_loss(sequence_losses: &[f32]) -> f32 {
    crate::float::normalize();
    crate::ops::evaluation_loss(sequence_losses.to_vec())
}

/// AdamW over a graph's tensors, with the schedule of a job.
///
/// [`Optimizer::step`] does it all. Workers that keep a slice of the moments each (ZeRO-1, Rajbhandari et al. 2020) do the same in
/// four steps, between which they tell each other what they have: [`squares`](Self::squares), [`plan`](Self::plan),
/// [`stays_finite`](Self::stays_finite), [`apply`](Self::apply).
pub struct Optimizer {
    graph: Graph,
    hyper: HyperParameters,
    schedule: Schedule,
    env: Env,
    sums: Vec<f32>,
    /// The step after which what was updated was left with small numbers only.
    calm_after: Option<u64>,
}

/// What a step does to any part of the state: found from the norm of the whole gradient.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    step: u64,
    b1p: f64,
    b2p: f64,
    moments: Moments,
    stats: StepStats,
}

impl Update {
    /// What the step reports.
    pub fn stats(&self) -> StepStats {
        self.stats
    }

    /// Counts the step, once all parts of the state are updated.
    pub fn finish(&self, state: &mut State) {
        (state.b1p, state.b2p, state.step) = (self.b1p, self.b2p, self.step);
    }
}

impl Optimizer {
    /// `threads` counts the caller's; neither it nor `isa` shows in any bit.
    pub fn new(
        graph: &Graph,
        hyper: &HyperParameters,
        isa: Isa,
        threads: usize,
    ) -> Result<Optimizer, OptimError> {
        let level = Level::new(isa)?;
        let env = Env::new(level, threads).map_err(|e| OptimError::Internal(e.to_string()))?;
        Ok(Optimizer {
            graph: graph.clone(),
            hyper: *hyper,
            schedule: Schedule::new(hyper),
            env,
            sums: vec![],
            calm_after: None,
        })
    }

    /// Step `state.step + 1` with the reduced gradient, of the state that the step before has left. On
    /// [`OptimError::NonFinite`] the state is the one before the step: what failed names it. On another error it is spoilt:
    /// a caller that goes on must go back to a checkpoint.
    pub fn step(&mut self, state: &mut State, gradient: &[f32]) -> Result<StepStats, OptimError> {
        let n = self.graph.parameters();
        check_length("w", state.w.len(), n)?;
        let mut sums = std::mem::take(&mut self.sums);
        let squares = self.squares_into(&(0..n), gradient, &mut sums);
        self.sums = sums;
        squares?;
        let update = self.plan(state, &self.sums)?;
        let mut part = Part { first: 0, w: &mut state.w, m: &mut state.m, v: &mut state.v };
        if !self.stays_finite(&update, &mut part, gradient)? {
            return Err(NonFinite { step: update.step, what: Quantity::State }.into());
        }
        self.apply(&update, part, gradient)?;
        update.finish(state);
        Ok(update.stats)
    }

    /// The sums of squares that the norm is made of, for one of [`crate::reduce::slices`] of the gradient, in order.
    pub fn squares(&mut self, slice: &Range<usize>, gradient: &[f32]) -> Result<Vec<f32>, OptimError> {
        let mut sums = vec![];
        self.squares_into(slice, gradient, &mut sums)?;
        Ok(sums)
    }

    fn squares_into(
        &mut self,
        slice: &Range<usize>,
        gradient: &[f32],
        sums: &mut Vec<f32>,
    ) -> Result<(), OptimError> {
        check_length("gradient", gradient.len(), slice.len())?;
        crate::float::normalize();
        Ok(crate::ops::squares(&mut self.env, &self.graph, slice, gradient, sums)?)
    }

    /// What step `state.step + 1` does, by the sums of squares of the whole gradient.
    pub fn plan(&self, state: &State, squares: &[f32]) -> Result<Update, OptimError> {
        let step = state.step + 1;
        check_length("squares", squares.len(), squares_in(&self.graph, &(0..self.graph.parameters())))?;
        crate::float::normalize();
        let norm = crate::ops::norm_of(&self.graph, squares);
        if !norm.is_finite() {
            return Err(NonFinite { step, what: Quantity::GradientNorm }.into());
        }
        let factor = clip_factor(self.hyper.clip_norm, norm);
        let lr = self.schedule.rate(step);
        let (b1p, b2p) = (state.b1p * self.hyper.beta1, state.b2p * self.hyper.beta2);
        let moments = Moments::new(&self.hyper, b1p, b2p, factor, lr);
        Ok(Update { step, b1p, b2p, moments, stats: StepStats { norm, lr, factor } })
    }

    /// Whether [`apply`](Self::apply) will leave only finite numbers. It is in place, so what would spoil the part is found
    /// before. Small numbers, as all sound runs have them, need no look.
    pub fn stays_finite(
        &mut self,
        update: &Update,
        part: &mut Part<'_>,
        gradient: &[f32],
    ) -> Result<bool, OptimError> {
        self.check(part, gradient)?;
        if self.calm_after == Some(update.step - 1) && update.moments.is_harmless(update.stats.norm) {
            return Ok(true);
        }
        Ok(would_be_finite(&mut self.env, &self.graph, &update.moments, part, gradient)?)
    }

    /// Updates a part of the state, always the same one; `gradient` is the part's.
    pub fn apply(&mut self, update: &Update, part: Part<'_>, gradient: &[f32]) -> Result<(), OptimError> {
        self.check(&part, gradient)?;
        let calm = crate::ops::update(&mut self.env, &self.graph, &update.moments, part, gradient)?;
        self.calm_after = calm.then_some(update.step);
        Ok(())
    }

    fn check(&self, part: &Part<'_>, gradient: &[f32]) -> Result<(), OptimError> {
        crate::float::normalize();
        let n = part.w.len();
        let room = self.graph.parameters().saturating_sub(part.first);
        check_length("w", n, n.min(room))?;
        check_length("m", part.m.len(), n)?;
        check_length("v", part.v.len(), n)?;
        check_length("gradient", gradient.len(), n)
    }
}

fn check_length(what: &'static str, got: usize, expected: usize) -> Result<(), OptimError> {
    if got == expected { Ok(()) } else { Err(OptimError::Length { what, got, expected }) }
}

/// The norm of a flat gradient, without an optimiser: square root of the canonical sum of squares. One thread, the fastest
/// instruction set.
pub fn gradient_norm(graph: &Graph, gradient: &[f32]) -> Result<f32, OptimError> {
    let n = graph.parameters();
    check_length("gradient", gradient.len(), n)?;
    crate::float::normalize();
    let mut env = Env::new(Level::detect(), 1).map_err(|e| OptimError::Internal(e.to_string()))?;
    let mut sums = vec![];
    crate::ops::squares(&mut env, graph, &(0..n), gradient, &mut sums)?;
    Ok(crate::ops::norm_of(graph, &sums))
}
