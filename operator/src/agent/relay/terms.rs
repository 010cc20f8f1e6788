//! What the commit of an interval must say (docs/spec/protocol.md section 3): who asks twice is told the same, so that the
//! record that comes of it is the same, whoever signs it.
use std::io;

use muster_core::envelope::Payload;
use muster_proof::Digest;
use muster_proof::records::fields::{Epoch, Interval, Island, JobId, Step, Unfit};
use muster_proof::records::{self, Payload as _};
use muster_proof::steps;
use muster_trainer::protocol::Terms;

use super::Relay;
use crate::agent::salt::Salts;
use crate::agent::state::UnitState;
use crate::agent::units::Unit;

/// Why there are no terms.
#[derive(Debug, thiserror::Error)]
pub enum TermsError {
    /// Another interval is to be committed first; above the step that was asked for: the log has that one.
    #[error("the interval that ends with step {0} is to be committed next")]
    NotNext(u64),
    /// No interval ends there.
    #[error("step: {0} is neither the end of an interval nor the last step")]
    NotABoundary(u64),
    /// It is said not to be finite, and has been committed.
    #[error("failedStep: the interval of step {0} is committed already: training is not reproducible here")]
    Committed(u64),
    /// The log has all there is.
    #[error("everything is committed")]
    Over,
    /// A number of the payload that no record can have.
    #[error("the unit's payload does not fit a record: {0}")]
    Unfit(#[from] Unfit),
    /// The state directory.
    #[error("state directory: {0}")]
    Io(#[from] io::Error),
}

/// The interval that is to be committed next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// From 0.
    pub interval: u64,
    /// Its first step.
    pub first: u64,
    /// Its last step.
    pub last: u64,
    /// Record id of what it continues.
    pub previous: Digest,
}

/// The interval that is to be committed next; `None` after the last, and after one that ended in a failure.
#[must_use]
pub fn due(state: &UnitState, payload: &Payload) -> Option<Due> {
    next(state, payload).filter(|_| state.failure.is_none())
}

/// The interval after the newest commit, or after what the unit starts from, which may have ended in a failure; `None` after the
/// last, and where the stop rule has ended the job.
#[must_use]
pub fn next(state: &UnitState, payload: &Payload) -> Option<Due> {
    if state.ends() {
        return None;
    }
    let (steps, size) = (payload.last_step().unsigned_abs(), payload.interval_steps.unsigned_abs().max(1));
    let (begin, previous) = match state.newest() {
        Some(newest) if payload.start.is_none_or(|start| start.step <= newest.step) => {
            (newest.step, newest.record)
        }
        _ => (payload.start.map_or(0, |start| start.step), payload.start_record),
    };
    let begin = begin.unsigned_abs();
    let interval = begin / size;
    let last = (interval + 1).saturating_mul(size).min(steps);
    (begin < last).then_some(Due { interval, first: begin + 1, last, previous })
}

/// What its commits name. A replay makes the commit that it audits once more, with records of its own.
#[must_use]
pub fn epoch_of(payload: &Payload) -> u64 {
    payload.audit.map_or(payload.epoch, |audit| audit.epoch).unsigned_abs()
}

/// The terms of an interval of this unit.
fn terms_of(payload: &Payload, due: &Due, salts: &Salts) -> Result<Terms, Unfit> {
    let island = payload.island.unsigned_abs();
    let epoch = epoch_of(payload);
    let of = steps::Interval { job: payload.job, island, epoch, interval: due.interval };
    Ok(Terms {
        job: JobId(payload.job),
        island: Island::new(island)?,
        epoch: Epoch::new(epoch)?,
        interval: Interval::new(due.interval)?,
        first_step: Step::new(due.first)?,
        last_step: Step::new(due.last)?,
        previous: due.previous,
        salt: salts.of(&of),
    })
}

/// The terms that a commit was made after.
fn terms_again(commit: &records::Commit, salts: &Salts) -> Terms {
    let records::Commit { job, island, epoch, interval, first_step, last_step, previous, .. } = *commit;
    let of =
        steps::Interval { job: job.0, island: island.get(), epoch: epoch.get(), interval: interval.get() };
    Terms { job, island, epoch, interval, first_step, last_step, previous, salt: salts.of(&of) }
}

/// Whether a checkpoint is made after this step.
pub(super) fn is_boundary(payload: &Payload, step: u64) -> bool {
    let (steps, size) = (payload.last_step().unsigned_abs(), payload.interval_steps.unsigned_abs().max(1));
    let first = if payload.is_audit() { steps } else { 1 };
    (first..=steps).contains(&step) && (step.is_multiple_of(size) || step == steps)
}

impl Relay {
    /// The terms of the interval that this step is of: the next, of which a failure may be known already.
    ///
    /// # Errors
    /// [`TermsError`].
    pub(super) fn terms_of_failed(&self, state: &UnitState, step: u64) -> Result<Terms, TermsError> {
        let payload = state.payload.as_ref().ok_or(TermsError::Over)?;
        let next = next(state, payload).ok_or(TermsError::Over)?;
        match step {
            _ if step < next.first => Err(TermsError::Committed(step)),
            _ if step > next.last => Err(TermsError::NotNext(next.last)),
            _ => Ok(terms_of(payload, &next, &self.salts)?),
        }
    }

    /// The terms of the interval that ends with this step: the next, or one that was committed here before.
    ///
    /// # Errors
    /// [`TermsError`].
    pub(super) async fn terms(&self, unit: &Unit, state: &UnitState, step: u64) -> Result<Terms, TermsError> {
        let payload = state.payload.as_ref().ok_or(TermsError::Over)?;
        if !is_boundary(payload, step) {
            return Err(TermsError::NotABoundary(step));
        }
        let due = due(state, payload);
        if let Some(due) = due.filter(|due| due.last == step) {
            return Ok(terms_of(payload, &due, &self.salts)?);
        }
        // A file of a later step is what a commit left that was not taken, or has become void.
        let newest = state.newest().map_or(0, |newest| newest.step.unsigned_abs());
        if step <= newest
            && let Ok(number) = i64::try_from(step)
            && let Some(committed) = unit.committed_at(number).await?
        {
            let commit = records::Commit::from_payload(committed.commit.unverified_payload());
            let commit =
                commit.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            return Ok(terms_again(&commit, &self.salts));
        }
        Err(due.map_or(TermsError::Over, |due| TermsError::NotNext(due.last)))
    }
}

#[cfg(test)]
mod tests {
    use muster_core::envelope::CheckpointRef;

    use super::*;
    use crate::agent::state::{Commit, Failed};
    use crate::agent::testing::{audit, payload};

    fn commit(step: i64) -> Commit {
        let (record, digest) = (Digest::of(&step.to_le_bytes()), Digest::of(b"m"));
        Commit { step, manifest: digest, state_root: digest, record, attempt: 1, durable: false, ends: false }
    }

    #[test]
    fn the_next_interval_follows_the_newest_commit_or_the_start() {
        let mut payload = payload();
        payload.steps = 50;
        let mut state = UnitState::default();
        let job_record = payload.start_record;
        let want = |interval, first, last, previous| Some(Due { interval, first, last, previous });
        assert_eq!(due(&state, &payload), want(0, 1, 20, job_record));
        state.checkpoints.push(commit(20));
        assert_eq!(due(&state, &payload), want(1, 21, 40, commit(20).record));
        state.checkpoints.push(commit(40));
        assert_eq!(due(&state, &payload), want(2, 41, 50, commit(40).record), "the last one is shorter");
        state.checkpoints.push(commit(50));
        assert_eq!(due(&state, &payload), None);
        state.checkpoints.pop();
        let (step, record) = (45, Digest::of(b"failure"));
        state.failure = Some(Failed { step, record, attempt: 1, durable: false });
        assert_eq!(due(&state, &payload), None, "nothing follows on a failure");
        assert_eq!(next(&state, &payload), want(2, 41, 50, commit(40).record));
        state.failure = None;
        state.checkpoints.push(commit(50));
        // What the hub says is newer than what is known here.
        state.checkpoints.truncate(1);
        payload.start = Some(CheckpointRef { step: 40, manifest: Digest::of(b"m") });
        payload.start_record = Digest::of(b"commit of 40");
        assert_eq!(due(&state, &payload), want(2, 41, 50, Digest::of(b"commit of 40")));
        payload.start = Some(CheckpointRef { step: 50, manifest: Digest::of(b"m") });
        assert_eq!(due(&state, &payload), None);
        // One interval, and one step.
        payload = Payload { steps: 1, interval_steps: 1, start: None, ..payload };
        assert_eq!(due(&UnitState::default(), &payload), want(0, 1, 1, Digest::of(b"commit of 40")));
    }

    #[test]
    fn boundaries_are_the_ends_of_intervals_and_the_last_step() {
        let payload = Payload { steps: 50, ..payload() };
        let ends: Vec<u64> = (0..70).filter(|step| is_boundary(&payload, *step)).collect();
        assert_eq!(ends, [20, 40, 50]);
        let ends: Vec<u64> = (0..120).filter(|step| is_boundary(&audit(), *step)).collect();
        assert_eq!(ends, [40], "a replay has one");
    }

    #[test]
    fn a_replay_has_the_terms_of_the_one_commit_that_it_is_about() {
        let dir = tempfile::tempdir().unwrap();
        let (mut state, payload) = (UnitState::default(), audit());
        let next = due(&state, &payload).unwrap();
        assert_eq!(next, Due { interval: 1, first: 21, last: 40, previous: payload.start_record });
        let terms = terms_of(&payload, &next, &Salts::open(dir.path()).unwrap()).unwrap();
        assert_eq!((terms.epoch.get(), payload.epoch), (1, 3), "the commit's epoch, not the unit's");
        state.checkpoints.push(commit(40));
        assert_eq!(due(&state, &payload), None);
    }
}
