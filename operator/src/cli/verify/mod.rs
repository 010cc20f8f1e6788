//! `muster verify`: checks results without believing anybody (docs/operations/verify.md). Exit codes: 0 holds, 1 refuted, 2 wrong
//! usage, 3 incomplete: nothing was found wrong, but not all could be seen.
mod checkpoint;
mod log;
mod trust;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use muster_proof::Digest;
use muster_proof::bundle::{
    Bundle, FILE, Files, MAX_LIST, Options, Outcome as Came, Report, Trust, verify_bundle,
};
use muster_proof::records::JobId;

use super::output::{Output, line, print};
use super::proof::JobArgs;
use super::run::block_on;
use super::{Failure, Outcome};
use crate::bundle::dir::Dir;
use crate::bundle::states;
use crate::runtime::sanitise;

pub(super) use log::{LogArgs, log_of};
pub(super) use trust::TrustArgs;

/// Checks results.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 holds, 1 refuted, 2 wrong usage, 3 incomplete")]
pub struct VerifyCommand {
    #[command(subcommand)]
    verb: VerifyVerb,
}

#[derive(Debug, Subcommand)]
enum VerifyVerb {
    /// Take a job's proof home and check it
    Job(JobVerify),
    /// Check a checkpoint's directory: its manifest, its files, and the StateRoot out of its tensors
    Checkpoint(checkpoint::CheckpointVerify),
    /// Check a whole log, and that it continues what was seen before
    Log(log::LogVerify),
    /// Check a bundle that `muster proof bundle` made, offline
    Bundle(BundleVerify),
}

#[derive(Debug, Args)]
struct JobVerify {
    #[command(flatten)]
    job: JobArgs,
    /// Where the bundle goes
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct BundleVerify {
    /// The bundle's directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The bundle must be of this job
    #[arg(long, value_name = "JOB-ID")]
    job_id: Option<Digest>,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct How {
    #[command(flatten)]
    trust: TrustArgs,
    /// `text` for people, `json` for the report as docs/spec/bundle.md has it
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
}

impl VerifyCommand {
    pub fn run(self) -> Outcome {
        let outcome = match self.verb {
            VerifyVerb::Job(args) => args.run(),
            VerifyVerb::Checkpoint(args) => args.run(),
            VerifyVerb::Log(args) => args.run(),
            VerifyVerb::Bundle(args) => args.run(),
        };
        outcome.map_err(incomplete)
    }
}

/// What could not be done refutes nothing.
pub(super) fn incomplete(failure: Failure) -> Failure {
    if failure.code() == super::failure::USAGE {
        return failure;
    }
    Failure::with_code(Came::Incomplete.exit_code(), failure.to_string())
}

impl JobVerify {
    fn run(self) -> Outcome {
        let trust = self.how.trust.read()?;
        block_on(async { self.job.make(&self.out).await })??;
        show(&check(&self.out, &trust, Options::default()), self.how.output)
    }
}

impl BundleVerify {
    fn run(self) -> Outcome {
        let trust = self.how.trust.read()?;
        let options = Options { job: self.job_id.map(JobId) };
        show(&check(&self.dir, &trust, options), self.how.output)
    }
}

/// All checks of a bundle's directory.
pub(super) fn check(path: &Path, trust: &Trust, options: Options) -> Report {
    let dir = Dir::new(path);
    let mut report = verify_bundle(&dir, trust, options);
    if let Some(bundle) = list(&dir) {
        states::check(&mut report, &dir, &bundle);
    }
    report
}

/// The bundle's list, if it is one.
pub(super) fn list(dir: &Dir) -> Option<Bundle> {
    dir.read(FILE, MAX_LIST as u64).ok().flatten().and_then(|bytes| Bundle::parse(&bytes).ok())
}

/// Prints a report; its outcome is the exit code.
pub(super) fn show(report: &Report, output: Output) -> Outcome {
    match output {
        Output::Json => line(serde_json::to_string(report)?)?,
        Output::Text => {
            let text: Vec<String> =
                report.to_string().lines().map(|text| sanitise::line(text, 1000)).collect();
            print(&(text.join("\n") + "\n"))?;
        }
    }
    Ok(report.outcome.exit_code())
}
