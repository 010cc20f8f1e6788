//! What a hub does next about the audits of a job (docs/spec/records.md, "The hub's plan"): a function of the log and of what
//! the hub knows beside it. It does nothing itself: whoever asks signs, submits, and asks again.

use std::collections::{BTreeMap, BTreeSet};

use super::{History, Refusal};
use crate::Digest;
use crate::dsse::Envelope;
use crate::key::SigningKey;
use crate::records::fields::ProviderName;
use crate::records::{self, AuditAssign, Draw, Eligible, JobId, Payload as _, Rollback, Verdict, WindowClose};

/// What the hub knows beside the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Field {
    /// Who can be asked now: connected, and allowed by the job. In any order; those that the log forbids are left out here.
    pub candidates: Vec<Eligible>,
    /// Assignments whose seal is waited for no more, by record id.
    pub given_up: BTreeMap<Digest, GivenUp>,
    /// Commits (of a trainer) and assignments (of an auditor) whose opening is waited for no more, by record id.
    pub silent: BTreeSet<Digest>,
    /// Whether the hub's own auditor is up.
    pub hub_auditor: bool,
    /// Whether windows are closed and draws made. A paused hub ends what is drawn and begins nothing.
    pub draws: bool,
}

/// Why an auditor's seal is waited for no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenUp {
    /// It said no, or could not.
    Declined,
    /// It said nothing in time.
    Silent,
}

/// Something to do, or to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Todo {
    /// Sign this and submit it.
    Log(Box<Unsigned>),
    /// An auditor replays.
    AwaitSeal {
        /// Record id of the assignment.
        audit: Digest,
        /// Who; `hub` is the hub's own.
        auditor: ProviderName,
    },
    /// The trainer has to open its record seal.
    AwaitOpening {
        /// Record id of the commit.
        commit: Digest,
        /// Who.
        provider: ProviderName,
    },
    /// An auditor has to open its seal.
    AwaitAnswer {
        /// Record id of the assignment.
        audit: Digest,
        /// Who.
        auditor: ProviderName,
    },
    /// Nobody is left to ask but the hub's own auditor, and that one is not up or has given up.
    NoAuditor {
        /// Record id of the draw; of what it would be about (a commit; of a window its first) while that waits for somebody.
        draw: Digest,
    },
    /// The job's chain has no value left for a draw that is due.
    ChainUsedUp,
}

/// A record of the hub's, not signed yet. Its record id is that of the record, whoever signs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsigned {
    /// A window closes.
    WindowClose(WindowClose),
    /// The next value of the chain.
    Draw(Draw),
    /// Who replays.
    AuditAssign(AuditAssign),
    /// What came out.
    Verdict(Verdict),
    /// Back to the start of an interval.
    Rollback(Rollback),
}

impl Unsigned {
    /// The record, signed with a key of the hub's.
    ///
    /// # Errors
    /// [`records::Error`] for a list of auditors that is too long.
    pub fn sign(&self, key: &SigningKey) -> Result<Envelope, records::Error> {
        match self {
            Self::WindowClose(it) => it.sign(key),
            Self::Draw(it) => it.sign(key),
            Self::AuditAssign(it) => it.sign(key),
            Self::Verdict(it) => it.sign(key),
            Self::Rollback(it) => it.sign(key),
        }
    }
}

impl History {
    /// What to do next for the audits of a job. Each [`Todo::Log`] may be submitted at once, in this order; what follows from
    /// them is in the agenda of the log that has them. `preimage(index)` is the job's chain's value of draw `index`.
    ///
    /// # Errors
    /// [`Refusal::Unknown`] for a job that the log does not have.
    pub fn agenda(
        &self,
        job: JobId,
        field: &Field,
        preimage: &dyn Fn(u64) -> Option<Digest>,
    ) -> Result<Vec<Todo>, Refusal> {
        let _ = (self.job(job)?, field, preimage);
        Ok(Vec::new())
    }
}
