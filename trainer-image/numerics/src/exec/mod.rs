//! The executor: walks a graph forward and back over one shard. It knows ops, not models.

mod plan;

#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::env::{Env, Failed};
use crate::graph::{Graph, Op};
use crate::isa::{Isa, IsaUnavailable, Level};
use crate::kernel;
use crate::ops::{Backward, Forward, Rows};
use plan::{Action, Plan};

/// Why a shard could not be computed. A NaN or an infinity is not an error here: it shows in the loss.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecError {
    /// The CPU lacks the instruction set asked for.
    #[error(transparent)]
    Isa(#[from] IsaUnavailable),
    /// A thread could not be started.
    #[error("cannot start {threads} threads: {reason}")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// The operating system's reason.
        reason: String,
    },
    /// No sequences, more than 2^24 tokens in a shard, or so many that sizes overflow.
    #[error("a shard of {rows} tokens cannot be run: use 1 sequence per shard or more, at most 2^24 tokens")]
    TooLarge {
        /// Tokens of a shard.
        rows: usize,
    },
    /// An argument of the wrong length.
    #[error("{what} has {got} elements where {expected} belong")]
    Length {
        /// Which argument.
        what: &'static str,
        /// Its length.
        got: usize,
        /// The right length.
        expected: usize,
    },
    /// A token id beyond the vocabulary.
    #[error("{what}[{index}] is {token}, beyond the vocabulary of {vocabulary}")]
    Token {
        /// `tokens` or `targets`.
        what: &'static str,
        /// Position in it.
        index: usize,
        /// The id.
        token: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// A kernel panicked; the results are unusable, the executor is not.
    #[error("a kernel panicked in a worker thread; this is a defect, please report it")]
    WorkerPanicked,
    /// A broken invariant of this crate.
    #[error("{0}; this is a defect, please report it")]
    Internal(&'static str),
}

impl From<Failed> for ExecError {
    fn from(failed: Failed) -> ExecError {
        match failed {
            Failed::Panicked => ExecError::WorkerPanicked,
            Failed::Plan => ExecError::Internal("the buffer plan is not disjoint"),
        }
    }
}

/// Runs one graph on one CPU: owns its threads and all buffers, planned once and reused.
pub struct Executor {
    graph: Graph,
    sequences: usize,
    plan: Plan,
    buffer: Vec<f32>,
    env: Env,
}

/// Which activations a step computes again on its way back instead of keeping them. Never shows in any bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recompute {
    /// None: the fastest.
    #[default]
    Never,
    /// All inside of layers but the last layer's: memory for one layer and the layers' inputs, for one more pass forward
    /// (Chen, Xu, Zhang and Guestrin, "Training deep nets with sublinear memory cost", 2016).
    Layers,
}

/// Bytes of an executor's activations, their gradients and what else it keeps of a shard: its largest buffer, and all of it from
/// the start.
///
/// # Errors
/// [`ExecError::TooLarge`], as [`Executor::with`].
pub fn activation_bytes(
    graph: &Graph,
    sequences_per_shard: usize,
    recompute: Recompute,
) -> Result<u64, ExecError> {
    let rows = rows_of(graph, sequences_per_shard)?;
    Ok(4 * Plan::new(graph, rows, recompute)?.elements as u64)
}

/// Tokens of a shard.
fn rows_of(graph: &Graph, sequences: usize) -> Result<usize, ExecError> {
    let rows = sequences.checked_mul(graph.context()).unwrap_or(0);
    // Row counts become f32, exactly (spec 1.5).
    if rows == 0 || rows > 1 << 24 { Err(ExecError::TooLarge { rows }) } else { Ok(rows) }
}

impl Executor {
    /// [`Executor::with`] everything kept.
    pub fn new(
        graph: &Graph,
        sequences_per_shard: usize,
        isa: Isa,
        threads: usize,
    ) -> Result<Executor, ExecError> {
        Executor::with(graph, sequences_per_shard, isa, threads, Recompute::Never)
    }

    /// For shards of `sequences_per_shard` sequences of the graph's context length, on `threads`
    /// threads (the caller's included; 0 is taken as 1). Neither `isa`, `threads` nor `recompute` shows in any bit.
    pub fn with(
        graph: &Graph,
        sequences_per_shard: usize,
        isa: Isa,
        threads: usize,
        recompute: Recompute,
    ) -> Result<Executor, ExecError> {
        let level = Level::new(isa)?;
        let rows = rows_of(graph, sequences_per_shard)?;
        let plan = Plan::new(graph, rows, recompute)?;
        let env =
            Env::new(level, threads).map_err(|e| ExecError::Threads { threads, reason: e.to_string() })?;
        Ok(Executor {
            graph: graph.clone(),
            sequences: sequences_per_shard,
            buffer: vec![0.0; plan.elements],
            plan,
            env,
        })
    }

    /// The graph it runs.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Loss and gradient of one shard.
    ///
    /// `weights`: flat parameters. `tokens`, `targets`: n * T ids each, n = sequences per shard, row =
    /// sequence * T + position. `gradient`: flat, overwritten whole. Returns the mean token loss. Numbers
    /// that are not finite give a loss or gradient that is not: `optim` decides what that means.
    pub fn shard_gradient(
        &mut self,
        weights: &[f32],
        tokens: &[u32],
        targets: &[u32],
        gradient: &mut [f32],
    ) -> Result<f32, ExecError> {
        let rows = Rows { sequences: self.sequences, length: self.graph.context() };
        length("gradient", gradient.len(), self.graph.parameters())?;
        let losses = self.token_losses(rows, weights, tokens, targets)?;
        let loss = kernel::rows_sum(self.env.level, &self.buffer[losses]) / rows.count() as f32;
        for action in self.plan.forward..self.plan.actions.len() {
            if self.plan.actions[action].backward {
                self.backward(action, rows, weights, tokens, targets, gradient)?;
            } else {
                self.forward(action, rows, weights, tokens, targets)?;
            }
        }
        Ok(loss)
    }

    /// The most sequences that one call takes.
    pub fn sequences(&self) -> usize {
        self.sequences
    }

    /// The mean token loss of each sequence by itself (spec 6.5), nothing but forward. `tokens`, `targets`: n * T ids each, n = 1
    /// to [`Executor::sequences`]. What else is in the call does not show in a sequence's bits.
    pub fn sequence_losses(
        &mut self,
        weights: &[f32],
        tokens: &[u32],
        targets: &[u32],
    ) -> Result<Vec<f32>, ExecError> {
        let context = self.graph.context();
        let sequences = (tokens.len() / context).clamp(1, self.sequences);
        let rows = Rows { sequences, length: context };
        let losses = self.token_losses(rows, weights, tokens, targets)?;
        let mean = |losses: &[f32]| kernel::rows_sum(self.env.level, losses) / context as f32;
        Ok(self.buffer[losses].chunks_exact(context).map(mean).collect())
    }

    /// The way forward; where in the buffer the losses of the tokens are then.
    fn token_losses(
        &mut self,
        rows: Rows,
        weights: &[f32],
        tokens: &[u32],
        targets: &[u32],
    ) -> Result<Range<usize>, ExecError> {
        length("weights", weights.len(), self.graph.parameters())?;
        self.check_ids("tokens", tokens, rows.count())?;
        self.check_ids("targets", targets, rows.count())?;
        crate::float::normalize();
        for action in 0..self.plan.forward {
            self.forward(action, rows, weights, tokens, targets)?;
        }
        Ok(range(self.last()?.output, rows, 1))
    }

    /// Logits of one sequence of 1 to T tokens: `[tokens.len(), vocabulary]`, row-major. The same bits as
    /// those rows have inside a shard.
    pub fn logits(&mut self, weights: &[f32], tokens: &[u32]) -> Result<Vec<f32>, ExecError> {
        let rows = Rows { sequences: 1, length: tokens.len() };
        length("weights", weights.len(), self.graph.parameters())?;
        if tokens.is_empty() || tokens.len() > self.graph.context() {
            let expected = self.graph.context();
            return Err(ExecError::Length { what: "tokens", got: tokens.len(), expected });
        }
        self.check_ids("tokens", tokens, rows.count())?;
        crate::float::normalize();
        for action in 0..self.plan.forward {
            if !matches!(self.graph.nodes()[self.plan.actions[action].node].op, Op::CrossEntropy(_)) {
                self.forward(action, rows, weights, tokens, &[])?;
            }
        }
        let logits = self.last()?.inputs.first().ok_or(ExecError::Internal("a graph without a loss"))?;
        Ok(self.buffer[range(*logits, rows, self.graph.vocabulary())].to_vec())
    }

    /// The loss, forward.
    fn last(&self) -> Result<&Action, ExecError> {
        self.plan.actions[..self.plan.forward].last().ok_or(ExecError::Internal("a graph without nodes"))
    }

    fn forward(
        &mut self,
        action: usize,
        rows: Rows,
        weights: &[f32],
        tokens: &[u32],
        targets: &[u32],
    ) -> Result<(), ExecError> {
        let action = &self.plan.actions[action];
        let places = places(&self.graph, action, rows);
        let call = Forward {
            rows,
            tokens,
            targets,
            weights,
            parameters: &places.parameters,
            buffer: &mut self.buffer,
            inputs: &places.inputs,
            output: places.output,
            saved: places.saved,
        };
        Ok(self.graph.nodes()[action.node].op.forward(&mut self.env, call)?)
    }

    fn backward(
        &mut self,
        action: usize,
        rows: Rows,
        weights: &[f32],
        tokens: &[u32],
        targets: &[u32],
        gradient: &mut [f32],
    ) -> Result<(), ExecError> {
        let action = &self.plan.actions[action];
        let places = places(&self.graph, action, rows);
        let widths = self.graph.values();
        let n = &self.graph.nodes()[action.node];
        let is_loss = action.node + 1 == self.graph.nodes().len();
        let d_output = if is_loss { 0..0 } else { range(action.d_output, rows, widths[n.output]) };
        let input = |k: usize, offset: usize| range(offset, rows, widths[n.inputs[k]]);
        let d_inputs: Vec<Range<usize>> =
            action.d_inputs.iter().enumerate().map(|(k, d)| input(k, d.made)).collect();
        let call = Backward {
            rows,
            tokens,
            targets,
            weights,
            parameters: &places.parameters,
            buffer: &mut self.buffer,
            inputs: &places.inputs,
            output: places.output,
            saved: places.saved,
            d_output,
            d_inputs: &d_inputs,
            gradients: gradient,
            d_parameters: &places.parameters,
            held: &self.plan.held[action.node],
        };
        n.op.backward(&mut self.env, call)?;

        for (k, (d, made)) in action.d_inputs.iter().zip(d_inputs).enumerate() {
            if let Some(sum) = d.sum {
                let [sum, contribution] = crate::ops::cut(&mut self.buffer, [&input(k, sum), &made])?;
                kernel::add_assign(&mut self.env, sum, contribution)?;
            }
        }
        Ok(())
    }

    fn check_ids(&self, what: &'static str, ids: &[u32], expected: usize) -> Result<(), ExecError> {
        length(what, ids.len(), expected)?;
        let vocabulary = self.graph.vocabulary();
        match ids.iter().position(|&id| id as usize >= vocabulary) {
            Some(index) => Err(ExecError::Token { what, index, token: ids[index], vocabulary }),
            None => Ok(()),
        }
    }
}

fn places(graph: &Graph, action: &Action, rows: Rows) -> Places {
    let n = &graph.nodes()[action.node];
    let widths = graph.values();
    Places {
        inputs: n.inputs.iter().zip(&action.inputs).map(|(&id, &at)| range(at, rows, widths[id])).collect(),
        output: range(action.output, rows, widths[n.output]),
        saved: range(action.saved, rows, n.op.saved_width()),
        parameters: n.op.parameters().iter().map(|&id| graph.tensors()[id].range()).collect(),
    }
}

/// Places of a node's operands.
struct Places {
    inputs: Vec<Range<usize>>,
    output: Range<usize>,
    saved: Range<usize>,
    parameters: Vec<Range<usize>>,
}

fn range(offset: usize, rows: Rows, width: usize) -> Range<usize> {
    offset..offset + rows.count() * width
}

fn length(what: &'static str, got: usize, expected: usize) -> Result<(), ExecError> {
    if got == expected { Ok(()) } else { Err(ExecError::Length { what, got, expected }) }
}
