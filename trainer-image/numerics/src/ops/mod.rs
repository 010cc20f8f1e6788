//! The op set: one file per op with its definition, shape rule, forward and backward (spec 4).
//!
//! An op sees matrices with one row per token. It writes all of its output, adds nothing to what was
//! there before (the executor adds up contributions, spec 4.10), and cuts its work into pieces whose
//! bits do not depend on which thread runs them.

mod adamw;
mod add;
mod attention;
mod clip;
mod cross_entropy;
mod embedding;
mod evaluate;
mod gelu;
mod layer_norm;
mod linear;
mod reduce;
mod rms_norm;
mod rotary;
mod swiglu;

#[cfg(test)]
pub(crate) mod tests;

pub use add::Add;
pub use attention::Attention;
pub use cross_entropy::CrossEntropy;
pub use embedding::Embedding;
pub use gelu::Gelu;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use rms_norm::RmsNorm;
pub use rotary::Rotary;
pub use swiglu::SwiGlu;

pub use adamw::Part;
pub(crate) use adamw::{Moments, update, would_be_finite};
pub use clip::squares_in;
pub(crate) use clip::{clip_factor, norm_of, squares};
pub(crate) use evaluate::evaluation_loss;
pub(crate) use rotary::Table;

use std::ops::Range;

use crate::env::{Env, Failed};
use crate::graph::{Json, Tensor, TensorId};

/// An op of the forward graph and the tensors it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Token and, if there is one, position table to the first activations.
    Embedding(Embedding),
    /// Layer normalisation of each row.
    LayerNorm(LayerNorm),
    /// Each row divided by its root mean square.
    RmsNorm(RmsNorm),
    /// A product with a weight matrix.
    Linear(Linear),
    /// Queries and keys turned by their position.
    Rotary(Rotary),
    /// Causal multi-head attention.
    Attention(Attention),
    /// GELU in its sigmoid form.
    Gelu(Gelu),
    /// One half gated by the other.
    SwiGlu(SwiGlu),
    /// The residual sum.
    Add(Add),
    /// Token losses from logits.
    CrossEntropy(CrossEntropy),
}

/// An op of the step's tail: works on flat gradients and state, not on activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Mean gradient over logical shards (spec 5).
    Reduce,
    /// Gradient norm and clip factor (spec 6.2, 6.3).
    Clip,
    /// AdamW (spec 6.4).
    AdamW,
    /// Mean loss on held-out sequences (spec 6.5), after some steps.
    Evaluate,
}

impl Tail {
    /// The op's name in canonical bytes.
    pub fn name(self) -> &'static str {
        match self {
            Tail::Reduce => reduce::NAME,
            Tail::Clip => clip::NAME,
            Tail::AdamW => adamw::NAME,
            Tail::Evaluate => evaluate::NAME,
        }
    }
}

impl Op {
    fn operator(&self) -> &dyn Operator {
        match self {
            Op::Embedding(op) => op,
            Op::LayerNorm(op) => op,
            Op::RmsNorm(op) => op,
            Op::Rotary(op) => op,
            Op::SwiGlu(op) => op,
            Op::Linear(op) => op,
            Op::Attention(op) => op,
            Op::Gelu(op) => op,
            Op::Add(op) => op,
            Op::CrossEntropy(op) => op,
        }
    }

    /// The op's name in canonical bytes, e.g. `layer_norm`.
    pub fn name(&self) -> &'static str {
        self.operator().name()
    }

    /// The tensors it uses, in the order in which backward gets their gradients.
    pub fn parameters(&self) -> Vec<TensorId> {
        self.operator().parameters()
    }

    pub(crate) fn fields(&self) -> Vec<(&'static str, Json)> {
        self.operator().fields()
    }

    pub(crate) fn output_width(&self, inputs: &[usize], tensors: &[Tensor]) -> Result<usize, String> {
        self.operator().output_width(inputs, tensors)
    }

    pub(crate) fn saved_width(&self) -> usize {
        self.operator().saved_width()
    }

    pub(crate) fn needs(&self) -> Needs {
        self.operator().needs()
    }

    pub(crate) fn adds(&self, parameter: usize) -> bool {
        self.operator().adds(parameter)
    }

    pub(crate) fn forward(&self, env: &mut Env, call: Forward<'_>) -> Result<(), Failed> {
        self.operator().forward(env, call)
    }

    pub(crate) fn backward(&self, env: &mut Env, call: Backward<'_>) -> Result<(), Failed> {
        self.operator().backward(env, call)
    }
}

/// What an op's backward reads again of its forward: the planner keeps only that alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    pub inputs: bool,
    pub output: bool,
}

/// One op: definition, shape rule, forward, backward.
pub(crate) trait Operator {
    /// Name in canonical bytes.
    fn name(&self) -> &'static str;

    /// Operands beyond inputs and output, for canonical bytes.
    fn fields(&self) -> Vec<(&'static str, Json)> {
        vec![]
    }

    /// Tensors used.
    fn parameters(&self) -> Vec<TensorId> {
        vec![]
    }

    /// Shape rule: width of the output, or what is wrong with the operands.
    fn output_width(&self, inputs: &[usize], tensors: &[Tensor]) -> Result<usize, String>;

    /// Numbers per row that forward leaves for backward.
    fn saved_width(&self) -> usize {
        0
    }

    fn needs(&self) -> Needs;

    /// Whether backward can add to a gradient of this parameter that is held already, with the bits of a contribution that is made
    /// from +0 on its own and then added (spec 5.1).
    fn adds(&self, parameter: usize) -> bool {
        let _ = parameter;
        false
    }

    fn forward(&self, env: &mut Env, call: Forward<'_>) -> Result<(), Failed>;

    fn backward(&self, env: &mut Env, call: Backward<'_>) -> Result<(), Failed>;
}

/// Rows of a call: whole sequences of equal length, row = sequence * length + position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    pub sequences: usize,
    pub length: usize,
}

impl Rows {
    pub(crate) fn count(self) -> usize {
        self.sequences * self.length
    }
}

/// Operands of one forward call. Ranges are of `buffer` (activations) or of `weights`.
pub(crate) struct Forward<'a> {
    pub rows: Rows,
    pub tokens: &'a [u32],
    /// Empty when only logits are wanted.
    pub targets: &'a [u32],
    pub weights: &'a [f32],
    /// Ranges of the op's parameters in `weights`.
    pub parameters: &'a [Range<usize>],
    pub buffer: &'a mut [f32],
    pub inputs: &'a [Range<usize>],
    pub output: Range<usize>,
    pub saved: Range<usize>,
}

/// Operands of one backward call: those of forward, and gradients.
pub(crate) struct Backward<'a> {
    pub rows: Rows,
    pub tokens: &'a [u32],
    pub targets: &'a [u32],
    pub weights: &'a [f32],
    pub parameters: &'a [Range<usize>],
    pub buffer: &'a mut [f32],
    pub inputs: &'a [Range<usize>],
    pub output: Range<usize>,
    pub saved: Range<usize>,
    /// Gradient of the output; empty for the loss.
    pub d_output: Range<usize>,
    /// Where the gradients of the inputs go, in `buffer`.
    pub d_inputs: &'a [Range<usize>],
    /// Where the gradients of the parameters go.
    pub gradients: &'a mut [f32],
    /// Ranges of the op's parameters in `gradients`.
    pub d_parameters: &'a [Range<usize>],
    /// Which of them hold a contribution, to be added to; the others are overwritten.
    pub held: &'a [bool],
}

/// Cuts pairwise disjoint ranges out of one flat buffer.
pub(crate) fn cut<'a, const N: usize>(
    buffer: &'a mut [f32],
    ranges: [&Range<usize>; N],
) -> Result<[&'a mut [f32]; N], Failed> {
    buffer.get_disjoint_mut(ranges.map(Range::clone)).map_err(|_| Failed::Plan)
}

/// The i-th operand; a graph that passed its shape rule always has it.
pub(crate) fn operand(ranges: &[Range<usize>], i: usize) -> Result<&Range<usize>, Failed> {
    ranges.get(i).ok_or(Failed::Plan)
}

/// The one input of an op that has one.
fn one_input(inputs: &[usize]) -> Result<usize, String> {
    match inputs {
        [width] => Ok(*width),
        _ => Err(format!("takes one input, not {}", inputs.len())),
    }
}
