//! What a checkpoint's manifest says (docs/spec/checkpoint.md): which state of which training, in which files.

use serde::Deserialize;

use crate::{Digest, jcs};

/// Most bytes of a manifest.
pub const MAX_MANIFEST: u64 = 16 * 1024;
/// Its format.
pub const FORMAT: &str = "muster.checkpoint/1";
/// Most files that it names.
const MAX_FILES: usize = 64;

/// A file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Its name in the checkpoint's directory.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of its bytes.
    pub sha256: Digest,
}

/// The fields of a manifest. That the files hold the state which it names is for whoever can read tensors.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// Steps done.
    pub step: u64,
    /// Of which training.
    pub training_digest: Digest,
    /// The state.
    pub state_root: Digest,
    /// Bits of the running product of Adam's first beta.
    pub b1p: String,
    /// Of the second.
    pub b2p: String,
    /// The files.
    pub files: Vec<File>,
}

impl Manifest {
    /// Reads a manifest's bytes.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() as u64 > MAX_MANIFEST {
            return Err(format!("a manifest has at most {MAX_MANIFEST} bytes"));
        }
        let manifest: Self = jcs::deserialize_canonical(bytes).map_err(|error| error.to_string())?;
        if manifest.format != FORMAT {
            return Err(format!("format: want {FORMAT:?}"));
        }
        let plain =
            |path: &str| !path.is_empty() && !path.contains(['/', '\\', '\0']) && !path.starts_with('.');
        if manifest.files.len() > MAX_FILES || !manifest.files.iter().all(|file| plain(&file.path)) {
            return Err("files: want at most 64 plain names".to_owned());
        }
        Ok(manifest)
    }
}
