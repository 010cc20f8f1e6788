//! What the fold remembers.

use std::collections::{BTreeMap, BTreeSet};

use crate::Digest;
use crate::key::PublicKey;
use crate::records::fields::{Island, OwnerName, ProviderName};
use crate::records::{Commit, DrawKind, Eligible, Failure, Job, JobId, Verdict, VerdictKind};
use crate::selection::{Chain, Standing};

#[derive(Debug, Clone)]
pub(super) struct ProviderState {
    pub owner: OwnerName,
    /// Identity keys, revoked or not.
    pub keys: BTreeSet<Digest>,
    /// Accepted intervals, in all jobs.
    pub intervals: u64,
    /// The value of `intervals` at its last fault.
    pub fault: Option<u64>,
}

impl ProviderState {
    pub fn standing(&self) -> Standing {
        let since_fault = self.fault.map(|then| self.intervals.saturating_sub(then));
        Standing { intervals: self.intervals, since_fault }
    }
}

#[derive(Debug, Clone)]
pub(super) struct KeyState {
    pub key: PublicKey,
    pub provider: ProviderName,
    pub role: Role,
}

#[derive(Debug, Clone)]
pub(super) enum Role {
    Identity {
        revoked: bool,
    },
    /// A sidecar's, bound by an identity key. It stays with one island of one job.
    Bound {
        by: Digest,
        job: JobId,
        island: Island,
    },
}

#[derive(Debug, Clone)]
pub(super) struct JobState {
    pub job: Job,
    pub record: Digest,
    pub chain: Chain,
    pub islands: Vec<IslandState>,
    pub ended: bool,
    /// Draws by what they are about; one that came to nothing is taken out again.
    pub drawn: BTreeMap<(DrawKind, Digest), Digest>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct IslandState {
    /// Record ids of the commits that count, by interval.
    pub path: Vec<Digest>,
    /// Nothing below counts.
    pub lowest_epoch: u64,
    pub grants: BTreeMap<u64, GrantState>,
    /// Intervals that were rolled back at some time.
    pub rolled_back: BTreeSet<u64>,
    /// Verdicts that this island was rolled back for.
    pub rollbacks: BTreeSet<Digest>,
}

#[derive(Debug, Clone)]
pub(super) struct GrantState {
    pub provider: ProviderName,
    pub owner: OwnerName,
    /// Accepted under this grant, whether they still count or not.
    pub commits: Vec<Digest>,
    /// How many of them are in closed windows.
    pub closed: usize,
    /// Closed windows.
    pub windows: u64,
    /// Closed windows without a verdict.
    pub unsettled: u64,
    /// Most intervals of the window that is open, fixed with its first.
    pub size: Option<u64>,
    pub ended: Option<End>,
    /// The key of each (attempt, rank).
    pub bound: BTreeMap<(u64, u64), Digest>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Grant,
    Job,
    Fault,
}

/// A commit or a failure: what both say.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub job: JobId,
    pub island: Island,
    pub epoch: u64,
    pub interval: u64,
    pub first: u64,
    pub last: u64,
    pub previous: Digest,
    pub root: Digest,
    pub seal: Digest,
    pub failed: bool,
}

impl From<&Commit> for Claim {
    fn from(it: &Commit) -> Self {
        Self {
            job: it.job,
            island: it.island,
            epoch: it.epoch.get(),
            interval: it.interval.get(),
            first: it.first_step.get(),
            last: it.last_step.get(),
            previous: it.previous,
            root: it.state_root,
            seal: it.record_seal,
            failed: false,
        }
    }
}

impl From<&Failure> for Claim {
    fn from(it: &Failure) -> Self {
        Self {
            job: it.job,
            island: it.island,
            epoch: it.epoch.get(),
            interval: it.interval.get(),
            first: it.first_step.get(),
            last: it.failed_step.get(),
            previous: it.previous,
            root: it.state_root,
            seal: it.record_seal,
            failed: true,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct CommitState {
    pub claim: Claim,
    pub provider: ProviderName,
    pub owner: OwnerName,
    /// Run again after a rollback.
    pub rerun: bool,
    /// The record root, once it was opened.
    pub opened: Option<Digest>,
    /// The draw whose audit it is in, or was.
    pub audit: Option<Digest>,
}

#[derive(Debug, Clone)]
pub(super) struct WindowState {
    pub job: JobId,
    pub island: Island,
    pub epoch: u64,
    pub commits: Vec<Digest>,
    pub eligible: Vec<Eligible>,
}

#[derive(Debug, Clone)]
pub(super) struct DrawState {
    pub job: JobId,
    pub kind: DrawKind,
    pub subject: Digest,
    /// The commit that is audited.
    pub commit: Digest,
    pub eligible: Vec<Eligible>,
    /// Auditors in the order in which they are asked. Empty for a second draw by which nobody joins.
    pub order: Vec<(OwnerName, ProviderName)>,
    pub assigns: Vec<Digest>,
    /// The draw that decided about a second auditor, and whether one joins.
    pub second: Option<(Digest, bool)>,
    /// What settled it.
    pub verdict: Option<Verdict>,
}

#[derive(Debug, Clone)]
pub(super) struct AssignState {
    /// The draw that it belongs to, a second one's own.
    pub draw: Digest,
    pub auditor: ProviderName,
    /// `None` for the hub.
    pub owner: Option<OwnerName>,
    pub place: u64,
    /// Declined, or did not answer: the next was asked.
    pub replaced: bool,
    pub convicted: bool,
    /// The seal and its signer's key id.
    pub seal: Option<(Digest, Digest)>,
    /// StateRoot and record root.
    pub opened: Option<(Digest, Digest)>,
}

#[derive(Debug, Clone)]
pub(super) struct VerdictState {
    pub job: JobId,
    pub commit: Digest,
    pub kind: VerdictKind,
}
