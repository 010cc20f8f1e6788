//! Why a record does not count.

use crate::records::{self, DrawKind};
use crate::{Digest, dsse, hub_keys, selection};

/// Why a record does not count where it stands.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The log's order is not kept.
    #[error("index {got}: the log was read up to {want} already")]
    Index {
        /// The record's.
        got: u64,
        /// The lowest that may follow.
        want: u64,
    },
    /// Not a record.
    #[error(transparent)]
    Record(#[from] records::Error),
    /// Not signed by who must sign it.
    #[error(transparent)]
    Signature(#[from] dsse::Error),
    /// The hub's keys do not go on from those before.
    #[error(transparent)]
    HubKeys(#[from] hub_keys::Error),
    /// The signer is not who must sign.
    #[error("key {key} may not sign this: want {want}")]
    Signer {
        /// The first signature's key.
        key: Digest,
        /// Whose key it must be.
        want: String,
    },
    /// The signer's key, or the key that bound it, was revoked.
    #[error("key {0} was revoked; sign with a key that the provider has now")]
    Revoked(Digest),
    /// A key that somebody else has, or has for something else.
    #[error("key: {key} is already {used}; make a new key")]
    KeyTaken {
        /// The key.
        key: Digest,
        /// As what.
        used: String,
    },
    /// More keys than one holder may have.
    #[error("key: {0} keys are the most; end the grant or use a key that is there")]
    TooManyKeys(usize),
    /// A field names what the log does not have up to here.
    #[error("{field}: the log has no {what} {id} before this")]
    Unknown {
        /// The field.
        field: &'static str,
        /// What it should name.
        what: &'static str,
        /// What it names.
        id: String,
    },
    /// A field is not what follows from the records before.
    #[error("{field} is {got}, want {want}")]
    Differs {
        /// The field.
        field: &'static str,
        /// Its value.
        got: String,
        /// What follows.
        want: String,
    },
    /// It was said before; the first stands.
    #[error("{what} is in the log already; the first stands")]
    Known {
        /// What.
        what: String,
    },
    /// The epoch is over.
    #[error("epoch {epoch} of this island is void, the lowest that counts is {lowest}")]
    OldEpoch {
        /// The record's.
        epoch: u64,
        /// The lowest.
        lowest: u64,
    },
    /// The grant ended.
    #[error("the grant of epoch {0} has ended; only windows close under it")]
    GrantEnded(u64),
    /// The grant before has not ended.
    #[error("the grant of epoch {0} has not ended; log its end first")]
    GrantLive(u64),
    /// The job ended.
    #[error("the job has ended; only its windows close and are audited")]
    JobEnded,
    /// Nothing is left to compute on this island.
    #[error("the island's last state is {0}; nothing follows it")]
    Finished(&'static str),
    /// The window has all its intervals.
    #[error("the open window has all its {0} intervals; log its close first")]
    WindowFull(u64),
    /// The window may still grow.
    #[error(
        "the window has {got} of {size} intervals and its grant goes on; it closes when full or at the end"
    )]
    WindowOpen {
        /// Intervals it has.
        got: u64,
        /// Intervals it may have.
        size: u64,
    },
    /// Too far ahead of the verdicts.
    #[error("{0} closed windows of this grant have no verdict yet; wait for one")]
    Ahead(u64),
    /// Not the next preimage.
    #[error(transparent)]
    Chain(#[from] selection::ChainError),
    /// The job has no audits.
    #[error("the job's tier is None: there are no windows, and nothing is drawn but by its tenant")]
    NoAudits,
    /// The subject is not one of such a draw.
    #[error("subject: a draw of kind {kind:?} is about {want}")]
    Subject {
        /// The draw's kind.
        kind: DrawKind,
        /// What it must be about.
        want: &'static str,
    },
    /// Who may not audit.
    #[error("eligible: {provider} may not audit this: {why}")]
    Ineligible {
        /// Who.
        provider: String,
        /// Why.
        why: &'static str,
    },
    /// The interval is in another draw's audit.
    #[error("the interval is audited by draw {0} already; its verdict is this draw's too")]
    Audited(Digest),
    /// Something must be logged before.
    #[error("too early: {0}")]
    TooEarly(&'static str),
    /// The auditor was replaced, or its claim was thrown out.
    #[error("audit: this auditor was replaced or convicted; its answers do not count")]
    Replaced,
    /// What is shown is not what was sealed.
    #[error("what is opened is not what was sealed")]
    DoesNotOpen,
    /// The draw has its verdict.
    #[error("the draw has its verdict; nothing more is said about it")]
    Decided,
    /// The records do not bear the verdict out.
    #[error("verdict: {0}")]
    Unfounded(&'static str),
    /// The verdict gives no reason to go back.
    #[error("verdict: {0}")]
    NoRollback(&'static str),
}

/// A field must have the value that follows from the log.
pub(super) fn same<T: PartialEq + std::fmt::Display>(
    field: &'static str,
    got: T,
    want: T,
) -> Result<(), Refusal> {
    if got == want {
        return Ok(());
    }
    Err(Refusal::Differs { field, got: got.to_string(), want: want.to_string() })
}
