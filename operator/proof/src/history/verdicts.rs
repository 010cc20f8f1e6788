//! Verdicts: whether the openings bear them out, and what follows.

use std::collections::BTreeSet;

use super::refusal::same;
use super::state::{DrawState, VerdictState};
use super::{History, Refusal};
use crate::Digest;
use crate::dsse::Envelope;
use crate::records::{DrawKind, Evidence, EvidenceKind, Verdict, VerdictKind};

impl History {
    pub(super) fn check_verdict(&self, envelope: &Envelope, it: &Verdict) -> Result<Digest, Refusal> {
        let signer = self.by_hub(envelope)?;
        let draw = self.draw(&it.draw)?;
        if draw.kind == DrawKind::Second {
            return Err(Refusal::Unfounded(
                "a second draw has none of its own; name the draw that it seconds",
            ));
        }
        same("job", it.job, draw.job)?;
        let commit = self.commit("draw", &draw.commit)?;
        same("interval", it.interval.get(), commit.claim.interval)?;
        if draw.verdict.is_some() {
            return Err(Refusal::Decided);
        }
        let Some(audit) = commit.audit else { return Err(Refusal::TooEarly("no auditor was asked")) };
        if audit != it.draw {
            return self.check_shared(&audit, it).map(|()| signer);
        }
        let unfounded = |why| Err(Refusal::Unfounded(why));
        match it.verdict {
            VerdictKind::Match => self.agreement(draw)?,
            VerdictKind::Inconclusive if self.agreement(draw).is_ok() => {
                return unfounded("all openings agree, so this is a Match");
            }
            VerdictKind::Inconclusive => {}
            VerdictKind::Fault => self.check_fault(draw, it)?,
            VerdictKind::AuditorFault => self.check_auditor_fault(draw, it)?,
        }
        Ok(signer)
    }

    /// Another draw hit a commit that has its verdict.
    fn check_shared(&self, audit: &Digest, it: &Verdict) -> Result<(), Refusal> {
        let Some(theirs) = self.draw(audit)?.verdict.as_ref() else { return Err(Refusal::Audited(*audit)) };
        let own = (it.verdict, &it.party, &it.evidence);
        if own == (theirs.verdict, &theirs.party, &theirs.evidence) {
            return Ok(());
        }
        Err(Refusal::Unfounded("the interval has another verdict by the draw that it was audited for"))
    }

    /// All who answer for the commit say the same: every auditor that counts has opened, and so has the trainer; or the
    /// trainer is silent and two owners' replays come to its StateRoot, which clears it.
    pub(super) fn agreement(&self, base: &DrawState) -> Result<(), Refusal> {
        let commit = self.commit("draw", &base.commit)?;
        let mut owners = BTreeSet::new();
        let mut roots = BTreeSet::new();
        for assign in self.live_assigns(base) {
            let Some((state, records)) = assign.opened else {
                return Err(Refusal::Unfounded("an auditor has not opened its seal"));
            };
            owners.insert(&assign.owner);
            roots.insert((state, records));
        }
        if !self.seals_in(base) || roots.is_empty() {
            return Err(Refusal::Unfounded("not all auditors have answered"));
        }
        let mut roots = roots.into_iter();
        let (Some((state, records)), None) = (roots.next(), roots.next()) else {
            return Err(Refusal::Unfounded("the auditors differ"));
        };
        // Weakened on purpose in one build, to see that the tests of cheats notice.
        let looks = !cfg!(feature = "weak-verifier");
        if looks && state != commit.claim.answer() {
            return Err(Refusal::Unfounded("the auditors' StateRoot is not the commit's"));
        }
        match commit.opened {
            Some(own) if looks && own != records => {
                Err(Refusal::Unfounded("the auditors' record root is not the trainer's"))
            }
            None if owners.len() < 2 => {
                Err(Refusal::Unfounded("the trainer has not opened, and only one owner has replayed"))
            }
            _ => Ok(()),
        }
    }

    /// What the named openings agree on: of this audit, by two owners at least and not by `except`'s.
    fn replays(
        &self,
        base: &DrawState,
        evidence: &Evidence,
        except: &str,
    ) -> Result<(Digest, Digest), Refusal> {
        let mut owners = BTreeSet::new();
        let mut roots = BTreeSet::new();
        for id in &evidence.records {
            let assign = self.openings.get(id).and_then(|assign| self.assigns.get(assign));
            let unknown =
                || Refusal::Unknown { field: "evidence.records", what: "audit opening", id: id.to_string() };
            let assign = assign.ok_or_else(unknown)?;
            if !self.live_assigns(base).any(|live| std::ptr::eq(live, assign)) {
                return Err(Refusal::Unfounded("the evidence is not of this audit, or was thrown out"));
            }
            let owner = assign.owner.as_ref().map_or(super::HUB_AUDITOR, |owner| owner.as_str());
            if owner == except {
                return Err(Refusal::Unfounded("the evidence is the party's own"));
            }
            owners.insert(&assign.owner);
            roots.extend(assign.opened);
        }
        let mut roots = roots.into_iter();
        match (roots.next(), roots.next()) {
            (Some(agreed), None) if owners.len() >= 2 => Ok(agreed),
            (Some(_), None) => Err(Refusal::Unfounded("the evidence is one owner's only, want two")),
            _ => Err(Refusal::Unfounded("the openings of the evidence differ")),
        }
    }

    fn check_fault(&self, base: &DrawState, it: &Verdict) -> Result<(), Refusal> {
        let commit = self.commit("draw", &base.commit)?;
        let (Some(party), Some(evidence)) = (&it.party, &it.evidence) else {
            return Err(Refusal::Unfounded("a Fault has a party and evidence"));
        };
        same("party", party, &commit.provider)?;
        let (state, records) = self.replays(base, evidence, commit.owner.as_str())?;
        let wrong = state != commit.claim.answer();
        let good = match evidence.kind {
            EvidenceKind::Replays => wrong || commit.opened.is_some_and(|own| own != records),
            // Silent, but right as far as anybody can see: cleared.
            EvidenceKind::Silence => wrong && commit.opened.is_none(),
        };
        if good { Ok(()) } else { Err(Refusal::Unfounded("the replays do not contradict the party")) }
    }

    fn check_auditor_fault(&self, base: &DrawState, it: &Verdict) -> Result<(), Refusal> {
        let (Some(party), Some(evidence)) = (&it.party, &it.evidence) else {
            return Err(Refusal::Unfounded("an AuditorFault has a party and evidence"));
        };
        let own = self.live_assigns(base).find(|assign| assign.auditor == *party && assign.seal.is_some());
        let own = own.ok_or(Refusal::Unfounded("the party has no seal in this audit that counts"))?;
        let owner = own.owner.as_ref().map_or(super::HUB_AUDITOR, |owner| owner.as_str());
        let agreed = self.replays(base, evidence, owner)?;
        let good = match evidence.kind {
            EvidenceKind::Replays => own.opened.is_some_and(|own| own != agreed),
            EvidenceKind::Silence => own.opened.is_none(),
        };
        if good { Ok(()) } else { Err(Refusal::Unfounded("the replays do not contradict the party")) }
    }

    pub(super) fn take_verdict(&mut self, (id, index): (Digest, u64), it: &Verdict) {
        let Some(draw) = self.draws.get(&it.draw) else { return };
        let (kind, subject, commit) = (draw.kind, draw.subject, draw.commit);
        let own = self.commits.get(&commit).is_some_and(|commit| commit.audit == Some(it.draw));
        let state = VerdictState {
            index,
            job: it.job,
            draw: it.draw,
            commit,
            kind: it.verdict,
            party: it.party.clone(),
            evidence: it.evidence.as_ref().map(|evidence| evidence.kind),
        };
        self.verdicts.insert(id, state);
        if let Some(job) = self.jobs.get_mut(&it.job) {
            job.verdicts.push(id);
        }
        match it.verdict {
            // The draw stays open: that one answer is wrong does not make another right.
            VerdictKind::AuditorFault => {
                self.convict_auditor(&it.draw, it);
                return;
            }
            VerdictKind::Match => self.settle_window(kind, &subject),
            VerdictKind::Fault if own => {
                let party = it.party.as_ref().and_then(|party| self.providers.get_mut(party));
                if let Some(provider) = party {
                    provider.fault = Some(provider.intervals);
                }
            }
            VerdictKind::Fault => {}
            VerdictKind::Inconclusive => {
                // It may be drawn again.
                if let Some(job) = self.jobs.get_mut(&it.job) {
                    job.drawn.remove(&(kind, subject));
                }
                if let Some(commit) = self.commits.get_mut(&commit).filter(|_| own) {
                    commit.audit = None;
                }
            }
        }
        self.undecided.remove(&it.draw);
        if let Some(draw) = self.draws.get_mut(&it.draw) {
            draw.verdict = Some(it.clone());
        }
    }

    fn convict_auditor(&mut self, draw: &Digest, it: &Verdict) {
        let Some(base) = self.draws.get(draw) else { return };
        let second = base.second.and_then(|(id, _)| self.draws.get(&id));
        let ids = base.assigns.iter().chain(second.into_iter().flat_map(|draw| &draw.assigns)).copied();
        for id in ids.collect::<Vec<_>>() {
            if let Some(assign) =
                self.assigns.get_mut(&id).filter(|assign| Some(&assign.auditor) == it.party.as_ref())
            {
                assign.convicted = true;
            }
        }
        if let Some(provider) = it.party.as_ref().and_then(|party| self.providers.get_mut(party)) {
            provider.fault = Some(provider.intervals);
        }
    }

    fn settle_window(&mut self, kind: DrawKind, subject: &Digest) {
        let window = self.windows.get(subject).filter(|_| kind == DrawKind::Window);
        let place = window.map(|window| (window.job, window.island, window.epoch));
        if let Some((job, island, epoch)) = place
            && let Some(grant) = self.grant_mut(job, island, epoch)
        {
            grant.unsettled = grant.unsettled.saturating_sub(1);
        }
    }
}
