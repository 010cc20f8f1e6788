//! Where a run of steps may end.

use muster_proof::steps::MAX_RECORDS;

use super::Options;
use super::job::Job;
use crate::failure::Failure;

/// Whether the run can end where it is asked to.
pub(super) fn check_end(options: &Options, job: &Job, start: u64) -> Result<(), Failure> {
    let (Some(last), steps) = (options.last_step, job.spec.training.steps) else { return Ok(()) };
    let problem = if last > steps {
        format!("the job has {steps} steps")
    } else if last < start {
        format!("the start is state {start}; give --from-step too")
    } else if last - start > MAX_RECORDS as u64 {
        format!("from state {start} that are more than {MAX_RECORDS} steps, and no interval has more")
    } else {
        return Ok(());
    };
    Err(Failure::usage(format!("--last-step {last}: {problem}")))
}

/// Whether the stop rule ends the job at the end of an interval only: what ends in the middle of one would never be committed.
/// A replay ends where it is told to.
pub(super) fn check_stop_rule(options: &Options, job: &Job) -> Result<(), Failure> {
    let (Some(eval), None) = (&job.spec.training.eval, options.last_step) else { return Ok(()) };
    let (every, interval) = (eval.every_steps, options.interval_steps);
    if eval.stop_at.is_none() || every.is_multiple_of(interval) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "training.eval.everySteps: {every} is not a multiple of intervalSteps, {interval}, and with training.eval.stopAt a job ends \
         where an interval does; make it a multiple, or change training.intervalSteps (--interval-steps)"
    )))
}
