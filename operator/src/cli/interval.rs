//! One interval, computed again by processes of the trainer: what `muster replay` and the hub's own auditor share.
use std::path::PathBuf;

use muster_proof::Digest;
use muster_proof::steps::Records;
use muster_trainer::protocol::ExitCode;
use muster_trainer::records;

use super::Failure;
use super::local::progress::Progress;
use super::local::workers::{self, End, Launch};
use super::verify::incomplete;
use crate::runtime::Shutdown;

/// What is computed, and with what. `out` has the state to start from, unless that is genesis.
#[derive(Debug, Clone)]
pub(super) struct Interval {
    pub program: PathBuf,
    pub spec: PathBuf,
    pub data: PathBuf,
    pub out: PathBuf,
    /// The state to start from.
    pub start: u64,
    /// The last step.
    pub last: u64,
    pub workers: u32,
    pub threads: u16,
    pub isa: String,
}

impl Interval {
    /// The StateRoot after the last step.
    ///
    /// # Errors
    /// The trainer's own code if it refuses, 143 after `stop`, 3 if it came to nothing.
    pub async fn compute(&self, stop: &Shutdown, progress: &mut Progress) -> Result<Digest, Failure> {
        let end = workers::run(&self.launch(), stop, progress).await?;
        progress.close();
        match end {
            End::Finished { step, state_root } if step == self.last => Ok(state_root),
            End::Finished { step, .. } => {
                let text = format!("the trainer ended after step {step}, not {}", self.last);
                Err(incomplete(Failure::new(text)))
            }
            End::Stopped => Err(Failure::with_code(ExitCode::Stopped.code(), "stopped")),
            End::Refused { code, message } => Err(Failure::with_code(code, message)),
            End::Crashed(crash) => Err(incomplete(Failure::new(crash.message))),
        }
    }

    /// The records of its steps, once it was computed.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn records(&self) -> Result<Records, Failure> {
        let read = records::read(&records::path(&self.out, self.last), self.last);
        read.map_err(|error| incomplete(Failure::new(format!("the step records of the replay: {error}"))))
    }

    fn launch(&self) -> Launch {
        Launch {
            program: self.program.clone(),
            spec: self.spec.clone(),
            data: self.data.clone(),
            out: self.out.clone(),
            workers: self.workers,
            threads: self.threads,
            // One interval, and no state in between.
            interval_steps: i64::try_from(self.last - self.start).unwrap_or(i64::MAX),
            keep_last: 2,
            from_step: Some(self.start),
            last_step: Some(self.last),
            isa: self.isa.clone(),
        }
    }
}
