//! `muster sample`: text from a trained model, by `muster-trainer sample`, whose exit code becomes ours.
use super::{Failure, Outcome, trainer};
use clap::Args;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

#[derive(Debug, Args)]
#[command(after_help = "What follows DIR goes to `muster-trainer sample` as it is; its --help lists all.")]
pub struct SampleCommand {
    /// A checkpoint, or the directory of a run: its newest checkpoint
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Options of the sampler, --prompt TEXT among them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<OsString>,
}

impl SampleCommand {
    pub fn run(self) -> Outcome {
        let program = trainer::find()?;
        // The trainer takes our place: its output, its signals, its exit code.
        let error = Command::new(&program).arg("sample").arg(self.dir).args(self.options).exec();
        Err(Failure::new(format!("cannot start {}: {error}", program.display())))
    }
}
