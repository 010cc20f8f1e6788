//! Windows and draws: what is open to an audit, and what chance has chosen.

use std::collections::BTreeSet;

use super::refusal::same;
use super::state::{CommitState, DrawState, End, JobState, WindowState};
use super::{History, Refusal};
use crate::Digest;
use crate::dsse::Envelope;
use crate::records::fields::{Epoch, Island, OwnerName, ProviderName};
use crate::records::{CloseReason, Draw, DrawKind, Eligible, JobId, Tier, WindowClose};
use crate::selection::{drawn_interval, order, second_joins};

/// What a draw chooses: the commit, its auditors and, of a second draw, whether one joins.
struct Choice {
    commit: Digest,
    eligible: Vec<Eligible>,
    order: Vec<(OwnerName, ProviderName)>,
    joins: bool,
}

impl History {
    pub(super) fn check_window_close(
        &self,
        envelope: &Envelope,
        it: &WindowClose,
    ) -> Result<Digest, Refusal> {
        let signer = self.by_hub(envelope)?;
        let job = self.job(it.job)?;
        if job.job.tier == Tier::None {
            return Err(Refusal::NoAudits);
        }
        let grant = self.grant(it.job, it.island, it.epoch)?;
        same("window", it.window.get(), grant.windows)?;
        let open = grant.commits.get(grant.closed..).unwrap_or_default();
        let first = open.first().and_then(|id| Some(self.commits.get(id)?.claim.interval));
        let Some(first) = first else { return Err(Refusal::TooEarly("no interval of this grant is open")) };
        same("first", it.first.get(), first)?;
        same("last", it.last.get(), first + open.len() as u64 - 1)?;
        if let Some((got, want)) = it.commits.iter().zip(open).find(|(got, want)| got != want) {
            same("commits", got, want)?;
        }
        let size = grant.size.unwrap_or(u64::MAX);
        let want = match grant.ended {
            _ if open.len() as u64 >= size => CloseReason::Full,
            Some(End::Grant) => CloseReason::GrantEnd,
            Some(End::Job) => CloseReason::JobEnd,
            Some(End::Fault) => CloseReason::Fault,
            None => return Err(Refusal::WindowOpen { got: open.len() as u64, size }),
        };
        same("reason", format!("{:?}", it.reason), format!("{want:?}"))?;
        self.check_eligible(&it.eligible, &grant.owner, (it.job, it.island), it.first.get()..=it.last.get())?;
        Ok(signer)
    }

    /// Whether all of a list may audit these intervals. That nobody is left out, and that speeds are what they are said to
    /// be, is the hub's word.
    fn check_eligible(
        &self,
        list: &[Eligible],
        owner: &OwnerName,
        (job, island): (JobId, Island),
        intervals: std::ops::RangeInclusive<u64>,
    ) -> Result<(), Refusal> {
        let island = self.island(self.job(job)?, island)?;
        let ran: BTreeSet<_> = island
            .grants
            .values()
            .filter(|grant| {
                // A grant's intervals follow each other, so its first tells which they are.
                let first = grant.commits.first().and_then(|id| Some(self.commits.get(id)?.claim.interval));
                let count = grant.commits.len() as u64;
                first.is_some_and(|first| first <= *intervals.end() && *intervals.start() < first + count)
            })
            .map(|grant| &grant.owner)
            .collect();
        for one in list {
            for name in &one.providers {
                let bad = |why| Refusal::Ineligible { provider: name.to_string(), why };
                let provider = self.providers.get(name).ok_or_else(|| bad("the log has no such provider"))?;
                if provider.owner != one.owner {
                    return Err(bad("it has another owner"));
                }
                if one.owner == *owner {
                    return Err(bad("its owner is the trainer's"));
                }
                if ran.contains(&one.owner) {
                    return Err(bad("its owner has run such an interval"));
                }
                if provider.standing().recent_fault() {
                    return Err(bad("it had a fault in its last 500 intervals"));
                }
                if !provider.keys.iter().any(|key| self.is_live(key)) {
                    return Err(bad("it has no key that is not revoked"));
                }
            }
        }
        Ok(())
    }

    pub(super) fn take_window_close(&mut self, id: Digest, it: &WindowClose) {
        let Some(grant) = self.grant_mut(it.job, it.island, it.epoch.get()) else { return };
        grant.closed = grant.commits.len();
        grant.windows += 1;
        grant.unsettled += 1;
        grant.size = None;
        let window = WindowState {
            job: it.job,
            island: it.island,
            epoch: it.epoch.get(),
            commits: it.commits.clone(),
            eligible: it.eligible.clone(),
        };
        self.windows.insert(id, window);
    }

    pub(super) fn check_draw(&self, envelope: &Envelope, it: &Draw) -> Result<Digest, Refusal> {
        let signer = self.by_hub(envelope)?;
        let job = self.job(it.job)?;
        if job.job.tier == Tier::None && it.kind != DrawKind::Tenant {
            return Err(Refusal::NoAudits);
        }
        // A preimage that is shown in vain is lost: what the draw is about is asked first.
        self.choice(job, it)?;
        if job.drawn.contains_key(&(it.kind, it.subject)) {
            return Err(Refusal::Known {
                what: format!("the draw of kind {:?} about {}", it.kind, it.subject),
            });
        }
        let mut chain = job.chain;
        chain.reveal(it.index.get(), &it.preimage)?;
        Ok(signer)
    }

    fn choice(&self, job: &JobState, it: &Draw) -> Result<Choice, Refusal> {
        match it.kind {
            DrawKind::Window => {
                let window = self.windows.get(&it.subject).filter(|window| window.job == it.job);
                let window =
                    window.ok_or(Refusal::Subject { kind: it.kind, want: "a window-close of this job" })?;
                let at = drawn_interval(&it.preimage, &it.subject, window.commits.len() as u64);
                let at = at.and_then(|at| window.commits.get(usize::try_from(at).ok()?));
                let want = "a window with 1 to 8192 intervals";
                let commit = *at.ok_or(Refusal::Subject { kind: it.kind, want })?;
                Ok(choose(it, commit, &window.eligible))
            }
            DrawKind::Second => self.second_choice(it),
            _ => {
                let eligible = it.eligible.as_deref().unwrap_or_default();
                let commit = self.commits.get(&it.subject).filter(|commit| commit.claim.job == it.job);
                let commit = commit
                    .ok_or(Refusal::Subject { kind: it.kind, want: "a commit or failure of this job" })?;
                self.check_kind(job, it, commit)?;
                let claim = &commit.claim;
                let intervals = claim.interval..=claim.interval;
                self.check_eligible(eligible, &commit.owner, (claim.job, claim.island), intervals)?;
                Ok(choose(it, it.subject, eligible))
            }
        }
    }

    fn check_kind(&self, job: &JobState, it: &Draw, commit: &CommitState) -> Result<(), Refusal> {
        let claim = &commit.claim;
        let (good, want) = match it.kind {
            DrawKind::First => {
                let epoch = Epoch::new(claim.epoch).ok();
                let grant = epoch.and_then(|epoch| self.grant(claim.job, claim.island, epoch).ok());
                let first = grant.and_then(|grant| grant.commits.first());
                (first == Some(&it.subject), "the first commit of a grant")
            }
            DrawKind::Last => {
                (claim.last == job.job.steps.get() && !claim.failed, "a commit of the job's last step")
            }
            DrawKind::Failed => (claim.failed, "a failure"),
            DrawKind::Rerun => (commit.rerun, "a commit of an interval that was rolled back"),
            DrawKind::Tenant | DrawKind::Window | DrawKind::Second => (true, ""),
        };
        if good { Ok(()) } else { Err(Refusal::Subject { kind: it.kind, want }) }
    }

    fn second_choice(&self, it: &Draw) -> Result<Choice, Refusal> {
        let base =
            self.draws.get(&it.subject).filter(|base| base.job == it.job && base.kind != DrawKind::Second);
        let base =
            base.ok_or(Refusal::Subject { kind: it.kind, want: "a draw of this job, no second one" })?;
        if base.verdict.is_some() {
            return Err(Refusal::Decided);
        }
        let sealed: Vec<_> = self.live_assigns(base).filter(|assign| assign.seal.is_some()).collect();
        if sealed.is_empty() {
            return Err(Refusal::TooEarly("the first auditor has not sealed"));
        }
        // Behind the hub's own auditor nobody is left to join.
        let hub = sealed.iter().any(|assign| assign.owner.is_none());
        let joins = second_joins(&it.preimage, &it.subject) && !hub;
        let mut choice = choose(it, base.commit, &base.eligible);
        choice.order.retain(|(owner, _)| sealed.iter().all(|assign| assign.owner.as_ref() != Some(owner)));
        choice.joins = joins;
        Ok(choice)
    }

    pub(super) fn take_draw(&mut self, id: Digest, it: &Draw) {
        let Some(choice) = self.jobs.get(&it.job).and_then(|job| self.choice(job, it).ok()) else { return };
        let Some(job) = self.jobs.get_mut(&it.job) else { return };
        if job.chain.reveal(it.index.get(), &it.preimage).is_err() {
            return;
        }
        job.drawn.insert((it.kind, it.subject), id);
        if it.kind == DrawKind::Second
            && let Some(base) = self.draws.get_mut(&it.subject)
        {
            base.second = Some((id, choice.joins));
        }
        let draw = DrawState {
            job: it.job,
            kind: it.kind,
            subject: it.subject,
            commit: choice.commit,
            eligible: choice.eligible,
            order: choice.order,
            assigns: Vec::new(),
            second: None,
            verdict: None,
        };
        self.draws.insert(id, draw);
    }
}

fn choose(it: &Draw, commit: Digest, eligible: &[Eligible]) -> Choice {
    let order = order(&it.preimage, &it.subject, eligible);
    let order = order.into_iter().map(|(owner, provider)| (owner.clone(), provider.clone())).collect();
    Choice { commit, eligible: eligible.to_vec(), order, joins: true }
}
