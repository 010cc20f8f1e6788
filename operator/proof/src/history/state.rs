//! What the fold remembers.

use std::collections::{BTreeMap, BTreeSet};

use crate::Digest;
use crate::key::PublicKey;
use crate::records::fields::{Island, OwnerName, ProviderName};
use crate::records::{
    AssignReason, CloseReason, Commit, DrawKind, Eligible, EvidenceKind, Failure, Job, JobId, Verdict,
    VerdictKind,
};
use crate::selection::{Chain, Standing};
use crate::steps;

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
    // All of them, in the order of the log.
    pub windows: Vec<Digest>,
    pub draws: Vec<Digest>,
    pub verdicts: Vec<Digest>,
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

impl IslandState {
    /// The lowest epoch of the next grant.
    pub fn next_epoch(&self) -> u64 {
        self.grants.last_key_value().map_or(1, |(epoch, _)| epoch + 1).max(self.lowest_epoch)
    }
}

#[derive(Debug, Clone)]
pub(super) struct GrantState {
    pub record: Digest,
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

impl GrantState {
    /// Commits that are in no closed window.
    pub fn open(&self) -> &[Digest] {
        self.commits.get(self.closed..).unwrap_or_default()
    }

    /// Why the open window closes, if it does.
    pub fn close_reason(&self) -> Option<CloseReason> {
        let full = self.size.is_some_and(|size| self.open().len() as u64 >= size);
        match self.ended {
            _ if full => Some(CloseReason::Full),
            Some(End::Grant) => Some(CloseReason::GrantEnd),
            Some(End::Job) => Some(CloseReason::JobEnd),
            Some(End::Fault) => Some(CloseReason::Fault),
            None => None,
        }
    }
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
    /// Of the checkpoint; a failure has none.
    pub manifest: Option<Digest>,
    pub failed: bool,
    /// The stop rule ends the job here.
    pub ends: bool,
}

impl Claim {
    /// What a replay answers that finds the same.
    pub fn answer(&self) -> Digest {
        steps::answer(&self.root, self.last, self.ends)
    }

    /// Whether nothing is left to train after it.
    pub fn completes(&self, job: &Job) -> bool {
        !self.failed && (self.ends || self.last == job.steps.get())
    }
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
            manifest: Some(it.manifest),
            failed: false,
            ends: it.ends,
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
            manifest: None,
            failed: true,
            ends: false,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct CommitState {
    pub claim: Claim,
    pub index: u64,
    pub provider: ProviderName,
    pub owner: OwnerName,
    /// Run again after a rollback.
    pub rerun: bool,
    /// The record root, once it was opened.
    pub opened: Option<Digest>,
    /// The draw whose audit it is in, or was.
    pub audit: Option<Digest>,
    /// Index of the newest seal or opening of that audit, or its own.
    pub heard: u64,
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
    pub index: u64,
    pub job: JobId,
    pub kind: DrawKind,
    pub subject: Digest,
    pub preimage: Digest,
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
    pub index: u64,
    /// The draw that it belongs to, a second one's own.
    pub draw: Digest,
    pub auditor: ProviderName,
    /// `None` for the hub.
    pub owner: Option<OwnerName>,
    pub place: u64,
    pub reason: AssignReason,
    /// Declined, or did not answer: the next was asked.
    pub replaced: bool,
    pub convicted: bool,
    /// The seal and its signer's key id.
    pub seal: Option<(Digest, Digest)>,
    /// StateRoot and record root.
    pub opened: Option<(Digest, Digest)>,
    /// Record id of the opening.
    pub opening: Option<Digest>,
}

impl AssignState {
    /// Whether its answer counts.
    pub const fn counts(&self) -> bool {
        !self.replaced && !self.convicted
    }
}

#[derive(Debug, Clone)]
pub(super) struct VerdictState {
    pub index: u64,
    pub job: JobId,
    pub draw: Digest,
    pub commit: Digest,
    pub kind: VerdictKind,
    pub party: Option<ProviderName>,
    pub evidence: Option<EvidenceKind>,
}
