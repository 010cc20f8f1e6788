//! Models in the form in which Hugging Face's hub and `transformers` keep them: GPT-2 and Llama, weights in safetensors. What is
//! read comes from strangers; what is not exactly our model is refused by name, never approximated. `docs/spec/export.md` describes it.
//!
//! | file | thought |
//! |---|---|
//! | `config` | `config.json`: the shape, and that nothing in it changes the function |
//! | `header` | the header of a safetensors file, in any of its spellings |
//! | `weights` | which file has which tensor: one file, or shards with an index |
//! | `values` | bf16 and f16 to f32 and back |
//! | `import` | a directory as state 0 |
//! | `manifest` | what names a directory: its files, its shape, that state |
//! | `export` | a state's weights as a directory |
//! | `command` | what is asked for on a command line |
//!
//! What must not live here: the checkpoint's own files, which have one spelling each ([`crate::checkpoint`]).

mod command;
mod config;
mod export;
mod header;
mod import;
mod manifest;
mod unique;
mod values;
mod weights;

pub use command::{Done, ExportArguments, run as run_export};
pub use config::{MAX_CONFIG, parse as parse_config};
pub use export::{Exported, Options as ExportOptions, export, parse_size};
pub use header::{Header, parse as parse_header};
pub use import::{load, open};
pub use manifest::{MAX_MANIFEST, Manifest, bytes_of};
pub use values::Dtype;
pub use weights::{MAX_INDEX, parse_index};

pub use crate::checkpoint::INDEX_FILE;

use std::path::Path;

use crate::files::FileError;
use crate::safetensors;

/// Whether the directory is a model of Hugging Face's form and not a checkpoint of ours, which looks like one to others.
#[must_use]
pub fn is_foreign(dir: &Path) -> bool {
    dir.join(crate::checkpoint::CONFIG_FILE).exists() && !dir.join(crate::checkpoint::MANIFEST_FILE).exists()
}

/// Why a directory is not imported, or a model not exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file holds what is not taken.
    #[error("{path}: {problem}")]
    Refused {
        /// The file or directory.
        path: String,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The directory holds another model than the job trains.
    #[error("{path} has another model than the job: {differences}; change the job's spec.model")]
    OtherModel {
        /// The directory.
        path: String,
        /// Field by field.
        differences: String,
    },
    /// The model has no such form.
    #[error("model: {0}")]
    Model(String),
    /// What the target's type cannot hold, or what nobody could read again.
    #[error("tensor {tensor}: element {element} is {value}, which {dtype} cannot hold; {remedy}")]
    Value {
        /// Its key in the files.
        tensor: String,
        /// Position in the canonical tensor's piece.
        element: usize,
        /// The value.
        value: f32,
        /// Type of the files.
        dtype: Dtype,
        /// What to do.
        remedy: &'static str,
    },
}

impl Error {
    fn refused(path: &Path, problem: impl Into<String>) -> Self {
        Self::Refused { path: path.display().to_string(), problem: problem.into() }
    }
}

impl From<crate::checkpoint::Error> for Error {
    fn from(error: crate::checkpoint::Error) -> Self {
        Self::Model(error.to_string())
    }
}

impl From<safetensors::Error> for Error {
    fn from(error: safetensors::Error) -> Self {
        Self::Model(error.to_string())
    }
}

/// A stranger's word, short and without control characters.
fn shown(text: &str) -> String {
    text.escape_debug().take(100).collect()
}

#[cfg(test)]
mod tests;
