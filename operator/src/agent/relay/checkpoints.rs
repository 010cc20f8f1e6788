//! Commits: what a checkpoint must satisfy before anyone may start from it, and before the log is asked to take it.
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use muster_proof::Digest;
use muster_proof::dsse;
use muster_proof::evaluation::{self, Evaluation};
use muster_proof::key::PublicKey;
use muster_proof::records::{self, Payload as _};
use muster_proof::steps::{self, Records};
use muster_trainer::checkpoint::{self, SignedError, check_signed};
use muster_trainer::commit;
use muster_trainer::protocol::{CheckpointNotice, Conflict, Terms};

use super::Relay;
use super::bindings::{self, BindingError};
use super::blobs::read_manifest;
use super::identity::Worker;
use super::terms::{TermsError, due, epoch_of, is_boundary};
use crate::agent::answers::AnswerError;
use crate::agent::commits::Committed;
use crate::agent::state::{Commit, UnitState};
use crate::agent::units::{Unit, is_live};
use crate::runtime::blobdir::{BlobDir, PutError};

/// While so many commits of a unit wait for the log, no more are taken.
pub const MAX_WAITING: usize = 256;

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
    /// It names what does not hold any more: a predecessor, or a grant.
    #[error("the commit is not after the terms of its interval; ask for them and sign anew")]
    TermsChanged,
    /// It is not what the interval's commit must be.
    #[error(transparent)]
    Commit(#[from] commit::Error),
    /// What is said of its files is not signed by the bound key, or not what the manifest says.
    #[error(transparent)]
    Model(#[from] SignedError),
    /// Not signed by the bound key alone.
    #[error("BadCommit: commit: {0}; sign it with the key that is bound to rank 0")]
    Signature(#[from] dsse::Error),
    /// Not a commit.
    #[error("BadCommit: commit: {0}")]
    Record(#[from] records::Error),
    /// Records that are none.
    #[error("BadCommit: records: {0}")]
    Records(#[from] steps::Error),
    /// It says that the stop rule ends the job there, or that it does not, and the records say otherwise.
    #[error("BadCommit: commit: ends is {said}, by the spec's stop rule and the records it is {ends}")]
    Ends {
        /// What it says.
        said: bool,
        /// What follows from the records.
        ends: bool,
    },
    /// Records with an evaluation loss where none belongs, or without one.
    #[error("BadCommit: records: {0}")]
    Evaluation(#[from] evaluation::Error),
    /// It cannot be answered for.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// Too many wait.
    #[error("Busy: {MAX_WAITING} commits of the unit wait for the hub's log; try again later")]
    Busy,
    /// The attempt ended meanwhile.
    #[error("the attempt is over; exit")]
    Over,
    /// The key's binding cannot be recorded.
    #[error(transparent)]
    Binding(#[from] BindingError),
    /// There are no terms to measure it by.
    #[error(transparent)]
    Terms(TermsError),
    /// The cache, or the state directory.
    #[error("the agent's disk: {0}")]
    Cache(#[from] PutError),
}

impl From<TermsError> for CommitError {
    fn from(error: TermsError) -> Self {
        match error {
            TermsError::NotNext(_) => Self::TermsChanged,
            TermsError::NotABoundary(step) => Self::NotABoundary(step),
            TermsError::Committed(step) => Self::Field {
                field: "failedStep",
                got: step.to_string(),
                want: "a step after the last commit".to_owned(),
            },
            TermsError::Over => Self::Over,
            TermsError::Io(error) => Self::Cache(error.into()),
            error @ TermsError::Unfit(_) => Self::Terms(error),
        }
    }
}

impl IntoResponse for CommitError {
    fn into_response(self) -> Response {
        let conflict = |conflict: Conflict| (StatusCode::CONFLICT, Json(conflict)).into_response();
        let status = match &self {
            Self::MissingBlob(_) => return conflict(Conflict::BlobMissing {}),
            Self::TermsChanged => return conflict(Conflict::TermsChanged {}),
            Self::Cache(error) => error.status(),
            Self::Answer(AnswerError::Io(_) | AnswerError::Record(_)) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Over => StatusCode::GONE,
            Self::Binding(_) | Self::Terms(_) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        };
        (status, format!("{self}\n")).into_response()
    }
}

impl Relay {
    /// What the unit's spec says of evaluation; `None` if no pod has read it here, or none could train by it.
    async fn evaluation(&self, state: &UnitState) -> Result<Option<Evaluation>, CommitError> {
        let Some(payload) = &state.payload else { return Ok(None) };
        let spec = read_manifest(&self.blobs, &payload.spec).await?;
        Ok(spec.and_then(|spec| Evaluation::of_spec(&spec).ok()))
    }

    /// Checks and records a checkpoint. Whether the log has it is told by [`Unit::durable`].
    ///
    /// # Errors
    /// See [`CommitError`]; nothing is recorded.
    pub(super) async fn commit(
        &self,
        unit: &Unit,
        worker: &Worker,
        key: &PublicKey,
        notice: CheckpointNotice,
    ) -> Result<(), CommitError> {
        let _only_one = unit.committing.lock().await;
        let state = unit.state().await;
        let step = i64::try_from(notice.step).map_err(|_| CommitError::NotABoundary(notice.step))?;
        let verified = notice.commit.verify_each(records::Commit::PAYLOAD_TYPE, &[key])?;
        let said = records::Commit::from_payload(verified.payload())?;
        let is_new = state.newest().is_none_or(|newest| newest.step < step);
        // The blobs of what was committed before may have gone up, and from here.
        if is_new {
            check(&self.blobs, &state, &notice, key).await?;
        }
        let terms = self.terms(unit, &state, notice.step).await?;
        if let Some(known) = state.checkpoints.iter().find(|known| known.step == step)
            && (known.manifest, known.state_root) != (notice.manifest, notice.state_root)
        {
            return Err(CommitError::Conflict { step, known: known.manifest, got: notice.manifest });
        }
        if !is_after(&said, &terms) {
            return Err(CommitError::TermsChanged);
        }
        let record = commit::check(&notice, &terms, key)?;
        if !is_new {
            // A pod asks again and again until the log has it, and a new round may pass old steps again.
            return match unit.committed_at(step).await.map_err(PutError::from)? {
                Some(known) if known.commit.record_id() == record => Ok(()),
                Some(known) => {
                    Err(CommitError::Conflict { step, known: known.commit.record_id(), got: record })
                }
                None => Err(CommitError::TermsChanged),
            };
        }
        let busy = state.checkpoints.iter().filter(|commit| !commit.durable).count() >= MAX_WAITING;
        if busy {
            return Err(CommitError::Busy);
        }
        let (manifest, state_root, attempt) = (notice.manifest, notice.state_root, worker.attempt);
        let records = Records::new(terms.first_step.get(), notice.records.clone())?;
        let evaluation = self.evaluation(&state).await?;
        if let Some(evaluation) = &evaluation {
            evaluation.check(records.as_slice())?;
        }
        let ends = evaluation.is_some_and(|evaluation| evaluation.ends(records.as_slice()));
        if said.ends != ends {
            return Err(CommitError::Ends { said: said.ends, ends });
        }
        self.answer_for(&state, &terms, (record, said.answer(), records.root())).await?;
        let committed = Committed {
            commit: notice.commit,
            model: notice.model,
            key: key.clone(),
            records: notice.records,
        };
        unit.keep(step, committed).await.map_err(PutError::from)?;
        let commit = Commit { step, manifest, state_root, record, attempt, durable: false, ends };
        let recorded = unit.update(|state| self.record(state, worker, key, &terms, commit));
        recorded.await.map_err(PutError::from)??;
        unit.committed.notify_one();
        unit.wake.notify_one();
        Ok(())
    }

    /// Keeps what an audit will ask for: what opens a commit, or, of a replay, what it has found.
    pub(super) async fn answer_for(
        &self,
        state: &UnitState,
        terms: &Terms,
        (record, state_root, root): (Digest, Digest, Digest),
    ) -> Result<(), CommitError> {
        let (answers, salt) = (self.answers.clone(), terms.salt);
        let assignment =
            state.payload.as_ref().and_then(|payload| payload.audit).map(|audit| audit.assignment);
        let keep = move || match assignment {
            Some(assignment) => answers.keep_replay(&assignment, state_root, root),
            None => Ok(answers.keep_commit(&record, root, salt)?),
        };
        let kept = tokio::task::spawn_blocking(keep).await.map_err(std::io::Error::other);
        Ok(kept.map_err(PutError::from)??)
    }

    /// Adds the commit, unless it has become another unit's, or another attempt's, to make.
    fn record(
        &self,
        state: &mut UnitState,
        worker: &Worker,
        key: &PublicKey,
        terms: &Terms,
        commit: Commit,
    ) -> Result<(), CommitError> {
        if !is_live(state, worker.attempt) {
            return Err(CommitError::Over);
        }
        let due = state.payload.as_ref().and_then(|payload| Some((epoch_of(payload), due(state, payload)?)));
        let is_due = due.is_some_and(|(epoch, due)| {
            (due.last, due.previous) == (terms.last_step.get(), terms.previous) && epoch == terms.epoch.get()
        });
        if !is_due {
            return Err(CommitError::TermsChanged);
        }
        bindings::ensure(state, worker, key, &self.identity)?;
        state.checkpoints.push(commit);
        Ok(())
    }
}

/// Whether a commit names what the terms name. What else it says is a mistake if it is wrong.
fn is_after(commit: &records::Commit, terms: &Terms) -> bool {
    let Terms { job, island, epoch, interval, first_step, last_step, previous, salt: _ } = terms;
    (&commit.job, &commit.island, &commit.epoch, &commit.interval) == (job, island, epoch, interval)
        && (&commit.first_step, &commit.last_step, &commit.previous) == (first_step, last_step, previous)
}

/// Everything that can be said of a checkpoint without computing.
async fn check(
    blobs: &BlobDir,
    state: &UnitState,
    notice: &CheckpointNotice,
    key: &PublicKey,
) -> Result<(), CommitError> {
    let Some(payload) = &state.payload else { return Err(CommitError::Manifest("no such unit".to_owned())) };
    if !is_boundary(payload, notice.step) {
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
    Ok(check_signed(&notice.model, &manifest, &notice.manifest, key)?)
}

/// Splits off what `keep_last` no longer covers of what is durable. The newest durable one always stays: the next round may
/// start from it.
pub fn prune(state: &mut UnitState, keep_last: i64) -> Vec<Commit> {
    let keep = usize::try_from(keep_last).unwrap_or(1).max(1);
    let newest_durable = state.newest_durable().map(|commit| commit.step);
    let cut = state.checkpoints.len().saturating_sub(keep);
    let old: Vec<Commit> = state.checkpoints.drain(..cut).collect();
    let stays = |commit: &Commit| !commit.durable || Some(commit.step) == newest_durable;
    let (stay, go): (Vec<_>, Vec<_>) = old.into_iter().partition(stays);
    state.checkpoints.splice(0..0, stay);
    go
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_log_has_is_let_go() {
        let digest = Digest::of(b"m");
        let commit = |step: i64, durable| Commit {
            step,
            manifest: digest,
            state_root: digest,
            record: digest,
            attempt: 1,
            durable,
            ends: false,
        };
        let mut state = UnitState {
            checkpoints: [20, 40, 60, 80, 100].map(|step| commit(step, step <= 40)).to_vec(),
            ..UnitState::default()
        };
        let steps = |commits: &[Commit]| commits.iter().map(|commit| commit.step).collect::<Vec<_>>();
        assert_eq!(steps(&prune(&mut state, 2)), [20]);
        assert_eq!(steps(&state.checkpoints), [40, 60, 80, 100]);
        state.checkpoints.iter_mut().for_each(|commit| commit.durable = true);
        assert_eq!(steps(&prune(&mut state, 2)), [40, 60]);
        assert_eq!(steps(&prune(&mut state, 0)), [80], "one always stays");
    }
}
