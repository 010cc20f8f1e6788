//! What a replay reads, out of the store onto a disk: spec, dataset, start checkpoint, each file against its digest. The
//! dataset stays for the next audit of it.
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use futures::TryStreamExt as _;
use muster_proof::Digest;
use muster_proof::inputs::Inputs;
use muster_trainer::checkpoint::{self, MANIFEST_FILE, MAX_MANIFEST, Manifest, Store as Checkpoints};
use muster_trainer::resolved::MAX_SPEC;
use muster_trainer::{dataset, hf};
use sha2::{Digest as _, Sha256};

use super::task::{Start, Task};
use crate::runtime::files::{Access, create_private_dir, if_there, write_atomic};
use crate::store::Store;

const DATA: &str = "data";
const EVAL_DATA: &str = "eval-data";
const INIT: &str = "init";
const RUN: &str = "run";

/// Why there is nothing to replay from.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The store or the disk.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The store does not have it.
    #[error("the store does not have {what}, {digest}; an audit needs it until its verdict")]
    Missing {
        /// Of what.
        what: &'static str,
        /// Which blob.
        digest: Digest,
    },
    /// The store has something else under its name.
    #[error("{what}, {digest}, is damaged in the store: {problem}")]
    Damaged {
        /// Of what.
        what: &'static str,
        /// Which blob.
        digest: Digest,
        /// How.
        problem: String,
    },
    /// The start checkpoint is not the state that was committed.
    #[error("the start checkpoint after step {step} has StateRoot {got}, committed is {want}")]
    Start {
        /// Its step.
        step: u64,
        /// Committed.
        want: Digest,
        /// Computed from its tensors.
        got: Digest,
    },
}

/// An interval that may be replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Laid {
    /// The resolved spec.
    pub spec: PathBuf,
    /// The dataset's directory.
    pub data: PathBuf,
    /// That of the data that the job is evaluated on, if it is.
    pub eval_data: Option<PathBuf>,
    /// That of the model whose weights it begins with, if the interval is the first of such a job.
    pub init: Option<PathBuf>,
    /// The job directory, with the start checkpoint unless it begins at genesis.
    pub out: PathBuf,
    /// The state to start from.
    pub start: u64,
    /// The interval's last step.
    pub last: u64,
}

/// Brings all that the replay of `task` reads below `work`.
///
/// # Errors
/// [`FetchError`].
pub async fn lay_out(store: &Store, work: &Path, task: &Task) -> Result<Laid, FetchError> {
    create_private_dir(work)?;
    let out = work.join(RUN);
    if_there(fs::remove_dir_all(&out))?;
    fs::create_dir_all(&out)?;
    let spec = out.join("spec.json");
    let bytes = small(store, "the spec", &task.spec, MAX_SPEC).await?;
    write_atomic(&spec, &bytes, Access::Private)?;
    let inputs = Inputs::of_spec(&bytes).map_err(|error| damaged("the spec", &task.spec, &error))?;
    let trained_on = data(store, &work.join(DATA), &task.dataset).await?;
    let eval_data = match inputs.held_out {
        Some(held_out) => Some(data(store, &work.join(EVAL_DATA), &held_out).await?),
        None => None,
    };
    let init = match (inputs.init, &task.start) {
        (Some(given), None) => Some(model(store, &out.join(INIT), &given).await?),
        _ => None,
    };
    if let Some(start) = &task.start {
        checkpoint(store, &out, start).await?;
    }
    let start = task.start.as_ref().map_or(0, |start| start.step);
    Ok(Laid { spec, data: trained_on, eval_data, init, out, start, last: task.last })
}

/// The dataset in `all/<hex of its manifest>`; another one goes. Its manifest is written last: with it all is there.
async fn data(store: &Store, all: &Path, digest: &Digest) -> Result<PathBuf, FetchError> {
    let what = "the dataset";
    let dir = all.join(digest.to_hex());
    if dir.join(dataset::MANIFEST_FILE).is_file() {
        return Ok(dir);
    }
    if_there(fs::remove_dir_all(all))?;
    fs::create_dir_all(&dir)?;
    let bytes = small(store, what, digest, dataset::MAX_MANIFEST).await?;
    let manifest = dataset::Manifest::parse(&bytes).map_err(|error| damaged(what, digest, &error))?;
    for shard in manifest.shards() {
        file(store, what, &shard.sha256, shard.size, &dir.join(&shard.path)).await?;
    }
    write_atomic(&dir.join(dataset::MANIFEST_FILE), &bytes, Access::Private)?;
    Ok(dir)
}

/// The files of a model; whether they are the job's state 0 is for the trainer to see.
async fn model(store: &Store, dir: &Path, digest: &Digest) -> Result<PathBuf, FetchError> {
    let what = "the model to begin with";
    fs::create_dir_all(dir)?;
    let bytes = small(store, what, digest, hf::MAX_MANIFEST).await?;
    let manifest = hf::Manifest::parse(&bytes).map_err(|problem| damaged(what, digest, &problem))?;
    for part in manifest.files() {
        file(store, what, &part.sha256, part.size, &dir.join(&part.path)).await?;
    }
    Ok(dir.to_owned())
}

/// The start checkpoint, once its tensors are seen to have the StateRoot that was committed.
async fn checkpoint(store: &Store, out: &Path, start: &Start) -> Result<(), FetchError> {
    let what = "the start checkpoint";
    let dir = Checkpoints::new(out).path(start.step);
    fs::create_dir_all(&dir)?;
    let bytes = small(store, what, &start.manifest, MAX_MANIFEST).await?;
    let manifest = Manifest::parse(&bytes).map_err(|error| damaged(what, &start.manifest, &error))?;
    for entry in manifest.files() {
        file(store, what, &entry.sha256, entry.size, &dir.join(&entry.path)).await?;
    }
    write_atomic(&dir.join(MANIFEST_FILE), &bytes, Access::Private)?;
    let read = tokio::task::spawn_blocking(move || checkpoint::open(&dir)).await.map_err(io::Error::other)?;
    let (.., manifest) = read.map_err(|error| damaged(what, &start.manifest, &error))?;
    let (want, got) = (start.state_root, manifest.state_root());
    if got == want { Ok(()) } else { Err(FetchError::Start { step: start.step, want, got }) }
}

async fn small(store: &Store, what: &'static str, digest: &Digest, max: u64) -> Result<Vec<u8>, FetchError> {
    store.read(digest, max).await?.ok_or(FetchError::Missing { what, digest: *digest })
}

/// A blob of known size as a file.
async fn file(
    store: &Store,
    what: &'static str,
    digest: &Digest,
    size: u64,
    to: &Path,
) -> Result<(), FetchError> {
    let stream = store.stream(digest, 0..size).await?;
    let mut stream = stream.ok_or(FetchError::Missing { what, digest: *digest })?;
    let (mut sha, mut got) = (Sha256::new(), 0u64);
    let mut file = fs::File::create(to)?;
    while let Some(piece) = stream.try_next().await? {
        sha.update(&piece);
        got += piece.len() as u64;
        file.write_all(&piece)?;
    }
    if (Digest::from_bytes(sha.finalize().into()), got) == (*digest, size) {
        return Ok(());
    }
    drop(fs::remove_file(to));
    Err(damaged(what, digest, &"its bytes are others"))
}

fn damaged(what: &'static str, digest: &Digest, problem: &dyn std::fmt::Display) -> FetchError {
    FetchError::Damaged { what, digest: *digest, problem: problem.to_string() }
}

#[cfg(test)]
pub(super) mod tests;
