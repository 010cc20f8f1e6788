//! From a TrainingJob to the resolved spec that is hashed into the training digest. Hub and `muster local` share this, so
//! that one YAML has one identity wherever it runs.
//!
//! What a schema can say is checked before this: by the API server, or by `muster local` with the same rules. Here is what
//! only this version of the program and the dataset itself can say.
use muster_api::v1alpha1 as api;
use muster_numerics::spec::{self as numerics, SpecError};
use muster_proof::Digest;
use muster_trainer::dataset::Manifest;
use muster_trainer::hf;
use muster_trainer::resolved;

/// A job with its identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The resolved spec.
    pub spec: numerics::TrainingSpec,
    /// Its canonical bytes (RFC 8785): the file that workers read.
    pub bytes: Vec<u8>,
    /// SHA-256 of the bytes: the blob's name.
    pub digest: Digest,
    /// The identity of all that reaches the bits.
    pub training_digest: Digest,
    /// StateRoot of state 0.
    pub genesis: Digest,
    /// SHA-256 of the dataset's manifest.
    pub dataset: Digest,
}

/// Why a job has no identity here. Each names the field and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// A budget, while there are no accounts to draw on.
    #[error("spec.budget: there are no accounts yet, so nothing could be charged; remove the field")]
    Budget,
    /// The name leads to something else than the pinned.
    #[error(
        "spec.{field}.digest: the job pins {pinned}, but {name} is {found}; push what was meant, or remove the pin"
    )]
    DigestMismatch {
        /// `data`, `training.eval` or `init`.
        field: &'static str,
        /// The name there.
        name: String,
        /// The pin there.
        pinned: String,
        /// The manifest's digest.
        found: Digest,
    },
    /// The model cannot address all tokens of the dataset.
    #[error(
        "spec.model.vocabulary: is {model}, but dataset {name} has a vocabulary of {data}; set it to at least {data}, or \
             name a dataset made for {model}"
    )]
    Vocabulary {
        /// spec.data.dataset or spec.training.eval.dataset.
        name: String,
        /// spec.model.vocabulary.
        model: u64,
        /// The dataset's.
        data: u64,
    },
    /// The weights to begin with are those of another model.
    #[error(
        "spec.init.model: {name} is another model than the job's: {differences}; change the job's spec.model"
    )]
    OtherModel {
        /// spec.init.model.
        name: String,
        /// Field by field.
        differences: String,
    },
    /// A value is out of its bounds, alone or together with others or with the dataset.
    #[error("spec.{0}")]
    Invalid(String),
    /// The dataset's manifest cannot be used.
    #[error("dataset: {0}")]
    Dataset(#[from] muster_trainer::dataset::Error),
}

impl ResolveError {
    /// Whether the dataset is what does not fit, and not the job by itself.
    #[must_use]
    pub fn is_about_data(&self) -> bool {
        match self {
            Self::DigestMismatch { field, .. } => *field != "init",
            other => matches!(other, Self::Vocabulary { .. } | Self::Dataset(_)),
        }
    }

    /// The reason of condition Accepted=False.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Budget => "Forbidden",
            Self::DigestMismatch { .. } => "DigestMismatch",
            Self::Vocabulary { .. } => "VocabularyMismatch",
            Self::OtherModel { .. } => "ModelMismatch",
            Self::Invalid(_) => "InvalidSpec",
            Self::Dataset(_) => "InvalidDataset",
        }
    }
}

/// Refuses what this version cannot do, before any data is looked at.
///
/// # Errors
/// [`ResolveError::Budget`], [`ResolveError::Invalid`].
pub fn check_supported(spec: &api::TrainingJobSpec) -> Result<(), ResolveError> {
    if spec.budget.is_some() {
        return Err(ResolveError::Budget);
    }
    let asked = &spec.workers.resources;
    muster_core::envelope::Resources::of(&asked.cpu.0, &asked.memory.0)
        .map_err(|problem| ResolveError::Invalid(format!("workers.{problem}; ask for less")))?;
    Ok(())
}

/// What a job's names lead to.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    /// spec.data.dataset.
    pub data: &'a Manifest,
    /// spec.training.eval.dataset.
    pub held_out: Option<&'a Manifest>,
    /// spec.init.model, or without it a model that is given all the same.
    pub init: Option<&'a hf::Manifest>,
}

/// Resolves a job against what its names lead to. Computes all initial parameters if the seed makes them, which takes seconds for 100
/// million: not on a thread that others wait for.
///
/// # Errors
/// See [`ResolveError`].
pub fn resolve(spec: &api::TrainingJobSpec, named: Named<'_>) -> Result<Resolved, ResolveError> {
    check_supported(spec)?;
    let Named { data, held_out, init } = named;
    let name = &spec.data.dataset;
    let dataset = pinned("data", name, spec.data.digest.as_ref(), data.digest()?)?;
    let (model, mut training) = (model(&spec.model)?, training(&spec.training)?);
    if let Some(wanted) = &spec.training.eval {
        training.eval = Some(eval(wanted, &model, data, held_out)?);
    }
    let given = begins_with(spec.init.as_ref(), init)?;
    let resolved = match given {
        Some(given) => resolved::resolved_spec_from(&model, &training, data, given),
        None => resolved::resolved_spec(&model, &training, data),
    };
    let model_name = spec.init.as_ref().map_or("--init", |init| &init.model);
    let (spec, bytes) = resolved.map_err(|error| match error {
        resolved::Error::OtherModel(differences) => {
            ResolveError::OtherModel { name: model_name.to_owned(), differences }
        }
        other => invalid(name, other),
    })?;
    let genesis = spec.genesis.parse().map_err(|_| {
        ResolveError::Invalid(
            "genesis: not a digest; this is a fault of the program, please report it".into(),
        )
    })?;
    let (digest, training_digest) = (Digest::of(&bytes), resolved::training_digest(&bytes));
    Ok(Resolved { spec, bytes, digest, training_digest, genesis, dataset })
}

/// The digest of what a name leads to, which is the pinned one if one is.
fn pinned(
    field: &'static str,
    name: &str,
    pin: Option<&String>,
    found: Digest,
) -> Result<Digest, ResolveError> {
    match pin.filter(|pin| **pin != found.to_string()) {
        None => Ok(found),
        Some(pinned) => {
            let (name, pinned) = (name.to_owned(), pinned.clone());
            Err(ResolveError::DigestMismatch { field, name, pinned, found })
        }
    }
}

/// The model whose weights the job begins with.
fn begins_with<'a>(
    wanted: Option<&api::Init>,
    init: Option<&'a hf::Manifest>,
) -> Result<Option<&'a hf::Manifest>, ResolveError> {
    let Some(wanted) = wanted else { return Ok(init) };
    let name = &wanted.model;
    let missing = || ResolveError::Invalid(format!("init.model: there is no model {name}; push it first"));
    let manifest = init.ok_or_else(missing)?;
    let digest = manifest.digest().map_err(|error| ResolveError::Invalid(format!("init.model: {error}")))?;
    pinned("init", name, wanted.digest.as_ref(), digest)?;
    Ok(Some(manifest))
}

/// What the spec says of an evaluation on `held_out`.
fn eval(
    wanted: &api::Eval,
    model: &numerics::ModelSpec,
    data: &Manifest,
    held_out: Option<&Manifest>,
) -> Result<numerics::EvalSpec, ResolveError> {
    let name = &wanted.dataset;
    let held_out = held_out.ok_or_else(|| {
        ResolveError::Invalid(format!("training.eval.dataset: there is no dataset {name}; import it first"))
    })?;
    pinned("training.eval", name, wanted.digest.as_ref(), held_out.digest()?)?;
    if held_out.tokenizer() != data.tokenizer() {
        return Err(ResolveError::Invalid(format!(
            "training.eval.dataset: {name} has the tokens of {}, data.dataset those of {}; prepare both with one tokenizer",
            held_out.tokenizer(),
            data.tokenizer()
        )));
    }
    let there = u64::from(held_out.vocabulary());
    if there > model.vocabulary {
        return Err(ResolveError::Vocabulary { name: name.clone(), model: model.vocabulary, data: there });
    }
    let every_steps = count("training.eval.everySteps", wanted.every_steps)?;
    let sequences = count("training.eval.sequences", wanted.sequences)?;
    let eval = resolved::eval_spec(every_steps, sequences, model.context, held_out)?;
    Ok(numerics::EvalSpec { stop_at: wanted.stop_at.clone(), ..eval })
}

/// The resolver below speaks of fields of the resolved spec, which are those of the job: `model.width`. What only Llama has lies one
/// deeper there.
fn invalid(name: &str, error: resolved::Error) -> ResolveError {
    match error {
        resolved::Error::Spec(SpecError::Field { field: "data.tokens", problem, remedy }) => {
            ResolveError::Invalid(format!("data.dataset: {problem}; {remedy}"))
        }
        resolved::Error::Spec(SpecError::Field { field: "training.eval.data.tokens", problem, remedy }) => {
            ResolveError::Invalid(format!("training.eval.dataset: {problem}; {remedy}"))
        }
        resolved::Error::Vocabulary { model, data } => {
            ResolveError::Vocabulary { name: name.into(), model, data }
        }
        other => ResolveError::Invalid(other.to_string().replace("model.llama.", "model.")),
    }
}

/// The model that a job trains.
///
/// # Errors
/// [`ResolveError::Invalid`] naming the field.
pub fn model(model: &api::Model) -> Result<numerics::ModelSpec, ResolveError> {
    Ok(numerics::ModelSpec {
        architecture: match model.architecture {
            api::Architecture::Gpt2 => numerics::Architecture::Gpt2,
            api::Architecture::Llama => numerics::Architecture::Llama,
        },
        layers: count("model.layers", model.layers)?,
        width: count("model.width", model.width)?,
        heads: count("model.heads", model.heads)?,
        context: count("model.context", model.context)?,
        vocabulary: count("model.vocabulary", model.vocabulary)?,
        tied_embeddings: match model.tied_embeddings {
            api::TiedEmbeddings::Tied => numerics::TiedEmbeddings::Tied,
            api::TiedEmbeddings::Untied => numerics::TiedEmbeddings::Untied,
        },
        llama: match model.architecture {
            api::Architecture::Gpt2 => None,
            api::Architecture::Llama => Some(llama(model)?),
        },
    })
}

fn llama(model: &api::Model) -> Result<numerics::LlamaShape, ResolveError> {
    let mlp_width = model.mlp_width.ok_or_else(|| {
        ResolveError::Invalid("model.mlpWidth: is missing; llama needs the width of its gated layer".into())
    })?;
    Ok(numerics::LlamaShape {
        kv_heads: count("model.kvHeads", model.kv_heads.unwrap_or(model.heads))?,
        mlp_width: count("model.mlpWidth", mlp_width)?,
        rope_base: count("model.ropeBase", model.rope_base.unwrap_or(api::ROPE_BASE))?,
    })
}

fn training(training: &api::Training) -> Result<numerics::TrainingParameters, ResolveError> {
    let optimizer = &training.optimizer;
    Ok(numerics::TrainingParameters {
        steps: count("training.steps", training.steps)?,
        batch: count("training.batch", training.batch)?,
        shards: count("training.shards", training.shards)?,
        seed: count("training.seed", training.seed)?,
        arithmetic: match training.arithmetic {
            api::Arithmetic::F32Chain => numerics::Arithmetic::F32Chain,
            api::Arithmetic::I16Exact => numerics::Arithmetic::I16Exact,
        },
        optimizer: numerics::OptimizerSpec {
            name: match optimizer.name {
                api::OptimizerName::Adamw => numerics::OptimizerName::Adamw,
            },
            learning_rate: optimizer.learning_rate.clone(),
            beta1: optimizer.beta1.clone(),
            beta2: optimizer.beta2.clone(),
            epsilon: optimizer.epsilon.clone(),
            weight_decay: optimizer.weight_decay.clone(),
            clip_norm: optimizer.clip_norm.clone(),
        },
        schedule: numerics::ScheduleSpec {
            name: match training.schedule.name {
                api::ScheduleName::Cosine => numerics::ScheduleName::Cosine,
                api::ScheduleName::Linear => numerics::ScheduleName::Linear,
                api::ScheduleName::Constant => numerics::ScheduleName::Constant,
            },
            warmup_steps: count("training.schedule.warmupSteps", training.schedule.warmup_steps)?,
            final_fraction: training.schedule.final_fraction.clone(),
        },
        // Its data must be seen first.
        eval: None,
    })
}

/// The API's integers are signed because JSON schemas have no unsigned ones.
fn count(field: &str, value: i64) -> Result<u64, ResolveError> {
    u64::try_from(value)
        .map_err(|_| ResolveError::Invalid(format!("{field}: {value} is negative; use 0 or more")))
}

#[cfg(test)]
mod tests;
