//! Lies of a provider's own trainer, for tests of whoever must notice them. Only in builds with the feature `cheats`, which
//! no image has that anybody is asked to run; there `MUSTER_CHEAT` names one. Without the variable, or with the name of
//! another program's cheat, the worker is honest.

use std::ops::Range;

use muster_numerics::spec::HyperParameters;
use muster_numerics::state::State;

use crate::failure::Failure;
use crate::protocol::ExitCode;

/// The step that is said to fail.
const FALSE_FAILURE: u64 = 7;

/// Which lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// The last shard of each step is not computed; the gradient of the one before stands for it.
    SkipsShard,
    /// Every step takes the gradient at the weights of the step before.
    StaleStep,
    /// Every step trains on the next step's data.
    WrongBatch,
    /// One bit of one weight is another after every step.
    OneUlp,
    /// The learning rate is a thousandth too large.
    WrongLearningRate,
    /// The state is right, and the loss of every step is said to be half of what it is.
    FalseLoss,
    /// All is right but the loss on held-out data, which is said to be half of what it is.
    FalseEvalLoss,
    /// A step is said to have raised NonFinite that has not: the job is to end early.
    FalseFailure,
    /// The chain starts elsewhere: one weight of the start state is another.
    OtherStart,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Cheat {
    lie: Option<Lie>,
    /// The weights of the step before.
    stale: Option<Vec<f32>>,
    /// The gradient of the shard before.
    pub gradient: Vec<f32>,
}

impl Cheat {
    /// Remembers a shard's gradient for one that is skipped.
    pub fn keep(&mut self, gradient: &[f32]) {
        if self.lie == Some(Lie::SkipsShard) {
            self.gradient = gradient.to_vec();
        }
    }

    /// As the environment says.
    pub fn from_environment() -> Self {
        let lie = match std::env::var("MUSTER_CHEAT").unwrap_or_default().as_str() {
            "skips-shard" => Some(Lie::SkipsShard),
            "stale-step" => Some(Lie::StaleStep),
            "wrong-batch" => Some(Lie::WrongBatch),
            "one-ulp" => Some(Lie::OneUlp),
            "wrong-learning-rate" => Some(Lie::WrongLearningRate),
            "false-loss" => Some(Lie::FalseLoss),
            "false-eval-loss" => Some(Lie::FalseEvalLoss),
            "false-failure" => Some(Lie::FalseFailure),
            "other-start" => Some(Lie::OtherStart),
            _ => None,
        };
        if let Some(lie) = lie {
            eprintln!("muster-trainer: warning: this worker cheats: {lie:?}");
        }
        Self { lie, ..Self::default() }
    }

    fn is(&self, lie: Lie) -> bool {
        self.lie == Some(lie)
    }

    /// The start state, as the worker takes it.
    pub fn start(&self, state: &mut State) {
        if self.is(Lie::OtherStart) {
            nudge(&mut state.w);
        }
    }

    /// What the optimiser is made of.
    pub fn hyper(&self, hyper: &mut HyperParameters) {
        if self.is(Lie::WrongLearningRate) {
            hyper.peak *= 1.001;
        }
    }

    /// The step whose data are read for `step`.
    pub fn batch_of(&self, step: u64) -> u64 {
        if self.is(Lie::WrongBatch) { step + 1 } else { step }
    }

    /// Whether the gradient of this shard is left as the one before it made it; never of a worker's first.
    pub fn skips(&self, shard: u64, mine: &Range<u64>) -> bool {
        self.is(Lie::SkipsShard) && shard > mine.start && shard + 1 == mine.end
    }

    /// The weights at which the gradient is computed.
    pub fn weights<'a>(&'a self, now: &'a [f32]) -> &'a [f32] {
        if !self.is(Lie::StaleStep) {
            return now;
        }
        self.stale.as_deref().unwrap_or(now)
    }

    /// In the middle of the second interval, for whoever trains that far.
    pub fn fails(&self, step: u64) -> Result<(), Failure> {
        if !self.is(Lie::FalseFailure) || step < FALSE_FAILURE {
            return Ok(());
        }
        let message = format!("step {step}: the gradient norm is not finite; lower the learning rate");
        Err(Failure::new(ExitCode::NonFinite, message))
    }

    /// Before the weights change.
    pub fn before_update(&mut self, weights: &[f32]) {
        if self.is(Lie::StaleStep) {
            self.stale = Some(weights.to_vec());
        }
    }

    /// The state after a step.
    pub fn after(&self, state: &mut State) {
        if self.is(Lie::OneUlp) {
            nudge(&mut state.w);
        }
    }

    /// The loss that is told.
    pub fn loss(&self, loss: f32) -> f32 {
        if self.is(Lie::FalseLoss) { loss / 2.0 } else { loss }
    }

    /// The loss on held-out data that is told.
    pub fn eval_loss(&self, loss: f32) -> f32 {
        if self.is(Lie::FalseEvalLoss) { loss / 2.0 } else { loss }
    }
}

/// Another number, as near as can be.
fn nudge(weights: &mut [f32]) {
    if let Some(first) = weights.first_mut() {
        *first = f32::from_bits(first.to_bits() ^ 1);
    }
}
