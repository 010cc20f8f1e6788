//! How well a trained model predicts a text that it may not have seen: the mean loss over whole sequences of a dataset, in the order
//! of its stream. The same checkpoint, dataset and number of sequences give the same bits on every machine.

use std::path::{Path, PathBuf};

use muster_numerics::graph::{Graph, StepShape};
use muster_numerics::optim::evaluation_loss;
use muster_numerics::spec::Arithmetic;
use muster_proof::Digest;
use serde::Serialize;

use super::sample::exp;
use super::{Model, Source, failed};
use crate::checkpoint::Manifest;
use crate::dataset::{Dataset, Tokenizer};
use crate::failure::Failure;
use crate::files;
use crate::protocol::ExitCode;
use crate::resolved::{self, MAX_SPEC};

/// What is evaluated, and on what.
#[derive(Debug, Clone, clap::Args)]
pub struct EvalOptions {
    #[command(flatten)]
    source: Source,
    /// The dataset directory.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// How many sequences, from the beginning of the data; all if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    sequences: Option<u64>,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Evaluation {
    /// The state.
    pub step: u64,
    /// Its digest.
    pub state_root: Digest,
    /// SHA-256 of the dataset's manifest.
    pub dataset: Digest,
    /// Whole sequences of the model's context.
    pub sequences: u64,
    /// Tokens that were predicted.
    pub tokens: u64,
    /// Mean loss of a token, in nats.
    pub loss: f64,
    /// e^loss.
    pub perplexity: f64,
    /// The loss in bits, where tokens are bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits_per_byte: Option<f64>,
}

/// Evaluates a checkpoint. `progress` is told of the sequences that are done, and of how many there are, after each.
///
/// # Errors
/// A bad checkpoint or dataset; 66 for one that does not fit the model; 65 for a loss that is not finite.
pub fn evaluate(options: &EvalOptions, progress: &mut dyn FnMut(u64, u64)) -> Result<Evaluation, Failure> {
    let Model { spec: model, graph, state, manifest } = options.source.open()?;
    let arithmetic =
        manifest.as_ref().map_or(Ok(Arithmetic::F32Chain), |own| arithmetic_of(&options.source, own))?;
    let usage = |error: &dyn std::fmt::Display| Failure::usage(error.to_string());
    let state_root = match &manifest {
        Some(manifest) => manifest.state_root(),
        None => resolved::state_root(&graph, &state).map_err(|error| usage(&error))?,
    };
    let graph =
        Graph::build(&model, StepShape { batch: 1, shards: 1 }, arithmetic).map_err(|error| usage(&error))?;
    let data = Dataset::open(&options.data)?;
    let misfit =
        |problem: String| Failure::new(ExitCode::BadData, format!("{}: {problem}", options.data.display()));
    let (vocabulary, most) = (u64::from(data.manifest().vocabulary()), model.vocabulary);
    if vocabulary > most {
        let problem = format!(
            "its tokens go up to {vocabulary}, the model's to {most}; give a dataset of the tokenizer that the model was \
             trained with"
        );
        return Err(misfit(problem));
    }
    let there = data.samples(model.context);
    if there == 0 {
        let problem = format!("it has no sequence of {} tokens and one more; bring more text", model.context);
        return Err(misfit(problem));
    }
    let sequences = options.sequences.unwrap_or(there).min(there);
    let mut executor = options.source.executor(&graph)?;
    // Its tokens and the one after them.
    let mut stream = vec![0; graph.context() + 1];
    let mut losses = Vec::new();
    for number in 0..sequences {
        data.read(number * model.context, &mut stream)?;
        let (tokens, targets) = (&stream[..graph.context()], &stream[1..]);
        losses.extend(executor.sequence_losses(&state.w, tokens, targets).map_err(failed)?);
        progress(number + 1, sequences);
    }
    if losses.iter().any(|loss| !loss.is_finite()) {
        let text = format!("the loss of step {} on this data is not finite", state.step);
        return Err(Failure::new(ExitCode::NonFinite, text));
    }
    // The bits that a job has in its record which evaluates on as many.
    let loss = f64::from(evaluation_loss(&losses));
    let bytes = data.manifest().tokenizer() == Tokenizer::Bytes;
    Ok(Evaluation {
        step: state.step,
        state_root,
        dataset: data.manifest().digest()?,
        sequences,
        tokens: sequences * model.context,
        loss,
        perplexity: 1.0 / exp(-loss),
        bits_per_byte: bytes.then_some(loss / std::f64::consts::LN_2),
    })
}

/// How the job of a checkpoint multiplies, if its spec lies where a job directory has it; else as most jobs do.
fn arithmetic_of(source: &Source, manifest: &Manifest) -> Result<Arithmetic, Failure> {
    let dir = source.path()?;
    let spec = dir.parent().and_then(Path::parent).map(|job| job.join("spec.json"));
    let bytes = spec.and_then(|path| files::read_at_most(&path, MAX_SPEC).ok());
    let own = bytes.filter(|bytes| resolved::training_digest(bytes) == manifest.training_digest());
    let spec = own.and_then(|bytes| resolved::read_spec(&bytes).ok());
    Ok(spec.map_or(Arithmetic::F32Chain, |(spec, _)| spec.training.arithmetic))
}
