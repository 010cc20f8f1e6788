//! `muster-trainer gradients`: loss and gradient of one step's batch, for comparison with other implementations.

use std::path::PathBuf;

use muster_numerics::exec::Executor;
use muster_numerics::optim::mean_loss;
use muster_numerics::reduce::SubtreeAccumulator;
use serde_json::json;

use super::{Source, failed};
use crate::checkpoint;
use crate::dataset::Dataset;
use crate::failure::Failure;
use crate::files::{self, NewDir};
use crate::protocol::ExitCode;
use crate::resolved::{self, MAX_SPEC};
use crate::worker::{Batches, shortest};

/// The command line.
#[derive(Debug, Clone, clap::Args)]
pub struct GradientOptions {
    #[command(flatten)]
    source: Source,
    /// The resolved spec that made the checkpoint.
    #[arg(long, value_name = "FILE")]
    spec: PathBuf,
    /// Its dataset directory.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The step whose batch is taken, from 1.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    step: u64,
    /// Gets gradients.safetensors (keys and orientation of the checkpoint) and batch.json; must not exist.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Computes the mean gradient of a batch at a checkpoint's weights, before clipping.
///
/// # Errors
/// Bad input, or an output that cannot be written.
pub fn gradients(options: &GradientOptions) -> Result<(), Failure> {
    let bytes = files::read_at_most(&options.spec, MAX_SPEC)
        .map_err(|error| Failure::usage(format!("--spec: {error}")))?;
    let (spec, graph) = resolved::read_spec(&bytes).map_err(|error| Failure::usage(error.to_string()))?;
    let digest = resolved::training_digest(&bytes);
    let (state, _) = checkpoint::load(&options.source.path()?, &spec.model, &graph, Some(digest))?;
    let mut batches = Batches::new(&spec, Dataset::open(&options.data)?)?;

    let (shards, n) = (spec.training.shards, graph.parameters());
    let (isa, threads) = (options.source.isa, options.source.threads());
    let mut executor = Executor::new(&graph, graph.sequences_per_shard(), isa, threads).map_err(failed)?;
    let reduce = |error: muster_numerics::reduce::ReduceError| Failure::usage(error.to_string());
    let mut sums = SubtreeAccumulator::new(shards, 0..shards, n).map_err(reduce)?;
    let mut losses = Vec::new();
    let (mut all_tokens, mut all_targets) = (Vec::new(), Vec::new());
    for shard in 0..shards {
        let (tokens, targets) = batches.shard(options.step, shard)?;
        let gradient = sums.leaf().map_err(reduce)?;
        losses.push(executor.shard_gradient(&state.w, &tokens, &targets, gradient).map_err(failed)?);
        sums.end_leaf().map_err(reduce)?;
        all_tokens.extend(tokens);
        all_targets.extend(targets);
    }
    sums.finish().map_err(reduce)?;
    let loss = mean_loss(options.step, &losses)
        .map_err(|error| Failure::new(ExitCode::NonFinite, error.to_string()))?;

    let disk = |error: files::FileError| Failure::new(ExitCode::Disk, error.to_string());
    let new = NewDir::create(&options.out).map_err(disk)?;
    let file = checkpoint::write_tensors(&new, "gradients.safetensors", &graph, &[("", sums.mean())])?;
    file.finish().map_err(disk)?;
    let context = graph.context();
    let rows = |ids: &[u32]| ids.chunks(context).map(<[u32]>::to_vec).collect::<Vec<_>>();
    let batch = json!({
        "step": options.step,
        "loss": shortest(loss),
        "tokens": rows(&all_tokens),
        "targets": rows(&all_targets),
    });
    let mut file = new.file("batch.json").map_err(disk)?;
    file.write(format!("{batch}\n").as_bytes()).map_err(disk)?;
    file.finish().map_err(disk)?;
    new.commit().map_err(disk)?;
    println!("loss {}", shortest(loss));
    Ok(())
}
