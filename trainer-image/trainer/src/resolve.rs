//! `muster-trainer resolve`: a job without Kubernetes objects, for benchmarks and comparisons with other
//! implementations. `muster local` does the same from a TrainingJob.

use std::path::PathBuf;

use muster_numerics::spec::{ModelSpec, TrainingParameters};
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
    /// Gets spec.json and data/.
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
    let Parameters { model, training } = serde_json::from_slice(&bytes)
        .map_err(|error| Failure::usage(format!("{}: {error}", options.job.display())))?;
    let manifest = dataset::prepare(&options.text, &options.out.join("data"))?;
    let (_, spec) = resolved::resolved_spec(&model, &training, &manifest)
        .map_err(|error| Failure::usage(error.to_string()))?;
    files::write_atomic(&options.out.join("spec.json"), &spec)
        .map_err(|error| Failure::new(ExitCode::Disk, error.to_string()))?;
    println!("trainingDigest {}", resolved::training_digest(&spec));
    Ok(())
}
