//! Commands on a trained model: `logits`, `gradients`, `sample`, `verify-checkpoint`, and evaluation for `muster eval`. They check a checkpoint in full
//! before they use it, and give the same answer on every machine.

mod evaluate;
mod gradients;
mod known;
mod logits;
mod sample;
mod text;

pub use evaluate::{EvalOptions, Evaluation, evaluate};
pub use gradients::{GradientOptions, gradients};
pub use known::{DATASET_FILE, Known};
pub use logits::{LogitOptions, logits};
pub use sample::{SampleOptions, sample, sample_bytes};
pub use text::{Bytes, Decoder, Utf8, Vocabulary};

use std::path::PathBuf;

use muster_numerics::exec::{ExecError, Executor};
use muster_numerics::graph::Graph;
use muster_numerics::isa::Isa;
use muster_numerics::spec::ModelSpec;
use muster_numerics::state::State;

use crate::checkpoint::{self, Manifest};
use crate::failure::Failure;
use crate::hf;
use crate::protocol::ExitCode;
use crate::worker::parse_isa;

/// Which model, and what to compute with.
#[derive(Debug, Clone, clap::Args)]
pub struct Source {
    /// A checkpoint directory, or a job directory: its newest checkpoint. Or a model in Hugging Face's form.
    #[arg(value_name = "DIR", required_unless_present = "checkpoint")]
    pub dir: Option<PathBuf>,
    /// The same, by name.
    #[arg(long, value_name = "DIR", conflicts_with = "dir")]
    pub checkpoint: Option<PathBuf>,
    /// Compute threads; all cores if not given.
    #[arg(long, value_name = "T")]
    pub threads: Option<u16>,
    /// Instruction set: auto, or one that `muster-trainer isa` lists. The result does not depend on it.
    #[arg(long, value_name = "ISA", default_value = "auto", value_parser = parse_isa)]
    pub isa: Isa,
}

/// An opened checkpoint, or somebody else's model, which has no manifest.
struct Model {
    spec: ModelSpec,
    graph: Graph,
    state: State,
    manifest: Option<Manifest>,
}

impl Source {
    fn path(&self) -> Result<PathBuf, Failure> {
        let dir = self.dir.as_ref().or(self.checkpoint.as_ref());
        let dir = dir.ok_or_else(|| Failure::usage("give the directory of a job or of a checkpoint"))?;
        if hf::is_foreign(dir) {
            return Ok(dir.clone());
        }
        Ok(checkpoint::resolve_dir(dir)?)
    }

    fn open(&self) -> Result<Model, Failure> {
        let path = self.path()?;
        if hf::is_foreign(&path) {
            let bad = |error: hf::Error| Failure::new(ExitCode::BadCheckpoint, error.to_string());
            let (spec, graph, state) = hf::open(&path, &mut |_| {}).map_err(bad)?;
            return Ok(Model { spec, graph, state, manifest: None });
        }
        let (spec, graph, state, manifest) = checkpoint::open(&path)?;
        Ok(Model { spec, graph, state, manifest: Some(manifest) })
    }

    fn threads(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.threads.map_or_else(all, usize::from)
    }

    fn executor(&self, graph: &Graph) -> Result<Executor, Failure> {
        Executor::new(graph, graph.sequences_per_shard(), self.isa, self.threads()).map_err(failed)
    }
}

// By value because it is what `map_err` hands over.
#[allow(clippy::needless_pass_by_value)]
fn failed(error: ExecError) -> Failure {
    Failure::usage(error.to_string())
}

/// Checks a checkpoint in full and prints what it is.
///
/// # Errors
/// What is wrong with it.
pub fn verify(source: &Source) -> Result<(), Failure> {
    let path = source.path()?;
    let model = source.open()?;
    let manifest = model.manifest.ok_or_else(|| {
        checkpoint::Error::Missing(path.join(checkpoint::MANIFEST_FILE).display().to_string())
    })?;
    println!("checkpoint {}", path.display());
    println!("step {}", manifest.step());
    println!("trainingDigest {}", manifest.training_digest());
    println!("stateRoot {}", manifest.state_root());
    println!("parameters {}", model.graph.parameters());
    Ok(())
}
