//! What a hub does next about the audits of a job (docs/spec/records.md, "The hub's plan"): a function of the log and of what
//! the hub knows beside it. It does nothing itself: whoever asks signs, submits, and asks again.

use std::collections::{BTreeMap, BTreeSet};

use super::open::{Open, counts};
use super::state::JobState;
use super::{History, Refusal};
use crate::Digest;
use crate::dsse::Envelope;
use crate::key::SigningKey;
use crate::records::fields::{ChainIndex, Epoch, Interval, Island, ProviderName, Window};
use crate::records::{
    self, AuditAssign, Draw, DrawKind, Eligible, JobId, Payload as _, Rollback, Tier, Verdict, VerdictKind,
    WindowClose,
};

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
    /// Entries under the newest head that counts ([`super::Quorum`]): a verdict waits until all that it rests on is there.
    pub counted: u64,
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
    /// A verdict rests on entries that no head that counts has.
    AwaitWitnesses {
        /// Record id of the draw.
        draw: Digest,
        /// A head with so many entries has them.
        size: u64,
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

/// An agenda in the making.
pub(super) struct Plan<'a> {
    pub job: JobId,
    pub state: &'a JobState,
    pub field: &'a Field,
    preimage: &'a dyn Fn(u64) -> Option<Digest>,
    /// Place in the chain of the next draw.
    next: u64,
    /// Commits whose audit begins with this agenda.
    pub begun: BTreeSet<Digest>,
    pub todo: Vec<Todo>,
}

impl Plan<'_> {
    pub fn log(&mut self, record: Unsigned) {
        self.todo.push(Todo::Log(Box::new(record)));
    }

    pub fn draw(&mut self, kind: DrawKind, subject: Digest, eligible: Option<Vec<Eligible>>) {
        let value =
            ChainIndex::new(self.next).ok().filter(|at| at.get() < self.state.job.beacon.length.get());
        let value = value.and_then(|index| Some((index, (self.preimage)(index.get())?)));
        let Some((index, preimage)) = value else {
            if !self.todo.contains(&Todo::ChainUsedUp) {
                self.todo.push(Todo::ChainUsedUp);
            }
            return;
        };
        self.next += 1;
        self.log(Unsigned::Draw(Draw { job: self.job, kind, subject, index, preimage, eligible }));
    }

    /// A list that is fixed for good waits for somebody to be on it, or for the hub's auditor.
    fn has_auditor(&mut self, eligible: &[Eligible], subject: Digest) -> bool {
        let has = !eligible.is_empty() || self.field.hub_auditor;
        if !has {
            self.todo.push(Todo::NoAuditor { draw: subject });
        }
        has
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
        let state = self.job(job)?;
        let next = state.chain.drawn();
        let mut plan = Plan { job, state, field, preimage, next, begun: BTreeSet::new(), todo: Vec::new() };
        // What a rollback voids needs no draw and no audit that it had not before: it goes first, alone.
        self.plan_rollback(&mut plan);
        if plan.todo.is_empty() {
            if field.draws {
                self.plan_windows(&mut plan);
                self.plan_draws(&mut plan)?;
            }
            let draws = state.draws.iter().filter(|id| self.undecided.contains(*id));
            for (id, draw) in draws.filter_map(|id| Some((*id, self.draws.get(id)?))) {
                self.plan_audit(&mut plan, id, draw);
            }
        }
        Ok(plan.todo)
    }

    /// The job goes back for one verdict at a time, the lowest interval first: that may do for the others.
    fn plan_rollback(&self, plan: &mut Plan<'_>) {
        let islands = &plan.state.islands;
        let leads_back = |kind| matches!(kind, VerdictKind::Fault | VerdictKind::Inconclusive);
        let mut due = Vec::new();
        for (id, verdict) in plan.state.verdicts.iter().filter_map(|id| Some((id, self.verdicts.get(id)?))) {
            let Some(commit) = self.commits.get(&verdict.commit).filter(|_| leads_back(verdict.kind)) else {
                continue;
            };
            let gone = islands.iter().filter(|island| island.rollbacks.contains(id)).count();
            let begun = (1..islands.len()).contains(&gone);
            if begun || counts(plan.state, commit, &verdict.commit) {
                due.push((!begun, commit.claim.interval, verdict.index, id, &commit.claim));
            }
        }
        let Some((.., id, claim)) =
            due.into_iter().min_by_key(|(fresh, interval, index, ..)| (*fresh, *interval, *index))
        else {
            return;
        };
        // The verdict's own island first.
        let own = claim.island.get();
        let mut order: Vec<_> = (0u64..).zip(islands).collect();
        order.sort_by_key(|(number, _)| (*number != own, *number));
        for (number, island) in order.into_iter().filter(|(_, island)| !island.rollbacks.contains(id)) {
            let newest = island.grants.last_key_value().map_or(0, |(epoch, _)| *epoch);
            let epoch = Epoch::new(newest.max(island.lowest_epoch) + 1);
            let fields = (Island::new(number), Interval::new(claim.interval), epoch);
            if let (Ok(island), Ok(to_interval), Ok(epoch)) = fields {
                plan.log(Unsigned::Rollback(Rollback {
                    job: plan.job,
                    island,
                    to_interval,
                    epoch,
                    verdict: *id,
                }));
            }
        }
    }

    /// Closes each window that is full or whose grant has ended.
    fn plan_windows(&self, plan: &mut Plan<'_>) {
        if plan.state.job.tier == Tier::None {
            return;
        }
        let tried = self.tried(plan.state, plan.field);
        let grants = (0u64..).zip(&plan.state.islands).flat_map(|(number, island)| {
            island.grants.iter().map(move |(epoch, grant)| (number, *epoch, grant))
        });
        for (island, epoch, grant) in grants {
            let Some(reason) = grant.close_reason() else { continue };
            let commits = grant.open().to_vec();
            let Some(first) = commits.first().and_then(|id| self.commits.get(id)) else { continue };
            let last = Interval::new(first.claim.interval + commits.len() as u64 - 1);
            let place = (Island::new(island), Epoch::new(epoch), Window::new(grant.windows));
            let (Ok(island), Ok(epoch), Ok(window)) = place else { continue };
            let (Ok(first), Ok(last)) = (Interval::new(first.claim.interval), last) else { continue };
            let Ok(ran) = self.ran(&grant.owner, (plan.job, island), first.get()..=last.get()) else {
                continue;
            };
            let eligible = self.eligible(&plan.field.candidates, &ran, &tried);
            if commits.first().is_some_and(|first| plan.has_auditor(&eligible, *first)) {
                let job = plan.job;
                let close =
                    WindowClose { job, island, epoch, window, first, last, commits, reason, eligible };
                plan.log(Unsigned::WindowClose(close));
            }
        }
    }

    /// Draws what must be drawn and is not.
    fn plan_draws(&self, plan: &mut Plan<'_>) -> Result<(), Refusal> {
        let tried = self.tried(plan.state, plan.field);
        for open in self.open(plan.job)? {
            let Open::Draw { kind, subject } = open else { continue };
            if kind == DrawKind::Window {
                plan.draw(kind, subject, None);
                continue;
            }
            let commit = self.commit("subject", &subject)?;
            let (claim, at) = (&commit.claim, commit.claim.interval);
            let ran = self.ran(&commit.owner, (claim.job, claim.island), at..=at)?;
            let eligible = self.eligible(&plan.field.candidates, &ran, &tried);
            if plan.has_auditor(&eligible, subject) {
                plan.draw(kind, subject, Some(eligible));
            }
        }
        Ok(())
    }
}
