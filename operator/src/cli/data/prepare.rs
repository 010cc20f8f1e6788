//! `muster data prepare`: from text files to a dataset. The same command goes on where one was cut off.
use super::{Transfer, describe};
use crate::cli::output::{Output, line, note};
use crate::cli::{Failure, Outcome};
use crate::text::cut::Split;
use crate::text::prepare::{self, Job, Restart, Watch};
use crate::text::{Choice, Tokenizer};
use clap::Args;
use muster_trainer::dataset::Manifest;
use serde::Serialize;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Prepare {
    /// Text files, in the order in which they are read
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Directory to make; it appears whole or not at all
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What makes the tokens: each byte is one, GPT-2's, or what a tokenizer.json says
    #[arg(long, value_name = "bytes|gpt2|FILE", default_value = "bytes")]
    tokenizer: Choice,
    /// What a document is: tokens never reach over its end
    #[arg(long, value_enum, default_value_t)]
    split: Split,
    /// The token of a tokenizer.json that ends each document [default: none; gpt2 has its own]
    #[arg(long, value_name = "TOKEN")]
    end_of_text: Option<String>,
    /// Threads that make tokens; the result does not depend on it [default: one for each CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Begin anew where another run was interrupted
    #[arg(long)]
    restart: bool,
    /// The digest alone, or all about the dataset
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
}

/// What programs read of a dataset.
#[derive(Debug, Serialize)]
struct Made {
    dataset: String,
    root: String,
    tokenizer: String,
    vocabulary: u32,
    tokens: u64,
    files: usize,
}

impl Prepare {
    pub fn run(self) -> Outcome {
        let mut tokenizer = Tokenizer::load(&self.tokenizer)?;
        if let Some(end) = &self.end_of_text {
            tokenizer =
                tokenizer.ending_with(end).map_err(|e| Failure::usage(format!("--end-of-text: {e}")))?;
        }
        let bytes = self.files.iter().filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum();
        let bar = Transfer::start("reading", bytes);
        let cpus = || std::thread::available_parallelism().map_or(1, usize::from);
        let job = Job {
            inputs: &self.files,
            out: &self.out,
            tokenizer: &tokenizer,
            split: self.split,
            threads: self.threads.map_or_else(cpus, usize::from),
            restart: if self.restart { Restart::Yes } else { Restart::No },
        };
        let made = prepare::prepare(&job, &Bar(&bar));
        bar.end();
        let manifest = made?;
        match self.output {
            Output::Text => {
                note(format_args!("{}: {}", self.out.display(), describe(&manifest)));
                line(manifest.digest()?)?;
            }
            Output::Json => line(serde_json::to_string(&made_of(&manifest)?)?)?,
        }
        Ok(0)
    }
}

fn made_of(manifest: &Manifest) -> Result<Made, Failure> {
    Ok(Made {
        dataset: manifest.digest()?.to_string(),
        root: manifest.root().to_string(),
        tokenizer: manifest.tokenizer().to_string(),
        vocabulary: manifest.vocabulary(),
        tokens: manifest.tokens(),
        files: manifest.files().len(),
    })
}

/// The work on a terminal.
struct Bar<'a>(&'a Transfer);

impl Watch for Bar<'_> {
    fn read(&self, bytes: u64) {
        self.0.add(bytes);
    }

    fn resumed(&self, tokens: u64) {
        note(format_args!("going on after {tokens} tokens of an interrupted run"));
    }
}
