//! `muster eval`: how well a trained model predicts a text. Exit codes are the trainer's, as those of `muster sample`.
use super::output::{Output, line, note};
use super::{Failure, Outcome};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use muster_trainer::inference::{EvalOptions, Evaluation, evaluate};
use std::io::IsTerminal;

#[derive(Debug, Args)]
#[command(after_help = "The same checkpoint and data give the same bits on every machine.\n\
    Exit codes: 0 done, 64 bad usage, 65 the loss is not finite, 66 bad data, 67 bad checkpoint")]
pub struct EvalCommand {
    #[command(flatten)]
    options: EvalOptions,
    /// `text` for people, `json` for one object with all numbers
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
}

impl EvalCommand {
    pub fn run(self) -> Outcome {
        let bar = bar();
        let done = evaluate(&self.options, &mut |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        let done = done.map_err(|failure| Failure::with_code(failure.code.code(), failure.message))?;
        match self.output {
            Output::Json => line(serde_json::to_string(&done)?)?,
            Output::Text => say(&done)?,
        }
        Ok(0)
    }
}

fn say(done: &Evaluation) -> std::io::Result<()> {
    note(format_args!(
        "the state after step {} on {} sequences, {} tokens of dataset {}",
        done.step, done.sequences, done.tokens, done.dataset
    ));
    line(format_args!("loss {}", done.loss))?;
    line(format_args!("perplexity {}", done.perplexity))?;
    done.bits_per_byte.map_or(Ok(()), |bits| line(format_args!("bitsPerByte {bits}")))
}

/// On a terminal only.
fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("sequence {pos}/{len} {bar:32} {per_sec} {eta} left") {
        bar.set_style(style);
    }
    bar
}
