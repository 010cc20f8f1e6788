//! A job's model as a static graph of ops (spec 4): what the executor, a trace and a referee walk.
//!
//! Values are matrices with one row per token of a shard (row = sequence * context + position) and a
//! fixed width. Each node writes one value. Backward is the same graph reversed, so it is not listed.
//! The graph's canonical bytes, and so its digest, fix everything about a step except the numbers in
//! the spec (seed, hyper-parameters) and the data.

mod build;
mod gpt2;
mod json;
mod llama;

pub use crate::ops::{
    Add, Attention, CrossEntropy, Embedding, Gelu, LayerNorm, Linear, Op, RmsNorm, Rotary, SwiGlu, Tail,
};
pub(crate) use json::Json;

use std::ops::Range;

use sha2::{Digest, Sha256};

use crate::spec::{Architecture, Arithmetic, ModelSpec, OPS};

/// Value of `format` in the canonical bytes.
pub const FORMAT: &str = "muster.graph/1";

/// Index of a value in [`Graph::values`].
pub type ValueId = usize;
/// Index of a tensor in [`Graph::tensors`].
pub type TensorId = usize;

/// How many sequences a step has and into how many logical shards they are split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepShape {
    /// G: sequences per step, a multiple of `shards`.
    pub batch: u64,
    /// S >= 1: logical shards. Jobs use powers of two; the arithmetic takes any number.
    pub shards: u64,
}

/// How a tensor's genesis values are made (spec 7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// +0.
    Zeros,
    /// 1.
    Ones,
    /// Normal with standard deviation 0.02 / sqrt(divisor), in f64.
    Normal {
        /// 1, or 2 * layers for what writes into the residual stream.
        divisor: u64,
    },
}

/// One trained tensor. Matrices are `[rows, cols]` = `[out, in]`, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Canonical name, e.g. `h.0.attn.qkv.weight`.
    pub name: String,
    /// Length of the first dimension.
    pub rows: usize,
    /// Length of the second dimension; `None` for vectors.
    pub cols: Option<usize>,
    /// Rule of its genesis values.
    pub init: Init,
    /// Where it begins in flat parameter buffers, in elements.
    pub offset: usize,
}

impl Tensor {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.rows * self.cols.unwrap_or(1)
    }

    /// Its place in flat parameter buffers.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.elements()
    }

    /// Dimensions: one or two.
    pub fn shape(&self) -> Vec<usize> {
        std::iter::once(self.rows).chain(self.cols).collect()
    }

    /// Weight decay acts on tensors with two dimensions only (spec 6.4).
    pub fn decays(&self) -> bool {
        self.cols.is_some()
    }
}

/// One op of the graph with its operands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Unique name, e.g. `h.0.attn.qkv`; a trace names nodes by it.
    pub name: String,
    /// The op and the tensors it uses.
    pub op: Op,
    /// The values it reads.
    pub inputs: Vec<ValueId>,
    /// The value it writes.
    pub output: ValueId,
}

/// A model's op graph: tensors in canonical order, values, nodes in execution order, and the tail that
/// turns shard gradients into the next state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    pub(crate) arithmetic: Arithmetic,
    pub(crate) shape: StepShape,
    pub(crate) context: usize,
    pub(crate) tensors: Vec<Tensor>,
    /// Width of each value.
    pub(crate) values: Vec<usize>,
    pub(crate) nodes: Vec<Node>,
    /// The nodes of each layer: what may be recomputed together. Not part of the canonical bytes.
    pub(crate) layers: Vec<Range<usize>>,
    pub(crate) tail: Vec<Tail>,
    /// E, if the job evaluates.
    pub(crate) evaluated: Option<u64>,
}

/// Why a graph could not be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// A size that is zero, does not divide, or overflows memory.
    #[error("{field}: {problem}")]
    Shape {
        /// Path of the field, or name of the node.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Graph {
    /// Builds the graph of a model.
    pub fn build(model: &ModelSpec, shape: StepShape, arithmetic: Arithmetic) -> Result<Graph, GraphError> {
        match model.architecture {
            Architecture::Gpt2 => gpt2::build(model, shape, arithmetic),
            Architecture::Llama => llama::build(model, shape, arithmetic),
        }
    }

    /// The graph of a job that evaluates `sequences` held-out sequences after some steps: its tail ends with
    /// [`Tail::Evaluate`], which walks the forward nodes once more with the new state.
    pub fn with_evaluation(mut self, sequences: u64) -> Graph {
        self.tail.retain(|op| *op != Tail::Evaluate);
        self.tail.push(Tail::Evaluate);
        self.evaluated = Some(sequences);
        self
    }

    /// Trained tensors in canonical order: the order of initialisation, of the gradient norm, of the
    /// flat buffers and of the state root.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Number of trained elements: the length of flat parameter and gradient buffers.
    pub fn parameters(&self) -> usize {
        self.tensors.last().map_or(0, |t| t.range().end)
    }

    /// Widths of the values, by [`ValueId`].
    pub fn values(&self) -> &[usize] {
        &self.values
    }

    /// Forward nodes in execution order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes of each layer, in order.
    pub(crate) fn layers(&self) -> &[Range<usize>] {
        &self.layers
    }

    /// E: the held-out sequences of an evaluation, 0 for a job that has none.
    pub fn evaluated(&self) -> u64 {
        self.evaluated.unwrap_or(0)
    }

    /// What follows the shards' gradients: reduce, clip, optimiser, and evaluation if there is one.
    pub fn tail(&self) -> &[Tail] {
        &self.tail
    }

    /// T: tokens per sequence.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Token ids are 0 .. vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.logits().map_or(0, |id| self.values[id])
    }

    /// Batch and shards.
    pub fn step_shape(&self) -> StepShape {
        self.shape
    }

    /// G / S: sequences of one logical shard.
    pub fn sequences_per_shard(&self) -> usize {
        (self.shape.batch / self.shape.shards.max(1)) as usize
    }

    /// The value that holds the logits: what the loss reads.
    pub(crate) fn logits(&self) -> Option<ValueId> {
        self.nodes
            .iter()
            .find(|n| matches!(n.op, Op::CrossEntropy(_)))
            .and_then(|n| n.inputs.first().copied())
    }

    /// The graph as RFC 8785 JSON: sorted keys, ASCII, integers only.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let tensors = self.tensors.iter().map(|t| {
            let init = match t.init {
                Init::Zeros => vec![("rule", Json::text("zeros"))],
                Init::Ones => vec![("rule", Json::text("ones"))],
                Init::Normal { divisor } => {
                    vec![("rule", Json::text("normal")), ("divisor", Json::Integer(divisor))]
                }
            };
            Json::Object(vec![
                ("name", Json::text(&t.name)),
                ("shape", Json::List(t.shape().into_iter().map(Json::index).collect())),
                ("init", Json::Object(init)),
            ])
        });
        let nodes = self.nodes.iter().map(|n| {
            let mut fields = n.op.fields();
            fields.push(("op", Json::text(n.op.name())));
            fields.push(("name", Json::text(&n.name)));
            fields.push(("inputs", Json::List(n.inputs.iter().copied().map(Json::index).collect())));
            fields.push(("output", Json::index(n.output)));
            Json::Object(fields)
        });
        let mut root = vec![
            ("format", Json::text(FORMAT)),
            ("ops", Json::text(OPS)),
            ("arithmetic", Json::text(self.arithmetic.name())),
            ("batch", Json::Integer(self.shape.batch)),
            ("shards", Json::Integer(self.shape.shards)),
            ("context", Json::index(self.context)),
            ("tensors", Json::List(tensors.collect())),
            ("values", Json::List(self.values.iter().copied().map(Json::index).collect())),
            ("nodes", Json::List(nodes.collect())),
            ("tail", Json::List(self.tail.iter().map(|t| Json::text(t.name())).collect())),
        ];
        root.extend(self.evaluated.map(|sequences| ("evaluated", Json::Integer(sequences))));
        let mut out = String::new();
        Json::Object(root).write(&mut out);
        out.into_bytes()
    }

    /// SHA-256 of the canonical bytes.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.canonical_bytes()).into()
    }
}
