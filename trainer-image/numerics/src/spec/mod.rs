//! The resolved spec: all that decides the bits of a job, as one strict JSON document (spec 8).
//!
//! The hub writes it once when it resolves a TrainingJob; the trainer reads it. Its canonical bytes
//! are what the training digest is taken over, so unknown, missing and misspelt fields are errors.

mod decimal;
mod digest;
mod hyper;
mod validate;

pub use decimal::{DecimalError, parse_decimal};
pub use digest::{digest_text, is_digest};
pub use hyper::HyperParameters;

use serde::{Deserialize, Deserializer, Serialize};

use crate::graph::{Graph, GraphError, StepShape};

/// Value of `format`.
pub const FORMAT: &str = "muster.spec/1";
/// Name of this op set: value of `ops`, part of every digest.
pub const OPS: &str = "muster.ops/1";

/// What a job trains, resolved: no defaults are left open and data is named by digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainingSpec {
    /// Always [`FORMAT`].
    pub format: String,
    /// Always [`OPS`].
    pub ops: String,
    /// `sha256:<hex>` of the canonical bytes of the graph built from `model` and `training`.
    pub graph: String,
    /// The model's shape.
    pub model: ModelSpec,
    /// The token stream.
    pub data: DataSpec,
    /// Everything about the steps.
    pub training: TrainingParameters,
    /// `sha256:<hex>`: the state root of state 0.
    pub genesis: String,
    /// Where state 0 comes from, if not from the seed.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub init: Option<Init>,
}

/// Weights that a job begins with; its moments begin as zeros. No seed makes them again, so whoever has the spec can bring the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Init {
    /// `sha256:<hex>`: the model's manifest (docs/spec/export.md).
    pub manifest: String,
}

/// The shape of the model. All sizes are counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelSpec {
    /// Which model builder makes the graph.
    pub architecture: Architecture,
    /// Transformer blocks, 1 to 256.
    pub layers: u64,
    /// Width of the residual stream, a multiple of 16 and of `heads` (of twice as many in Llama), 16 to 65536.
    pub width: u64,
    /// Query heads, 1 to 512.
    pub heads: u64,
    /// Tokens per sequence, 2 to 8192.
    pub context: u64,
    /// Token ids are 0 .. vocabulary, 2 to 1048576.
    pub vocabulary: u64,
    /// Whether the language-model head is the token embedding.
    pub tied_embeddings: TiedEmbeddings,
    /// What only [`Architecture::Llama`] has, and must have.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub llama: Option<LlamaShape>,
}

/// A member that is there has a value: `null` would be a second spelling of "absent".
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// The part of a model's shape that is Llama's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LlamaShape {
    /// KV: key/value heads, dividing `heads`.
    pub kv_heads: u64,
    /// F: width of the gated layer, 16 to 262144.
    pub mlp_width: u64,
    /// Base of the rotary frequencies, 2 to 2^30.
    pub rope_base: u64,
}

impl ModelSpec {
    /// Whether every field is in its bounds. A model of strangers is asked this before anything is built of it.
    ///
    /// # Errors
    /// [`SpecError`] naming the field.
    pub fn validate(&self) -> Result<(), SpecError> {
        validate::model(self)
    }
}

/// Model builders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Architecture {
    /// GPT-2 (Radford et al., 2019).
    Gpt2,
    /// Llama (Touvron et al., 2023): RMS norm, rotary positions, SwiGLU, grouped key/value heads.
    Llama,
}

/// Whether the head shares the token embedding's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TiedEmbeddings {
    /// One table for both.
    Tied,
    /// A `head.weight` of its own.
    Untied,
}

/// How linear layers multiply (spec 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arithmetic {
    /// One f32 fused multiply-add chain per output element.
    F32Chain,
    /// Operands quantised to 16-bit integers by powers of two, their dot product exact, one rounding.
    I16Exact,
}

impl Arithmetic {
    /// The name in specs and graphs.
    pub fn name(self) -> &'static str {
        match self {
            Arithmetic::F32Chain => "f32-chain",
            Arithmetic::I16Exact => "i16-exact",
        }
    }
}

/// The token stream, by content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DataSpec {
    /// `sha256:<hex>`: Merkle root over the stream's chunks.
    pub root: String,
    /// Length of the stream in tokens.
    pub tokens: u64,
}

/// Everything about the steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainingParameters {
    /// Number of steps, 1 to 100000000.
    pub steps: u64,
    /// G: sequences per step, a multiple of `shards`.
    pub batch: u64,
    /// S: logical shards, a power of two up to 256. Not workers: any number of workers gives the
    /// same bits.
    pub shards: u64,
    /// Seed of initialisation and data order, 0 to 2^53 - 1.
    pub seed: u64,
    /// How linear layers multiply.
    pub arithmetic: Arithmetic,
    /// The optimiser's hyper-parameters.
    pub optimizer: OptimizerSpec,
    /// The learning rate over time.
    pub schedule: ScheduleSpec,
    /// Losses on held-out data; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub eval: Option<EvalSpec>,
}

/// When and on what a job is evaluated (spec 6.5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EvalSpec {
    /// Steps between two evaluations, 1 to `steps`. The last step evaluates too.
    pub every_steps: u64,
    /// E: the first so many sequences of the data, 1 to 65536.
    pub sequences: u64,
    /// The held-out token stream.
    pub data: EvalData,
    /// The stop rule: training ends before `steps` once a loss is no greater than this, a positive normal f32. Absent: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub stop_at: Option<String>,
}

impl EvalSpec {
    /// `stopAt` as a number.
    ///
    /// # Errors
    /// [`SpecError`] if it is none or out of its bounds.
    pub fn stop_at(&self) -> Result<Option<f32>, SpecError> {
        self.stop_at.as_deref().map(hyper::stop_at).transpose()
    }
}

/// A held-out token stream, by content. Its manifest is named too, so that whoever has the spec can bring the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EvalData {
    /// `sha256:<hex>`: the dataset's manifest.
    pub manifest: String,
    /// `sha256:<hex>`: Merkle root over the stream's chunks.
    pub root: String,
    /// Length of the stream in tokens.
    pub tokens: u64,
}

/// Hyper-parameters as decimal strings: an identity must not depend on a JSON float printer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OptimizerSpec {
    /// Which optimiser.
    pub name: OptimizerName,
    /// Peak learning rate, above 0 and at most 1000.
    pub learning_rate: String,
    /// Decay of the first moment, in [0, 1).
    pub beta1: String,
    /// Decay of the second moment, in [0, 1).
    pub beta2: String,
    /// Added to the denominator, a normal f32 above 0, at most 1.
    pub epsilon: String,
    /// Decoupled weight decay of matrices, in [0, 1000].
    pub weight_decay: String,
    /// Largest gradient norm; "0" = no clipping.
    pub clip_norm: String,
}

/// Optimisers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// Decoupled weight decay (Loshchilov and Hutter, 2019).
    Adamw,
}

/// The learning rate over time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScheduleSpec {
    /// Shape after warm-up.
    pub name: ScheduleName,
    /// W: steps of linear warm-up, at most `steps`.
    pub warmup_steps: u64,
    /// The last step's rate as a fraction of the peak, in [0, 1].
    pub final_fraction: String,
}

/// Shape of the schedule after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleName {
    /// Half a cosine from the peak to the final rate.
    Cosine,
    /// A straight line from the peak to the final rate.
    Linear,
    /// The peak rate; `finalFraction` is not used.
    Constant,
}

/// Why a spec was refused. Messages name the field's path and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Not the JSON document this version reads: syntax, a missing or an unknown field, a wrong type.
    #[error("spec is not a {FORMAT} document: {0}")]
    Json(#[from] serde_json::Error),
    /// A field's value, alone or together with another's, is not allowed.
    #[error("{field}: {problem}; {remedy}")]
    Field {
        /// Path of the field, e.g. `training.optimizer.beta1`.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// The model builder refused the shape.
    #[error("model: {0}")]
    Graph(#[from] GraphError),
}

impl TrainingSpec {
    /// Reads and validates a spec.
    pub fn from_json(bytes: &[u8]) -> Result<TrainingSpec, SpecError> {
        let spec: TrainingSpec = serde_json::from_slice(bytes)?;
        spec.validate()?;
        Ok(spec)
    }

    /// Checks every bound and every rule between fields. It does not build the graph:
    /// [`TrainingSpec::build_graph`] compares the digest.
    pub fn validate(&self) -> Result<(), SpecError> {
        validate::validate(self)
    }

    /// Builds the graph of `model` and `training`, whatever `graph` says.
    pub fn assemble_graph(&self) -> Result<Graph, SpecError> {
        let training = &self.training;
        let graph = Graph::build(&self.model, training.step_shape(), training.arithmetic)?;
        Ok(match &training.eval {
            Some(eval) => graph.with_evaluation(eval.sequences),
            None => graph,
        })
    }

    /// Builds the graph and checks it against the digest in `graph`.
    pub fn build_graph(&self) -> Result<Graph, SpecError> {
        let graph = self.assemble_graph()?;
        let built = digest_text(&graph.digest());
        if built != self.graph {
            return Err(SpecError::Field {
                field: "graph",
                problem: format!("is {} but this version builds {built} from model and training", self.graph),
                remedy: "run the job with the version that resolved it, or resolve it again".into(),
            });
        }
        Ok(graph)
    }

    /// The hyper-parameters as numbers.
    pub fn hyper_parameters(&self) -> Result<HyperParameters, SpecError> {
        HyperParameters::from_training(&self.training)
    }

    /// N: whole samples in the dataset.
    pub fn samples(&self) -> u64 {
        crate::order::DataOrder::samples_of(self.data.tokens, self.model.context)
    }
}

impl TrainingParameters {
    /// Batch and shards, what the graph needs of the training part.
    pub fn step_shape(&self) -> StepShape {
        StepShape { batch: self.batch, shards: self.shards }
    }

    /// Whether step `step` (from 1) evaluates: every so many, and the last.
    pub fn evaluates(&self, step: u64) -> bool {
        self.eval.as_ref().is_some_and(|eval| step == self.steps || step.is_multiple_of(eval.every_steps))
    }

    /// Whether the stop rule ends training after step `step`, whose evaluation loss is `loss`. The last step is no matter of the
    /// rule: training ends there anyway.
    pub fn stops(&self, step: u64, loss: f32) -> bool {
        // A spec that was validated has a number there.
        let reached = |eval: &EvalSpec| matches!(eval.stop_at(), Ok(Some(stop_at)) if loss <= stop_at);
        self.may_stop(step) && self.eval.as_ref().is_some_and(reached)
    }

    /// Whether the loss after step `step` can end training: there is a stop rule, and it looks there.
    pub fn may_stop(&self, step: u64) -> bool {
        let rule = self.eval.as_ref().filter(|eval| eval.stop_at.is_some());
        rule.is_some_and(|eval| (1..self.steps).contains(&step) && step.is_multiple_of(eval.every_steps))
    }
}
