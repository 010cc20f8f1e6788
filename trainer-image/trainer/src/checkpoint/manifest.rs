//! The manifest of a checkpoint: canonical JSON with a closed set of fields.

use muster_proof::{Digest, jcs};
use serde::{Deserialize, Serialize};

use super::FILES;
use super::scalars::{check_product, product, product_text};
use super::split;

/// The largest manifest that is read, in bytes.
pub const MAX_MANIFEST: u64 = 16 * 1024;

const FORMAT: &str = "muster.checkpoint/1";

/// A file of a checkpoint, or of a model to begin with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its name in the directory.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of its bytes.
    pub sha256: Digest,
}

/// What a checkpoint claims to be. Built by [`Manifest::new`] or [`Manifest::parse`], so that it names exactly the
/// files of a checkpoint in their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    format: String,
    step: u64,
    training_digest: Digest,
    state_root: Digest,
    b1p: String,
    b2p: String,
    files: Vec<FileEntry>,
}

impl Manifest {
    /// The manifest of state `step` of the job `training_digest`; `b1p`, `b2p` are the running products of Adam's
    /// betas.
    ///
    /// # Errors
    /// Files that are not those of a checkpoint, as a sentence.
    pub fn new(
        step: u64,
        training_digest: Digest,
        state_root: Digest,
        [b1p, b2p]: [f64; 2],
        files: Vec<FileEntry>,
    ) -> Result<Self, String> {
        let [b1p, b2p] = [b1p, b2p].map(product_text);
        let manifest = Self { format: FORMAT.into(), step, training_digest, state_root, b1p, b2p, files };
        manifest.check()?;
        Ok(manifest)
    }

    /// Reads the bytes of a `manifest.json`; only the canonical form.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() as u64 > MAX_MANIFEST {
            return Err(format!("longer than {MAX_MANIFEST} bytes"));
        }
        let manifest: Self = jcs::deserialize_canonical(bytes).map_err(|error| error.to_string())?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("format: is {:?}, not {FORMAT:?}", self.format));
        }
        check_product("b1p", &self.b1p)?;
        check_product("b2p", &self.b2p)?;
        if !split::are_names(self.files.iter().map(|file| file.path.as_str())) {
            return Err(format!(
                "files: must be {FILES:?}, in this order, or the numbered files of a large model"
            ));
        }
        Ok(())
    }

    /// The canonical bytes.
    ///
    /// # Errors
    /// A step or size beyond 2^53, as a sentence.
    pub fn to_bytes(&self) -> Result<Vec<u8>, String> {
        jcs::serialize(self).map_err(|error| error.to_string())
    }

    /// The state's number: steps done.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The job.
    pub fn training_digest(&self) -> Digest {
        self.training_digest
    }

    /// The state.
    pub fn state_root(&self) -> Digest {
        self.state_root
    }

    /// The running products of Adam's betas, b1p and b2p.
    pub fn beta_products(&self) -> [f64; 2] {
        // `check` has read both.
        [&self.b1p, &self.b2p].map(|text| product(text).unwrap_or(1.0))
    }

    /// The files.
    pub fn files(&self) -> &[FileEntry] {
        &self.files
    }
}
