//! `muster local`: trains the YAML of a TrainingJob on this machine, without Kubernetes, to the same bits.
//!
//! | file | thought |
//! |---|---|
//! | `prepare` | from arguments to a job that may start: YAML, dataset, directory, trainer |
//! | `init` | the weights that it begins with, if they are given |
//! | `workers` | one start of all worker processes, from spawn to the last exit |
//! | `progress` | what a person or a program sees of it |
//! | `curve` | what was measured of each step |
//! | `plot`, `board` | the same as a picture, and for TensorBoard |
mod board;
mod curve;
mod plot;
mod prepare;
pub(super) mod progress;
pub(super) mod workers;

use super::output::Output;
use super::run::block_on;
use super::{Failure, Outcome};
use crate::runtime::Shutdown;
use board::Board;
use clap::Args;
use muster_trainer::protocol::ExitCode;
use prepare::Mount;
use progress::Progress;
use std::path::PathBuf;
use workers::{End, Launch};

/// Starts in a row that reach no new step before it gives up, as in pods.
const FRUITLESS_RESTARTS: u32 = 3;

#[derive(Debug, Args)]
#[command(
    after_help = "Stops at Ctrl-C after the current step; the same command goes on from the last checkpoint.\n\
    Exit codes: 0 done, 64 bad job, 65 numbers no longer finite, 66 bad data, 67 bad checkpoint, 74 disk, 143 stopped"
)]
pub struct LocalCommand {
    /// YAML file of one TrainingJob
    #[arg(value_name = "JOB.yaml")]
    job: PathBuf,
    /// Directory of the dataset that the job calls NAME; once for each that it names
    #[arg(long, value_name = "NAME=DIR", required = true)]
    data: Vec<Mount>,
    /// Where checkpoints and metrics go; what is there already is continued
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Begin with the weights in this directory (Hugging Face's form, or a checkpoint) instead of random ones
    #[arg(long, value_name = "DIR")]
    init: Option<PathBuf>,
    /// Worker processes; the result does not depend on it
    #[arg(long, value_name = "W", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    workers: u32,
    /// Compute threads of each worker [default: the CPUs, shared]
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Start from the checkpoint of step N instead of the newest; 0 starts over
    #[arg(long, value_name = "N")]
    from_step: Option<u64>,
    /// End with step N instead of the job's last, with no checkpoint before it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    last_step: Option<u64>,
    /// Instruction set: auto, portable, avx2, ..; the result does not depend on it
    #[arg(long, value_name = "ISA", default_value = "auto")]
    isa: String,
    /// `text` for people, `json` for the workers' events as they come
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
    /// Draw the loss of all steps into this file when the run ends, however it does
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Write each step's scalars into this directory, for TensorBoard
    #[arg(long, value_name = "DIR")]
    tensorboard: Option<PathBuf>,
}

impl LocalCommand {
    pub fn run(self) -> Outcome {
        let prepared = prepare::prepare(&self)?;
        let mut progress = Progress::new(self.output, prepared.steps);
        if let Some(dir) = &self.tensorboard {
            progress.show_on(Board::new(dir, &self.out));
        }
        let outcome = block_on(train(&prepared, &mut progress))?;
        if let Some(file) = &self.plot {
            match plot::write(&self.out, &prepared.name, file) {
                Ok(true) => progress.note(&format!("plot: {}", file.display())),
                Ok(false) => progress.note("plot: no step was done, so there is nothing to draw"),
                // How the training ended matters more.
                Err(error) => progress.note(&format!("plot: cannot write {}: {error}", file.display())),
            }
        }
        outcome
    }
}

/// A job that may start.
struct Prepared {
    name: String,
    training_digest: String,
    launch: Launch,
    steps: u64,
}

/// Starts all workers until they finish, again after a crash.
async fn train(prepared: &Prepared, progress: &mut Progress) -> Outcome {
    let stop = Shutdown::on_signals()?;
    progress.note(&format!("training {}, digest {}", prepared.name, prepared.training_digest));
    let mut launch = prepared.launch.clone();
    let (mut fruitless, mut best) = (0, None);
    loop {
        let end = workers::run(&launch, &stop, progress).await?;
        let crash = match end {
            End::Finished { step, state_root } => {
                progress.finish(step, &state_root, &launch.out)?;
                return Ok(0);
            }
            End::Stopped => {
                progress.close();
                return Err(Failure::with_code(ExitCode::Stopped.code(), stopped(progress)));
            }
            End::Refused { code, message } => {
                progress.close();
                return Err(Failure::with_code(code, message));
            }
            End::Crashed(crash) => crash,
        };
        fruitless = if progress.step() > best { 1 } else { fruitless + 1 };
        best = progress.step().max(best);
        if fruitless > FRUITLESS_RESTARTS {
            progress.close();
            let text = format!(
                "{}; {FRUITLESS_RESTARTS} restarts reached no new step. The worker's own words are above",
                crash.message
            );
            return Err(Failure::with_code(crash.code, text));
        }
        progress.note(&format!("{}; starting all workers again from the last checkpoint", crash.message));
        // Only what this run wrote: after `--from-step` the newest on disk may be of an earlier run.
        launch.from_step = progress.checkpoint().or(launch.from_step);
    }
}

fn stopped(progress: &Progress) -> String {
    let at = progress.step().map_or("before the first step".into(), |s| format!("after step {s}"));
    let from = match progress.checkpoint() {
        Some(step) => format!("the checkpoint of step {step}"),
        None => "where this run started".into(),
    };
    format!("stopped {at}; run the same command again to go on from {from}")
}
