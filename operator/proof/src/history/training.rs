//! Jobs, grants and what is committed under them.

use std::collections::BTreeMap;

use super::refusal::same;
use super::state::{Claim, CommitState, End, GrantState, IslandState, JobState, Role};
use super::{History, Refusal, Scope, WINDOWS_AHEAD};
use crate::Digest;
use crate::dsse::Envelope;
use crate::records::fields::{Epoch, Island};
use crate::records::{
    Grant, GrantEnd, GrantEndReason, Job, JobEnd, JobId, Outcome, Rollback, VerdictKind, job_id, unit_name,
};
use crate::selection::{Chain, largest_window, window_size};

/// The last state of an island that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tip {
    step: u64,
    root: Digest,
    record: Digest,
    failed: bool,
    complete: bool,
}

impl History {
    pub(super) fn job(&self, id: JobId) -> Result<&JobState, Refusal> {
        let unknown = || Refusal::Unknown { field: "job", what: "job", id: id.to_string() };
        self.jobs.get(&id).ok_or_else(unknown)
    }

    pub(super) fn island<'a>(&self, job: &'a JobState, island: Island) -> Result<&'a IslandState, Refusal> {
        let unknown = || Refusal::Unknown { field: "island", what: "island", id: island.to_string() };
        usize::try_from(island.get()).ok().and_then(|at| job.islands.get(at)).ok_or_else(unknown)
    }

    pub(super) fn grant(&self, job: JobId, island: Island, epoch: Epoch) -> Result<&GrantState, Refusal> {
        let unknown = || Refusal::Unknown { field: "epoch", what: "grant of epoch", id: epoch.to_string() };
        self.island(self.job(job)?, island)?.grants.get(&epoch.get()).ok_or_else(unknown)
    }

    pub(super) fn live_grant(
        &self,
        job: JobId,
        island: Island,
        epoch: Epoch,
    ) -> Result<&GrantState, Refusal> {
        let grant = self.grant(job, island, epoch)?;
        if grant.ended.is_some() { Err(Refusal::GrantEnded(epoch.get())) } else { Ok(grant) }
    }

    pub(super) fn island_mut(&mut self, job: JobId, island: Island) -> Option<&mut IslandState> {
        self.jobs.get_mut(&job)?.islands.get_mut(usize::try_from(island.get()).ok()?)
    }

    pub(super) fn grant_mut(&mut self, job: JobId, island: Island, epoch: u64) -> Option<&mut GrantState> {
        self.island_mut(job, island)?.grants.get_mut(&epoch)
    }

    pub(super) fn commit(&self, field: &'static str, id: &Digest) -> Result<&CommitState, Refusal> {
        let unknown = || Refusal::Unknown { field, what: "commit", id: id.to_string() };
        self.commits.get(id).ok_or_else(unknown)
    }

    fn tip(&self, job: &JobState, island: &IslandState) -> Tip {
        let last = island.path.last().and_then(|id| Some((id, &self.commits.get(id)?.claim)));
        match last {
            Some((id, claim)) => Tip {
                step: claim.last,
                root: claim.root,
                record: *id,
                failed: claim.failed,
                complete: claim.completes(&job.job),
            },
            None => {
                Tip { step: 0, root: job.job.genesis, record: job.record, failed: false, complete: false }
            }
        }
    }

    pub(super) fn check_job(&self, envelope: &Envelope, it: &Job) -> Result<Digest, Refusal> {
        let signer = self.by_hub(envelope)?;
        same("hub", &it.hub, &self.origin)?;
        if self.uids.contains(&(it.tenant, it.job_uid.clone())) {
            return Err(Refusal::Known { what: format!("the job of uid {}", it.job_uid) });
        }
        // Two jobs of one chain: the draws of the one would tell those of the other.
        if self.anchors.contains(&it.beacon.anchor) {
            return Err(Refusal::Known { what: format!("a job with the anchor {}", it.beacon.anchor) });
        }
        Ok(signer)
    }

    pub(super) fn take_job(&mut self, id: Digest, envelope: &Envelope, it: &Job) {
        self.uids.insert((it.tenant, it.job_uid.clone()));
        self.anchors.insert(it.beacon.anchor);
        let islands = (0..it.islands.get()).map(|_| IslandState::default()).collect();
        let state = JobState {
            job: it.clone(),
            record: id,
            chain: Chain::new(&it.beacon),
            islands,
            ended: false,
            drawn: BTreeMap::new(),
            windows: Vec::new(),
            draws: Vec::new(),
            verdicts: Vec::new(),
        };
        self.jobs.insert(job_id(envelope.unverified_payload()), state);
    }

    pub(super) fn check_grant(&self, envelope: &Envelope, it: &Grant) -> Result<Digest, Refusal> {
        let signer = self.by_hub(envelope)?;
        let job = self.job(it.job)?;
        let island = self.island(job, it.island)?;
        if job.ended {
            return Err(Refusal::JobEnded);
        }
        let newest = island.grants.last_key_value();
        let lowest = island.next_epoch();
        if it.epoch.get() < lowest {
            return Err(Refusal::OldEpoch { epoch: it.epoch.get(), lowest });
        }
        if let Some((epoch, _)) = newest.filter(|(_, grant)| grant.ended.is_none()) {
            return Err(Refusal::GrantLive(*epoch));
        }
        let provider =
            self.providers.get(&it.provider).filter(|it| it.keys.iter().any(|key| self.is_live(key)));
        let unknown = || Refusal::Unknown {
            field: "provider",
            what: "provider with a live key",
            id: it.provider.to_string(),
        };
        same("owner", &it.owner, &provider.ok_or_else(unknown)?.owner)?;
        same("unit", it.unit.to_string(), unit_name(&job.job.job_uid, it.island, it.epoch))?;
        let tip = self.tip(job, island);
        same("start.record", it.start.record, tip.record)?;
        same("start.step", it.start.step.get(), tip.step)?;
        same("start.stateRoot", it.start.state_root, tip.root)?;
        if tip.failed {
            return Err(Refusal::Finished("a failure"));
        }
        if tip.complete {
            return Err(Refusal::Finished("the job's last"));
        }
        Ok(signer)
    }

    pub(super) fn take_grant(&mut self, record: Digest, it: &Grant) {
        let grant = GrantState {
            record,
            provider: it.provider.clone(),
            owner: it.owner.clone(),
            commits: Vec::new(),
            closed: 0,
            windows: 0,
            unsettled: 0,
            size: None,
            ended: None,
            bound: BTreeMap::new(),
        };
        if let Some(island) = self.island_mut(it.job, it.island) {
            island.grants.insert(it.epoch.get(), grant);
        }
    }

    pub(super) fn check_commit(&self, envelope: &Envelope, it: &Claim) -> Result<Digest, Refusal> {
        let job = self.job(it.job)?;
        let island = self.island(job, it.island)?;
        let epoch = Epoch::new(it.epoch).map_err(|_| Refusal::GrantEnded(it.epoch))?;
        let grant = self.grant(it.job, it.island, epoch)?;
        let signer = self.by_worker_0(envelope, grant)?;
        // Before the grant's end: a retry after a crash learns that its commit stands.
        let before = usize::try_from(it.interval).ok().and_then(|at| island.path.get(at));
        if before.is_some() {
            return Err(Refusal::Known { what: format!("the commit of interval {}", it.interval) });
        }
        if grant.ended.is_some() {
            return Err(Refusal::GrantEnded(it.epoch));
        }
        let tip = self.tip(job, island);
        if tip.failed {
            return Err(Refusal::Finished("a failure"));
        }
        if tip.complete {
            return Err(Refusal::Finished("the job's last"));
        }
        same("interval", it.interval, island.path.len() as u64)?;
        let Some((first, last)) = job.job.steps_of(it.interval) else {
            return Err(Refusal::Finished("the job's last"));
        };
        same("firstStep", it.first, first)?;
        if !it.failed {
            same("lastStep", it.last, last)?;
        } else if it.last > last {
            same("failedStep", it.last, last)?;
        }
        if it.ends && !job.job.may_end_at(it.last) {
            same("ends", it.ends, false)?;
        }
        same("previous", it.previous, tip.record)?;
        self.check_pace(grant)?;
        Ok(signer)
    }

    /// Signed by the key that is bound to rank 0 of an attempt.
    fn by_worker_0(&self, envelope: &Envelope, grant: &GrantState) -> Result<Digest, Refusal> {
        let key = super::signers::named(envelope);
        let bound = grant.bound.iter().find(|((_, rank), bound)| *rank == 0 && Some(**bound) == key);
        let state = bound.and_then(|(_, bound)| self.keys.get(bound));
        let state = state.filter(|state| matches!(state.role, Role::Bound { .. }));
        let want = || "a key that is bound to rank 0 under this grant".to_owned();
        self.by(envelope, state.ok_or_else(|| super::signers::wrong(envelope, want()))?)
    }

    /// A window closes before the next begins, and at most so many wait for their verdicts.
    pub(super) fn check_pace(&self, grant: &GrantState) -> Result<(), Refusal> {
        let open = grant.commits.len().saturating_sub(grant.closed) as u64;
        match grant.size {
            Some(size) if open >= size => Err(Refusal::WindowFull(size)),
            _ if open == 0 && grant.unsettled >= WINDOWS_AHEAD => Err(Refusal::Ahead(grant.unsettled)),
            _ => Ok(()),
        }
    }

    pub(super) fn take_commit(&mut self, (id, index): (Digest, u64), it: &Claim) {
        let Some(tier) = self.jobs.get(&it.job).map(|job| job.job.tier) else { return };
        let Some(island) = self.island_mut(it.job, it.island) else { return };
        island.path.push(id);
        let rerun = island.rolled_back.contains(&it.interval);
        let Some(grant) = island.grants.get_mut(&it.epoch) else { return };
        let begins = grant.commits.len() == grant.closed;
        grant.commits.push(id);
        let (provider, owner) = (grant.provider.clone(), grant.owner.clone());
        let standing = self.providers.get_mut(&provider).map(|provider| {
            let before = provider.standing();
            provider.intervals = provider.intervals.saturating_add(1);
            before
        });
        let size = match self.scope {
            Scope::Whole => standing.and_then(|standing| window_size(tier, standing)),
            Scope::OneJob => largest_window(tier),
        };
        if begins && let Some(grant) = self.grant_mut(it.job, it.island, it.epoch) {
            grant.size = size;
        }
        let claim = it.clone();
        let state =
            CommitState { claim, index, provider, owner, rerun, opened: None, audit: None, heard: index };
        self.commits.insert(id, state);
    }

    pub(super) fn check_grant_end(&self, envelope: &Envelope, it: &GrantEnd) -> Result<Digest, Refusal> {
        let signer = self.by_hub(envelope)?;
        self.live_grant(it.job, it.island, it.epoch)?;
        let job = self.job(it.job)?;
        let tip = self.tip(job, self.island(job, it.island)?);
        let reason = |want: &str| Refusal::Differs {
            field: "reason",
            got: format!("{:?}", it.reason),
            want: want.to_owned(),
        };
        match it.reason {
            GrantEndReason::Completed if !tip.complete => {
                Err(reason("another: the last step is not committed"))
            }
            GrantEndReason::Failed if !tip.failed => Err(reason("another: no failure is accepted")),
            _ => Ok(signer),
        }
    }

    pub(super) fn take_grant_end(&mut self, it: &GrantEnd) {
        if let Some(grant) = self.grant_mut(it.job, it.island, it.epoch.get()) {
            grant.ended = Some(End::Grant);
        }
    }

    pub(super) fn check_job_end(&self, envelope: &Envelope, it: &JobEnd) -> Result<Digest, Refusal> {
        let signer = self.by_hub(envelope)?;
        let job = self.job(it.job)?;
        if job.ended {
            return Err(Refusal::JobEnded);
        }
        let tips: Vec<_> = job.islands.iter().map(|island| self.tip(job, island)).collect();
        let Some(tip) = tips.first() else { return Err(Refusal::JobEnded) };
        same("lastStep", it.last_step.get(), tip.step)?;
        same("stateRoot", it.state_root, tip.root)?;
        same("record", it.record, tip.record)?;
        let want = if tips.iter().all(|tip| tip.complete) {
            Outcome::Completed
        } else if tips.iter().any(|tip| tip.failed) || it.outcome == Outcome::Completed {
            Outcome::Failed
        } else {
            it.outcome
        };
        same("outcome", format!("{:?}", it.outcome), format!("{want:?}"))?;
        Ok(signer)
    }

    pub(super) fn take_job_end(&mut self, it: &JobEnd) {
        let Some(job) = self.jobs.get_mut(&it.job) else { return };
        job.ended = true;
        for grant in job.islands.iter_mut().flat_map(|island| island.grants.values_mut()) {
            grant.ended.get_or_insert(End::Job);
        }
    }

    pub(super) fn check_rollback(&self, envelope: &Envelope, it: &Rollback) -> Result<Digest, Refusal> {
        let signer = self.by_hub(envelope)?;
        let job = self.job(it.job)?;
        let island = self.island(job, it.island)?;
        let verdict = self.verdicts.get(&it.verdict).filter(|verdict| verdict.job == it.job);
        let unknown =
            || Refusal::Unknown { field: "verdict", what: "verdict of this job", id: it.verdict.to_string() };
        let verdict = verdict.ok_or_else(unknown)?;
        if !matches!(verdict.kind, VerdictKind::Fault | VerdictKind::Inconclusive) {
            return Err(Refusal::NoRollback("only a Fault or an Inconclusive leads back"));
        }
        if island.rollbacks.contains(&it.verdict) {
            return Err(Refusal::Known { what: "the rollback of this island for this verdict".to_owned() });
        }
        let claim = &self.commit("verdict", &verdict.commit)?.claim;
        same("toInterval", it.to_interval.get(), claim.interval)?;
        if claim.island == it.island {
            let at = usize::try_from(claim.interval).ok().and_then(|at| island.path.get(at));
            if at != Some(&verdict.commit) {
                return Err(Refusal::NoRollback("its commit does not count any more"));
            }
        } else if !self.island(job, claim.island)?.rollbacks.contains(&it.verdict) {
            return Err(Refusal::TooEarly("the island that the verdict is about goes back first"));
        }
        let lowest = island.next_epoch();
        if it.epoch.get() < lowest {
            return Err(Refusal::OldEpoch { epoch: it.epoch.get(), lowest });
        }
        Ok(signer)
    }

    pub(super) fn take_rollback(&mut self, it: &Rollback) {
        let Some(job) = self.jobs.get_mut(&it.job) else { return };
        job.ended = false;
        let Some(island) = self.island_mut(it.job, it.island) else { return };
        let (from, to) = (it.to_interval.get(), island.path.len() as u64);
        island.rolled_back.extend(from..to);
        island.path.truncate(usize::try_from(from).unwrap_or(usize::MAX));
        island.lowest_epoch = it.epoch.get();
        island.rollbacks.insert(it.verdict);
        for grant in island.grants.values_mut() {
            grant.ended.get_or_insert(End::Fault);
        }
    }
}
