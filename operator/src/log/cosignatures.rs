//! What witnesses add to heads: one file for each head that has a cosignature, the whole note with all of them. The newest are
//! kept; how many are enough is the reader's to say.
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use muster_proof::tlog::checkpoint::SignedCheckpoint;
use muster_proof::tlog::cosignature;
use muster_proof::tlog::note::{self, MAX_NOTE, VerifierKey};

use super::disk::{Disk, Writing};
use super::layout;
use super::published::Published;

/// Heads with cosignatures that are kept.
const KEPT: usize = 64;

/// Who is believed as a witness.
pub trait Witnesses: Send + Sync + 'static {
    /// Name of a provider, and the key of its witness.
    fn witness_keys(&self) -> Vec<(String, VerifierKey)>;
}

/// Before there is a history that names them, nobody is.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoWitnesses;

impl Witnesses for NoWitnesses {
    fn witness_keys(&self) -> Vec<(String, VerifierKey)> {
        Vec::new()
    }
}

/// Why cosignatures are not kept.
#[derive(Debug, thiserror::Error)]
pub enum CosignError {
    /// Not note signature lines.
    #[error("the cosignatures: {0}")]
    Lines(#[from] note::Error),
    /// Of a key that no provider has.
    #[error(
        "signature line {line} is of {name}, which is no witness that the log knows; log the provider's key first"
    )]
    UnknownWitness {
        /// Counted from 1.
        line: usize,
        /// The key's name.
        name: String,
    },
    /// Of another head, or no signature at all.
    #[error("the cosignatures of the head of size {size}: {source}")]
    Bad {
        /// The head's size.
        size: u64,
        /// Why.
        source: cosignature::Error,
    },
    /// Too old, or never published.
    #[error("no head of size {0} was published lately; cosign the newest")]
    UnknownHead(u64),
    /// The disk.
    #[error("cosignatures cannot be kept: {0}")]
    Io(#[from] io::Error),
}

/// See the module.
pub struct Cosignatures {
    disk: Arc<dyn Disk>,
    key: VerifierKey,
    kept: Mutex<Kept>,
}

struct Kept {
    notes: BTreeMap<u64, SignedCheckpoint>,
    folders: BTreeSet<String>,
}

impl Cosignatures {
    /// Reads what is kept. A file that is not a head of this log is left alone and not shown: nothing depends on it.
    ///
    /// # Errors
    /// Any of the disk.
    pub fn open(disk: Arc<dyn Disk>, key: VerifierKey) -> io::Result<Self> {
        let mut notes = BTreeMap::new();
        for name in disk.list(layout::COSIGNATURES)? {
            if name.starts_with('.') {
                disk.remove(&format!("{}/{name}", layout::COSIGNATURES))?;
                continue;
            }
            match read(disk.as_ref(), &key, &name)? {
                Some(note) => {
                    notes.insert(note.checkpoint().size(), note);
                }
                None => tracing::warn!(name, "cosignatures: not a head of this log, and not shown"),
            }
        }
        let kept = Mutex::new(Kept { notes, folders: BTreeSet::new() });
        Ok(Self { disk, key, kept })
    }

    /// Verifies note signature lines for the published head of this size and keeps them; durable when this returns. Blocks.
    /// Returns how many were new.
    ///
    /// # Errors
    /// [`CosignError`]; then none was kept.
    pub fn add(
        &self,
        published: &Published,
        size: u64,
        lines: &[u8],
        witnesses: &dyn Witnesses,
    ) -> Result<usize, CosignError> {
        let lines = note::parse_signatures(lines)?;
        let witnesses: Vec<_> = witnesses.witness_keys().into_iter().map(|(_, key)| key).collect();
        for (line, signature) in lines.iter().enumerate() {
            if !witnesses.iter().any(|witness| signature.is_by(witness)) {
                return Err(CosignError::UnknownWitness {
                    line: line + 1,
                    name: signature.name().to_string(),
                });
            }
        }
        let head = published.head(size);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut note = match (kept.notes.get(&size), head) {
            (Some(note), _) => note.clone(),
            (None, Some(head)) => {
                let opened = SignedCheckpoint::open(head.note.as_bytes(), std::slice::from_ref(&self.key));
                opened.map_err(|error| CosignError::Io(io::Error::other(error)))?
            }
            (None, None) => return Err(CosignError::UnknownHead(size)),
        };
        let taken = note.merge(&lines, &witnesses).map_err(|source| CosignError::Bad { size, source })?;
        if taken == 0 {
            return Ok(0);
        }
        let mut writing = Writing::new(self.disk.as_ref(), &mut kept.folders);
        writing.put(&layout::cosignatures(size), note.to_string().as_bytes())?;
        writing.finish()?;
        kept.notes.insert(size, note);
        while kept.notes.len() > KEPT
            && let Some((oldest, _)) = kept.notes.pop_first()
        {
            self.disk.remove(&layout::cosignatures(oldest))?;
        }
        Ok(taken)
    }

    /// The newest head with at least `least` cosignatures, with all of them.
    #[must_use]
    pub fn newest(&self, least: usize) -> Option<SignedCheckpoint> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // The first signature is the log's own.
        kept.notes.values().rev().find(|note| note.note().signatures().len() > least).cloned()
    }
}

/// A head with its cosignatures, if the file holds one of this size.
pub fn read(disk: &dyn Disk, key: &VerifierKey, name: &str) -> io::Result<Option<SignedCheckpoint>> {
    let path = format!("{}/{name}", layout::COSIGNATURES);
    let bytes = match disk.read(&path, MAX_NOTE as u64) {
        Ok(bytes) => bytes.unwrap_or_default(),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(None),
        Err(error) => return Err(error),
    };
    let note = SignedCheckpoint::open(&bytes, std::slice::from_ref(key)).ok();
    Ok(note.filter(|note| note.checkpoint().size().to_string() == name))
}
