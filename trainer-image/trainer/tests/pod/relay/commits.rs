//! Terms and commits: one of each interval, in order, checked as the agent does.

use muster_proof::Digest;
use muster_proof::evaluation::Evaluation;
use muster_proof::records::fields::{Epoch, Interval, Island, JobId, Nonce, Step};
use muster_proof::records::{Commit, Payload as _};
use muster_trainer::checkpoint::{Manifest, check_signed};
use muster_trainer::commit::{self, Error};
use muster_trainer::failed;
use muster_trainer::protocol::{CheckpointNotice, Conflict, FailureNotice, Terms};

use super::{Answer, State};

/// A commit that was accepted.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Its record id.
    pub id: Digest,
    pub notice: CheckpointNotice,
    pub durable: bool,
}

impl State {
    /// The hub was restored: what is not in the log is void, and the grant is another one.
    pub fn restore(&mut self) {
        self.commits.retain(|commit| commit.durable);
        self.failure = self.failure.take().filter(|_| self.ended);
        self.epoch += 1;
    }

    /// The step that the interval after those that are committed ends with.
    fn next(&self) -> u64 {
        let last = self.commits.last().map_or(0, |commit| commit.notice.step);
        (last + self.interval_steps).min(self.steps)
    }

    fn terms(&self, step: u64) -> Result<Terms, u64> {
        let at = self.commits.iter().position(|commit| commit.notice.step == step);
        if at.is_none() && step != self.next() {
            return Err(self.next());
        }
        let at = at.unwrap_or(self.commits.len());
        let before = at.checked_sub(1).map(|before| &self.commits[before]);
        let number = u64::try_from(at).unwrap();
        let salt = Digest::of(format!("salt {} {number}", self.epoch).as_bytes());
        Ok(Terms {
            job: JobId(Digest::of(b"job")),
            island: Island::new(0).unwrap(),
            epoch: Epoch::new(self.epoch).unwrap(),
            interval: Interval::new(number).unwrap(),
            first_step: Step::new(before.map_or(0, |before| before.notice.step) + 1).unwrap(),
            last_step: Step::new(step).unwrap(),
            previous: before.map_or(Digest::of(b"start"), |before| before.id),
            salt: Nonce::new(*salt.as_bytes()),
        })
    }

    /// Whether this announcement is answered so; counts down.
    fn is_next(count: &mut u32) -> bool {
        let is_next = *count > 0;
        *count -= u32::from(is_next);
        is_next
    }
}

fn json(status: u16, value: &impl serde::Serialize) -> Answer {
    (status, serde_json::to_vec(value).unwrap())
}

pub fn give_terms(state: &State, step: u64) -> Answer {
    if !state.keys.contains_key(&0) {
        return (403, b"no key is bound".to_vec());
    }
    match state.terms(step) {
        Ok(terms) => json(200, &terms),
        Err(step) => json(409, &Conflict::NotNext { step }),
    }
}

pub fn take(state: &mut State, notice: &CheckpointNotice) -> Answer {
    let Some(key) = state.keys.get(&0).cloned() else { return (403, b"no key is bound".to_vec()) };
    if State::is_next(&mut state.full) {
        return (507, b"the disk is full".to_vec());
    }
    if State::is_next(&mut state.busy) {
        return (503, b"Busy".to_vec());
    }
    let Some(manifest) = state.blobs.get(&notice.manifest) else {
        return json(409, &Conflict::BlobMissing {});
    };
    let manifest = Manifest::parse(manifest).unwrap();
    assert!(manifest.files().iter().all(|file| state.blobs.contains_key(&file.sha256)));
    assert_eq!((manifest.step(), manifest.state_root()), (notice.step, notice.state_root));
    let terms = match state.terms(notice.step) {
        Ok(terms) => terms,
        Err(step) => {
            let said = Commit::from_payload(notice.commit.unverified_payload()).unwrap();
            let is_old = said.epoch.get() != state.epoch;
            let conflict = if is_old { Conflict::TermsChanged {} } else { Conflict::NotNext { step } };
            return json(409, &conflict);
        }
    };
    check_signed(&notice.model, &manifest, &notice.manifest, &key).unwrap();
    let id = match commit::check(notice, &terms, &key) {
        Ok(id) => id,
        Err(Error::Terms(_)) => return json(409, &Conflict::TermsChanged {}),
        Err(error) => {
            state.refused.push(error.to_string());
            return (400, error.to_string().into_bytes());
        }
    };
    let said = Commit::from_payload(notice.commit.unverified_payload()).unwrap();
    let spec = Evaluation::of_spec(&state.blobs[&state.spec]).unwrap();
    assert_eq!(said.ends, spec.ends(&notice.records), "step {}", notice.step);
    state.announced.push((notice.step, id));
    match state.commits.iter().find(|commit| commit.notice.step == notice.step) {
        Some(known) => assert_eq!(known.id, id, "one interval, one record"),
        None => state.commits.push(Committed { id, notice: notice.clone(), durable: false }),
    }
    if state.no_hub || State::is_next(&mut state.not_yet) {
        return (202, Vec::new());
    }
    let State { commits, checkpoints, .. } = state;
    for commit in commits.iter_mut().filter(|commit| !commit.durable && commit.notice.step <= notice.step) {
        commit.durable = true;
        checkpoints.push(commit.notice.clone());
    }
    (200, Vec::new())
}

pub fn give_terms_of_failed(state: &State, step: u64) -> Answer {
    let next = state.next();
    if step > next { json(409, &Conflict::NotNext { step: next }) } else { give_terms(state, next) }
}

pub fn take_failure(state: &mut State, notice: &FailureNotice) -> Answer {
    let Some(key) = state.keys.get(&0).cloned() else { return (403, b"no key is bound".to_vec()) };
    if State::is_next(&mut state.busy) {
        return (503, b"Busy".to_vec());
    }
    let terms = state.terms(state.next()).unwrap();
    let id = match failed::check(notice, &terms, &key) {
        Ok(id) => id,
        Err(Error::Terms(_)) => return json(409, &Conflict::TermsChanged {}),
        Err(error) => {
            state.refused.push(error.to_string());
            return (400, error.to_string().into_bytes());
        }
    };
    state.announced.push((notice.failed_step, id));
    match &state.failure {
        Some((known, _)) => assert_eq!(*known, id, "one interval, one record"),
        None => state.failure = Some((id, notice.clone())),
    }
    if state.no_hub || State::is_next(&mut state.not_yet) {
        return (202, Vec::new());
    }
    let State { commits, checkpoints, .. } = state;
    for commit in commits.iter_mut().filter(|commit| !commit.durable) {
        commit.durable = true;
        checkpoints.push(commit.notice.clone());
    }
    state.ended = true;
    (200, Vec::new())
}
