//! Commits: what a checkpoint must satisfy before anyone may start from it.
use axum::http::StatusCode;
use muster_proof::Digest;
use muster_trainer::checkpoint;
use muster_trainer::protocol::CheckpointNotice;

use super::Relay;
use super::blobs::read_manifest;
use crate::agent::state::{Commit, UnitState};
use crate::agent::units::Unit;
use crate::runtime::blobdir::{BlobDir, PutError};

/// Why a checkpoint is not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Not all of its blobs were put.
    #[error("blob {0} of the checkpoint is not here; put it, then commit again")]
    MissingBlob(Digest),
    /// A file has another size than the manifest says.
    #[error("blob {digest} has {got} bytes, the manifest says {want}")]
    Size {
        /// Which file.
        digest: Digest,
        /// Its size.
        got: u64,
        /// The size it should have.
        want: u64,
    },
    /// The manifest's bytes are not a manifest.
    #[error("manifest: {0}")]
    Manifest(String),
    /// The manifest says something else than the notice or the unit.
    #[error("{field} is {got}, want {want}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it is.
        got: String,
        /// What it should be.
        want: String,
    },
    /// The step is not one at which checkpoints are made.
    #[error("step {0} is neither the end of an interval nor the last step")]
    NotABoundary(u64),
    /// There are other bits for this step: the one thing that must never happen.
    #[error("step {step} was committed before as {known}, now as {got}: training is not reproducible here")]
    Conflict {
        /// Which step.
        step: i64,
        /// The first commit.
        known: Digest,
        /// This one.
        got: Digest,
    },
    /// The cache.
    #[error("blob cache: {0}")]
    Cache(#[from] PutError),
}

impl CommitError {
    /// The answer's code.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::MissingBlob(_) => StatusCode::CONFLICT,
            Self::Cache(error) => error.status(),
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

impl Relay {
    /// Checks and records a checkpoint. Whether the hub has it is told by [`Unit::durable`].
    ///
    /// # Errors
    /// See [`CommitError`]; nothing is recorded.
    pub(super) async fn commit(&self, unit: &Unit, notice: &CheckpointNotice) -> Result<(), CommitError> {
        check(&self.blobs, &unit.state().await, notice).await?;
        let step = i64::try_from(notice.step).map_err(|_| CommitError::NotABoundary(notice.step))?;
        let commit =
            Commit { step, manifest: notice.manifest, state_root: notice.state_root, durable: false };
        // A pod asks again and again until the hub has it: only the first time is news.
        if unit.update(|state| record(state, commit)).await.map_err(PutError::from)?? == Recorded::New {
            unit.committed.notify_one();
            unit.wake.notify_one();
        }
        Ok(())
    }
}

/// Everything that can be said of a checkpoint without computing.
async fn check(blobs: &BlobDir, state: &UnitState, notice: &CheckpointNotice) -> Result<(), CommitError> {
    let Some(payload) = &state.payload else { return Err(CommitError::Manifest("no such unit".to_owned())) };
    let (steps, interval) = (payload.steps.unsigned_abs(), payload.interval_steps.unsigned_abs().max(1));
    if notice.step == 0
        || notice.step > steps
        || (!notice.step.is_multiple_of(interval) && notice.step != steps)
    {
        return Err(CommitError::NotABoundary(notice.step));
    }
    let bytes =
        read_manifest(blobs, &notice.manifest).await?.ok_or(CommitError::MissingBlob(notice.manifest))?;
    let manifest = checkpoint::Manifest::parse(&bytes).map_err(|e| CommitError::Manifest(e.to_string()))?;
    let field = |field, got: String, want: String| {
        if got == want { Ok(()) } else { Err(CommitError::Field { field, got, want }) }
    };
    field("manifest.step", manifest.step().to_string(), notice.step.to_string())?;
    field("manifest.stateRoot", manifest.state_root().to_string(), notice.state_root.to_string())?;
    field(
        "manifest.trainingDigest",
        manifest.training_digest().to_string(),
        payload.training_digest.to_string(),
    )?;
    for file in manifest.files() {
        match blobs.size(&file.sha256).await.map_err(PutError::from)? {
            None => return Err(CommitError::MissingBlob(file.sha256)),
            Some(size) if size == file.size => {}
            Some(got) => return Err(CommitError::Size { digest: file.sha256, got, want: file.size }),
        }
    }
    Ok(())
}

/// Adds the commit. A step that is there already must be the same state: a new round may pass old steps again.
fn record(state: &mut UnitState, commit: Commit) -> Result<Recorded, CommitError> {
    if let Some(known) = state.checkpoints.iter().find(|known| known.step == commit.step) {
        if (known.manifest, known.state_root) == (commit.manifest, commit.state_root) {
            return Ok(Recorded::Before);
        }
        return Err(CommitError::Conflict { step: commit.step, known: known.manifest, got: commit.manifest });
    }
    // An older step than the newest one was forgotten by keepLast, or never known here: nobody needs it again.
    if state.newest().is_some_and(|newest| newest.step > commit.step) {
        return Ok(Recorded::Before);
    }
    state.checkpoints.push(commit);
    Ok(Recorded::New)
}

/// What a commit did.
#[derive(Debug, PartialEq, Eq)]
enum Recorded {
    New,
    Before,
}

/// Splits off what `keep_last` no longer covers. The newest durable one always stays: it is the hub's.
pub fn prune(state: &mut UnitState, keep_last: i64) -> Vec<Commit> {
    let keep = usize::try_from(keep_last).unwrap_or(1).max(1);
    let durable = state.newest_durable().map(|commit| commit.step);
    let cut = state.checkpoints.len().saturating_sub(keep);
    let old: Vec<Commit> = state.checkpoints.drain(..cut).collect();
    let (stay, go): (Vec<_>, Vec<_>) = old.into_iter().partition(|commit| Some(commit.step) == durable);
    state.checkpoints.splice(0..0, stay);
    go
}
