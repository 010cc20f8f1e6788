//! The end of a run in a step whose numbers are not finite: how a worker leaves it to whoever brings it to the log, what the
//! sidecar signs of it, and how the agent's relay checks that (`docs/spec/protocol.md` section 3, records of kind `failure` in
//! `docs/spec/records.md`).
//!
//! As with a commit, terms, records and the state before decide every byte of the payload.

use std::path::Path;

use muster_proof::Digest;
use muster_proof::key::{PublicKey, SigningKey};
use muster_proof::records::fields::Step;
use muster_proof::records::{Failure as Record, Payload, failed_root, record_seal};
use muster_proof::steps::{MAX_RECORD, MAX_RECORDS, Records, StepRecord};
use serde::{Deserialize, Serialize};

use crate::commit::{Error, first_wrong};
use crate::files::{self, FileError};
use crate::protocol::{FailureNotice, Terms};

/// Its name in a job directory: what a run without a sidecar leaves.
pub const FAILED_FILE: &str = "failed.json";
/// The largest file that is read, in bytes.
pub const MAX_FILE: u64 = (MAX_RECORDS * (MAX_RECORD + 1) + 1024) as u64;

/// Why a file says nothing of a failed step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FailedError {
    /// It cannot be read, or is longer than [`MAX_FILE`].
    #[error(transparent)]
    Read(#[from] FileError),
    /// Not its JSON.
    #[error("not a failed step: {0}")]
    Json(#[from] serde_json::Error),
    /// Records that are none, or not those of the steps before.
    #[error(transparent)]
    Records(#[from] muster_proof::steps::Error),
    /// More records than steps, or no step.
    #[error("{records} records before step {step}")]
    Steps {
        /// How many records there are.
        records: usize,
        /// The step.
        step: u64,
    },
}

/// A step that raised NonFinite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    step: Step,
    before: Digest,
    records: Records,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    before: Digest,
    records: Vec<StepRecord>,
    step: u64,
}

impl Failed {
    /// Step `step`, taken from the state `before`; `records` are those of the steps of its interval that were taken.
    ///
    /// # Errors
    /// [`FailedError::Steps`], [`FailedError::Records`]: they do not end with the step before.
    pub fn new(step: u64, before: Digest, records: Vec<StepRecord>) -> Result<Self, FailedError> {
        let wrong = FailedError::Steps { records: records.len(), step };
        let Some(first) = step.checked_sub(records.len() as u64).filter(|first| *first > 0) else {
            return Err(wrong);
        };
        let step = Step::new(step).map_err(|_| wrong)?;
        Ok(Self { step, before, records: Records::new(first, records)? })
    }

    /// The step that cannot be taken.
    pub fn step(&self) -> u64 {
        self.step.get()
    }

    /// StateRoot of the state before it.
    pub fn before(&self) -> Digest {
        self.before
    }

    /// What stands for the state after it, and after all that would follow.
    pub fn state_root(&self) -> Digest {
        failed_root(&self.before, self.step)
    }

    /// Of the steps of its interval that were taken, which may be none.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Writes it to `path`, durably, in place of an earlier one.
    ///
    /// # Errors
    /// A disk that is full or fails.
    pub fn write(&self, path: &Path) -> Result<(), FailedError> {
        Ok(files::write_atomic(path, &self.to_bytes()?)?)
    }

    /// The bytes of the file.
    ///
    /// # Errors
    /// Does not fail for records that were checked.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FailedError> {
        let records = self.records.as_slice().to_vec();
        Ok(serde_json::to_vec(&File { before: self.before, records, step: self.step() })?)
    }

    /// Reads a file that anybody may have written.
    ///
    /// # Errors
    /// [`FailedError`].
    pub fn read(path: &Path) -> Result<Self, FailedError> {
        Self::parse(&files::read_plain(path, MAX_FILE)?)
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// [`FailedError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, FailedError> {
        let File { before, records, step } = serde_json::from_slice(bytes)?;
        Self::new(step, before, records)
    }

    /// What the relay is told, signed.
    ///
    /// # Errors
    /// [`Error::Steps`] if it is of another interval than the terms.
    pub fn sign(&self, terms: &Terms, key: &SigningKey) -> Result<FailureNotice, Error> {
        let failure = self.expected(terms)?.sign(key)?;
        let records = self.records.as_slice().to_vec();
        Ok(FailureNotice { failed_step: self.step(), before: self.before, failure, records })
    }

    /// The one record of these.
    fn expected(&self, terms: &Terms) -> Result<Record, Error> {
        let Terms { job, island, epoch, interval, first_step, last_step, previous, ref salt } = *terms;
        let got = self.records.as_slice().len();
        let start = self.step() - got as u64;
        if start != first_step.get() || self.step > last_step {
            let (first, last) = (first_step.get(), last_step.get().min(self.step() - 1));
            return Err(Error::Steps { first, last, got, start });
        }
        let record_seal = record_seal(job, (island, epoch, interval), &self.records.root(), salt);
        let (failed_step, state_root) = (self.step, self.state_root());
        Ok(Record {
            job,
            island,
            epoch,
            interval,
            first_step,
            failed_step,
            previous,
            state_root,
            record_seal,
        })
    }
}

/// Checks a notice against the terms of its interval and the key that is bound to rank 0; gives the failure's record id.
///
/// # Errors
/// [`Error`].
pub fn check(notice: &FailureNotice, terms: &Terms, key: &PublicKey) -> Result<Digest, Error> {
    let verified = notice.failure.verify_each(Record::PAYLOAD_TYPE, &[key])?;
    let got = Record::from_payload(verified.payload())?;
    if let Some(field) = other_terms(&got, terms) {
        return Err(Error::Terms(field));
    }
    let failed = Failed::new(notice.failed_step, notice.before, notice.records.clone());
    let failed = failed.map_err(|error| match error {
        FailedError::Records(error) => Error::Records(error),
        _ => Error::Field("failedStep"),
    })?;
    let want = failed.expected(terms)?;
    let same = [
        ("failedStep", got.failed_step == want.failed_step),
        ("stateRoot", got.state_root == want.state_root),
        ("recordSeal", got.record_seal == want.record_seal),
        ("payload", got == want),
    ];
    match first_wrong(same) {
        Some(field) => Err(Error::Field(field)),
        None => Ok(verified.record_id()),
    }
}

/// The first field that is not that of the terms. That they are terms of the failed step's interval is seen by its records.
fn other_terms(got: &Record, terms: &Terms) -> Option<&'static str> {
    // Taken apart, so that a new field cannot be forgotten. The salt shows in the seal only.
    let Terms { job, island, epoch, interval, first_step, last_step: _, previous, salt: _ } = *terms;
    first_wrong([
        ("job", got.job == job),
        ("island", got.island == island),
        ("epoch", got.epoch == epoch),
        ("interval", got.interval == interval),
        ("firstStep", got.first_step == first_step),
        ("previous", got.previous == previous),
    ])
}

#[cfg(test)]
mod tests {
    use muster_proof::records::fields::{Epoch, Interval, Island, JobId, Nonce};
    use muster_proof::steps::Bits;

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

    fn records(first: u64, n: u64) -> Vec<StepRecord> {
        let one = Bits::of(1.5);
        let record =
            |step| StepRecord { eval_loss: None, grad_norm: one, learning_rate: one, loss: one, step };
        (first..first + n).map(record).collect()
    }

    fn failed(step: u64, n: u64) -> Failed {
        Failed::new(step, Digest::of(b"state"), records(step - n, n)).unwrap()
    }

    #[test]
    fn a_file_is_read_as_it_was_written_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FAILED_FILE);
        for failed in [failed(11, 2), failed(9, 0), failed(1, 0)] {
            failed.write(&path).unwrap();
            assert_eq!(Failed::read(&path).unwrap(), failed);
        }
        let digest = Digest::of(b"state");
        for bad in [
            "".to_owned(),
            "{}".to_owned(),
            format!(r#"{{"before":"{digest}","records":[],"step":0}}"#),
            format!(r#"{{"before":"{digest}","records":[],"step":18446744073709551615}}"#),
            format!(r#"{{"before":"{digest}","records":[],"step":1,"path":"/etc"}}"#),
            format!(r#"{{"before":"{digest}","records":[{{}}],"step":2}}"#),
        ] {
            std::fs::write(&path, &bad).unwrap();
            assert!(Failed::read(&path).is_err(), "{bad}");
        }
        assert!(Failed::new(2, digest, records(1, 2)).is_err(), "the failed step has no record");
        assert!(Failed::new(2, digest, records(3, 2)).is_err());
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/proc/self/environ", &path).unwrap();
        assert!(matches!(Failed::read(&path), Err(FailedError::Read(_))));
    }

    #[test]
    fn a_failure_is_one_record_whoever_signs_it() {
        for failed in [failed(11, 2), failed(9, 0), failed(12, 3)] {
            let notice = failed.sign(&terms(), &key(7)).unwrap();
            let id = check(&notice, &terms(), key(7).public()).unwrap();
            let again = failed.sign(&terms(), &key(8)).unwrap();
            assert_eq!(check(&again, &terms(), key(8).public()).unwrap(), id);
            assert!(matches!(check(&again, &terms(), key(7).public()), Err(Error::Signature(_))));
            let record = Record::from_payload(notice.failure.unverified_payload()).unwrap();
            assert_eq!(record.state_root, failed_root(&Digest::of(b"state"), record.failed_step));
        }
    }

    #[test]
    fn what_a_failure_says_is_checked_to_the_last_field() {
        let notice = || failed(11, 2).sign(&terms(), &key(7)).unwrap();
        type Change<T> = fn(&mut T);
        let changes: [(&str, Change<Terms>); 6] = [
            ("job", |terms| terms.job = JobId(Digest::of(b"other"))),
            ("island", |terms| terms.island = Island::new(1).unwrap()),
            ("epoch", |terms| terms.epoch = Epoch::new(4).unwrap()),
            ("interval", |terms| terms.interval = Interval::new(3).unwrap()),
            ("previous", |terms| terms.previous = Digest::of(b"other")),
            ("firstStep", |terms| terms.first_step = Step::new(8).unwrap()),
        ];
        for (field, change) in changes {
            let mut other = terms();
            change(&mut other);
            let error = check(&notice(), &other, key(7).public()).unwrap_err();
            assert!(matches!(error, Error::Terms(got) if got == field), "{field}: {error}");
        }
        let changes: [(&str, Change<FailureNotice>); 6] = [
            ("stateRoot", |notice| notice.before = Digest::of(b"other")),
            ("recordSeal", |notice| notice.records[1].loss = Bits::of(9.0)),
            ("got 1 from step 10", |notice| notice.records = notice.records.split_off(1)),
            ("of step", |notice| notice.records.truncate(1)),
            ("failedStep", |notice| notice.failed_step = 0),
            ("failedStep", |notice| notice.failed_step = u64::MAX),
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

    #[test]
    fn a_failure_of_another_interval_is_not_signed() {
        for other in [failed(8, 2), failed(13, 4), failed(14, 1), failed(11, 1), failed(11, 3)] {
            assert!(matches!(other.sign(&terms(), &key(7)), Err(Error::Steps { .. })), "{}", other.step());
        }
    }
}
