//! Every bound of a spec, in the order of the document; the first violation wins.

use super::{
    Architecture, FORMAT, HyperParameters, LlamaShape, ModelSpec, OPS, SpecError, TrainingSpec, is_digest,
};
use crate::order::DataOrder;

/// Tokens of one shard: what one node of a step may cover (spec 8.2).
const MAX_SHARD_TOKENS: u64 = 8192;
/// Largest integer that JSON numbers carry exactly.
const MAX_INTEGER: u64 = (1 << 53) - 1;
/// Sequences of an evaluation: their losses are exchanged in one frame.
const MAX_EVAL_SEQUENCES: u64 = 65536;
/// 2^38 parameters are 1 TiB of f32; their gradients and moments three more.
const MAX_PARAMETERS: u128 = 1 << 38;

pub(super) fn validate(spec: &TrainingSpec) -> Result<(), SpecError> {
    text("format", &spec.format, FORMAT)?;
    text("ops", &spec.ops, OPS)?;
    digest("graph", &spec.graph)?;
    model(&spec.model)?;
    digest("data.root", &spec.data.root)?;
    training(spec)?;
    HyperParameters::from_training(&spec.training)?;
    data(spec)?;
    eval(spec)?;
    if let Some(init) = &spec.init {
        digest("init.manifest", &init.manifest)?;
    }
    digest("genesis", &spec.genesis)
}

pub(super) fn model(m: &ModelSpec) -> Result<(), SpecError> {
    range("model.layers", m.layers, 1, 256)?;
    range("model.width", m.width, 16, 65536)?;
    multiple("model.width", m.width, 16, "16")?;
    range("model.heads", m.heads, 1, 512)?;
    multiple("model.width", m.width, m.heads, "model.heads")?;
    range("model.context", m.context, 2, MAX_SHARD_TOKENS)?;
    range("model.vocabulary", m.vocabulary, 2, 1 << 20)?;
    let [v, d, l, t] = [m.vocabulary, m.width, m.layers, m.context].map(u128::from);
    let parameters = match (m.architecture, &m.llama) {
        (Architecture::Gpt2, None) => 2 * v * d + t * d + l * 12 * d * d,
        (Architecture::Llama, Some(own)) => {
            llama(m, own)?;
            2 * v * d + l * (4 * d * d + 3 * d * u128::from(own.mlp_width))
        }
        (Architecture::Gpt2, Some(_)) => {
            return refuse("model.llama", "is there, but model.architecture is gpt2", "leave it out");
        }
        (Architecture::Llama, None) => {
            return refuse("model.llama", "is missing", "give kvHeads, mlpWidth and ropeBase");
        }
    };
    if parameters > MAX_PARAMETERS {
        return refuse(
            "model",
            format!("has {parameters} parameters, beyond 2^38"),
            "lower layers, width or vocabulary",
        );
    }
    Ok(())
}

fn llama(m: &ModelSpec, own: &LlamaShape) -> Result<(), SpecError> {
    // Pairs are turned.
    multiple("model.width", m.width, 2 * m.heads, "2 * model.heads")?;
    range("model.llama.kvHeads", own.kv_heads, 1, m.heads)?;
    if !m.heads.is_multiple_of(own.kv_heads) {
        return refuse(
            "model.llama.kvHeads",
            format!("{} does not divide model.heads, {}", own.kv_heads, m.heads),
            "make it a divisor",
        );
    }
    range("model.llama.mlpWidth", own.mlp_width, 16, 1 << 18)?;
    range("model.llama.ropeBase", own.rope_base, 2, 1 << 30)
}

fn training(spec: &TrainingSpec) -> Result<(), SpecError> {
    let t = &spec.training;
    range("training.steps", t.steps, 1, 100_000_000)?;
    range("training.batch", t.batch, 1, 1 << 20)?;
    range("training.shards", t.shards, 1, 256)?;
    if !t.shards.is_power_of_two() {
        return refuse(
            "training.shards",
            format!("{} is not a power of two", t.shards),
            "use 1, 2, 4, .. 256",
        );
    }
    multiple("training.batch", t.batch, t.shards, "training.shards")?;
    let tokens = t.batch / t.shards * spec.model.context;
    if tokens > MAX_SHARD_TOKENS {
        return refuse(
            "training.shards",
            format!("a shard has batch / shards * context = {tokens} tokens, beyond {MAX_SHARD_TOKENS}"),
            "raise training.shards or lower training.batch",
        );
    }
    range("training.seed", t.seed, 0, MAX_INTEGER)?;
    if t.schedule.warmup_steps > t.steps {
        return refuse(
            "training.schedule.warmupSteps",
            format!("{} is more than training.steps, {}", t.schedule.warmup_steps, t.steps),
            "warm up for at most training.steps",
        );
    }
    Ok(())
}

fn data(spec: &TrainingSpec) -> Result<(), SpecError> {
    range("data.tokens", spec.data.tokens, 0, MAX_INTEGER)?;
    let samples = DataOrder::samples_of(spec.data.tokens, spec.model.context);
    if samples == 0 {
        return refuse(
            "data.tokens",
            format!("{} tokens hold no sample of context {}", spec.data.tokens, spec.model.context),
            "bring at least model.context + 1 tokens",
        );
    }
    // The epoch is one 32-bit counter word of the data order.
    if (spec.training.steps * spec.training.batch - 1) / samples > u64::from(u32::MAX) {
        return refuse(
            "training.steps",
            format!("steps * batch passes {samples} samples more than 2^32 times"),
            "bring more data or lower training.steps",
        );
    }
    Ok(())
}

fn eval(spec: &TrainingSpec) -> Result<(), SpecError> {
    let Some(eval) = &spec.training.eval else { return Ok(()) };
    if !(1..=spec.training.steps).contains(&eval.every_steps) {
        return refuse(
            "training.eval.everySteps",
            format!("{} is not between 1 and training.steps, {}", eval.every_steps, spec.training.steps),
            "evaluate at least once",
        );
    }
    range("training.eval.sequences", eval.sequences, 1, MAX_EVAL_SEQUENCES)?;
    digest("training.eval.data.manifest", &eval.data.manifest)?;
    digest("training.eval.data.root", &eval.data.root)?;
    range("training.eval.data.tokens", eval.data.tokens, 0, MAX_INTEGER)?;
    let samples = DataOrder::samples_of(eval.data.tokens, spec.model.context);
    if samples < eval.sequences {
        return refuse(
            "training.eval.data.tokens",
            format!(
                "{} tokens hold {samples} sequences of context {}, not {}",
                eval.data.tokens, spec.model.context, eval.sequences
            ),
            "lower training.eval.sequences or bring more tokens",
        );
    }
    eval.stop_at().map(drop)
}

fn refuse(
    field: &'static str,
    problem: impl Into<String>,
    remedy: impl Into<String>,
) -> Result<(), SpecError> {
    Err(SpecError::Field { field, problem: problem.into(), remedy: remedy.into() })
}

fn text(field: &'static str, value: &str, want: &str) -> Result<(), SpecError> {
    if value == want {
        return Ok(());
    }
    let shown: String = value.chars().take(40).collect();
    refuse(field, format!("{shown:?} is not known to this version"), format!("this version reads {want:?}"))
}

fn digest(field: &'static str, value: &str) -> Result<(), SpecError> {
    if is_digest(value) {
        return Ok(());
    }
    refuse(field, "is not a digest", "write \"sha256:\" and 64 lower-case hex digits")
}

fn range(field: &'static str, value: u64, low: u64, high: u64) -> Result<(), SpecError> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    refuse(field, format!("{value} is out of range"), format!("use {low} to {high}"))
}

fn multiple(field: &'static str, value: u64, of: u64, name: &str) -> Result<(), SpecError> {
    if of != 0 && value.is_multiple_of(of) {
        return Ok(());
    }
    refuse(field, format!("{value} is not a multiple of {name}"), format!("make it a multiple of {name}"))
}
