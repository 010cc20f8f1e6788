//! `commit.tlog-proof`: that the log has the commit of a checkpoint, in one file beside it (docs/spec/checkpoint.md,
//! "tlog-proof").
//!
//! The commit itself lies in the proof's extra data, with the key that signed it: both are in the leaf, the record by
//! its digest and the key as it is, so what the log proves is what lies there.
//!
//! ```text
//! extra     {"commit":<DSSE>,"key":"<base64 of the SPKI in DER>"}, canonical JSON
//! leaf      the entry of the commit's first signature, by that key (log.md section 8)
//! ```

use serde::{Deserialize, Serialize};

use crate::dsse::{self, Envelope};
use crate::key::PublicKey;
use crate::records::{self, Commit, Payload as _};
use crate::tlog::entry::{self, Entry};
use crate::tlog::policy::{Accepted, Policy};
use crate::tlog::proof::{self, LogProof, MAX_EXTRA};
use crate::{Digest, jcs};

/// The file, in the directory of the checkpoint.
pub const FILE: &str = "commit.tlog-proof";

/// Why a commit is not proven.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is no proof, or the log does not have the entry.
    #[error("{FILE}: {0}")]
    Proof(#[from] proof::Error),
    /// The proof has no extra data.
    #[error("{FILE}: the commit is missing in `extra`; download the checkpoint again")]
    NoCommit,
    /// The extra data are longer than they may be.
    #[error("{FILE}: the commit has {0} bytes, at most {MAX_EXTRA} go into a proof")]
    TooLong(usize),
    /// The extra data are not canonical JSON of a commit and its key.
    #[error("{FILE}: extra: {0}")]
    Extra(#[from] jcs::Error),
    /// Not signed by the key beside it alone.
    #[error("{FILE}: the commit: {0}")]
    Signature(#[from] dsse::Error),
    /// The record is no commit.
    #[error("{FILE}: the commit: {0}")]
    Record(#[from] records::Error),
    /// There is no entry of it.
    #[error("{FILE}: {0}")]
    Entry(#[from] entry::Error),
    /// It is the commit of something else.
    #[error("{FILE}: the commit's {field} is {got}, but the checkpoint's is {want}")]
    Other {
        /// Which field.
        field: &'static str,
        /// The commit's.
        got: String,
        /// The checkpoint's.
        want: String,
    },
}

/// A commit and the key that signed it: what the extra data of a proof say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The commit.
    pub commit: Envelope,
    /// The key.
    pub key: PublicKey,
}

/// A checkpoint, as its manifest says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// The digest of the manifest.
    pub manifest: Digest,
    /// The state's number: steps done.
    pub step: u64,
    /// The state.
    pub state_root: Digest,
}

/// A commit that a log has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// The commit.
    pub commit: Commit,
    /// Who signed it.
    pub key: PublicKey,
    /// Its place in the log, from 0.
    pub index: u64,
    /// The head that the policy accepts.
    pub accepted: Accepted,
}

impl Signed {
    /// Checks that this key and no other has signed the commit, and that it is of this checkpoint.
    ///
    /// # Errors
    /// [`Error::Signature`], [`Error::Record`], [`Error::Other`], [`Error::Entry`].
    pub fn check(&self, state: &State) -> Result<(Commit, Entry), Error> {
        let verified = self.commit.verify_each(Commit::PAYLOAD_TYPE, &[&self.key])?;
        let commit = Commit::from_payload(verified.payload())?;
        same("manifest", commit.manifest, state.manifest)?;
        same("lastStep", commit.last_step.get(), state.step)?;
        same("stateRoot", commit.state_root, state.state_root)?;
        let entry = Entry::of(&self.commit, &self.key)?;
        Ok((commit, entry))
    }

    /// The proof to write to [`FILE`]: the entry's index, its path to the root of `checkpoint`, and that head. Nothing of it
    /// is verified here.
    ///
    /// # Errors
    /// [`Error::TooLong`]; [`Error::Extra`] does not happen.
    pub fn proof(&self, index: u64, hashes: Vec<Digest>, checkpoint: String) -> Result<LogProof, Error> {
        let extra = jcs::serialize(self)?;
        if extra.len() > MAX_EXTRA {
            return Err(Error::TooLong(extra.len()));
        }
        Ok(LogProof { extra: Some(extra), index, hashes, checkpoint })
    }
}

/// Checks that a log which the policy accepts has the commit of this checkpoint. Whether its key was one to believe at this
/// place of the log is the history's question.
///
/// # Errors
/// See [`Error`].
pub fn verify(file: &[u8], state: &State, policy: &Policy) -> Result<Proven, Error> {
    let proof = LogProof::parse(file)?;
    let signed: Signed = jcs::deserialize_canonical(proof.extra.as_deref().ok_or(Error::NoCommit)?)?;
    let (commit, entry) = signed.check(state)?;
    let accepted = proof.verify(&entry.leaf(), policy)?;
    Ok(Proven { commit, key: signed.key, index: proof.index, accepted })
}

fn same<T: PartialEq + ToString>(field: &'static str, got: T, want: T) -> Result<(), Error> {
    match got == want {
        true => Ok(()),
        false => Err(Error::Other { field, got: got.to_string(), want: want.to_string() }),
    }
}

#[cfg(test)]
mod tests;
