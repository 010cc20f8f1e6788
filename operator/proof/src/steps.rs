//! Step records, the seal that hides them, and the state a failed step leads to (docs/spec/formats.md, "Steps").
//!
//! ```text
//! leaf         = canonical JSON {"evalLoss"?,"gradNorm","learningRate","loss","step"}
//! record root  = root of the RFC 6962 tree over the leaves of an interval, in the order of its steps
//! record seal  = H("muster.seal/1"; job id, u64le island, u64le epoch, u64le interval, record root, salt)
//! failed state = H("muster.failed/1"; root of the state before, u64le step)
//! ended state  = H("muster.ended/1"; root of the state, u64le step)
//! ```
//!
//! The record root is what only a replay can give, so it is the proof of work: no readable blob contains it, and a
//! commit shows no more than its seal until the audit asks for the opening.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::hash::{self, h};
use crate::{Digest, jcs, merkle};

/// Most records of one interval: the largest `training.intervalSteps` of the API.
pub const MAX_RECORDS: usize = 100_000;
/// Most bytes of one record; a real one has at most 113.
pub const MAX_RECORD: usize = 128;

/// Why bytes are not step records, or records not those of an interval.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A record is longer than [`MAX_RECORD`].
    #[error("step record {0} (from 0) has more than {MAX_RECORD} bytes")]
    TooLong(usize),
    /// More than [`MAX_RECORDS`].
    #[error("more than {MAX_RECORDS} step records; an interval has no more steps")]
    TooMany,
    /// The last line does not end, or a line is empty.
    #[error("step record {0} (from 0) is not one line of JSON with a newline at its end")]
    Line(usize),
    /// Not the canonical JSON of a record.
    #[error("step record {at} (from 0): {error}")]
    Malformed {
        /// Which record.
        at: usize,
        /// What is wrong.
        error: jcs::Error,
    },
    /// The steps of the list do not follow each other.
    #[error("step record {at} (from 0) is of step {got}, want step {want}")]
    Step {
        /// Which record.
        at: usize,
        /// Its step.
        got: u64,
        /// The step that should be there.
        want: u64,
    },
    /// A number is infinite or not a number.
    #[error(
        "step {step}: {field} has the bits {bits:08x}, which is no finite number; such a step has no record"
    )]
    NotFinite {
        /// The step.
        step: u64,
        /// The field.
        field: &'static str,
        /// Its bits.
        bits: u32,
    },
    /// The step is 0 or above 2^53 - 1.
    #[error("step {0}: steps count from 1 to 2^53 - 1")]
    Number(u64),
}

/// The bits of an f32; in JSON 8 lower-case hex digits, the sign bit first. Bits are compared, not values: a result
/// is right or wrong to the bit.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bits(u32);

impl Bits {
    /// The bits of this number.
    pub const fn of(number: f32) -> Self {
        Self(number.to_bits())
    }

    /// The number.
    pub const fn number(self) -> f32 {
        f32::from_bits(self.0)
    }
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({})", self.number())
    }
}

impl Serialize for Bits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        Some(text)
            .filter(|text| text.len() == 8 && text.bytes().all(lower))
            .and_then(|text| u32::from_str_radix(&text, 16).ok())
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("not the 8 lower-case hex digits of an f32's bits"))
    }
}

/// What one step reports. Fields in the order of canonical JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StepRecord {
    /// Loss on held-out data, at steps that evaluate.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub eval_loss: Option<Bits>,
    /// Norm of the gradient before clipping.
    pub grad_norm: Bits,
    /// The learning rate of the step.
    pub learning_rate: Bits,
    /// The loss of the step's batch.
    pub loss: Bits,
    /// The step, from 1.
    pub step: u64,
}

/// A field that is there has a value: `null` would be a second spelling of absence.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bits>, D::Error> {
    Bits::deserialize(deserializer).map(Some)
}

impl StepRecord {
    /// The bytes of the record: the data of its leaf.
    ///
    /// # Errors
    /// [`Error::Number`], [`Error::NotFinite`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        self.check()?;
        jcs::serialize(self).map_err(|error| Error::Malformed { at: 0, error })
    }

    /// Reads the bytes of one record.
    ///
    /// # Errors
    /// Anything but its one canonical spelling; numbers that are not finite.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        Self::parse_at(0, bytes)
    }

    fn parse_at(at: usize, bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_RECORD {
            return Err(Error::TooLong(at));
        }
        let record: Self =
            jcs::deserialize_canonical(bytes).map_err(|error| Error::Malformed { at, error })?;
        record.check()?;
        Ok(record)
    }

    fn check(&self) -> Result<(), Error> {
        let step = self.step;
        if step == 0 || step > jcs::MAX_INTEGER as u64 {
            return Err(Error::Number(step));
        }
        let fields = [
            ("loss", Some(self.loss)),
            ("gradNorm", Some(self.grad_norm)),
            ("learningRate", Some(self.learning_rate)),
            ("evalLoss", self.eval_loss),
        ];
        for (field, bits) in fields {
            if let Some(Bits(bits)) = bits.filter(|bits| !bits.number().is_finite()) {
                return Err(Error::NotFinite { step, field, bits });
            }
        }
        Ok(())
    }
}

/// The records of one interval: steps that follow each other. Empty if the interval's first step failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records {
    records: Vec<StepRecord>,
    leaves: Vec<Digest>,
}

impl Records {
    /// The records of the steps from `first` on.
    ///
    /// # Errors
    /// [`Error::TooMany`], [`Error::Step`], and those of a record.
    pub fn new(first: u64, records: Vec<StepRecord>) -> Result<Self, Error> {
        if records.len() > MAX_RECORDS {
            return Err(Error::TooMany);
        }
        let mut leaves = Vec::with_capacity(records.len());
        for (at, record) in records.iter().enumerate() {
            let want = first.saturating_add(at as u64);
            if record.step != want {
                return Err(Error::Step { at, got: record.step, want });
            }
            leaves.push(merkle::leaf(&record.to_bytes()?));
        }
        Ok(Self { records, leaves })
    }

    /// Reads a list as [`Records::to_bytes`] writes it, of the steps from `first` on.
    ///
    /// # Errors
    /// Everything else is refused, with the number of the record.
    pub fn parse(first: u64, bytes: &[u8]) -> Result<Self, Error> {
        let mut records = Vec::new();
        for (at, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            if at >= MAX_RECORDS {
                return Err(Error::TooMany);
            }
            let line = line.strip_suffix(b"\n").filter(|line| !line.is_empty()).ok_or(Error::Line(at))?;
            records.push(StepRecord::parse_at(at, line)?);
        }
        Self::new(first, records)
    }

    /// The list as bytes: each record's own, and a newline after each.
    ///
    /// # Errors
    /// Does not fail for records that this module accepted.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        for record in &self.records {
            out.extend(record.to_bytes()?);
            out.push(b'\n');
        }
        Ok(out)
    }

    /// The records, in the order of their steps.
    pub fn as_slice(&self) -> &[StepRecord] {
        &self.records
    }

    /// The record root.
    pub fn root(&self) -> Digest {
        merkle::root_of_hashes(&self.leaves)
    }

    /// The inclusion path of record `index` (from 0), for [`verify_record`]. `None` if there is no such record.
    pub fn prove(&self, index: usize) -> Option<Vec<Digest>> {
        merkle::prove(&self.leaves, index)
    }
}

/// Whether `path` shows that `record` is number `index` (from 0) of the `count` records under `root`. Total.
pub fn verify_record(root: &Digest, index: u64, count: u64, record: &StepRecord, path: &[Digest]) -> bool {
    record.to_bytes().is_ok_and(|bytes| merkle::verify(root, index, count, &merkle::leaf(&bytes), path))
}

/// Which interval a seal is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// The job's id.
    pub job: Digest,
    /// The island, from 0.
    pub island: u64,
    /// The epoch of the grant.
    pub epoch: u64,
    /// The interval, from 0.
    pub interval: u64,
}

/// The record seal of an interval. Without the salt, 32 secret bytes, somebody who knows a few likely record roots
/// could try them.
pub fn record_seal(of: &Interval, record_root: &Digest, salt: &[u8; 32]) -> Digest {
    let numbers = [of.island, of.epoch, of.interval].map(u64::to_le_bytes);
    let [island, epoch, interval] = &numbers;
    h(hash::RECORD_SEAL, &[of.job.as_bytes(), island, epoch, interval, record_root.as_bytes(), salt])
}

/// The state that a step leads to which is not finite; `previous` is the root of the state before it. Nothing
/// follows on such a state.
pub fn failed_state(previous: &Digest, step: u64) -> Digest {
    h(hash::FAILED, &[previous.as_bytes(), &step.to_le_bytes()])
}

/// What stands for a state when it is compared, after which the stop rule ends the job before its last step: whoever claims an
/// end that is none, or misses one, differs from a replay as if the state were another.
pub fn ended_state(root: &Digest, step: u64) -> Digest {
    h(hash::ENDED, &[root.as_bytes(), &step.to_le_bytes()])
}

/// What a replay of an interval answers: the root of the state after `step`, or [`ended_state`] where the job `ends` with it.
pub fn answer(root: &Digest, step: u64, ends: bool) -> Digest {
    if ends { ended_state(root, step) } else { *root }
}

#[cfg(test)]
mod tests;
