//! `muster auditor`: the hub's own auditor as a process (`crate::auditor`), with the trainer's processes as its children.
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::interval::Interval;
use super::local::progress::Progress;
use super::run::{Log, serve};
use super::{Outcome, trainer};
use crate::auditor::{self, AuditorArgs, Computed, Laid, Replay};
use crate::runtime::Shutdown;
use crate::runtime::client::Target;

#[derive(Debug, Args)]
pub struct AuditorCommand {
    #[command(flatten)]
    log: Log,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    args: AuditorArgs,
    /// The trainer's program [default: muster-trainer beside this program, or in PATH]
    #[arg(long, value_name = "FILE")]
    trainer: Option<PathBuf>,
    /// Compute threads [default: all CPUs]; the result does not depend on it
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Instruction set: auto, portable, avx2, ..; the result does not depend on it
    #[arg(long, value_name = "ISA", default_value = "auto")]
    isa: String,
}

impl AuditorCommand {
    pub fn run(self) -> Outcome {
        let program = self.trainer.map_or_else(trainer::find, Ok)?;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let all = u16::try_from(cpus.clamp(1, 64)).unwrap_or(1);
        let replay = Processes { program, threads: self.threads.unwrap_or(all), isa: self.isa };
        serve(&self.log, auditor::run(self.target, self.args, Arc::new(replay)))
    }
}

/// One worker process a replay.
struct Processes {
    program: PathBuf,
    threads: u16,
    isa: String,
}

impl Replay for Processes {
    fn replay(&self, laid: Laid, stop: Shutdown) -> BoxFuture<'static, Result<Computed, String>> {
        let interval = Interval {
            program: self.program.clone(),
            spec: laid.spec,
            data: laid.data,
            eval_data: laid.eval_data,
            init: laid.init,
            out: laid.out,
            start: laid.start,
            last: laid.last,
            workers: 1,
            threads: self.threads,
            isa: self.isa.clone(),
        };
        async move {
            let came = interval.compute(&stop, &mut Progress::quiet()).await;
            let came = came.map_err(|failure| failure.to_string())?;
            Ok(Computed { state_root: came.state_root, record_root: came.records.root() })
        }
        .boxed()
    }
}
