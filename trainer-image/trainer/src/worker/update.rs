//! From the gradients of this worker's shards to the next state: every worker updates all of it, or a slice.

use muster_numerics::graph::Graph;
use muster_numerics::isa::Isa;
use muster_numerics::optim::{NonFinite, OptimError, Optimizer, Part, Quantity, StepStats};
use muster_numerics::reduce::SubtreeAccumulator;
use muster_numerics::spec::HyperParameters;
use muster_numerics::state::State;

use crate::exchange::{Error, Reducer, StepVotes};
use crate::failure::Failure;
use crate::protocol::ExitCode;

/// Where the optimiser's moments are. It shows in no bit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OptimizerState {
    /// All of them on every worker.
    #[default]
    Replicated,
    /// A slice on each worker, which updates that slice of the parameters for all: stage 1 of ZeRO (Rajbhandari et al. 2020).
    Sharded,
}

/// Updates the state of a run.
pub(super) struct Updater {
    optimizer: Optimizer,
    sharded: bool,
}

impl Updater {
    /// `workers`: one has nobody to share with.
    pub fn new(
        graph: &Graph,
        hyper: &HyperParameters,
        isa: Isa,
        threads: usize,
        (place, workers): (OptimizerState, u32),
    ) -> Result<Self, Failure> {
        let optimizer = Optimizer::new(graph, hyper, isa, threads).map_err(failed)?;
        Ok(Self { optimizer, sharded: place == OptimizerState::Sharded && workers > 1 })
    }

    /// Leaves this worker of a whole state what it keeps.
    pub fn keep_own(&self, reducer: &Reducer, state: &mut State) {
        if self.sharded {
            let slice = reducer.my_slice();
            for moments in [&mut state.m, &mut state.v] {
                // A vector of its own: the one before would keep its room.
                *moments = moments.get(slice.clone()).unwrap_or_default().to_vec();
            }
        }
    }

    /// Exchanges what the workers know of step `step`: the losses of all shards in order, and what any worker voted for.
    pub fn exchange(
        &self,
        reducer: &Reducer,
        step: u64,
        votes: StepVotes,
        losses: &[f32],
        sums: &mut SubtreeAccumulator,
    ) -> Result<(Vec<f32>, StepVotes), Error> {
        if self.sharded {
            reducer.reduce(step, votes, losses, sums)
        } else {
            reducer.exchange(step, votes, losses, sums)
        }
    }

    /// The step after `state`, with what [`Updater::exchange`] has left in `sums`. If the step is not finite, no worker has
    /// changed its state.
    pub fn step(
        &mut self,
        reducer: &Reducer,
        state: &mut State,
        sums: &SubtreeAccumulator,
    ) -> Result<StepStats, Failure> {
        if !self.sharded {
            return self.optimizer.step(state, sums.mean()).map_err(failed);
        }
        let (step, slice) = (state.step + 1, reducer.my_slice());
        let beyond = || Failure::usage("a gradient of another length than the model");
        let gradient = sums.mean().get(slice.clone()).ok_or_else(beyond)?;
        let squares = self.optimizer.squares(&slice, gradient).map_err(failed)?;
        let squares = reducer.exchange_squares(step, &squares)?;
        let update = self.optimizer.plan(state, &squares).map_err(failed)?;
        let w = state.w.get_mut(slice.clone()).ok_or_else(beyond)?;
        let mut part = Part { first: slice.start, w, m: &mut state.m, v: &mut state.v };
        let finite = self.optimizer.stays_finite(&update, &mut part, gradient).map_err(failed)?;
        if !reducer.all_finite(step, finite)? {
            return Err(failed(NonFinite { step, what: Quantity::State }.into()));
        }
        self.optimizer.apply(&update, part, gradient).map_err(failed)?;
        reducer.exchange_parameters(step, &mut state.w)?;
        update.finish(state);
        Ok(update.stats())
    }

    /// Copies the whole state into `copy`, which rank 0 has. All workers must do it at the same step.
    pub fn copy(&self, reducer: &Reducer, state: &State, copy: Option<&mut State>) -> Result<(), Error> {
        let mut none = State { step: 0, b1p: 1.0, b2p: 1.0, w: vec![], m: vec![], v: vec![] };
        let (copy, wanted) = match copy {
            Some(copy) => (copy, true),
            None => (&mut none, false),
        };
        if wanted {
            (copy.step, copy.b1p, copy.b2p) = (state.step, state.b1p, state.b2p);
            copy.w.clone_from(&state.w);
        }
        if self.sharded {
            reducer.collect_moments(state.step, (&state.m, &state.v), (&mut copy.m, &mut copy.v))?;
        } else if wanted {
            copy.m.clone_from(&state.m);
            copy.v.clone_from(&state.v);
        }
        Ok(())
    }
}

fn failed(error: OptimError) -> Failure {
    match error {
        OptimError::NonFinite(_) => Failure::new(ExitCode::NonFinite, error.to_string()),
        _ => Failure::usage(error.to_string()),
    }
}
