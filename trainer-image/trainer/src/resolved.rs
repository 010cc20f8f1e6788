//! From a job to its identity: the resolved spec, the training digest, genesis and StateRoot.

use muster_numerics::graph::Graph;
use muster_numerics::order::DataOrder;
use muster_numerics::spec::{
    DataSpec, EvalData, EvalSpec, FORMAT, Init, ModelSpec, OPS, SpecError, TrainingParameters, TrainingSpec,
    digest_text,
};
use muster_numerics::state::State;
use muster_proof::hash::{self, h};
use muster_proof::tensor::{Role, tensor_root};
use muster_proof::{Digest, StateRootBuilder, jcs, tensor};

use crate::{dataset, hf};

/// The largest resolved spec that is read, in bytes.
pub const MAX_SPEC: u64 = 64 * 1024;

/// Why a job has no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field of the spec.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The model cannot address all tokens of the data.
    #[error(
        "wrong vocabulary: model.vocabulary is {model}, but the dataset's tokens go up to {data}; set it to at least \
         {data} or bring a dataset made for {model}"
    )]
    Vocabulary {
        /// model.vocabulary.
        model: u64,
        /// The dataset's.
        data: u64,
    },
    /// Not canonical JSON.
    #[error("spec: {0}")]
    Canonical(#[from] jcs::Error),
    /// The model has no manifest.
    #[error(transparent)]
    Model(#[from] hf::Error),
    /// A tensor of the model has no digest.
    #[error("model: {0}")]
    Tensor(#[from] tensor::Error),
    /// The genesis in the spec is not the one its seed gives.
    #[error("genesis: is {spec}, but model and seed give {got}; resolve the job again")]
    Genesis {
        /// What the spec says.
        spec: String,
        /// What this version computes.
        got: Digest,
    },
    /// The job's state 0 is given, and it is not here.
    #[error("init: the job begins with the weights of model {0}; give its directory with --init")]
    NoInit(String),
    /// The spec gives no state 0.
    #[error("init: the job begins with weights that its seed makes; leave --init out")]
    NoneGiven,
    /// The weights are of another model than the job's.
    #[error("init: the weights are of another model: {0}; change the job's spec.model")]
    OtherModel(String),
    /// What is here as state 0 is another one.
    #[error(
        "genesis: is {spec}, but the weights given have {got}; give those that the job was resolved with"
    )]
    OtherInit {
        /// What the spec says.
        spec: String,
        /// What lies there.
        got: Digest,
    },
}

/// Resolves a job: fills in the graph's digest and the StateRoot of genesis. The second value is the resolved
/// spec's bytes (RFC 8785), whose SHA-256 is its blob name. Computes all initial parameters: seconds for 100
/// million.
///
/// # Errors
/// [`Error::Spec`] naming the field, [`Error::Vocabulary`].
pub fn resolved_spec(
    model: &ModelSpec,
    training: &TrainingParameters,
    data: &dataset::Manifest,
) -> Result<(TrainingSpec, Vec<u8>), Error> {
    resolve(model, training, data, None)
}

/// As [`resolved_spec`], for a job that begins with the weights of a model. Nothing is computed: its manifest says which state 0 they
/// are, and no worker begins with another.
///
/// # Errors
/// As [`resolved_spec`], and [`Error::OtherModel`].
pub fn resolved_spec_from(
    model: &ModelSpec,
    training: &TrainingParameters,
    data: &dataset::Manifest,
    given: &hf::Manifest,
) -> Result<(TrainingSpec, Vec<u8>), Error> {
    resolve(model, training, data, Some(given))
}

fn resolve(
    model: &ModelSpec,
    training: &TrainingParameters,
    data: &dataset::Manifest,
    given: Option<&hf::Manifest>,
) -> Result<(TrainingSpec, Vec<u8>), Error> {
    let mut spec = TrainingSpec {
        format: FORMAT.into(),
        ops: OPS.into(),
        graph: digest_text(&[0; 32]),
        model: model.clone(),
        data: DataSpec { root: data.root().to_string(), tokens: data.tokens() },
        training: training.clone(),
        genesis: digest_text(&[0; 32]),
        init: None,
    };
    // Bounds first: a graph and its parameters are only built of sizes that were checked.
    spec.validate()?;
    check_vocabulary(&spec, data)?;
    let graph = spec.assemble_graph()?;
    spec.graph = digest_text(&graph.digest());
    let genesis = match given {
        Some(given) => {
            let differences = given.differences(model);
            if !differences.is_empty() {
                return Err(Error::OtherModel(differences.join(", ")));
            }
            spec.init = Some(Init { manifest: given.digest()?.to_string() });
            given.state_root()
        }
        None => genesis(&graph, training.seed)?,
    };
    spec.genesis = genesis.to_string();
    let bytes = jcs::serialize(&spec)?;
    Ok((spec, bytes))
}

/// What a spec says of an evaluation every `every_steps` steps on `data`: on its first `at_most` sequences of `context` tokens, on all
/// if it has fewer. It has no stop rule.
///
/// # Errors
/// A dataset that has no digest.
pub fn eval_spec(
    every_steps: u64,
    at_most: u64,
    context: u64,
    data: &dataset::Manifest,
) -> Result<EvalSpec, dataset::Error> {
    let there = DataOrder::samples_of(data.tokens(), context);
    Ok(EvalSpec {
        every_steps,
        // None at all is for the spec's own check to refuse.
        sequences: at_most.min(there.max(1)),
        data: EvalData {
            manifest: data.digest()?.to_string(),
            root: data.root().to_string(),
            tokens: data.tokens(),
        },
        stop_at: None,
    })
}

/// Reads a resolved spec and builds its graph. The bytes must be canonical: the training digest is theirs.
///
/// # Errors
/// [`Error::Canonical`], [`Error::Spec`] naming the field.
pub fn read_spec(bytes: &[u8]) -> Result<(TrainingSpec, Graph), Error> {
    jcs::parse_canonical(bytes)?;
    let spec = TrainingSpec::from_json(bytes)?;
    let graph = spec.build_graph()?;
    Ok((spec, graph))
}

/// Refuses a dataset with tokens that the model has no row for.
///
/// # Errors
/// [`Error::Vocabulary`].
pub fn check_vocabulary(spec: &TrainingSpec, data: &dataset::Manifest) -> Result<(), Error> {
    let (model, data) = (spec.model.vocabulary, u64::from(data.vocabulary()));
    if model < data { Err(Error::Vocabulary { model, data }) } else { Ok(()) }
}

/// The training digest: the identity of all that reaches the bits. `resolved` is the canonical bytes of the resolved
/// spec.
pub fn training_digest(resolved: &[u8]) -> Digest {
    h(hash::TRAINING, &[resolved])
}

/// The StateRoot of state 0.
///
/// # Errors
/// [`Error::Tensor`].
pub fn genesis(graph: &Graph, seed: u64) -> Result<Digest, Error> {
    Ok(state_root(graph, &State::genesis(graph, seed))?)
}

/// The StateRoot of a state: the digest of step, both beta products, and every tensor's weights and moments.
///
/// # Errors
/// A tensor that has no digest.
pub fn state_root(graph: &Graph, state: &State) -> Result<Digest, tensor::Error> {
    let mut root = StateRootBuilder::new(state.step, state.b1p, state.b2p);
    for tensor in graph.tensors() {
        let shape = tensor.shape();
        let of = |role, all: &[f32]| {
            tensor_root(&tensor.name, role, &shape, all.get(tensor.range()).unwrap_or_default())
        };
        let w = of(Role::Weight, &state.w)?;
        let m = of(Role::FirstMoment, &state.m)?;
        let v = of(Role::SecondMoment, &state.v)?;
        root.roots(&tensor.name, w, m, v)?;
    }
    Ok(root.finish())
}
