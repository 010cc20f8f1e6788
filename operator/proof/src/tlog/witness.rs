//! What a witness answers to a new checkpoint: c2sp.org/tlog-witness, the decision without clock and disk.
//!
//! The caller holds the last checkpoint that it cosigned for a log. On [`Decision::Cosign`] it stores the new
//! one durably, then signs ([`SignedCheckpoint::cosign`]), then answers; reading, deciding and storing are
//! one step that no other request comes between.

use std::fmt;

use super::checkpoint::{self, SignedCheckpoint};
use super::note::{self, MAX_NOTE, VerifierKey};
use super::{MAX_PROOF, decimal, hash_from_base64, hash_to_base64};
use crate::{Digest, merkle};

/// Most bytes of a request: a note, the old size, and the proof.
pub const MAX_REQUEST: usize = MAX_NOTE + 4096;

/// Why a request is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Longer than [`MAX_REQUEST`].
    #[error("the request has {0} bytes, at most {MAX_REQUEST} are read")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("the request is not UTF-8 text")]
    Text,
    /// The first line is not `old <size>`.
    #[error("line 1 of the request must be `old` and a size in its one spelling")]
    Old,
    /// A proof line is not the base64 of a hash.
    #[error("line {0} of the request must be the base64 of a hash, or empty before the checkpoint")]
    Hash(usize),
    /// More than [`MAX_PROOF`] hashes.
    #[error("the request's consistency proof has more than {MAX_PROOF} hashes")]
    LongProof,
}

/// The body of `add-checkpoint`: `old <size>`, a hash a line, an empty line, a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The size that the submitter believes the witness has cosigned; 0 for none.
    pub old: u64,
    /// Consistency proof from there to the checkpoint.
    pub proof: Vec<Digest>,
    /// The signed note, not verified.
    pub checkpoint: String,
}

impl Request {
    /// Reads a body; nothing is verified.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn parse(body: &[u8]) -> Result<Self, Error> {
        if body.len() > MAX_REQUEST {
            return Err(Error::TooLong(body.len()));
        }
        let body = std::str::from_utf8(body).map_err(|_| Error::Text)?;
        let (first, mut rest) = body.split_once('\n').ok_or(Error::Old)?;
        let old = first.strip_prefix("old ").and_then(decimal).ok_or(Error::Old)?;
        let mut proof = Vec::new();
        loop {
            let at = proof.len() + 2;
            let (line, after) = rest.split_once('\n').ok_or(Error::Hash(at))?;
            rest = after;
            if line.is_empty() {
                return Ok(Self { old, proof, checkpoint: rest.to_owned() });
            }
            if proof.len() >= MAX_PROOF {
                return Err(Error::LongProof);
            }
            proof.push(hash_from_base64(line).ok_or(Error::Hash(at))?);
        }
    }
}

/// The body, as [`Request::parse`] reads it.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{}", hash_to_base64(hash)))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

/// Two checkpoints that the same log signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The one that the witness had cosigned.
    pub kept: SignedCheckpoint,
    /// The one that came.
    pub got: SignedCheckpoint,
}

/// What a witness does with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Store this as the last checkpoint, then cosign it.
    Cosign(SignedCheckpoint),
    /// Not a checkpoint.
    Malformed(checkpoint::Error),
    /// Of a log that is not known here.
    UnknownLog(String),
    /// Not signed by the log, or a signature in its name that does not verify.
    BadSignature(note::Error),
    /// The old size of the request is above that of its checkpoint.
    OldAboveNew,
    /// The old size is not the one that was cosigned. The submitter proves from there and asks again.
    Stale {
        /// The size that was cosigned; 0 for none.
        size: u64,
    },
    /// Alarm: the log signed two roots for one size. This alone convicts it.
    Fork(Box<Evidence>),
    /// Alarm: the log's signature on a smaller tree than the one that was cosigned. An old request that
    /// comes late looks the same; a log that goes on from the smaller tree has lost entries.
    Rollback {
        /// The two checkpoints.
        evidence: Box<Evidence>,
        /// The old size of the request.
        old: u64,
    },
    /// Nothing was cosigned yet, so the proof must be empty.
    ProofFromNothing,
    /// The proof does not lead from the cosigned tree to the new one. Either it is wrong or the log was
    /// rewritten: ask for the proof again, and raise an alarm if there is none.
    Inconsistent(Box<Evidence>),
}

impl Decision {
    /// The HTTP status of the answer. With 409 the body is the cosigned size and a newline
    /// ([`Decision::cosigned_size`]), as `text/x.tlog.size`.
    pub fn status(&self) -> u16 {
        match self {
            Self::Cosign(_) => 200,
            Self::Malformed(_) | Self::OldAboveNew => 400,
            Self::UnknownLog(_) => 404,
            Self::BadSignature(_) => 403,
            Self::Rollback { evidence, old } if *old > evidence.got.checkpoint().size() => 400,
            Self::Stale { .. } | Self::Fork(_) | Self::Rollback { .. } => 409,
            Self::ProofFromNothing | Self::Inconsistent(_) => 422,
        }
    }

    /// The size that the witness has cosigned, where the answer says it.
    pub fn cosigned_size(&self) -> Option<u64> {
        match self {
            Self::Stale { size } => Some(*size),
            Self::Fork(evidence) | Self::Rollback { evidence, .. } => Some(evidence.kept.checkpoint().size()),
            _ => None,
        }
    }

    /// The two checkpoints that do not fit together, if this is an alarm.
    pub fn evidence(&self) -> Option<&Evidence> {
        match self {
            Self::Fork(evidence) | Self::Inconsistent(evidence) | Self::Rollback { evidence, .. } => {
                Some(evidence)
            }
            _ => None,
        }
    }
}

/// What a witness that has cosigned `kept` (or nothing) for the log of `keys` does with a request.
///
/// Alarms come first: a request with a wrong old size still shows what the log has signed.
pub fn decide(keys: &[VerifierKey], kept: Option<&SignedCheckpoint>, request: &Request) -> Decision {
    let got = match SignedCheckpoint::open(request.checkpoint.as_bytes(), keys) {
        Ok(got) => got,
        Err(checkpoint::Error::UnknownOrigin(origin)) => return Decision::UnknownLog(origin),
        Err(checkpoint::Error::Note(
            error @ (note::Error::NotSigned { .. } | note::Error::BadSignature { .. }),
        )) => return Decision::BadSignature(error),
        Err(error) => return Decision::Malformed(error),
    };
    let new = got.checkpoint();
    let old = kept.map_or(0, |kept| kept.checkpoint().size());
    if let Some(kept) = kept {
        // Another log's state: the caller's keys and state do not belong together.
        if kept.checkpoint().origin() != new.origin() {
            return Decision::UnknownLog(new.origin().to_owned());
        }
        let evidence = || Box::new(Evidence { kept: kept.clone(), got: got.clone() });
        if old == new.size() && kept.checkpoint().root() != new.root() {
            return Decision::Fork(evidence());
        }
        if old > new.size() {
            return Decision::Rollback { evidence: evidence(), old: request.old };
        }
    }
    if request.old > new.size() {
        return Decision::OldAboveNew;
    }
    if request.old != old {
        return Decision::Stale { size: old };
    }
    match kept {
        None if request.proof.is_empty() => Decision::Cosign(got),
        None => Decision::ProofFromNothing,
        Some(kept) => {
            let head = kept.checkpoint();
            if merkle::verify_consistency(old, head.root(), new.size(), new.root(), &request.proof) {
                Decision::Cosign(got)
            } else {
                Decision::Inconsistent(Box::new(Evidence { kept: kept.clone(), got }))
            }
        }
    }
}

#[cfg(test)]
mod tests;
