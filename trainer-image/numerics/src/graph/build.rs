//! What every model builder uses: tensors and nodes are added in order, shapes are checked as they are.

use super::{
    CrossEntropy, Graph, GraphError, Init, Linear, Node, Op, StepShape, Tail, Tensor, TensorId, ValueId,
};
use crate::spec::{Arithmetic, ModelSpec, TiedEmbeddings};

/// A graph under construction.
pub(super) struct Builder {
    graph: Graph,
}

impl Builder {
    pub(super) fn new(
        model: &ModelSpec,
        shape: StepShape,
        arithmetic: Arithmetic,
    ) -> Result<Builder, GraphError> {
        if shape.shards == 0 || shape.batch == 0 || !shape.batch.is_multiple_of(shape.shards) {
            return Err(bad("training.batch", "must be a multiple of training.shards, both at least 1"));
        }
        let context = size("model.context", model.context)?;
        let rows = (shape.batch / shape.shards).checked_mul(model.context);
        if rows.is_none_or(|rows| rows > 1 << 24) {
            // Row counts become f32, exactly.
            return Err(bad("training.batch", "a shard must have at most 2^24 tokens"));
        }
        Ok(Builder {
            graph: Graph {
                arithmetic,
                shape,
                context,
                tensors: vec![],
                values: vec![],
                nodes: vec![],
                layers: vec![],
                tail: vec![Tail::Reduce, Tail::Clip, Tail::AdamW],
                evaluated: None,
            },
        })
    }

    pub(super) fn matrix(
        &mut self,
        name: String,
        rows: usize,
        cols: usize,
        init: Init,
    ) -> Result<TensorId, GraphError> {
        self.tensor(name, rows, Some(cols), init)
    }

    pub(super) fn vector(&mut self, name: String, len: usize, init: Init) -> Result<TensorId, GraphError> {
        self.tensor(name, len, None, init)
    }

    fn tensor(
        &mut self,
        name: String,
        rows: usize,
        cols: Option<usize>,
        init: Init,
    ) -> Result<TensorId, GraphError> {
        let offset = self.graph.parameters();
        let end = rows.checked_mul(cols.unwrap_or(1)).and_then(|n| n.checked_add(offset));
        // A flat buffer of f32 must fit the address space several times over.
        if end.is_none_or(|end| end > isize::MAX as usize / 64) {
            return Err(bad(&name, "makes the parameters overflow memory sizes"));
        }
        self.graph.tensors.push(Tensor { name, rows, cols, init, offset });
        Ok(self.graph.tensors.len() - 1)
    }

    /// Adds a node; its output's width follows from the op's shape rule.
    pub(super) fn node(
        &mut self,
        name: impl Into<String>,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<ValueId, GraphError> {
        let name = name.into();
        let widths: Vec<usize> = inputs.iter().map(|&v| self.graph.values[v]).collect();
        let width = op.output_width(&widths, &self.graph.tensors).map_err(|problem| bad(&name, &problem))?;
        let output = self.graph.values.len();
        self.graph.values.push(width);
        self.graph.nodes.push(Node { name, op, inputs: inputs.to_vec(), output });
        Ok(output)
    }

    /// How many nodes there are.
    pub(super) fn nodes(&self) -> usize {
        self.graph.nodes.len()
    }

    /// The nodes from `first` on are a layer.
    pub(super) fn layer(&mut self, first: usize) {
        self.graph.layers.push(first..self.graph.nodes.len());
    }

    /// A product with a weight, in the graph's arithmetic.
    pub(super) fn linear(
        &mut self,
        name: String,
        weight: TensorId,
        bias: Option<TensorId>,
        x: ValueId,
    ) -> Result<ValueId, GraphError> {
        let arithmetic = self.graph.arithmetic;
        self.node(name, Op::Linear(Linear { weight, bias, arithmetic }), &[x])
    }

    /// The language-model head over `table` or a tensor of its own, and the loss: how every model ends.
    pub(super) fn head(
        mut self,
        model: &ModelSpec,
        table: TensorId,
        x: ValueId,
    ) -> Result<Graph, GraphError> {
        let (vocabulary, width) = (size("model.vocabulary", model.vocabulary)?, self.graph.values[x]);
        let head = match model.tied_embeddings {
            TiedEmbeddings::Tied => table,
            TiedEmbeddings::Untied => {
                self.matrix("head.weight".into(), vocabulary, width, Init::Normal { divisor: 1 })?
            }
        };
        let logits = self.linear("head".into(), head, None, x)?;
        self.node("loss", Op::CrossEntropy(CrossEntropy), &[logits])?;
        self.finish()
    }

    /// Checks what the executor relies on: every tensor gets a gradient, every value is used.
    fn finish(self) -> Result<Graph, GraphError> {
        let graph = self.graph;
        for (id, tensor) in graph.tensors.iter().enumerate() {
            if !graph.nodes.iter().any(|n| n.op.parameters().contains(&id)) {
                return Err(bad(&tensor.name, "is used by no node"));
            }
        }
        let loss = graph.nodes.last().map(|n| n.output);
        for id in 0..graph.values.len() {
            if Some(id) != loss && !graph.nodes.iter().any(|n| n.inputs.contains(&id)) {
                return Err(bad(&graph.nodes[id].name, "has an output that no node reads"));
            }
        }
        Ok(graph)
    }
}

pub(super) fn size(field: &str, value: u64) -> Result<usize, GraphError> {
    match usize::try_from(value) {
        Ok(n) if n > 0 && n <= 1 << 30 => Ok(n),
        _ => Err(bad(field, "must be from 1 to 2^30")),
    }
}

pub(super) fn bad(field: &str, problem: &str) -> GraphError {
    GraphError::Shape { field: field.to_owned(), problem: problem.to_owned() }
}
