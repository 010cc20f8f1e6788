//! Checkpoints: `DIR/checkpoints/step-%08d/` with `model.safetensors`, `config.json`, `optimizer.safetensors` and
//! `manifest.json`; of a large model the tensors are in several files. The byte-level description is `docs/spec/checkpoint.md`.
//!
//! The first two load in Hugging Face's `transformers`; the manifest names all files by digest and the state by
//! its StateRoot. A directory appears by a rename when everything in it is durable, and is checked in full before
//! it is used: digests of the files, then the StateRoot recomputed from the values.

mod config;
mod load;
mod manifest;
mod names;
mod parts;
mod save;
mod scalars;
mod seal;
mod signed;
mod split;
mod store;

pub use config::{model_spec, render as render_config, render_as as render_config_as};
pub use load::{MAX_CONFIG, graph_of, load, model_of, open, read_manifest};
pub use manifest::{FileEntry, MAX_MANIFEST, Manifest};
pub use names::Orientation;
pub(crate) use names::{Place, places};
pub use parts::{Layout, Part, PartHasher, TensorFile};
pub(crate) use save::write_tensors;
pub use save::{Saved, hand_over, save};
pub use scalars::{MAX_SCALARS, Scalars};
pub use seal::{root_of, seal};
pub use signed::{SignedError, check_signed, sign_files, signed_files};
pub(crate) use split::file_name as tensor_file_name;
pub use store::{Found, Store, resolve_dir};

use std::path::Path;

use muster_proof::Digest;

use crate::failure::Failure;
use crate::files::FileError;
use crate::protocol::ExitCode;
use crate::safetensors;

/// Name of the manifest in a checkpoint directory.
pub const MANIFEST_FILE: &str = "manifest.json";
/// Weights, readable by `transformers`, if they are in one file.
pub const MODEL_FILE: &str = "model.safetensors";
/// Shape of the model, readable by `transformers`.
pub const CONFIG_FILE: &str = "config.json";
/// Where the weights are, if they are in several, likewise.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// Both moments of the optimiser, if they are in one file.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// Of a hand-over only: what is neither in its tensors nor known to who reads it.
pub const SCALARS_FILE: &str = "scalars.json";
/// The files that the manifest of a model that is not large names, in its order.
pub const FILES: [&str; 3] = [CONFIG_FILE, MODEL_FILE, OPTIMIZER_FILE];

/// What is wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be written.
    #[error(transparent)]
    Write(FileError),
    /// A file could not be read.
    #[error("{0}; restore the checkpoint or remove its directory, then an older one is used")]
    Read(FileError),
    /// A file is not what it must be.
    #[error(
        "{path} is corrupt: {problem}; restore it or remove the checkpoint's directory, then an older one is used"
    )]
    Corrupt {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The checkpoint belongs to another job.
    #[error(
        "{path} belongs to another job: its training digest is {got}, this job's is {want}; choose another --out \
         directory, or start with the YAML and data that made it"
    )]
    OtherJob {
        /// The manifest.
        path: String,
        /// The digest it names.
        got: Digest,
        /// The digest of this job.
        want: Digest,
    },
    /// There is no such checkpoint.
    #[error("no checkpoint {0}; `ls` the directory above for those there are")]
    Missing(String),
    /// Checkpoints exist, but none of them is whole.
    #[error(
        "none of the {count} checkpoints under {path} is whole; restore one, or remove that directory to start anew"
    )]
    NoneWhole {
        /// The directory `checkpoints`.
        path: String,
        /// How many were looked at.
        count: usize,
    },
    /// The state or the model cannot be written in this form.
    #[error("state: {0}")]
    State(String),
}

impl Error {
    fn corrupt(path: &Path, problem: impl Into<String>) -> Self {
        Self::Corrupt { path: path.display().to_string(), problem: problem.into() }
    }

    fn format(path: &Path, error: &safetensors::Error) -> Self {
        Self::corrupt(path, error.to_string())
    }

    /// Whether an older checkpoint may be tried instead.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Read(_))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Write(_) => ExitCode::Disk,
            _ => ExitCode::BadCheckpoint,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests;
