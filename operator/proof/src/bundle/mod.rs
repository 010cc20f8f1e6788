//! A job's proof as a directory (docs/spec/bundle.md): `bundle.json` and files that are named by their SHA-256. What a stranger
//! needs to check a result offline, and the check.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the list `bundle.json`, and where files come from |
//! | `subject` | which records are a job's, and which are about keys |
//! | `manifest` | what a checkpoint's manifest says |
//! | `report` | what was checked, and what came out |
//! | `log`, `job` | the checks: of the log and its records, of the job and its states |
//! | `verify` | all of them, in their order |
//!
//! What must not live here: anything that believes a file before its digest was taken.

use serde::{Deserialize, Serialize};

use crate::records::fields::{JobId, Nonce, Origin};
use crate::{Digest, jcs};

mod contents;
mod job;
mod log;
mod manifest;
mod openings;
mod report;
pub mod subject;
mod verify;

pub use manifest::{File as ManifestFile, Manifest};
pub use report::{Check, Counts, Head, Outcome, Report, State};
pub use verify::{Options, Trust, verify_bundle};

/// The list's name in the directory.
pub const FILE: &str = "bundle.json";
/// The list's format.
pub const FORMAT: &str = "muster.bundle/1";
/// Most bytes of the list.
pub const MAX_LIST: usize = 64 << 20;
/// Most bytes of all entries of a log that a bundle takes along.
pub const MAX_ENTRIES: u64 = 16 << 20;
/// Most records of a bundle.
pub const MAX_RECORDS: usize = 1 << 17;
/// Most manifests, states' files or openings of a bundle, each.
pub const MAX_PARTS: usize = 1 << 17;
/// Most bytes of a file that is read as a whole: every kind but the states'.
pub const MAX_FILE: u64 = 64 << 20;

/// Why bytes are not a bundle's list.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Longer than [`MAX_LIST`].
    #[error("{FILE} has {0} bytes, at most {MAX_LIST} are read")]
    TooLong(usize),
    /// Not canonical JSON of its fields.
    #[error("{FILE}: {0}")]
    Json(#[from] jcs::Error),
    /// Another format.
    #[error("{FILE}: format is {0:?}, want {FORMAT:?}; take a Muster that knows it")]
    Format(String),
    /// A list is too long or not in its order.
    #[error("{FILE}: {field}: {want}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wanted.
        want: &'static str,
    },
}

/// A file of the bundle: its name in the directory is the hex of its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    /// SHA-256 of its bytes.
    pub sha256: Digest,
    /// Its length.
    pub size: u64,
}

impl FileRef {
    /// The reference to a file with these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self { sha256: Digest::of(bytes), size: bytes.len() as u64 }
    }

    /// Its name in the directory.
    pub fn name(&self) -> String {
        self.sha256.to_hex()
    }
}

/// A record that the bundle shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecordRef {
    /// The DSSE envelope in canonical JSON.
    pub envelope: FileRef,
    /// Its number in the log, from 0.
    pub index: u64,
    /// The log entry's bytes; null if the bundle has all entries.
    #[serde(deserialize_with = "Option::deserialize")]
    pub leaf: Option<FileRef>,
    /// The inclusion path to the checkpoint's root, nearest sibling first.
    pub proof: Vec<Digest>,
}

/// The step records of a commit, and what opens its seal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OpeningRef {
    /// Record id of the commit.
    pub commit: Digest,
    /// The list of its records (formats.md, "Steps").
    pub records: FileRef,
    /// The salt of its seal.
    pub salt: Nonce,
}

/// What the bundle's maker says about whom to believe. Nothing is believed because it stands here, unless the verifier asks for
/// that weak check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hints {
    /// The verifier key of the log, which has signed the checkpoint.
    pub log: String,
    /// Verifier keys of witnesses that have cosigned it.
    pub witnesses: Vec<String>,
}

/// The list of a bundle's files by what they are for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bundle {
    /// [`FORMAT`].
    pub format: String,
    /// The signed head of the log, with cosignatures.
    pub checkpoint: FileRef,
    /// The dataset's manifest.
    pub dataset: FileRef,
    /// All entries of the log up to the checkpoint, as C2SP entry bundles, all full but the last; null if they are too many.
    #[serde(deserialize_with = "Option::deserialize")]
    pub entries: Option<Vec<FileRef>>,
    /// Whom the maker would believe.
    pub hints: Hints,
    /// The job.
    pub job: JobId,
    /// Manifests of checkpoints, ascending by digest.
    pub manifests: Vec<FileRef>,
    /// Openings that the maker may show, ascending by commit.
    pub openings: Vec<OpeningRef>,
    /// The log's origin.
    pub origin: Origin,
    /// The job's records and all about keys, ascending by index.
    pub records: Vec<RecordRef>,
    /// The resolved spec.
    pub spec: FileRef,
    /// Files of checkpoints that manifests here name, ascending by digest.
    pub states: Vec<FileRef>,
}

impl Bundle {
    /// Reads the list.
    ///
    /// # Errors
    /// [`Error`]: there is one spelling of each list.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_LIST {
            return Err(Error::TooLong(bytes.len()));
        }
        let bundle: Self = jcs::deserialize_canonical(bytes)?;
        bundle.check()?;
        Ok(bundle)
    }

    /// The list's bytes.
    ///
    /// # Errors
    /// What [`Bundle::parse`] would refuse.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        self.check()?;
        Ok(jcs::serialize(self)?)
    }

    fn check(&self) -> Result<(), Error> {
        if self.format != FORMAT {
            return Err(Error::Format(self.format.chars().take(64).collect()));
        }
        let need = |good, field, want| if good { Ok(()) } else { Err(Error::Field { field, want }) };
        let ascending = |files: &[FileRef]| files.is_sorted_by(|a, b| a.sha256 < b.sha256);
        need(self.records.len() <= MAX_RECORDS, "records", "at most 131072")?;
        need(self.records.is_sorted_by(|a, b| a.index < b.index), "records", "ascending by index")?;
        let leafless = |record: &RecordRef| record.leaf.is_none() == self.entries.is_some();
        need(self.records.iter().all(leafless), "records", "`leaf` exactly where `entries` is null")?;
        let short = |record: &RecordRef| record.proof.len() <= crate::tlog::MAX_PROOF;
        need(self.records.iter().all(short), "records", "a proof of at most 63 hashes")?;
        for (field, files) in [("manifests", &self.manifests), ("states", &self.states)] {
            need(files.len() <= MAX_PARTS, field, "at most 131072")?;
            need(ascending(files), field, "ascending by digest, none twice")?;
        }
        need(self.openings.len() <= MAX_PARTS, "openings", "at most 131072")?;
        need(self.openings.is_sorted_by(|a, b| a.commit < b.commit), "openings", "ascending by commit")?;
        need(
            self.hints.witnesses.len() <= crate::tlog::note::MAX_SIGNATURES,
            "hints",
            "at most 64 witnesses",
        )?;
        let entries = self.entries.as_deref().unwrap_or_default();
        let bytes = entries.iter().try_fold(0u64, |sum, file| sum.checked_add(file.size));
        // A length before each entry is no entry's byte, but there are no more than 2 in 300.
        need(bytes.is_some_and(|bytes| bytes <= 2 * MAX_ENTRIES), "entries", "at most 32 MiB")
    }

    /// Every file that is listed, with what it is for.
    pub fn files(&self) -> Vec<(&'static str, FileRef)> {
        let mut files = vec![("checkpoint", self.checkpoint), ("spec", self.spec), ("dataset", self.dataset)];
        files.extend(self.entries.iter().flatten().map(|file| ("entries", *file)));
        for record in &self.records {
            files.push(("envelope", record.envelope));
            files.extend(record.leaf.map(|leaf| ("leaf", leaf)));
        }
        files.extend(self.manifests.iter().map(|file| ("manifest", *file)));
        files.extend(self.openings.iter().map(|opening| ("step records", opening.records)));
        files.extend(self.states.iter().map(|file| ("state", *file)));
        files
    }
}

/// Where a bundle's files come from.
pub trait Files {
    /// The bytes of a file of at most `max` bytes; `None` if there is none of this name.
    ///
    /// # Errors
    /// A sentence: it cannot be read, or is longer.
    fn read(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>, String>;

    /// SHA-256 and length of a file that may be too long to be read at once.
    ///
    /// # Errors
    /// A sentence.
    fn digest(&self, name: &str) -> Result<Option<(Digest, u64)>, String> {
        Ok(self.read(name, MAX_FILE)?.map(|bytes| (Digest::of(&bytes), bytes.len() as u64)))
    }
}

/// Files in memory.
impl Files for std::collections::BTreeMap<String, Vec<u8>> {
    fn read(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>, String> {
        match self.get(name) {
            Some(bytes) if bytes.len() as u64 > max => Err(format!("has more than {max} bytes")),
            found => Ok(found.cloned()),
        }
    }
}

#[cfg(test)]
mod tests;
