//! `muster-trainer logits`: what a model says about a sequence, as numbers.

use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use super::{Source, failed};
use crate::failure::Failure;
use crate::files;
use crate::protocol::ExitCode;

/// The largest file of tokens that is read, in bytes.
const MAX_TOKENS: u64 = 1 << 20;

/// The command line.
#[derive(Debug, Clone, clap::Args)]
pub struct LogitOptions {
    #[command(flatten)]
    source: Source,
    /// Token ids, separated by commas or white space; or a file of them.
    #[arg(long, value_name = "FILE|LIST")]
    tokens: String,
    /// Write little-endian f32 here, [tokens, vocabulary]; without it, print a line for each token.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Computes the logits of every position of one sequence.
///
/// # Errors
/// A bad checkpoint, bad tokens, or an output that cannot be written.
pub fn logits(options: &LogitOptions) -> Result<(), Failure> {
    let tokens = read_tokens(&options.tokens)?;
    let model = options.source.open()?;
    let mut executor = options.source.executor(&model.graph)?;
    let logits = executor.logits(&model.state.w, &tokens).map_err(failed)?;
    let disk = |error: files::FileError| Failure::new(ExitCode::Disk, error.to_string());
    if let Some(path) = &options.out {
        let bytes: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
        return files::write_atomic(path, &bytes).map_err(disk);
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    for row in logits.chunks(model.graph.vocabulary().max(1)) {
        let row: Vec<String> = row.iter().map(f32::to_string).collect();
        if writeln!(out, "{}", row.join(" ")).is_err() {
            return Ok(()); // whoever reads has enough
        }
    }
    Ok(())
}

fn read_tokens(argument: &str) -> Result<Vec<u32>, Failure> {
    let is_list = argument.bytes().all(|byte| byte.is_ascii_digit() || byte == b',' || byte == b' ');
    let text = if is_list {
        argument.to_owned()
    } else {
        let bytes = files::read_at_most(Path::new(argument), MAX_TOKENS)
            .map_err(|error| Failure::usage(format!("--tokens: {error}")))?;
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
    words
        .map(|word| word.parse().map_err(|_| Failure::usage(format!("--tokens: {word:?} is not a token id"))))
        .collect()
}
