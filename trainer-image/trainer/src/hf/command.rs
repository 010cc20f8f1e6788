//! The command line of an export, which `muster` and `muster-trainer` share: from a checkpoint to a directory for others.

use std::path::PathBuf;

use clap::ValueEnum;
use muster_proof::Digest;
use serde::Serialize;

use super::{Dtype, Error, ExportOptions, Exported, export, parse_size};
use crate::checkpoint::{self, Store};
use crate::failure::Failure;
use crate::files::read_regular;
use crate::protocol::ExitCode;

/// What `transformers` calls a tokenizer's file.
const TOKENIZER_FILE: &str = "tokenizer.json";
/// The longest that is copied, in bytes.
const MAX_TOKENIZER: u64 = 256 << 20;

/// What is written, from what, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct ExportArguments {
    /// A checkpoint, or the directory of a run: its newest checkpoint.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Directory to make; it appears whole or not at all.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The step, of the directory of a run [default: the newest].
    #[arg(long, value_name = "N")]
    step: Option<u64>,
    /// What to write: `hf` is config.json and safetensors, as `transformers` loads them.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Type of the weights: f32 as they are; bf16 or f16 rounded to the nearest.
    #[arg(long, value_name = "TYPE", default_value_t = Dtype::F32)]
    dtype: Dtype,
    /// Most bytes of a file; more weights become several files and an index.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_size)]
    max_shard_size: u64,
    /// The job's dataset directory: if it has a tokenizer.json, that goes along.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Forms of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Format {
    /// Hugging Face's: a directory.
    #[default]
    Hf,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Done {
    /// The directory.
    pub out: PathBuf,
    /// The state whose weights these are.
    pub step: u64,
    /// Its digest.
    pub state_root: Digest,
    /// How many weights there are.
    pub parameters: usize,
    /// Their type in the files.
    pub dtype: String,
    /// The files.
    #[serde(flatten)]
    pub exported: Exported,
}

/// Exports a checkpoint, checked in full before. `progress` is told of the bytes that were written, and of how many there are.
///
/// # Errors
/// 64 for a directory that is there already, 67 for a bad checkpoint or one whose weights the type cannot hold, 74 for what cannot
/// be written, 66 for a tokenizer that cannot be read.
pub fn run(arguments: &ExportArguments, progress: &mut dyn FnMut(u64, u64)) -> Result<Done, Failure> {
    let Format::Hf = arguments.format;
    let dir = match arguments.step {
        Some(step) => Store::new(&arguments.dir).path(step),
        None => checkpoint::resolve_dir(&arguments.dir)?,
    };
    let tokenizer = tokenizer(arguments)?;
    let (model, graph, state, manifest) = checkpoint::open(&dir)?;
    let options = ExportOptions { dtype: arguments.dtype, max_shard: arguments.max_shard_size };
    let beside: Vec<_> = tokenizer.into_iter().map(|bytes| (TOKENIZER_FILE, bytes)).collect();
    let (mut done, all) = (0, (state.w.len() * options.dtype.size()) as u64);
    let exported = export(&arguments.out, &model, &graph, &state.w, options, &beside, &mut |bytes| {
        done += bytes;
        progress(done, all);
    });
    let exported = exported.map_err(|error| {
        let code = match error {
            Error::File(_) => ExitCode::Disk,
            Error::Refused { .. } => ExitCode::BadSpec,
            _ => ExitCode::BadCheckpoint,
        };
        Failure::new(code, error.to_string())
    })?;
    Ok(Done {
        out: arguments.out.clone(),
        step: manifest.step(),
        state_root: manifest.state_root(),
        parameters: state.w.len(),
        dtype: options.dtype.to_string(),
        exported,
    })
}

/// The tokenizer that the data was made with; none where tokens are bytes.
fn tokenizer(arguments: &ExportArguments) -> Result<Option<Vec<u8>>, Failure> {
    let Some(data) = &arguments.data else { return Ok(None) };
    if !data.is_dir() {
        return Err(Failure::new(ExitCode::BadData, format!("--data {}: no such directory", data.display())));
    }
    let path = data.join(TOKENIZER_FILE);
    if !path.exists() {
        return Ok(None);
    }
    let read = read_regular(&path, MAX_TOKENIZER);
    read.map(Some).map_err(|error| Failure::new(ExitCode::BadData, error.to_string()))
}
