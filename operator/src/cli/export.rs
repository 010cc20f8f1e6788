//! `muster export`: a trained model in the form that other people's tools load (docs/spec/export.md). Exit codes are the trainer's,
//! as those of `muster sample`.
use super::output::{Output, line, note};
use super::transfer::Transfer;
use super::{Failure, Outcome};
use clap::Args;
use muster_trainer::hf::{Done, ExportArguments, run_export};

/// Writes a model for other tools.
#[derive(Debug, Args)]
#[command(
    after_help = "Only f32 keeps every bit: `muster local --init` of it begins with the same weights.\n\
    Exit codes: 0 done, 64 bad usage, 66 bad data, 67 bad checkpoint, 74 disk"
)]
pub struct ExportCommand {
    #[command(flatten)]
    arguments: ExportArguments,
    /// `text` for people, `json` for one object with all files
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
}

impl ExportCommand {
    pub fn run(self) -> Outcome {
        let mut bar: Option<Transfer> = None;
        let mut before = 0;
        let done = run_export(&self.arguments, &mut |done, all| {
            bar.get_or_insert_with(|| Transfer::start("writing", all)).add(done - before);
            before = done;
        });
        if let Some(bar) = bar {
            bar.end();
        }
        let done = done.map_err(|failure| Failure::with_code(failure.code.code(), failure.message))?;
        match self.output {
            Output::Json => line(serde_json::to_string(&done)?)?,
            Output::Text => say(&done)?,
        }
        Ok(0)
    }
}

fn say(done: &Done) -> std::io::Result<()> {
    let (out, files) = (done.out.display().to_string(), &done.exported.files);
    note(format_args!(
        "{out}: the weights after step {}, {} parameters as {}, {} files, {} bytes",
        done.step,
        done.parameters,
        done.dtype,
        files.len(),
        files.values().sum::<u64>()
    ));
    note(format_args!("load it: transformers.AutoModelForCausalLM.from_pretrained({out:?})"));
    line(format_args!("stateRoot {}", done.state_root))
}
