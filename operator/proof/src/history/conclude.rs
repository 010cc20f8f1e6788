//! One audit's next move: who is asked, who is waited for, and what the openings come to.

use std::collections::{BTreeMap, BTreeSet};

use super::agenda::{GivenUp, Plan, Todo, Unsigned};
use super::open::counts;
use super::state::{AssignState, CommitState, DrawState};
use super::{HUB_AUDITOR, History};
use crate::Digest;
use crate::records::fields::{Interval, OwnerName, Place, ProviderName};
use crate::records::{AssignReason, AuditAssign, DrawKind, Evidence, EvidenceKind, Verdict, VerdictKind};

/// Most openings that a verdict names.
const MAX_EVIDENCE: usize = 16;

/// An audit: a draw, and the commit that it is about.
#[derive(Clone, Copy)]
struct Audit<'a> {
    id: Digest,
    draw: &'a DrawState,
    commit: &'a CommitState,
    interval: Interval,
}

/// An answer, by the owner who gave it; `None` is the hub.
struct Answer<'a> {
    owner: &'a Option<OwnerName>,
    opening: Digest,
}

impl Audit<'_> {
    fn verdict(&self, verdict: VerdictKind) -> Verdict {
        let job = self.draw.job;
        Verdict { job, draw: self.id, interval: self.interval, verdict, party: None, evidence: None }
    }

    fn convicts(&self, verdict: VerdictKind, party: &ProviderName, evidence: Evidence) -> Verdict {
        Verdict { party: Some(party.clone()), evidence: Some(evidence), ..self.verdict(verdict) }
    }
}

impl Plan<'_> {
    /// Logs a verdict, once a head that counts has what it rests on.
    fn decide(&mut self, audit: Audit<'_>, verdict: Verdict) {
        let size = audit.commit.heard.saturating_add(1);
        if size <= self.field.counted {
            return self.log(Unsigned::Verdict(verdict));
        }
        let waits = Todo::AwaitWitnesses { draw: audit.id, size };
        if !self.todo.contains(&waits) {
            self.todo.push(waits);
        }
    }
}

impl History {
    /// Plans for a draw that has no verdict.
    pub(super) fn plan_audit(&self, plan: &mut Plan<'_>, id: Digest, draw: &DrawState) {
        let Some(commit) = self.commits.get(&draw.commit) else { return };
        let Ok(interval) = Interval::new(commit.claim.interval) else { return };
        let audit = Audit { id, draw, commit, interval };
        if let Some(other) = commit.audit.filter(|other| *other != id) {
            // Another draw hit the same commit before; its verdict is this draw's too.
            let theirs = self.draws.get(&other).and_then(|other| other.verdict.clone());
            if let Some(theirs) = theirs {
                plan.log(Unsigned::Verdict(Verdict { draw: id, ..theirs }));
            }
            return;
        }
        if commit.audit.is_none() && !plan.begun.insert(draw.commit) {
            return;
        }
        if !self.has_sealed(plan, audit, (id, draw)) {
            return;
        }
        match draw.second.map(|(second, joins)| (second, joins, self.draws.get(&second))) {
            None => return plan.draw(DrawKind::Second, id, None),
            Some((second, true, Some(state))) if !self.has_sealed(plan, audit, (second, state)) => return,
            Some(_) => {}
        }
        if self.has_opened(plan, audit) {
            self.conclude(plan, audit);
        }
    }

    /// Whether the auditor that a draw (the audit's own or its second) asked last has sealed. If not, plans what is to be
    /// done about that.
    fn has_sealed(&self, plan: &mut Plan<'_>, audit: Audit<'_>, (id, draw): (Digest, &DrawState)) -> bool {
        let last = draw.assigns.last().and_then(|id| Some((*id, self.assigns.get(id)?)));
        let Some((last_id, last)) = last else {
            self.ask(plan, audit, (id, draw), AssignReason::First);
            return false;
        };
        if last.seal.is_some() {
            return true;
        }
        let given_up = plan.field.given_up.get(&last_id).copied();
        if last.auditor.as_str() == HUB_AUDITOR {
            self.await_hub(plan, audit, last_id, last, given_up);
            return false;
        }
        // Who has no key can never seal.
        let given_up = given_up.or_else(|| (!self.can_sign(&last.auditor)).then_some(GivenUp::Silent));
        match given_up {
            None => plan.todo.push(Todo::AwaitSeal { audit: last_id, auditor: last.auditor.clone() }),
            Some(GivenUp::Declined) => self.ask(plan, audit, (id, draw), AssignReason::Declined),
            Some(GivenUp::Silent) => self.ask(plan, audit, (id, draw), AssignReason::Silent),
        }
        false
    }

    /// Nobody comes after the hub's own auditor. What counts waits for it for as long as it takes; about what was rolled
    /// back already (its start may be gone) nothing more is at stake than one interval's pay.
    fn await_hub(
        &self,
        plan: &mut Plan<'_>,
        audit: Audit<'_>,
        id: Digest,
        hub: &AssignState,
        given_up: Option<GivenUp>,
    ) {
        let void = !counts(plan.state, audit.commit, &audit.draw.commit);
        match given_up {
            Some(_) if void => plan.decide(audit, audit.verdict(VerdictKind::Inconclusive)),
            None if plan.field.hub_auditor => {
                plan.todo.push(Todo::AwaitSeal { audit: id, auditor: hub.auditor.clone() });
            }
            _ => plan.todo.push(Todo::NoAuditor { draw: audit.id }),
        }
    }

    /// Asks the next in a draw's order, or at its end the hub's own auditor, which is asked only while it is up, and once.
    /// Behind it is nobody who could tell.
    fn ask(
        &self,
        plan: &mut Plan<'_>,
        audit: Audit<'_>,
        (id, draw): (Digest, &DrawState),
        reason: AssignReason,
    ) {
        let next = self.next_auditor(draw, audit.draw);
        let hub_asked = self.live_assigns(audit.draw).any(|assign| assign.owner.is_none());
        if next.is_none() && hub_asked {
            return plan.decide(audit, audit.verdict(VerdictKind::Inconclusive));
        }
        if next.is_none() && !plan.field.hub_auditor {
            plan.todo.push(Todo::NoAuditor { draw: audit.id });
            return;
        }
        let (place, auditor, reason) = match next {
            Some((place, auditor)) => (place, Some(auditor.clone()), reason),
            None => (draw.order.len() as u64, HUB_AUDITOR.parse().ok(), AssignReason::LastResort),
        };
        if let (Ok(place), Some(auditor)) = (Place::new(place), auditor) {
            let interval = audit.interval;
            plan.log(Unsigned::AuditAssign(AuditAssign { draw: id, interval, auditor, place, reason }));
        }
    }

    /// Whether the provider has a key that is not revoked.
    fn can_sign(&self, provider: &ProviderName) -> bool {
        self.providers.get(provider).is_some_and(|it| it.keys.iter().any(|key| self.is_live(key)))
    }

    /// Whether all have opened whose opening is still waited for.
    fn has_opened(&self, plan: &mut Plan<'_>, audit: Audit<'_>) -> bool {
        let mut waits = Vec::new();
        let (commit, silent) = (audit.draw.commit, &plan.field.silent);
        if audit.commit.opened.is_none() && !silent.contains(&commit) {
            waits.push(Todo::AwaitOpening { commit, provider: audit.commit.provider.clone() });
        }
        for (id, assign) in self.all_assigns(audit.draw).filter(|(_, assign)| assign.counts()) {
            if assign.opened.is_none() && !silent.contains(id) {
                waits.push(Todo::AwaitAnswer { audit: *id, auditor: assign.auditor.clone() });
            }
        }
        let done = waits.is_empty();
        plan.todo.append(&mut waits);
        done
    }

    /// All who will ever open have opened: a verdict, or one more auditor.
    fn conclude(&self, plan: &mut Plan<'_>, audit: Audit<'_>) {
        if self.agreement(audit.draw).is_ok() {
            return plan.decide(audit, audit.verdict(VerdictKind::Match));
        }
        let Some(((state, records), evidence)) = self.majority(audit.draw) else {
            return self.ask(plan, audit, (audit.id, audit.draw), AssignReason::Dispute);
        };
        let grounds = |silent: bool| {
            let kind = if silent { EvidenceKind::Silence } else { EvidenceKind::Replays };
            Evidence { kind, records: evidence.clone() }
        };
        // Auditors first: the trainer's verdict ends the audit.
        let wrong = self.live_assigns(audit.draw).filter(|assign| assign.opened != Some((state, records)));
        let mut convicted = BTreeSet::new();
        for assign in wrong.filter(|assign| convicted.insert(&assign.auditor)) {
            let grounds = grounds(assign.opened.is_none());
            let verdict = audit.convicts(VerdictKind::AuditorFault, &assign.auditor, grounds);
            plan.decide(audit, verdict);
        }
        if convicted.is_empty() {
            let silent = audit.commit.opened.is_none();
            let verdict = audit.convicts(VerdictKind::Fault, &audit.commit.provider, grounds(silent));
            plan.decide(audit, verdict);
        }
    }

    /// What two owners or more have come to, if no other answer has as many; with the ids of their openings.
    fn majority(&self, draw: &DrawState) -> Option<((Digest, Digest), Vec<Digest>)> {
        let mut answers: BTreeMap<(Digest, Digest), Vec<Answer<'_>>> = BTreeMap::new();
        for assign in self.live_assigns(draw) {
            let Some((opened, opening)) = assign.opened.zip(assign.opening) else { continue };
            let same = answers.entry(opened).or_default();
            if same.iter().all(|other| *other.owner != assign.owner) {
                same.push(Answer { owner: &assign.owner, opening });
            }
        }
        let most = answers.values().map(Vec::len).max().filter(|most| *most >= 2)?;
        let mut best = answers.into_iter().filter(|(_, same)| same.len() == most);
        let (Some((agreed, same)), None) = (best.next(), best.next()) else { return None };
        let mut evidence: Vec<_> = same.into_iter().map(|answer| answer.opening).take(MAX_EVIDENCE).collect();
        evidence.sort_unstable();
        Some((agreed, evidence))
    }
}
