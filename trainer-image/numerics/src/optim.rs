//! The step's tail: loss, gradient norm, clipping, AdamW (spec 6), and what is not finite (spec 1.4).

use crate::env::{Env, Failed};
use crate::graph::Graph;
use crate::isa::{Isa, IsaUnavailable, Level};
use crate::ops::{Moments, clip_factor, update, would_be_finite};
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
    #[error("{what} has {got} elements where the graph has {expected}")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// Its length.
        got: usize,
        /// The graph's number of parameters.
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
pub struct Optimizer {
    graph: Graph,
    hyper: HyperParameters,
    schedule: Schedule,
    env: Env,
    sums: Vec<f32>,
    /// The step after which the state was left with small numbers only.
    calm_after: Option<u64>,
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

    /// The norm of a flat gradient: square root of the canonical sum of squares.
    pub fn gradient_norm(&mut self, gradient: &[f32]) -> Result<f32, OptimError> {
        self.length("gradient", gradient.len())?;
        crate::float::normalize();
        Ok(crate::ops::gradient_norm(&mut self.env, &self.graph, gradient, &mut self.sums)?)
    }

    /// Step `state.step + 1` with the reduced gradient, of the state that the step before has left. On
    /// [`OptimError::NonFinite`] the state is the one before the step: what failed names it. On another error it is spoilt:
    /// a caller that goes on must go back to a checkpoint.
    pub fn step(&mut self, state: &mut State, gradient: &[f32]) -> Result<StepStats, OptimError> {
        let step = state.step + 1;
        for (what, len) in [("w", state.w.len()), ("m", state.m.len()), ("v", state.v.len())] {
            self.length(what, len)?;
        }
        let norm = self.gradient_norm(gradient)?;
        if !norm.is_finite() {
            return Err(NonFinite { step, what: Quantity::GradientNorm }.into());
        }
        let factor = clip_factor(self.hyper.clip_norm, norm);
        let lr = self.schedule.rate(step);
        let (b1p, b2p) = (state.b1p * self.hyper.beta1, state.b2p * self.hyper.beta2);
        let moments = Moments::new(&self.hyper, b1p, b2p, factor, lr);
        // The update is in place, so what would spoil the state is found before. Small numbers, as all sound runs have
        // them, need no look.
        let is_sure = self.calm_after == Some(state.step) && moments.is_harmless(norm);
        if !is_sure && !would_be_finite(&mut self.env, &self.graph, &moments, state, gradient)? {
            return Err(NonFinite { step, what: Quantity::State }.into());
        }
        let calm = update(&mut self.env, &self.graph, &moments, state, gradient)?;
        self.calm_after = calm.then_some(step);
        (state.b1p, state.b2p, state.step) = (b1p, b2p, step);
        Ok(StepStats { norm, lr, factor })
    }

    fn length(&self, what: &'static str, got: usize) -> Result<(), OptimError> {
        let expected = self.graph.parameters();
        if got == expected { Ok(()) } else { Err(OptimError::Length { what, got, expected }) }
    }
}

/// [`Optimizer::gradient_norm`] without an optimiser: one thread, the fastest instruction set.
pub fn gradient_norm(graph: &Graph, gradient: &[f32]) -> Result<f32, OptimError> {
    let expected = graph.parameters();
    if gradient.len() != expected {
        return Err(OptimError::Length { what: "gradient", got: gradient.len(), expected });
    }
    crate::float::normalize();
    let mut env = Env::new(Level::detect(), 1).map_err(|e| OptimError::Internal(e.to_string()))?;
    Ok(crate::ops::gradient_norm(&mut env, graph, gradient, &mut vec![])?)
}
