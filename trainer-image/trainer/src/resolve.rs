//! `muster-trainer resolve`: a job without Kubernetes objects, for benchmarks and comparisons with other
//! implementations. `muster local` does the same from a TrainingJob.

use std::path::PathBuf;

use muster_numerics::spec::{EvalSpec, ModelSpec, TrainingParameters};
use serde::Deserialize;

use crate::dataset;
use crate::failure::Failure;
use crate::files;
use crate::protocol::ExitCode;
use crate::resolved::{self, MAX_SPEC};

/// The command line.
#[derive(Debug, Clone, clap::Args)]
pub struct ResolveOptions {
    /// JSON {"model": ..., "training": ...}, as in a resolved spec.
    #[arg(long, value_name = "FILE")]
    job: PathBuf,
    /// Text files, one after the other the training data.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    text: Vec<PathBuf>,
    /// Text files that the job is evaluated on.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "eval_every")]
    eval_text: Vec<PathBuf>,
    /// Evaluates every so many steps.
    #[arg(long, value_name = "STEPS", requires = "eval_text")]
    eval_every: Option<u64>,
    /// Sequences of an evaluation: the first so many, or all.
    #[arg(long, value_name = "E", default_value_t = 64)]
    eval_sequences: u64,
    /// Ends training before its last step, once an evaluation's loss is no greater than this.
    #[arg(long, value_name = "LOSS", requires = "eval_every")]
    stop_at: Option<String>,
    /// Gets spec.json and data/, and with --eval-text eval-data/.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    model: ModelSpec,
    training: TrainingParameters,
}

/// Prepares the data and writes the resolved spec; prints the training digest.
///
/// # Errors
/// A field out of range, or files that cannot be read or written.
pub fn resolve(options: &ResolveOptions) -> Result<(), Failure> {
    let bytes = files::read_at_most(&options.job, MAX_SPEC)
        .map_err(|error| Failure::usage(format!("--job: {error}")))?;
    let Parameters { model, mut training } = serde_json::from_slice(&bytes)
        .map_err(|error| Failure::usage(format!("{}: {error}", options.job.display())))?;
    let manifest = dataset::prepare(&options.text, &options.out.join("data"))?;
    if let Some(every) = options.eval_every {
        let held_out = dataset::prepare(&options.eval_text, &options.out.join("eval-data"))?;
        let (most, context) = (options.eval_sequences, model.context);
        let eval = resolved::eval_spec(every, most, context, &held_out)?;
        training.eval = Some(EvalSpec { stop_at: options.stop_at.clone(), ..eval });
    }
    let (_, spec) = resolved::resolved_spec(&model, &training, &manifest)
        .map_err(|error| Failure::usage(error.to_string()))?;
    files::write_atomic(&options.out.join("spec.json"), &spec)
        .map_err(|error| Failure::new(ExitCode::Disk, error.to_string()))?;
    println!("trainingDigest {}", resolved::training_digest(&spec));
    Ok(())
}
