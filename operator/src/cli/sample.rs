//! `muster sample`: text from a trained model, by the trainer's own library; its exit codes are ours.
use super::{Failure, Outcome};
use crate::text::{Choice, Tokenizer};
use clap::Args;
use muster_trainer::dataset::{self, Dataset};
use muster_trainer::inference::{self, SampleOptions};
use muster_trainer::protocol::ExitCode;

#[derive(Debug, Args)]
pub struct SampleCommand {
    #[command(flatten)]
    options: SampleOptions,
    /// What the model's data were made with [default: what the directory says; bytes, if it says nothing and the model has a
    /// vocabulary of 256]
    #[arg(long, value_name = "bytes|gpt2|FILE")]
    tokenizer: Option<Choice>,
}

impl SampleCommand {
    pub fn run(self) -> Outcome {
        let tokenizer = match &self.tokenizer {
            Some(choice) => Tokenizer::load(choice)?,
            None => known(&self.options)?,
        };
        inference::sample(&self.options, &tokenizer).map_err(failed)?;
        Ok(0)
    }
}

/// What the directory of the model says. A guess would give a text without sense.
fn known(options: &SampleOptions) -> Result<Tokenizer, Failure> {
    if let Some(known) = options.known().map_err(failed)? {
        return match known.manifest.tokenizer() {
            dataset::Tokenizer::Bytes => Ok(Tokenizer::bytes()),
            dataset::Tokenizer::Gpt2 => Ok(Tokenizer::gpt2()?),
            dataset::Tokenizer::File(digest) => {
                let json = Dataset::tokenizer_json(&known.dir, &known.manifest).map_err(|error| {
                    let text =
                        format!("{error}; give --tokenizer FILE, the tokenizer.json of digest {digest}");
                    Failure::with_code(ExitCode::BadData.code(), text)
                })?;
                Ok(Tokenizer::parse(json.unwrap_or_default())?)
            }
        };
    }
    match options.model_vocabulary().map_err(failed)? {
        256 => Ok(Tokenizer::bytes()),
        size => Err(Failure::usage(format!(
            "the model has a vocabulary of {size}, and its directory does not say which tokenizer its data were made with; \
             give --tokenizer bytes, gpt2, or the tokenizer.json"
        ))),
    }
}

// By value because it is what `map_err` hands over.
#[allow(clippy::needless_pass_by_value)]
fn failed(failure: muster_trainer::failure::Failure) -> Failure {
    Failure::with_code(failure.code.code(), failure.message)
}
