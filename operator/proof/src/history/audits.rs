//! Audits: who replays, what is sealed and what is shown.
//!
//! An audit is a draw with its second draw: their assignments answer about one commit. It belongs to the first draw that has
//! an assignment for that commit; other draws that hit the same commit share its verdict.

use super::refusal::same;
use super::state::{AssignState, DrawState};
use super::{HUB_AUDITOR, History, Refusal};
use crate::Digest;
use crate::dsse::Envelope;
use crate::records::fields::{Epoch, Interval, ProviderName};
use crate::records::{
    AssignReason, AuditAssign, AuditOpening, AuditSeal, DrawKind, Opening, audit_seal, record_seal,
};

impl History {
    pub(super) fn draw(&self, id: &Digest) -> Result<&DrawState, Refusal> {
        let unknown = || Refusal::Unknown { field: "draw", what: "draw", id: id.to_string() };
        self.draws.get(id).ok_or_else(unknown)
    }

    /// The draw whose audit this one belongs to: itself, or the one that it seconds.
    pub(super) fn base<'a>(&'a self, id: &'a Digest, draw: &'a DrawState) -> (Digest, &'a DrawState) {
        match self.draws.get(&draw.subject).filter(|_| draw.kind == DrawKind::Second) {
            Some(base) => (draw.subject, base),
            None => (*id, draw),
        }
    }

    /// Assignments of an audit, those of its second draw after its own.
    pub(super) fn all_assigns<'a>(
        &'a self,
        base: &'a DrawState,
    ) -> impl Iterator<Item = (&'a Digest, &'a AssignState)> {
        let second = base.second.and_then(|(id, _)| self.draws.get(&id));
        let ids = base.assigns.iter().chain(second.into_iter().flat_map(|draw| &draw.assigns));
        ids.filter_map(|id| Some((id, self.assigns.get(id)?)))
    }

    /// Those whose answers count.
    pub(super) fn live_assigns<'a>(&'a self, base: &'a DrawState) -> impl Iterator<Item = &'a AssignState> {
        self.all_assigns(base).map(|(_, assign)| assign).filter(|assign| assign.counts())
    }

    /// Whether every auditor that was asked has sealed, and the second one was drawn.
    pub(super) fn seals_in(&self, base: &DrawState) -> bool {
        let asked = |draw: &DrawState| {
            draw.assigns.iter().any(|id| self.assigns.get(id).is_some_and(|assign| assign.seal.is_some()))
        };
        let second = match base.second {
            None => false,
            Some((_, false)) => true,
            Some((id, true)) => self.draws.get(&id).is_some_and(asked),
        };
        asked(base) && second && self.live_assigns(base).all(|assign| assign.seal.is_some())
    }

    pub(super) fn check_audit_assign(
        &self,
        envelope: &Envelope,
        it: &AuditAssign,
    ) -> Result<Digest, Refusal> {
        let signer = self.by_hub(envelope)?;
        let draw = self.draw(&it.draw)?;
        let (base_id, base) = self.base(&it.draw, draw);
        if base.verdict.is_some() {
            return Err(Refusal::Decided);
        }
        let commit = self.commit("draw", &draw.commit)?;
        if let Some(other) = commit.audit.filter(|audit| *audit != base_id) {
            return Err(Refusal::Audited(other));
        }
        if draw.kind == DrawKind::Second && base.second != Some((it.draw, true)) {
            return Err(Refusal::TooEarly("this draw says that no second auditor joins"));
        }
        same("interval", it.interval.get(), commit.claim.interval)?;
        let last = draw.assigns.last().and_then(|id| self.assigns.get(id));
        self.check_reason(it, base, last)?;
        let next = self.next_auditor(draw, base);
        let (place, auditor) = match next {
            Some((place, provider)) => (place, provider.as_str()),
            None => (draw.order.len() as u64, HUB_AUDITOR),
        };
        same("auditor", it.auditor.as_str(), auditor)?;
        same("place", it.place.get(), place)?;
        let last_resort = it.reason == AssignReason::LastResort;
        if last_resort != next.is_none() {
            let want = if last_resort { "another: the order has a next" } else { "LastResort" };
            same("reason", format!("{:?}", it.reason), want.to_owned())?;
        }
        if last_resort && self.live_assigns(base).any(|assign| assign.owner.is_none()) {
            return Err(Refusal::Known { what: "the hub's own audit".to_owned() });
        }
        Ok(signer)
    }

    /// The next in a draw's order whose owner has not answered in this audit; `None`: behind the last is the hub.
    pub(super) fn next_auditor<'a>(
        &self,
        draw: &'a DrawState,
        base: &DrawState,
    ) -> Option<(u64, &'a ProviderName)> {
        let last = draw.assigns.last().and_then(|id| self.assigns.get(id));
        let start = last.map_or(0, |last| last.place + 1);
        let answered: Vec<_> = self.live_assigns(base).filter(|assign| assign.seal.is_some()).collect();
        let free = |owner| answered.iter().all(|assign| assign.owner.as_ref() != Some(owner));
        let next = (0u64..).zip(&draw.order).find(|(place, (owner, _))| *place >= start && free(owner));
        next.map(|(place, (_, provider))| (place, provider))
    }

    /// Whether the one before has left room for another.
    fn check_reason(
        &self,
        it: &AuditAssign,
        base: &DrawState,
        last: Option<&AssignState>,
    ) -> Result<(), Refusal> {
        let sealed = last.is_some_and(|last| last.seal.is_some());
        let good = match it.reason {
            AssignReason::First => last.is_none(),
            AssignReason::Declined | AssignReason::Silent => last.is_some() && !sealed,
            AssignReason::Dispute => sealed && self.seals_in(base) && self.agreement(base).is_err(),
            AssignReason::LastResort => !sealed || (self.seals_in(base) && self.agreement(base).is_err()),
        };
        if good {
            return Ok(());
        }
        Err(Refusal::TooEarly(match it.reason {
            AssignReason::First => "an auditor was asked before, so this is not the first",
            AssignReason::Declined | AssignReason::Silent => "no auditor was asked before, or it has sealed",
            _ => "the audit has no dispute: seals are missing, or all openings agree",
        }))
    }

    pub(super) fn take_audit_assign(&mut self, (id, index): (Digest, u64), it: &AuditAssign) {
        let Some(draw) = self.draws.get(&it.draw) else { return };
        let (base_id, _) = self.base(&it.draw, draw);
        let (commit, last) = (draw.commit, draw.assigns.last().copied());
        if let Some(last) = last.and_then(|last| self.assigns.get_mut(&last)) {
            last.replaced = last.seal.is_none();
        }
        if let Some(commit) = self.commits.get_mut(&commit) {
            commit.audit = Some(base_id);
        }
        if let Some(draw) = self.draws.get_mut(&it.draw) {
            draw.assigns.push(id);
        }
        let state = AssignState {
            index,
            draw: it.draw,
            auditor: it.auditor.clone(),
            owner: self.providers.get(&it.auditor).map(|provider| provider.owner.clone()),
            place: it.place.get(),
            reason: it.reason,
            replaced: false,
            convicted: false,
            seal: None,
            opened: None,
            opening: None,
        };
        self.assigns.insert(id, state);
    }

    /// An assignment whose answers count and whose audit is not over, with the audit.
    fn open_assign(&self, id: &Digest) -> Result<(&AssignState, &DrawState), Refusal> {
        let unknown = || Refusal::Unknown { field: "audit", what: "assignment", id: id.to_string() };
        let assign = self.assigns.get(id).ok_or_else(unknown)?;
        let (_, base) = self.base(&assign.draw, self.draw(&assign.draw)?);
        if base.verdict.is_some() {
            return Err(Refusal::Decided);
        }
        if assign.replaced || assign.convicted {
            return Err(Refusal::Replaced);
        }
        Ok((assign, base))
    }

    pub(super) fn check_audit_seal(&self, envelope: &Envelope, it: &AuditSeal) -> Result<Digest, Refusal> {
        let (assign, _) = self.open_assign(&it.audit)?;
        let signer = self.by_provider(envelope, &assign.auditor)?;
        match assign.seal {
            Some(_) => Err(Refusal::Known { what: "this auditor's seal".to_owned() }),
            None => Ok(signer),
        }
    }

    pub(super) fn take_audit_seal(&mut self, index: u64, it: &AuditSeal, signer: Digest) {
        if let Some(assign) = self.assigns.get_mut(&it.audit) {
            assign.seal = Some((it.seal, signer));
        }
        self.hear(index, &it.audit);
    }

    /// Something was said in the audit of this assignment.
    fn hear(&mut self, index: u64, audit: &Digest) {
        let draw = self.assigns.get(audit).and_then(|assign| self.draws.get(&assign.draw));
        if let Some(commit) = draw.map(|draw| draw.commit).and_then(|commit| self.commits.get_mut(&commit)) {
            commit.heard = index;
        }
    }

    pub(super) fn check_opening(&self, envelope: &Envelope, it: &Opening) -> Result<Digest, Refusal> {
        let commit = self.commit("commit", &it.commit)?;
        let signer = self.by_provider(envelope, &commit.provider)?;
        if commit.opened.is_some() {
            return Err(Refusal::Known { what: "the opening of this commit".to_owned() });
        }
        // Shown earlier, it could be copied instead of computed.
        let base = commit.audit.and_then(|audit| self.draws.get(&audit));
        if !base.is_some_and(|base| self.seals_in(base)) {
            return Err(Refusal::TooEarly("not all auditors of this interval have sealed"));
        }
        let claim = &commit.claim;
        let place = (Epoch::new(claim.epoch), Interval::new(claim.interval));
        let (Ok(epoch), Ok(interval)) = place else { return Err(Refusal::DoesNotOpen) };
        let seal = record_seal(claim.job, (claim.island, epoch, interval), &it.record_root, &it.salt);
        if seal == claim.seal { Ok(signer) } else { Err(Refusal::DoesNotOpen) }
    }

    pub(super) fn take_opening(&mut self, index: u64, it: &Opening) {
        if let Some(commit) = self.commits.get_mut(&it.commit) {
            commit.opened = Some(it.record_root);
            commit.heard = index;
        }
    }

    pub(super) fn check_audit_opening(
        &self,
        envelope: &Envelope,
        it: &AuditOpening,
    ) -> Result<Digest, Refusal> {
        let (assign, base) = self.open_assign(&it.audit)?;
        let signer = self.by_provider(envelope, &assign.auditor)?;
        if assign.opened.is_some() {
            return Err(Refusal::Known { what: "this auditor's opening".to_owned() });
        }
        let Some((seal, key)) = assign.seal.filter(|_| self.seals_in(base)) else {
            return Err(Refusal::TooEarly("not all auditors of this interval have sealed"));
        };
        let own = audit_seal(&it.audit, &key, &it.state_root, &it.record_root, &it.nonce);
        if own == seal { Ok(signer) } else { Err(Refusal::DoesNotOpen) }
    }

    pub(super) fn take_audit_opening(&mut self, (id, index): (Digest, u64), it: &AuditOpening) {
        if let Some(assign) = self.assigns.get_mut(&it.audit) {
            assign.opened = Some((it.state_root, it.record_root));
            assign.opening = Some(id);
            self.openings.insert(id, it.audit);
        }
        self.hear(index, &it.audit);
    }
}
