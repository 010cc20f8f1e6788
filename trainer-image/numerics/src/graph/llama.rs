//! The Llama builder (spec 4.14): pre-norm blocks, rotary positions, gated layers, no biases.

use super::build::{Builder, bad, size};
use super::{
    Add, Attention, Embedding, Graph, GraphError, Init, Op, RmsNorm, Rotary, StepShape, SwiGlu, ValueId,
};
use crate::spec::{Arithmetic, ModelSpec};

pub(super) fn build(
    model: &ModelSpec,
    shape: StepShape,
    arithmetic: Arithmetic,
) -> Result<Graph, GraphError> {
    let own = model.llama.as_ref().ok_or_else(|| bad("model.llama", "is missing"))?;
    let layers = size("model.layers", model.layers)?;
    let d = size("model.width", model.width)?;
    let heads = size("model.heads", model.heads)?;
    let kv_heads = size("model.llama.kvHeads", own.kv_heads)?;
    let mlp = size("model.llama.mlpWidth", own.mlp_width)?;
    let vocabulary = size("model.vocabulary", model.vocabulary)?;
    if !d.is_multiple_of(2 * heads) {
        return Err(bad("model.width", "must be a multiple of 2 * model.heads"));
    }
    let head = d / heads;
    let qkv = kv_heads.checked_mul(2 * head).and_then(|kv| kv.checked_add(d));
    let qkv = qkv.ok_or_else(|| bad("model.llama.kvHeads", "makes sizes overflow"))?;
    let normal = Init::Normal { divisor: 1 };
    let residual = Init::Normal { divisor: 2 * model.layers };

    let mut b = Builder::new(model, shape, arithmetic)?;
    let embed = b.matrix("embed.weight".into(), vocabulary, d, normal)?;
    let mut x = b.node("embedding", Op::Embedding(Embedding { tokens: embed, positions: None }), &[])?;
    for l in 0..layers {
        let name = |part: &str| format!("layers.{l}.{part}");
        let first = b.nodes();

        let y = norm(&mut b, &name("attn_norm"), d, x)?;
        let y = linear(&mut b, &name("attn.qkv"), qkv, d, normal, y)?;
        let rotary = Rotary { heads, kv_heads, base: own.rope_base };
        let y = b.node(name("attn.rotary"), Op::Rotary(rotary), &[y])?;
        let y = b.node(name("attn"), Op::Attention(Attention { heads, kv_heads }), &[y])?;
        let y = linear(&mut b, &name("attn.o"), d, d, residual, y)?;
        x = b.node(name("attn.add"), Op::Add(Add), &[x, y])?;

        let y = norm(&mut b, &name("mlp_norm"), d, x)?;
        let y = linear(&mut b, &name("mlp.gate_up"), 2 * mlp, d, normal, y)?;
        let y = b.node(name("mlp.swiglu"), Op::SwiGlu(SwiGlu), &[y])?;
        let y = linear(&mut b, &name("mlp.down"), d, mlp, residual, y)?;
        x = b.node(name("mlp.add"), Op::Add(Add), &[x, y])?;
        b.layer(first);
    }
    x = norm(&mut b, "norm", d, x)?;
    b.head(model, embed, x)
}

fn norm(b: &mut Builder, name: &str, d: usize, x: ValueId) -> Result<ValueId, GraphError> {
    let weight = b.vector(format!("{name}.weight"), d, Init::Ones)?;
    b.node(name, Op::RmsNorm(RmsNorm { weight }), &[x])
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
    b.linear(name.into(), weight, None, x)
}
