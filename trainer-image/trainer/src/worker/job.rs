//! Spec, data and start state of a run, checked against each other before anything is computed.

use std::path::Path;

use muster_numerics::graph::Graph;
use muster_numerics::spec::{Init, TrainingSpec};
use muster_numerics::state::State;
use muster_proof::Digest;

use super::held_out::HeldOut;
use super::{Batches, Options};
use crate::checkpoint::{Found, Store};
use crate::dataset::Dataset;
use crate::failure::Failure;
use crate::files;
use crate::hf;
use crate::protocol::ExitCode;
use crate::resolved::{self, MAX_SPEC};

/// A dataset as the spec names it.
struct Named<'a> {
    /// The field of the spec.
    field: &'static str,
    root: &'a str,
    tokens: u64,
}

/// A job that may be trained.
pub(super) struct Job {
    pub spec: TrainingSpec,
    pub spec_bytes: Vec<u8>,
    pub training_digest: Digest,
    pub graph: Graph,
    pub batches: Batches,
    /// For evaluations.
    pub held_out: Option<HeldOut>,
}

impl Job {
    /// Reads the spec and the datasets.
    pub fn read(options: &Options) -> Result<Self, Failure> {
        let spec_bytes = files::read_at_most(&options.spec, MAX_SPEC)
            .map_err(|error| Failure::usage(format!("--spec: {error}")))?;
        let (spec, graph) = resolved::read_spec(&spec_bytes)
            .map_err(|error| Failure::usage(format!("{}: {error}", options.spec.display())))?;
        if options.rank >= options.workers {
            let problem =
                format!("--rank {} of --workers {}: ranks count from 0", options.rank, options.workers);
            return Err(Failure::usage(problem));
        }
        let (root, tokens) = (spec.data.root.as_str(), spec.data.tokens);
        let data = dataset(&spec, &options.data, &Named { field: "data", root, tokens })?;
        let batches = Batches::new(&spec, data)?;
        let held_out = held_out(&spec, options.eval_data.as_deref())?;
        let training_digest = resolved::training_digest(&spec_bytes);
        Ok(Self { spec, spec_bytes, training_digest, graph, batches, held_out })
    }

    /// The state to start from, and its StateRoot. Damaged checkpoints that were passed over are told to `warn`.
    pub fn start(&self, options: &Options, warn: &dyn Fn(&str)) -> Result<(State, Digest), Failure> {
        let store = Store::new(&options.out);
        let found = match options.from_step {
            Some(0) => None,
            Some(step) => Some(store.load(step, &self.spec.model, &self.graph, self.training_digest)?),
            None => {
                let Found { newest, skipped } =
                    store.newest(&self.spec.model, &self.graph, self.training_digest)?;
                skipped.iter().for_each(|problem| warn(&format!("passed over a checkpoint: {problem}")));
                newest
            }
        };
        if let Some((state, manifest)) = found {
            if state.step > self.spec.training.steps {
                let problem =
                    format!("checkpoint of step {} of a job of {}", state.step, self.spec.training.steps);
                return Err(Failure::new(ExitCode::BadCheckpoint, problem));
            }
            return Ok((state, manifest.state_root()));
        }
        let state = match (&self.spec.init, &options.init) {
            (None, None) => State::genesis(&self.graph, self.spec.training.seed),
            (Some(_), Some(dir)) => hf::load(dir, &self.spec.model, &mut |_| {})
                .map_err(|error| Failure::new(ExitCode::BadCheckpoint, format!("--init: {error}")))?,
            (Some(Init { manifest }), None) => {
                let error = resolved::Error::NoInit(manifest.clone());
                return Err(Failure::new(ExitCode::BadCheckpoint, error.to_string()));
            }
            (None, Some(_)) => return Err(Failure::usage(resolved::Error::NoneGiven.to_string())),
        };
        let got =
            resolved::state_root(&self.graph, &state).map_err(|error| Failure::usage(error.to_string()))?;
        let spec = self.spec.genesis.clone();
        match &options.init {
            _ if got.to_string() == spec => Ok((state, got)),
            Some(_) => {
                let error = resolved::Error::OtherInit { spec, got };
                Err(Failure::new(ExitCode::BadCheckpoint, error.to_string()))
            }
            None => Err(Failure::usage(resolved::Error::Genesis { spec, got }.to_string())),
        }
    }
}

/// Opens the dataset in `dir`, which must be the one that the spec names.
fn dataset(spec: &TrainingSpec, dir: &Path, named: &Named<'_>) -> Result<Dataset, Failure> {
    let data = Dataset::open(dir)?;
    let manifest = data.manifest();
    resolved::check_vocabulary(spec, manifest)
        .map_err(|error| Failure::new(ExitCode::BadData, error.to_string()))?;
    let Named { field, root, tokens } = named;
    if manifest.root().to_string() == *root && manifest.tokens() == *tokens {
        return Ok(data);
    }
    let problem = format!(
        "{} is another dataset than the job's: its root is {} with {} tokens, the spec's {field}.root is {root} with \
         {tokens}; give the dataset that the job was resolved with",
        dir.display(),
        manifest.root(),
        manifest.tokens(),
    );
    Err(Failure::new(ExitCode::BadData, problem))
}

/// Opens the dataset that the job is evaluated on, if it is.
fn held_out(spec: &TrainingSpec, dir: Option<&Path>) -> Result<Option<HeldOut>, Failure> {
    let (eval, dir) = match (&spec.training.eval, dir) {
        (None, None) => return Ok(None),
        (None, Some(_)) => {
            return Err(Failure::usage("--eval-data: the spec has no training.eval; leave it out"));
        }
        (Some(eval), None) => {
            let problem = format!("--eval-data: give the dataset {}, training.eval.data", eval.data.manifest);
            return Err(Failure::usage(problem));
        }
        (Some(eval), Some(dir)) => (eval, dir),
    };
    let (root, tokens) = (eval.data.root.as_str(), eval.data.tokens);
    let data = dataset(spec, dir, &Named { field: "training.eval.data", root, tokens })?;
    Ok(Some(HeldOut::new(data, spec.model.context)))
}
