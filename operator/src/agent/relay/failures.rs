//! Failures: what a step that is not finite must satisfy before the log is asked to take it. It stands where the interval's commit
//! would, under the same terms; of a replay it is what its auditor seals.
use muster_proof::key::PublicKey;
use muster_trainer::commit;
use muster_trainer::failed::{self, Failed};
use muster_trainer::protocol::FailureNotice;

use super::Relay;
use super::bindings;
use super::checkpoints::CommitError;
use super::identity::Worker;
use super::terms::next;
use crate::agent::commits::Ended;
use crate::agent::state::{self, UnitState};
use crate::agent::units::{Unit, is_live};
use crate::runtime::blobdir::PutError;

impl Relay {
    /// Checks and records a failure. Whether the log has it is in the unit's state.
    ///
    /// # Errors
    /// See [`CommitError`]; nothing is recorded.
    pub(super) async fn fail(
        &self,
        unit: &Unit,
        worker: &Worker,
        key: &PublicKey,
        notice: FailureNotice,
    ) -> Result<(), CommitError> {
        let _only_one = unit.committing.lock().await;
        let state = unit.state().await;
        let number = notice.failed_step;
        let step = i64::try_from(number).map_err(|_| CommitError::NotABoundary(number))?;
        let terms = self.terms_of_failed(&state, number)?;
        let record = failed::check(&notice, &terms, key).map_err(|error| match error {
            commit::Error::Terms(_) => CommitError::TermsChanged,
            error => error.into(),
        })?;
        follows(&state, &notice, step)?;
        if let Some(known) = &state.failure {
            // A pod asks again and again until the log has it, and a new attempt comes to the same step.
            return match known.record == record {
                true => Ok(()),
                false => Err(CommitError::Conflict { step, known: known.record, got: record }),
            };
        }
        let wrong = |error: failed::FailedError| CommitError::Field {
            field: "records",
            got: error.to_string(),
            want: "those of the steps before".to_owned(),
        };
        let ended = Failed::new(number, notice.before, notice.records.clone()).map_err(wrong)?;
        let found = (record, ended.state_root(), ended.records().root());
        self.answer_for(&state, &terms, found).await?;
        let kept = Ended { failure: notice.failure, records: notice.records };
        unit.keep_failure(step, kept).await.map_err(PutError::from)?;
        let failure = state::Failed { step, record, attempt: worker.attempt, durable: false };
        let recorded = unit.update(|state| {
            if !is_live(state, worker.attempt) {
                return Err(CommitError::Over);
            }
            let due = state.payload.as_ref().and_then(|payload| next(state, payload));
            if due.is_none_or(|due| due.previous != terms.previous || due.first != terms.first_step.get()) {
                return Err(CommitError::TermsChanged);
            }
            bindings::ensure(state, worker, key, &self.identity)?;
            state.failure = Some(failure);
            Ok(())
        });
        recorded.await.map_err(PutError::from)??;
        unit.committed.notify_one();
        unit.wake.notify_one();
        Ok(())
    }
}

/// If the interval's first step failed, the state before is the one that was committed last.
fn follows(state: &UnitState, notice: &FailureNotice, step: i64) -> Result<(), CommitError> {
    let before = state.newest().filter(|newest| newest.step + 1 == step).map(|newest| newest.state_root);
    match before {
        Some(want) if want != notice.before => Err(CommitError::Field {
            field: "before",
            got: notice.before.to_string(),
            want: format!("{want}, the state that was committed"),
        }),
        _ => Ok(()),
    }
}
