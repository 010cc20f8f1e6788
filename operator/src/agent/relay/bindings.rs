//! The binding of a sidecar's key as a record of the log (docs/spec/records.md): the provider says with its identity key that
//! this key may commit for the grant. The log wants it before the first commit that it is for.
use muster_core::envelope::Payload;
use muster_proof::key::{PublicKey, SigningKey};
use muster_proof::records::fields::{Attempt, Epoch, Island, JobId, Rank, Unfit};
use muster_proof::records::{self, KeyBinding, Payload as _};

use super::identity::Worker;
use crate::agent::state::{Binding, UnitState};

/// Why there is no record.
#[derive(Debug, thiserror::Error)]
pub enum BindingError {
    /// The attempt or the pod has a name or number that no record can have.
    #[error("the binding does not fit a record: {0}")]
    Unfit(#[from] Unfit),
    /// It cannot be signed.
    #[error("the binding cannot be signed: {0}")]
    Record(#[from] records::Error),
}

/// Makes sure that there is a record for the key of rank 0 of the current attempt, of the unit's epoch: a unit that goes on as
/// another one has another grant.
///
/// # Errors
/// [`BindingError`]; nothing has changed.
pub fn ensure(
    state: &mut UnitState,
    worker: &Worker,
    key: &PublicKey,
    identity: &SigningKey,
) -> Result<(), BindingError> {
    // A replay commits nothing, so the log need not know its keys.
    let Some(payload) = state.payload.as_ref().filter(|payload| !payload.is_audit()) else { return Ok(()) };
    if state.bindings.get(&worker.attempt).is_some_and(|known| known.epoch == payload.epoch) {
        return Ok(());
    }
    let record = record(payload, worker, key)?.sign(identity)?;
    let binding = Binding { epoch: payload.epoch, record, logged: false };
    state.bindings.insert(worker.attempt, binding);
    forget_old(state);
    Ok(())
}

fn record(payload: &Payload, worker: &Worker, key: &PublicKey) -> Result<KeyBinding, Unfit> {
    Ok(KeyBinding {
        job: JobId(payload.job),
        island: Island::new(payload.island.unsigned_abs())?,
        epoch: Epoch::new(payload.epoch.unsigned_abs())?,
        unit: worker.unit.parse()?,
        attempt: Attempt::new(worker.attempt.unsigned_abs())?,
        rank: Rank::new(worker.rank.unsigned_abs())?,
        pod_uid: worker.pod.parse()?,
        key: key.clone(),
    })
}

/// Drops the records of attempts that commit nothing more and of which nothing waits.
pub fn forget_old(state: &mut UnitState) {
    let waiting = state.checkpoints.iter().filter(|commit| !commit.durable).map(|commit| commit.attempt);
    let failed = state.failure.iter().filter(|failed| !failed.durable).map(|failed| failed.attempt);
    let oldest = waiting.chain(failed).chain([state.memory.attempt]).min().unwrap_or(0);
    state.bindings.retain(|attempt, _| *attempt >= oldest);
}

#[cfg(test)]
mod tests {
    use muster_proof::Digest;

    use super::*;
    use crate::agent::state::Commit;
    use crate::agent::testing::payload;

    fn key(seed: u8) -> SigningKey {
        SigningKey::generate([seed; 32]).unwrap()
    }

    fn worker(attempt: i64) -> Worker {
        let (unit, pod) = ("4f2a9c1b-0-1".to_owned(), "0b5c6f0e-7d0d-4d0b-9f33-000000000001".to_owned());
        Worker { unit, attempt, rank: 0, pod, address: None }
    }

    #[test]
    fn a_binding_is_signed_by_the_identity_key_for_one_epoch() {
        let mut state = UnitState { payload: Some(payload()), ..UnitState::default() };
        state.memory.attempt = 1;
        ensure(&mut state, &worker(1), key(7).public(), &key(3)).unwrap();
        let first = state.bindings[&1].clone();
        let verified = first.record.verify_each(KeyBinding::PAYLOAD_TYPE, &[key(3).public()]).unwrap();
        let record = KeyBinding::from_payload(verified.payload()).unwrap();
        assert_eq!((record.key, record.epoch.get(), record.attempt.get()), (key(7).public().clone(), 1, 1));
        assert_eq!(record.job.0, payload().job);
        ensure(&mut state, &worker(1), key(7).public(), &key(3)).unwrap();
        assert_eq!(state.bindings[&1], first);
        // The unit goes on under another grant; the attempt keeps its name.
        state.payload.as_mut().unwrap().epoch = 1001;
        ensure(&mut state, &worker(1), key(7).public(), &key(3)).unwrap();
        let again = KeyBinding::from_payload(state.bindings[&1].record.unverified_payload()).unwrap();
        assert_eq!((again.epoch.get(), again.unit.as_str()), (1001, "4f2a9c1b-0-1"));
    }

    #[test]
    fn those_of_old_attempts_stay_while_their_commits_wait() {
        let mut state = UnitState { payload: Some(payload()), ..UnitState::default() };
        let digest = Digest::of(b"x");
        state.checkpoints.push(Commit {
            step: 20,
            manifest: digest,
            state_root: digest,
            record: digest,
            attempt: 2,
            durable: false,
            ends: false,
        });
        for attempt in 1..=4 {
            state.memory.attempt = attempt;
            ensure(&mut state, &worker(attempt), key(7).public(), &key(3)).unwrap();
        }
        assert_eq!(state.bindings.keys().copied().collect::<Vec<_>>(), [2, 3, 4]);
        state.checkpoints[0].durable = true;
        forget_old(&mut state);
        assert_eq!(state.bindings.keys().copied().collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn a_replays_key_is_no_matter_of_the_log() {
        let payload = Some(crate::agent::testing::audit());
        let mut state = UnitState { payload, ..UnitState::default() };
        state.memory.attempt = 1;
        ensure(&mut state, &worker(1), key(7).public(), &key(3)).unwrap();
        assert!(state.bindings.is_empty());
    }

    #[test]
    fn a_pod_without_a_uid_has_no_binding() {
        let mut state = UnitState { payload: Some(payload()), ..UnitState::default() };
        let strange = Worker { pod: "../x".to_owned(), ..worker(1) };
        assert!(ensure(&mut state, &strange, key(7).public(), &key(3)).is_err());
        assert!(state.bindings.is_empty());
    }
}
