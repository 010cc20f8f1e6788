//! The parts of a TrainingJob that reach the bits of its result.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{rules, schema};
use crate::v1alpha1::Arithmetic;

/// The network's shape.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules::rule_at(
    ".width",
    "self.width % self.heads == 0",
    "must be divisible by heads",
))]
#[schemars(transform = rules::rule_at(
    ".kvHeads",
    "!has(self.kvHeads) || (self.architecture == 'llama' && self.heads % self.kvHeads == 0)",
    "is for llama only and must divide heads",
))]
#[schemars(transform = rules::rule_at(
    ".mlpWidth",
    "has(self.mlpWidth) == (self.architecture == 'llama')",
    "is required for llama and for llama only",
))]
#[schemars(transform = rules::rule_at(
    ".ropeBase",
    "!has(self.ropeBase) || self.architecture == 'llama'",
    "is for llama only",
))]
#[schemars(transform = rules::rule_at(
    ".width",
    "self.architecture != 'llama' || self.width % (2 * self.heads) == 0",
    "must be divisible by 2 * heads for llama, whose rotary positions turn pairs",
))]
pub struct Model {
    /// The family.
    pub architecture: Architecture,
    /// Blocks.
    #[schemars(range(min = 1, max = 256))]
    pub layers: i64,
    /// Size of the hidden state, a multiple of 16 and of heads.
    #[schemars(range(min = 16, max = 65536))]
    #[schemars(transform = rules::rule("self % 16 == 0", "must be a multiple of 16"))]
    pub width: i64,
    /// Attention heads.
    #[schemars(range(min = 1, max = 512))]
    pub heads: i64,
    /// Key and value heads, for llama. Absent: as many as heads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 512))]
    pub kv_heads: Option<i64>,
    /// Width of the gated layer, for llama. With gpt2 it is 4 * width.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 262_144))]
    pub mlp_width: Option<i64>,
    /// Base of the rotary frequencies, for llama. Absent: 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 1_073_741_824))]
    pub rope_base: Option<i64>,
    /// Tokens that the network sees at once, and of each training sequence.
    #[schemars(range(min = 2, max = 8192))]
    pub context: i64,
    /// Number of different tokens.
    #[schemars(range(min = 2, max = 1_048_576))]
    pub vocabulary: i64,
    /// Whether input and output share one embedding table.
    #[serde(default)]
    pub tied_embeddings: TiedEmbeddings,
}

/// The base of a Llama's rotary frequencies, if the job names none.
pub const ROPE_BASE: i64 = 10_000;

/// A family of networks.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// Learnt positions, layer norm, GELU.
    Gpt2,
    /// Rotary positions, RMS norm, SwiGLU, grouped key and value heads.
    Llama,
}

/// Whether input and output embedding are one tensor.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TiedEmbeddings {
    /// One table.
    #[default]
    Tied,
    /// Two tables.
    Untied,
}

/// What the model is trained on.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Data {
    /// A dataset in the catalogue of this job's namespace.
    #[schemars(schema_with = "schema::dns_label")]
    pub dataset: String,
    /// Digest of the dataset's manifest that the name must lead to. Absent: what it leads to when the job is
    /// accepted, fixed from then on in status.resolved.dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::digest")]
    pub digest: Option<String>,
}

/// How the model is trained.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules::rule_at(
    ".batch",
    "self.batch % self.shards == 0",
    "must be divisible by shards",
))]
#[schemars(transform = rules::rule_at(
    ".intervalSteps",
    "self.intervalSteps <= self.steps",
    "must not exceed steps (the default is 20)",
))]
#[schemars(transform = rules::rule_at(
    ".intervalSteps",
    "self.intervalSteps >= 4 || self.intervalSteps == self.steps",
    "must be at least 4, or all the steps of a shorter job",
))]
#[schemars(transform = rules::rule_at(
    ".schedule.warmupSteps",
    "self.schedule.warmupSteps <= self.steps",
    "must not exceed training.steps",
))]
#[schemars(transform = rules::rule_at(
    ".eval.everySteps",
    "!has(self.eval) || self.eval.everySteps <= self.steps",
    "must not exceed training.steps",
))]
#[schemars(transform = rules::rule_at(
    ".eval.everySteps",
    "!has(self.eval) || !has(self.eval.stopAt) || self.eval.everySteps % self.intervalSteps == 0",
    "must be a multiple of training.intervalSteps (the default is 20) if there is a stopAt",
))]
pub struct Training {
    /// Optimizer steps.
    #[schemars(range(min = 1, max = schema::MAX_STEPS))]
    pub steps: i64,
    /// Sequences per step.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub batch: i64,
    /// Logical shards of the batch, a power of two up to 256. Fixes the order of the sums, so it is part of
    /// the result; how many workers share the shards is not.
    #[schemars(range(min = 1, max = 256))]
    #[schemars(transform = rules::rule(
        "self in [1, 2, 4, 8, 16, 32, 64, 128, 256]",
        "must be a power of two",
    ))]
    pub shards: i64,
    /// Seed of the initial weights and of the order of the data.
    #[serde(default)]
    #[schemars(range(min = 0, max = schema::MAX_INTEGER))]
    pub seed: i64,
    /// How numbers are multiplied and added.
    #[serde(default)]
    pub arithmetic: Arithmetic,
    /// Steps between two checkpoints. The one interval of a job: checkpoint, commit, audit, move, resize.
    #[serde(default = "interval_steps")]
    #[schemars(range(min = 1, max = 100_000))]
    pub interval_steps: i64,
    /// The update rule.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// The learning rate over the steps.
    #[serde(default)]
    pub schedule: Schedule,
    /// Loss on data that the model is not trained on, every so many steps. Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval: Option<Eval>,
}

/// Weights that a job begins with. Its moments begin as zeros, and the seed decides the order of the data only.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Init {
    /// A model in the catalogue of this job's namespace, of the shape of spec.model.
    #[schemars(schema_with = "schema::dns_label")]
    pub model: String,
    /// Digest of the model's manifest that the name must lead to. Absent: what it leads to when the job is accepted, fixed
    /// from then on in the resolved spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::digest")]
    pub digest: Option<String>,
}

/// An evaluation: the mean loss of the state after a step on the first sequences of a dataset, in the step's record.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Eval {
    /// Steps between two evaluations. The last step evaluates too.
    #[schemars(range(min = 1, max = schema::MAX_STEPS))]
    pub every_steps: i64,
    /// Sequences of model.context tokens: the dataset's first so many, all if it has fewer.
    #[serde(default = "eval_sequences")]
    #[schemars(range(min = 1, max = 65_536))]
    pub sequences: i64,
    /// A dataset in the catalogue of this job's namespace, made with the tokenizer of data.dataset.
    #[schemars(schema_with = "schema::dns_label")]
    pub dataset: String,
    /// Digest of the dataset's manifest that the name must lead to. Absent: what it leads to when the job is
    /// accepted, fixed from then on in the resolved spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::digest")]
    pub digest: Option<String>,
    /// Ends training before its last step: after the first multiple of everySteps whose loss is no greater than this. Absent: all
    /// steps are done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::decimal")]
    #[schemars(transform = rules::rule("double(self) > 0.0", "must be above 0"))]
    pub stop_at: Option<String>,
}

const fn eval_sequences() -> i64 {
    64
}

const fn interval_steps() -> i64 {
    20
}

/// AdamW. Decimals are strings: the job's digest must not depend on how someone prints a float.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Optimizer {
    /// The rule.
    pub name: OptimizerName,
    /// Highest learning rate.
    #[schemars(schema_with = "schema::decimal")]
    #[schemars(transform = rules::not_negative)]
    pub learning_rate: String,
    /// Decay of the first moment, below 1.
    #[schemars(schema_with = "schema::decimal")]
    #[schemars(transform = rules::not_negative)]
    #[schemars(transform = rules::below_one)]
    pub beta1: String,
    /// Decay of the second moment, below 1.
    #[schemars(schema_with = "schema::decimal")]
    #[schemars(transform = rules::not_negative)]
    #[schemars(transform = rules::below_one)]
    pub beta2: String,
    /// Added to the root of the second moment, above 0.
    #[schemars(schema_with = "schema::decimal")]
    #[schemars(transform = rules::rule("double(self) > 0.0", "must be above 0"))]
    pub epsilon: String,
    /// Decoupled weight decay.
    #[schemars(schema_with = "schema::decimal")]
    #[schemars(transform = rules::not_negative)]
    pub weight_decay: String,
    /// Largest norm of the gradient. "0" does not clip.
    #[schemars(schema_with = "schema::decimal")]
    #[schemars(transform = rules::not_negative)]
    pub clip_norm: String,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            name: OptimizerName::Adamw,
            learning_rate: "6e-4".into(),
            beta1: "0.9".into(),
            beta2: "0.95".into(),
            epsilon: "1e-8".into(),
            weight_decay: "0.1".into(),
            clip_norm: "1.0".into(),
        }
    }
}

/// An update rule.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// Adam with decoupled weight decay (Loshchilov and Hutter, 2019).
    #[default]
    Adamw,
}

/// The learning rate over the steps: linear warm-up, then a curve down to a fraction of the highest.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Schedule {
    /// The curve after the warm-up.
    pub name: ScheduleName,
    /// Steps of linear warm-up.
    #[schemars(range(min = 0, max = schema::MAX_STEPS))]
    pub warmup_steps: i64,
    /// What is left of the learning rate at the last step, from 0 to 1.
    #[schemars(schema_with = "schema::decimal")]
    #[schemars(transform = rules::not_negative)]
    #[schemars(transform = rules::rule("double(self) <= 1.0", "must not exceed 1"))]
    pub final_fraction: String,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { name: ScheduleName::Cosine, warmup_steps: 0, final_fraction: "0.1".into() }
    }
}

/// A curve of the learning rate.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleName {
    /// Half a cosine.
    #[default]
    Cosine,
    /// A straight line.
    Linear,
    /// No decay.
    Constant,
}

/// How much of the work is checked by others.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Assurance {
    /// How often an interval is replayed by someone else. What a tier above None costs and proves is in the
    /// verification specification.
    pub tier: AssuranceTier,
    /// Only these providers may replay. Absent: any provider of another owner.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::dns_labels")]
    pub auditors: Vec<String>,
}

/// How often intervals are replayed by an auditor.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub enum AssuranceTier {
    /// Never: states are committed to, but nobody checks them.
    #[default]
    None,
    /// One in 50.
    Bronze,
    /// One in 20.
    Silver,
    /// One in 5.
    Gold,
    /// All.
    Platinum,
}
