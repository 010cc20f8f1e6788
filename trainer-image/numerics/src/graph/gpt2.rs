//! The GPT-2 builder (spec 4.9): pre-norm blocks, learned positions, biases everywhere but the head.

use super::build::{Builder, bad, size};
use super::{Add, Attention, Embedding, Gelu, Graph, GraphError, Init, LayerNorm, Op, StepShape, ValueId};
use crate::spec::{Arithmetic, ModelSpec};

pub(super) fn build(
    model: &ModelSpec,
    shape: StepShape,
    arithmetic: Arithmetic,
) -> Result<Graph, GraphError> {
    let layers = size("model.layers", model.layers)?;
    let d = size("model.width", model.width)?;
    let heads = size("model.heads", model.heads)?;
    let vocabulary = size("model.vocabulary", model.vocabulary)?;
    if !d.is_multiple_of(heads) {
        return Err(bad("model.width", "must be a multiple of model.heads"));
    }
    let normal = Init::Normal { divisor: 1 };
    // What writes into the residual stream starts smaller, so that depth does not grow its variance.
    let residual = Init::Normal { divisor: 2 * model.layers };

    let mut b = Builder::new(model, shape, arithmetic)?;
    let wte = b.matrix("wte".into(), vocabulary, d, normal)?;
    let wpe = b.matrix("wpe".into(), size("model.context", model.context)?, d, normal)?;
    let mut x = b.node("embedding", Op::Embedding(Embedding { tokens: wte, positions: Some(wpe) }), &[])?;
    for l in 0..layers {
        let name = |part: &str| format!("h.{l}.{part}");
        let first = b.nodes();

        let y = norm(&mut b, &name("ln_1"), d, x)?;
        let y = linear(&mut b, &name("attn.qkv"), 3 * d, d, normal, y)?;
        let y = b.node(name("attn"), Op::Attention(Attention { heads, kv_heads: heads }), &[y])?;
        let y = linear(&mut b, &name("attn.proj"), d, d, residual, y)?;
        x = b.node(name("attn.add"), Op::Add(Add), &[x, y])?;

        let y = norm(&mut b, &name("ln_2"), d, x)?;
        let y = linear(&mut b, &name("mlp.fc"), 4 * d, d, normal, y)?;
        let y = b.node(name("mlp.gelu"), Op::Gelu(Gelu), &[y])?;
        let y = linear(&mut b, &name("mlp.proj"), d, 4 * d, residual, y)?;
        x = b.node(name("mlp.add"), Op::Add(Add), &[x, y])?;
        b.layer(first);
    }
    x = norm(&mut b, "ln_f", d, x)?;
    b.head(model, wte, x)
}

fn norm(b: &mut Builder, name: &str, d: usize, x: ValueId) -> Result<ValueId, GraphError> {
    let weight = b.vector(format!("{name}.weight"), d, Init::Ones)?;
    let bias = b.vector(format!("{name}.bias"), d, Init::Zeros)?;
    b.node(name, Op::LayerNorm(LayerNorm { weight, bias }), &[x])
}

fn linear(
    b: &mut Builder,
    name: &str,
    out: usize,
    input: usize,
    init: Init,
    x: ValueId,
) -> Result<ValueId, GraphError> {
    let weight = b.matrix(format!("{name}.weight"), out, input, init)?;
    let bias = b.vector(format!("{name}.bias"), out, Init::Zeros)?;
    b.linear(name.into(), weight, Some(bias), x)
}
