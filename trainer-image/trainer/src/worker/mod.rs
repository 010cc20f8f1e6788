//! `muster-trainer worker`: one process of a training run. It knows files, its parent's pipes and its peers, nothing
//! else; `docs/spec/protocol.md` section 1 is its contract.
//!
//! | file | thought |
//! |---|---|
//! | `control` | what the parent and signals want |
//! | `events` | what the parent is told |
//! | `job` | spec, data and start state, checked against each other |
//! | `batch` | the tokens of a shard |
//! | `held_out` | losses on other data than that |
//! | `train` | the loop |
//! | `update` | from gradients to the next state, whole or by slices |
//! | `memory` | whether it fits, before it is tried |
//! | `keeper` | who may write into the job directory |
//! | `saver` | checkpoints, off the training path |
//! | `metrics` | `metrics.jsonl` |
//! | `speed` | tokens per second |
//! | `cheat` | lies, in builds that are made to tell some |

mod batch;
#[cfg(feature = "cheats")]
mod cheat;
mod control;
mod ends;
mod events;
mod held_out;
mod job;
mod keeper;
mod memory;
mod metrics;
mod saver;
mod speed;
mod train;
mod update;

pub use batch::Batches;
pub use train::shortest;
pub use update::OptimizerState;

use std::net::SocketAddr;
use std::path::PathBuf;

use muster_numerics::exec::Recompute;
use muster_numerics::isa::Isa;
use muster_numerics::spec::TrainingSpec;
use muster_proof::steps::MAX_RECORDS;

use crate::failure::Failure;
use crate::protocol::{Event, ExitCode};

/// The longest interval, in steps: no interval has more records.
const MAX_INTERVAL: u64 = MAX_RECORDS as u64;

/// The command line of a worker.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The resolved spec.
    #[arg(long, value_name = "FILE")]
    pub spec: PathBuf,
    /// The dataset directory.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// The directory of the dataset that the job is evaluated on, if it is.
    #[arg(long, value_name = "DIR")]
    pub eval_data: Option<PathBuf>,
    /// The directory of the model whose weights the job begins with, if it does; not read where a checkpoint is gone on from.
    #[arg(long, value_name = "DIR")]
    pub init: Option<PathBuf>,
    /// The job directory: checkpoints, and on rank 0 spec.json, metrics.jsonl and records.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Which worker this is, from 0.
    #[arg(long, value_name = "R", default_value_t = 0)]
    pub rank: u32,
    /// How many workers there are.
    #[arg(long, value_name = "W", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub workers: u32,
    /// Compute threads of this worker.
    #[arg(long, value_name = "T", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: u16,
    /// Steps between checkpoints.
    #[arg(long, value_name = "C", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=MAX_INTERVAL))]
    pub interval_steps: u64,
    /// Write states into this directory for a sidecar to make checkpoints of, instead of checkpoints into --out.
    #[arg(long, value_name = "DIR", requires = "round")]
    pub handover: Option<PathBuf>,
    /// The round that this worker runs in: part of the names of what it hands over.
    #[arg(long, value_name = "N", requires = "handover")]
    pub round: Option<u32>,
    /// How many checkpoints to keep.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_last: u32,
    /// Start from the checkpoint of this state (0: genesis) instead of the newest whole one.
    #[arg(long, value_name = "N")]
    pub from_step: Option<u64>,
    /// End after this step as if it were the job's last, with no checkpoint before it: replays an interval.
    #[arg(long, value_name = "N")]
    pub last_step: Option<u64>,
    /// Activations to compute again instead of keeping them: never, or those inside of layers. The bits do not depend on it.
    #[arg(long, value_name = "WHAT", default_value = "never", value_parser = parse_recompute)]
    pub recompute: Recompute,
    /// Where the optimiser's moments are: replicated on every worker, or sharded, a slice on each (ZeRO stage 1). The same for all
    /// workers of a run. The bits do not depend on it.
    #[arg(long, value_name = "WHERE", default_value = "replicated", value_parser = parse_optimizer_state)]
    pub optimizer_state: OptimizerState,
    /// Where to listen for the other workers.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Instruction set: auto, or one that `muster-trainer isa` lists. The bits do not depend on it.
    #[arg(long, value_name = "ISA", default_value = "auto", value_parser = parse_isa)]
    pub isa: Isa,
}

impl Options {
    /// The step after which this run ends.
    fn last(&self, spec: &TrainingSpec) -> u64 {
        self.last_step.unwrap_or(spec.training.steps)
    }

    /// Whether this run goes on with what an earlier one has left in the job directory, and to the job's end. A replay is one
    /// interval of a job, and a pod's round is what the agent wants of it.
    fn continues(&self) -> bool {
        self.last_step.is_none() && self.handover.is_none()
    }

    /// Where moments are, and among how many.
    fn moments(&self) -> (OptimizerState, u32) {
        (self.optimizer_state, self.workers)
    }
}

fn parse_recompute(text: &str) -> Result<Recompute, String> {
    match text {
        "never" => Ok(Recompute::Never),
        "layers" => Ok(Recompute::Layers),
        _ => Err("say never or layers".into()),
    }
}

fn parse_optimizer_state(text: &str) -> Result<OptimizerState, String> {
    match text {
        "replicated" => Ok(OptimizerState::Replicated),
        "sharded" => Ok(OptimizerState::Sharded),
        _ => Err("say replicated or sharded".into()),
    }
}

/// Reads `auto` or the name of an instruction set that this CPU has.
///
/// # Errors
/// A sentence that names the sets there are.
pub fn parse_isa(text: &str) -> Result<Isa, String> {
    if text == "auto" {
        return Ok(Isa::detect());
    }
    let here = Isa::available();
    here.iter().copied().find(|isa| isa.name() == text).ok_or_else(|| {
        let names: Vec<_> = here.iter().map(|isa| isa.name()).collect();
        format!("this CPU has auto, {}", names.join(", "))
    })
}

/// Runs a worker to its end. Events go to stdout, commands come from stdin. The `error` event is sent here.
///
/// # Errors
/// With the exit code the process must end with.
pub fn run(options: &Options) -> Result<(), Failure> {
    let events = std::sync::Arc::new(events::Events::new());
    let result = control::Control::start().and_then(|control| train::train(options, &control, &events));
    if let Err(failure) = &result {
        events.send(&Event::Error { code: failure.code.code(), message: failure.message.clone() });
    }
    // Somebody who pressed ^C knows; everybody else should see it.
    match result {
        Err(failure) if events.is_broken() && failure.code == ExitCode::Stopped => {
            Err(Failure::new(ExitCode::Stopped, "the parent process is gone; stopped at a step boundary"))
        }
        other => other,
    }
}
