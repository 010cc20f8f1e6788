//! Windows and draws: what is open to an audit, and what chance has chosen.

use super::refusal::same;
use super::state::{CommitState, DrawState, JobState, WindowState};
use super::{History, Refusal, Scope};
use crate::Digest;
use crate::dsse::Envelope;
use crate::records::fields::{Epoch, OwnerName, ProviderName};
use crate::records::{CloseReason, Draw, DrawKind, Eligible, Tier, WindowClose};
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
        let open = grant.open();
        let first = open.first().and_then(|id| Some(self.commits.get(id)?.claim.interval));
        let Some(first) = first else { return Err(Refusal::TooEarly("no interval of this grant is open")) };
        same("first", it.first.get(), first)?;
        same("last", it.last.get(), first + open.len() as u64 - 1)?;
        if let Some((got, want)) = it.commits.iter().zip(open).find(|(got, want)| got != want) {
            same("commits", got, want)?;
        }
        // Where its provider's standing is not known, a window may be full before it has as many as the tier allows.
        let full = self.scope == Scope::OneJob && it.reason == CloseReason::Full;
        let want = if full { Some(CloseReason::Full) } else { grant.close_reason() };
        let size = grant.size.unwrap_or(u64::MAX);
        let want = want.ok_or(Refusal::WindowOpen { got: open.len() as u64, size })?;
        same("reason", format!("{:?}", it.reason), format!("{want:?}"))?;
        let intervals = it.first.get()..=it.last.get();
        self.check_eligible(&it.eligible, &self.ran(&grant.owner, (it.job, it.island), intervals)?)?;
        Ok(signer)
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
        if let Some(job) = self.jobs.get_mut(&it.job) {
            job.windows.push(id);
        }
    }

    pub(super) fn check_draw(&self, envelope: &Envelope, it: &Draw) -> Result<Digest, Refusal> {
        let signer = self.by_hub(envelope)?;
        let job = self.job(it.job)?;
        // A second draw follows one that is there.
        if job.job.tier == Tier::None && !matches!(it.kind, DrawKind::Tenant | DrawKind::Second) {
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
                let ran = self.ran(&commit.owner, (claim.job, claim.island), intervals)?;
                self.check_eligible(eligible, &ran)?;
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
            DrawKind::Last => (claim.completes(&job.job), "a commit of the job's last step"),
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

    pub(super) fn take_draw(&mut self, (id, index): (Digest, u64), it: &Draw) {
        let Some(choice) = self.jobs.get(&it.job).and_then(|job| self.choice(job, it).ok()) else { return };
        let Some(job) = self.jobs.get_mut(&it.job) else { return };
        if job.chain.reveal(it.index.get(), &it.preimage).is_err() {
            return;
        }
        job.drawn.insert((it.kind, it.subject), id);
        job.draws.push(id);
        if it.kind == DrawKind::Second
            && let Some(base) = self.draws.get_mut(&it.subject)
        {
            base.second = Some((id, choice.joins));
        }
        let draw = DrawState {
            index,
            job: it.job,
            kind: it.kind,
            subject: it.subject,
            preimage: it.preimage,
            commit: choice.commit,
            eligible: choice.eligible,
            order: choice.order,
            assigns: Vec::new(),
            second: None,
            verdict: None,
        };
        self.draws.insert(id, draw);
        if it.kind != DrawKind::Second {
            self.undecided.insert(id);
        }
    }
}

fn choose(it: &Draw, commit: Digest, eligible: &[Eligible]) -> Choice {
    let order = order(&it.preimage, &it.subject, eligible);
    let order = order.into_iter().map(|(owner, provider)| (owner.clone(), provider.clone())).collect();
    Choice { commit, eligible: eligible.to_vec(), order, joins: true }
}
