//! Datasets: a directory with `manifest.json` and the token stream in files `tokens-%05d.bin`.
//!
//! The stream is one array of little-endian u16, or u32 where the vocabulary is larger, cut into files of 64 MiB. Its
//! identity is the Merkle root over its 4096-byte chunks (RFC 6962), so that one chunk can later be shown without the
//! rest. A dataset is named by the SHA-256 of its manifest; the training digest takes the root and the length. See
//! docs/spec/dataset.md.

mod manifest;
mod open;
mod prepare;
mod tokenizer;
mod writer;

pub use manifest::{MAX_MANIFEST, Manifest, Shard, Text};
pub use open::Dataset;
pub use prepare::{is_occupied, prepare, same_there};
pub use tokenizer::{Dtype, MAX_TOKENIZER, MAX_VOCABULARY, TOKENIZER_FILE, Tokenizer};
pub use writer::{Mark, Writer};

use std::path::Path;

use crate::failure::Failure;
use crate::files::FileError;
use crate::protocol::ExitCode;

/// Name of the manifest in a dataset directory.
pub const MANIFEST_FILE: &str = "manifest.json";
/// Bytes of every token file but the last.
pub const SHARD_BYTES: u64 = 64 << 20;
/// Bytes of a leaf of the stream's Merkle tree.
pub const CHUNK_BYTES: usize = 4096;

/// What is wrong with a dataset.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused an operation.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no manifest in the directory.
    #[error(
        "no dataset in {0}: manifest.json is missing; make one with `muster data prepare FILE... --out {0}`"
    )]
    Missing(String),
    /// The manifest says something it may not.
    #[error("dataset manifest: {field}: {problem}; make the dataset again with `muster data prepare`")]
    Manifest {
        /// The field, or `manifest` for the whole.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file is not what the manifest says.
    #[error(
        "{path} is corrupt: {problem}; copy the dataset again or make it anew with `muster data prepare`"
    )]
    Corrupt {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Nothing to prepare from.
    #[error("the input has {0} tokens, a dataset needs at least 2; give a text file that is not empty")]
    Empty(u64),
    /// The output exists and is something else.
    #[error("{0} exists and holds another dataset or other files; choose another --out or remove it")]
    Exists(String),
}

impl Error {
    fn corrupt(path: &Path, problem: impl Into<String>) -> Self {
        Self::Corrupt { path: path.display().to_string(), problem: problem.into() }
    }

    fn manifest(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Manifest { field: field.into(), problem: problem.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(ExitCode::BadData, error.to_string())
    }
}

#[cfg(test)]
mod tests;
