//! One interval, computed again by processes of the trainer: what `muster replay` and the hub's own auditor share.
use std::fs;
use std::path::PathBuf;

use muster_proof::Digest;
use muster_proof::evaluation::Evaluation;
use muster_proof::steps::{self, Records};
use muster_trainer::failed::{FAILED_FILE, Failed};
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
    /// What the job is evaluated on, if it is.
    pub eval_data: Option<PathBuf>,
    /// The weights that it begins with, if it begins at genesis and they are given.
    pub init: Option<PathBuf>,
    pub out: PathBuf,
    /// The state to start from.
    pub start: u64,
    /// The last step.
    pub last: u64,
    pub workers: u32,
    pub threads: u16,
    pub isa: String,
}

/// What an interval comes to.
#[derive(Debug, Clone)]
pub(super) struct Computed {
    /// StateRoot after its last step. If it ends before in a step that is not finite, or the stop rule ends the job with it, what
    /// stands for that.
    pub state_root: Digest,
    /// Of its steps, that were taken.
    pub records: Records,
    /// The step that is not finite, if there is one.
    pub failed: Option<u64>,
}

impl Interval {
    /// Computes it.
    ///
    /// # Errors
    /// The trainer's own code if it refuses, 143 after `stop`, 3 if it came to nothing.
    pub async fn compute(&self, stop: &Shutdown, progress: &mut Progress) -> Result<Computed, Failure> {
        let end = workers::run(&self.launch(), stop, progress).await?;
        progress.close();
        match end {
            End::Finished { step, state_root } if step == self.last => {
                let records = records::read(&records::path(&self.out, self.last), self.last);
                let records = records.map_err(|error| {
                    incomplete(Failure::new(format!("the step records of the replay: {error}")))
                })?;
                let state_root = steps::answer(&state_root, step, self.ends(&records)?);
                Ok(Computed { state_root, records, failed: None })
            }
            End::Finished { step, .. } => {
                let text = format!("the trainer ended after step {step}, not {}", self.last);
                Err(incomplete(Failure::new(text)))
            }
            End::Stopped => Err(Failure::with_code(ExitCode::Stopped.code(), "stopped")),
            End::Refused { code, .. } if code == ExitCode::NonFinite.code() => self.failed(),
            End::Refused { code, message } => Err(Failure::with_code(code, message)),
            End::Crashed(crash) => Err(incomplete(Failure::new(crash.message))),
        }
    }

    /// Whether the stop rule ends the job with these records.
    fn ends(&self, records: &Records) -> Result<bool, Failure> {
        let evaluation = Evaluation::of_spec(&fs::read(&self.spec)?);
        let evaluation = evaluation.map_err(|error| incomplete(Failure::new(error.to_string())))?;
        Ok(evaluation.ends(records.as_slice()))
    }

    /// What the trainer has left of a step that is not finite.
    fn failed(&self) -> Result<Computed, Failure> {
        let lacks =
            |problem: String| incomplete(Failure::new(format!("the failed step of the replay: {problem}")));
        let failed = Failed::read(&self.out.join(FAILED_FILE)).map_err(|error| lacks(error.to_string()))?;
        let (step, taken) = (failed.step(), failed.records().as_slice().len() as u64);
        if step > self.last || step - taken != self.start + 1 {
            return Err(lacks(format!("step {step} after {taken} is not of this interval")));
        }
        Ok(Computed {
            state_root: failed.state_root(),
            records: failed.records().clone(),
            failed: Some(step),
        })
    }

    fn launch(&self) -> Launch {
        Launch {
            program: self.program.clone(),
            spec: self.spec.clone(),
            data: self.data.clone(),
            eval_data: self.eval_data.clone(),
            init: self.init.clone(),
            out: self.out.clone(),
            workers: self.workers,
            threads: self.threads,
            // One interval, and no state in between.
            interval_steps: i64::try_from(self.last - self.start).unwrap_or(i64::MAX),
            keep_last: 2,
            from_step: Some(self.start),
            last_step: Some(self.last),
            isa: self.isa.clone(),
            recompute: false,
            sharded: false,
        }
    }
}
