//! What names a model: its files by content, its shape, and the state 0 that it becomes (docs/spec/export.md). A manifest comes from
//! strangers; that its files are the state it speaks of is found by whoever reads their values.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use muster_numerics::spec::ModelSpec;
use muster_numerics::state::State;
use muster_proof::{Digest, jcs};
use serde::{Deserialize, Serialize};

use super::import::{differences, graph_of, shape_of};
use super::weights::{MAX_SHARDS, is_plain, parse_index};
use super::{Error, INDEX_FILE, MAX_CONFIG, MAX_INDEX};
use crate::checkpoint::{CONFIG_FILE, FileEntry, MODEL_FILE};
use crate::files::{self, Named as _};
use crate::resolved;

/// The longest manifest that is read, in bytes: the most files, with the longest names.
pub const MAX_MANIFEST: u64 = 256 << 10;

const FORMAT: &str = "muster.model/1";
/// The longest file of weights, in bytes: so long is no published one.
const MAX_FILE: u64 = 64 << 30;

/// A checked manifest: it cannot be built but by [`Manifest::parse`] and [`Manifest::of`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Manifest {
    files: Vec<FileEntry>,
    format: String,
    model: ModelSpec,
    state_root: Digest,
}

impl Manifest {
    /// The manifest of the directory `dir`, of which `state` was read. `progress` is told of every few bytes that are read.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Refused`], [`Error::Model`] for a state that is not this directory's.
    pub fn of(dir: &Path, state: &State, progress: &mut dyn FnMut(u64)) -> Result<Self, Error> {
        let model = shape_of(dir)?;
        let root =
            resolved::state_root(&graph_of(&model)?, state).map_err(|e| Error::Model(e.to_string()))?;
        let mut files = Vec::new();
        for path in names(dir)? {
            let from = dir.join(&path);
            let (sha256, size) = files::digest(&from)?;
            progress(size);
            files.push(FileEntry { path, size, sha256 });
        }
        let manifest = Self { files, format: FORMAT.into(), model, state_root: root };
        manifest.check().map_err(|problem| Error::refused(dir, problem))?;
        Ok(manifest)
    }

    /// Reads a manifest's bytes. Only the canonical form is accepted: the digest of a manifest is the digest of its bytes.
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
            return Err(format!("format: is {:?}, not {FORMAT:?}", super::shown(&self.format)));
        }
        self.model.validate().map_err(|error| error.to_string())?;
        let limits: Vec<u64> = match self.names().as_slice() {
            [CONFIG_FILE, MODEL_FILE] => vec![MAX_CONFIG, MAX_FILE],
            [CONFIG_FILE, INDEX_FILE, shards @ ..] => {
                let sorted = shards.windows(2).all(|pair| pair.first() < pair.last());
                if !sorted || shards.is_empty() || shards.len() > MAX_SHARDS {
                    return Err(format!(
                        "files: want 1 to {MAX_SHARDS} of weights, sorted by name, each once"
                    ));
                }
                if let Some(name) = shards.iter().find(|name| !is_plain(name) || **name == MODEL_FILE) {
                    return Err(format!("files: {:?} is no name of a file of several", super::shown(name)));
                }
                [MAX_CONFIG, MAX_INDEX].into_iter().chain(shards.iter().map(|_| MAX_FILE)).collect()
            }
            _ => {
                return Err(format!(
                    "files: are not {CONFIG_FILE} and then {MODEL_FILE}, or {INDEX_FILE} and the files it names"
                ));
            }
        };
        for (part, limit) in self.files.iter().zip(limits) {
            if !(1..=limit).contains(&part.size) {
                return Err(format!("files: {} has {} bytes; 1 to {limit} are taken", part.path, part.size));
            }
        }
        Ok(())
    }

    fn names(&self) -> Vec<&str> {
        self.files.iter().map(|part| part.path.as_str()).collect()
    }

    /// The canonical bytes.
    ///
    /// # Errors
    /// [`Error::Model`] for sizes beyond 2^53.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        jcs::serialize(self).map_err(|error| Error::Model(error.to_string()))
    }

    /// What names the model: SHA-256 of its canonical bytes.
    ///
    /// # Errors
    /// As [`Manifest::to_bytes`].
    pub fn digest(&self) -> Result<Digest, Error> {
        Ok(Digest::of(&self.to_bytes()?))
    }

    /// All files: `config.json` first, then what the weights are in.
    #[must_use]
    pub fn files(&self) -> &[FileEntry] {
        &self.files
    }

    /// Its shape. The context is the longest that it can have.
    #[must_use]
    pub fn model(&self) -> &ModelSpec {
        &self.model
    }

    /// The StateRoot of its weights as state 0.
    #[must_use]
    pub fn state_root(&self) -> Digest {
        self.state_root
    }

    /// What a job's model has otherwise than this one, in words; nothing if the job may begin with it.
    #[must_use]
    pub fn differences(&self, job: &ModelSpec) -> Vec<String> {
        differences(job, &self.model)
    }
}

/// The files of a model's directory, in the manifest's order.
fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let index = dir.join(INDEX_FILE);
    if !index.exists() {
        return Ok(vec![CONFIG_FILE.into(), MODEL_FILE.into()]);
    }
    let map = parse_index(&files::read_regular(&index, MAX_INDEX)?);
    let map = map.map_err(|problem| Error::refused(&index, problem))?;
    let shards: BTreeSet<String> = map.into_values().collect();
    Ok([CONFIG_FILE, INDEX_FILE].map(String::from).into_iter().chain(shards).collect())
}

/// Bytes that are read to load the directory `dir` and to make its manifest, for a bar. Of what cannot be read there are none.
#[must_use]
pub fn bytes_of(dir: &Path) -> u64 {
    let sizes = names(dir).unwrap_or_default().into_iter().filter_map(|name| {
        let size = fs::metadata(dir.join(&name)).named("inspect", &dir.join(&name)).ok()?.len();
        // Values are read once as numbers and once as bytes.
        Some(if name.ends_with(".safetensors") { 2 * size } else { size })
    });
    sizes.sum()
}
