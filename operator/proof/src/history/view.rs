//! Audits and accepted intervals as others look at them.

use std::collections::BTreeSet;

use serde::Serialize;

use super::open::{Open, counts};
use super::state::{AssignState, Claim, DrawState, IslandState, JobState, ProviderState, VerdictState};
use super::{History, Refusal};
use crate::Digest;
use crate::records::fields::{OwnerName, ProviderName};
use crate::records::{AssignReason, DrawKind, EvidenceKind, JobId, Tier, VerdictKind};
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
    /// Its last step, also if a failure ended it before: a replay does not know, and goes as far as it can.
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
    /// Whether the job ends with it: by the stop rule, or because it has the last step.
    pub completes: bool,
}

impl History {
    /// The audits of a job, one for each draw that is no second one, in the order of the log.
    ///
    /// # Errors
    /// [`Refusal::Unknown`] for a job that the log does not have.
    pub fn audits(&self, job: JobId) -> Result<Vec<AuditView>, Refusal> {
        let draws = self.job(job)?.draws.iter();
        Ok(draws.filter_map(|id| self.audit_view(id, self.draws.get(id)?)).collect())
    }

    /// The audit that an assignment is of.
    pub fn audit_of(&self, assign: &Digest) -> Option<AuditView> {
        let draw = &self.assigns.get(assign)?.draw;
        let (id, base) = self.base(draw, self.draws.get(draw)?);
        self.audit_view(&id, base)
    }

    fn audit_view(&self, id: &Digest, draw: &DrawState) -> Option<AuditView> {
        if draw.kind == DrawKind::Second {
            return None;
        }
        let job = self.jobs.get(&draw.job)?;
        let commit = self.commits.get(&draw.commit)?;
        let claim = &commit.claim;
        let grant = job.islands.get(usize::try_from(claim.island.get()).ok()?)?.grants.get(&claim.epoch)?;
        let window = self.windows.get(&draw.subject).filter(|_| draw.kind == DrawKind::Window);
        let first = window.and_then(|window| Some(self.commits.get(window.commits.first()?)?.claim.interval));
        let from =
            first.zip(window).map_or((claim.interval, 1), |(first, it)| (first, it.commits.len() as u64));
        let second = draw.second.and_then(|(id, joins)| self.second_view(id, joins));
        let verdicts = || job.verdicts.iter().filter_map(|it| Some((it, self.verdicts.get(it)?)));
        let mut own = verdicts().filter(|(_, it)| it.draw == *id);
        let convictions = own.clone().filter(|(_, it)| it.kind == VerdictKind::AuditorFault);
        let mut assigns: Vec<_> =
            self.all_assigns(draw).map(|(it, assign)| assign_view(*it, assign, *id)).collect();
        assigns.sort_by_key(|assign| assign.index);
        Some(AuditView {
            job: draw.job,
            draw: *id,
            index: draw.index,
            kind: draw.kind,
            subject: draw.subject,
            preimage: draw.preimage,
            from,
            island: claim.island.get(),
            epoch: claim.epoch,
            interval: claim.interval,
            first_step: claim.first,
            last_step: job.job.steps_of(claim.interval).map_or(claim.last, |(_, last)| last),
            commit: draw.commit,
            commit_index: commit.index,
            counts: counts(job, commit, &draw.commit),
            subject_provider: commit.provider.clone(),
            subject_owner: commit.owner.clone(),
            state_root: claim.answer(),
            opened: commit.opened,
            grant: grant.record,
            start: self.start_view(job, claim),
            shared: commit.audit.filter(|audit| audit != id && draw.assigns.is_empty()),
            order: draw.order.iter().map(|(_, provider)| provider.clone()).collect(),
            second,
            assigns,
            convictions: convictions.map(|(id, it)| verdict_view(*id, it)).collect(),
            verdict: own
                .find(|(_, it)| it.kind != VerdictKind::AuditorFault)
                .map(|(id, it)| verdict_view(*id, it)),
        })
    }

    fn second_view(&self, id: Digest, joins: bool) -> Option<SecondView> {
        let draw = self.draws.get(&id)?;
        let order = draw.order.iter().map(|(_, provider)| provider.clone()).collect();
        Some(SecondView { draw: id, index: draw.index, preimage: draw.preimage, joins, order })
    }

    fn start_view(&self, job: &JobState, claim: &Claim) -> StartView {
        let record = claim.previous;
        let before = self.commits.get(&record).map(|commit| &commit.claim);
        let (step, state_root, manifest) =
            before.map_or((0, job.job.genesis, None), |before| (before.last, before.root, before.manifest));
        StartView { step, state_root, manifest, record }
    }

    /// The intervals of an island that count now, from 0 on. Empty for a job or island that is not there.
    pub fn path(&self, job: JobId, island: u64) -> Vec<PathInterval> {
        let path = self.island_at(job, island).map(|island| island.path.as_slice()).unwrap_or_default();
        path.iter().filter_map(|id| self.path_interval(id)).collect()
    }

    /// The last interval of an island that counts.
    pub fn newest(&self, job: JobId, island: u64) -> Option<PathInterval> {
        self.path_interval(self.island_at(job, island)?.path.last()?)
    }

    /// The failure that an island has ended with, if it counts.
    pub fn failure(&self, job: JobId, island: u64) -> Option<PathInterval> {
        self.newest(job, island).filter(|last| last.failed)
    }

    fn path_interval(&self, record: &Digest) -> Option<PathInterval> {
        let commit = self.commits.get(record)?;
        Some(PathInterval {
            interval: commit.claim.interval,
            first: commit.claim.first,
            last: commit.claim.last,
            epoch: commit.claim.epoch,
            provider: commit.provider.clone(),
            record: *record,
            index: commit.index,
            state_root: commit.claim.root,
            manifest: commit.claim.manifest,
            failed: commit.claim.failed,
            completes: self.jobs.get(&commit.claim.job).is_some_and(|job| commit.claim.completes(&job.job)),
        })
    }

    fn island_at(&self, job: JobId, island: u64) -> Option<&IslandState> {
        self.jobs.get(&job)?.islands.get(usize::try_from(island).ok()?)
    }

    /// What the log has of a provider.
    pub fn standing(&self, provider: &ProviderName) -> Option<Standing> {
        self.providers.get(provider).map(ProviderState::standing)
    }

    /// The lowest epoch that the island's next grant may have; 1 for a job or island that is not there.
    pub fn lowest_epoch(&self, job: JobId, island: u64) -> u64 {
        self.island_at(job, island).map_or(1, IslandState::next_epoch)
    }

    /// Whether a commit that begins a window of this grant must wait for a verdict.
    pub fn is_late(&self, job: JobId, island: u64, epoch: u64) -> bool {
        let grant = self.island_at(job, island).and_then(|island| island.grants.get(&epoch));
        grant.is_some_and(|grant| matches!(self.check_pace(grant), Err(Refusal::Ahead(_))))
    }

    /// Whether nothing is [open](History::open).
    ///
    /// # Errors
    /// [`Refusal::Unknown`] for a job that the log does not have.
    pub fn is_settled(&self, job: JobId) -> Result<bool, Refusal> {
        Ok(self.open(job)?.is_empty())
    }

    /// Steps whose checkpoint a replay may still start from, or the job may still go back to: before each interval that is
    /// in no closed window, in a window without a verdict, in an audit, or convicted and not rolled back yet.
    ///
    /// # Errors
    /// [`Refusal::Unknown`] for a job that the log does not have.
    pub fn pinned(&self, id: JobId) -> Result<BTreeSet<u64>, Refusal> {
        let job = self.job(id)?;
        let mut commits: BTreeSet<&Digest> = BTreeSet::new();
        for grant in job.islands.iter().flat_map(|island| island.grants.values()) {
            commits.extend(grant.open().iter().filter(|_| job.job.tier != Tier::None));
        }
        for open in self.open(id)? {
            match open {
                Open::Draw { subject, .. } => match self.windows.get(&subject) {
                    Some(window) => commits.extend(&window.commits),
                    None => commits.extend(self.commits.get_key_value(&subject).map(|(id, _)| id)),
                },
                // An audit that comes to nothing has its window drawn from again.
                Open::Verdict { draw } => {
                    let draw = self.draws.get(&draw);
                    commits.extend(draw.map(|draw| &draw.commit));
                    let window = draw.and_then(|draw| self.windows.get(&draw.subject));
                    commits.extend(window.into_iter().flat_map(|window| &window.commits));
                }
                _ => {}
            }
        }
        let guilty = job.verdicts.iter().filter_map(|id| self.verdicts.get(id));
        let guilty = guilty.filter(|it| matches!(it.kind, VerdictKind::Fault | VerdictKind::Inconclusive));
        let guilty =
            guilty.filter(|it| self.commits.get(&it.commit).is_some_and(|of| counts(job, of, &it.commit)));
        commits.extend(guilty.map(|it| &it.commit));
        let starts = commits.into_iter().filter_map(|id| self.commits.get(id));
        // The genesis has no checkpoint.
        Ok(starts.map(|commit| commit.claim.first.saturating_sub(1)).filter(|step| *step > 0).collect())
    }
}

fn assign_view(id: Digest, assign: &AssignState, base: Digest) -> AssignView {
    AssignView {
        id,
        index: assign.index,
        draw: assign.draw,
        auditor: assign.auditor.clone(),
        owner: assign.owner.clone(),
        place: assign.place,
        reason: assign.reason,
        second: assign.draw != base,
        sealed: assign.seal.is_some(),
        opened: assign.opened,
        replaced: assign.replaced,
        convicted: assign.convicted,
    }
}

fn verdict_view(id: Digest, verdict: &VerdictState) -> VerdictView {
    VerdictView {
        id,
        index: verdict.index,
        kind: verdict.kind,
        party: verdict.party.clone(),
        evidence: verdict.evidence,
    }
}
