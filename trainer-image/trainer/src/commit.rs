//! The commit of an interval: what the sidecar signs, and how the agent's relay checks it (`docs/spec/protocol.md`
//! section 3, records of kind `commit` in `docs/spec/records.md`).
//!
//! Terms, records, state and manifest, and the spec's stop rule, decide every byte of the payload. So whoever signs it again,
//! after a restart or in another round, signs the same record; and the relay checks it by building it once more.

use muster_proof::Digest;
use muster_proof::dsse::{self, Envelope};
use muster_proof::key::{PublicKey, SigningKey};
use muster_proof::records::{self, Commit, Payload, record_seal};
use muster_proof::steps::{self, Records};

use crate::protocol::{CheckpointNotice, Terms};

/// Why a commit is not made, or not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The records are not those of the steps that the terms name.
    #[error("BadCommit: records: want those of the steps {first} to {last}, got {got} from step {start}")]
    Steps {
        /// The interval's first step.
        first: u64,
        /// The interval's last step.
        last: u64,
        /// How many records there are.
        got: usize,
        /// The step of the first one, 0 if there is none.
        start: u64,
    },
    /// The records are none.
    #[error("BadCommit: records: {0}")]
    Records(#[from] steps::Error),
    /// Not signed by the bound key alone.
    #[error("BadCommit: commit: {0}; sign it with the key that is bound to rank 0")]
    Signature(#[from] dsse::Error),
    /// The payload is no commit.
    #[error("BadCommit: commit: {0}")]
    Payload(#[from] records::Error),
    /// Signed after other terms than these; they may have changed meanwhile.
    #[error("commit: {0} is not that of the terms; ask for terms and sign again")]
    Terms(&'static str),
    /// The payload is not the commit of these records and this checkpoint.
    #[error("BadCommit: commit: {0} is not that of the records and the checkpoint")]
    Field(&'static str),
}

/// Where an interval has led.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// StateRoot after its last step.
    pub state_root: Digest,
    /// Of the checkpoint there.
    pub manifest: Digest,
    /// Whether the stop rule ends the job with it, before its last step (`docs/spec/numerics.md`, 6.5).
    pub ends: bool,
}

/// The notice of a checkpoint with the commit of its interval, signed. `model` is what the same key says of its files,
/// [`crate::checkpoint::sign_files`]; who has the manifest checks it with [`crate::checkpoint::check_signed`].
///
/// # Errors
/// [`Error::Steps`]; the others do not happen with valid terms.
pub fn sign(
    terms: &Terms,
    records: &Records,
    reached: Reached,
    model: Envelope,
    key: &SigningKey,
) -> Result<CheckpointNotice, Error> {
    let commit = expected(terms, records, reached)?.sign(key)?;
    let Reached { state_root, manifest, .. } = reached;
    let (step, records) = (terms.last_step.get(), records.as_slice().to_vec());
    Ok(CheckpointNotice { step, manifest, state_root, commit, model, records })
}

/// Checks a notice against the terms of its interval and the key that is bound to rank 0; gives the commit's record id.
///
/// Whether the stop rule ends the job there is what the spec and the records decide: who has both compares `ends` with
/// [`muster_proof::evaluation::Evaluation::ends`].
///
/// # Errors
/// [`Error`].
pub fn check(notice: &CheckpointNotice, terms: &Terms, key: &PublicKey) -> Result<Digest, Error> {
    let verified = notice.commit.verify_each(Commit::PAYLOAD_TYPE, &[key])?;
    let got = Commit::from_payload(verified.payload())?;
    if let Some(field) = other_terms(&got, terms) {
        return Err(Error::Terms(field));
    }
    if notice.step != terms.last_step.get() {
        return Err(Error::Field("lastStep"));
    }
    let records = Records::new(terms.first_step.get(), notice.records.clone())?;
    let CheckpointNotice { state_root, manifest, .. } = *notice;
    let want = expected(terms, &records, Reached { state_root, manifest, ends: got.ends })?;
    let same = [
        ("stateRoot", got.state_root == want.state_root),
        ("recordSeal", got.record_seal == want.record_seal),
        ("manifest", got.manifest == want.manifest),
        ("payload", got == want),
    ];
    match first_wrong(same) {
        Some(field) => Err(Error::Field(field)),
        None => Ok(verified.record_id()),
    }
}

/// The one commit of these.
fn expected(terms: &Terms, records: &Records, reached: Reached) -> Result<Commit, Error> {
    let Terms { job, island, epoch, interval, first_step, last_step, previous, ref salt } = *terms;
    let (first, last, got) = (first_step.get(), last_step.get(), records.as_slice().len());
    let start = records.as_slice().first().map_or(0, |record| record.step);
    // They follow each other: first and number say which they are.
    if start != first || (last + 1).checked_sub(first) != u64::try_from(got).ok() {
        return Err(Error::Steps { first, last, got, start });
    }
    let record_seal = record_seal(job, (island, epoch, interval), &records.root(), salt);
    let Reached { state_root, manifest, ends } = reached;
    Ok(Commit {
        job,
        island,
        epoch,
        interval,
        first_step,
        last_step,
        previous,
        state_root,
        record_seal,
        manifest,
        ends,
    })
}

/// The first field that is not that of the terms.
fn other_terms(got: &Commit, terms: &Terms) -> Option<&'static str> {
    // Taken apart, so that a new field cannot be forgotten. The salt shows in the seal only.
    let Terms { job, island, epoch, interval, first_step, last_step, previous, salt: _ } = *terms;
    first_wrong([
        ("job", got.job == job),
        ("island", got.island == island),
        ("epoch", got.epoch == epoch),
        ("interval", got.interval == interval),
        ("firstStep", got.first_step == first_step),
        ("lastStep", got.last_step == last_step),
        ("previous", got.previous == previous),
    ])
}

pub(crate) fn first_wrong<const N: usize>(fields: [(&'static str, bool); N]) -> Option<&'static str> {
    fields.into_iter().find_map(|(field, same)| (!same).then_some(field))
}

#[cfg(test)]
mod tests {
    use muster_proof::records::fields::{Epoch, Interval, Island, JobId, Nonce, Step};
    use muster_proof::steps::{Bits, StepRecord};

    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::generate([seed; 32]).unwrap()
    }

    fn terms() -> Terms {
        Terms {
            job: JobId(Digest::of(b"job")),
            island: Island::new(0).unwrap(),
            epoch: Epoch::new(3).unwrap(),
            interval: Interval::new(2).unwrap(),
            first_step: Step::new(9).unwrap(),
            last_step: Step::new(12).unwrap(),
            previous: Digest::of(b"before"),
            salt: Nonce::new([5; 32]),
        }
    }

    fn records(first: u64, n: u64) -> Records {
        let record = |step| StepRecord {
            eval_loss: None,
            grad_norm: Bits::of(1.5),
            learning_rate: Bits::of(0.1),
            loss: Bits::of(2.5),
            step,
        };
        Records::new(first, (first..first + n).map(record).collect()).unwrap()
    }

    fn model() -> Envelope {
        Envelope::sign("x", b"{}", &key(7)).unwrap()
    }

    fn reached(ends: bool) -> Reached {
        Reached { state_root: Digest::of(b"s"), manifest: Digest::of(b"m"), ends }
    }

    fn notice() -> CheckpointNotice {
        sign(&terms(), &records(9, 4), reached(false), model(), &key(7)).unwrap()
    }

    #[test]
    fn a_commit_is_one_record_whoever_signs_it() {
        let (first, other) = (notice(), key(8));
        let id = check(&first, &terms(), key(7).public()).unwrap();
        assert_eq!(notice(), first, "and one signature for each key");
        let again = sign(&terms(), &records(9, 4), reached(false), model(), &other).unwrap();
        assert_eq!(check(&again, &terms(), other.public()).unwrap(), id);
        assert!(matches!(check(&again, &terms(), key(7).public()), Err(Error::Signature(_))));
    }

    #[test]
    fn what_a_commit_says_is_checked_to_the_last_field() {
        type Change<T> = fn(&mut T);
        let changes: [(&str, Change<Terms>); 7] = [
            ("job", |terms| terms.job = JobId(Digest::of(b"other"))),
            ("island", |terms| terms.island = Island::new(1).unwrap()),
            ("epoch", |terms| terms.epoch = Epoch::new(4).unwrap()),
            ("interval", |terms| terms.interval = Interval::new(3).unwrap()),
            ("previous", |terms| terms.previous = Digest::of(b"other")),
            ("firstStep", |terms| terms.first_step = Step::new(8).unwrap()),
            ("lastStep", |terms| terms.last_step = Step::new(16).unwrap()),
        ];
        for (field, change) in changes {
            let mut other = terms();
            change(&mut other);
            let error = check(&notice(), &other, key(7).public()).unwrap_err();
            assert!(matches!(error, Error::Terms(got) if got == field), "{field}: {error}");
        }
        let changes: [(&str, Change<CheckpointNotice>); 6] = [
            ("manifest", |notice| notice.manifest = Digest::of(b"other")),
            ("stateRoot", |notice| notice.state_root = Digest::of(b"other")),
            ("recordSeal", |notice| notice.records[1].loss = Bits::of(9.0)),
            ("got 3 from step 9", |notice| notice.records.truncate(3)),
            ("of step 11", |notice| notice.records[1].step = 11),
            ("lastStep", |notice| notice.step = 16),
        ];
        for (what, change) in changes {
            let mut other = notice();
            change(&mut other);
            let error = check(&other, &terms(), key(7).public()).unwrap_err().to_string();
            assert!(error.starts_with("BadCommit: ") && error.contains(what), "{what}: {error}");
        }
        let salted = Terms { salt: Nonce::new([6; 32]), ..terms() };
        assert!(matches!(check(&notice(), &salted, key(7).public()), Err(Error::Field("recordSeal"))));
    }

    /// The end by the stop rule is one more thing that a commit says; whether it is so is for who has the spec.
    #[test]
    fn a_commit_says_whether_the_job_ends() {
        let end = sign(&terms(), &records(9, 4), reached(true), model(), &key(7)).unwrap();
        let said = |of: &CheckpointNotice| Commit::from_payload(of.commit.unverified_payload()).unwrap();
        assert_eq!(said(&end), Commit { ends: true, ..said(&notice()) });
        assert!(!said(&notice()).ends);
        let id = |of: &CheckpointNotice| check(of, &terms(), key(7).public()).unwrap();
        assert_ne!(id(&end), id(&notice()), "another record");
    }

    #[test]
    fn records_of_other_steps_are_not_committed() {
        for other in [records(9, 3), records(9, 5), records(8, 4), records(10, 3)] {
            let made = sign(&terms(), &other, reached(false), model(), &key(7));
            assert!(matches!(made, Err(Error::Steps { .. })));
        }
    }
}
