//! Who may audit which intervals.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::agenda::{Field, GivenUp};
use super::state::JobState;
use super::{History, Refusal, Scope};
use crate::Digest;
use crate::records::fields::{Island, OwnerName, ProviderName};
use crate::records::{Eligible, JobId, VerdictKind};

/// Most providers that a plan puts on one list: with the longest names they are two thirds of what a record may have.
const MAX_LISTED: usize = 1280;

/// Intervals of an island, and who ran them.
pub(super) struct Ran<'a> {
    /// The owner of the grant.
    trainer: &'a OwnerName,
    /// All who ever had such an interval accepted.
    others: BTreeSet<&'a OwnerName>,
}

impl History {
    pub(super) fn ran<'a>(
        &'a self,
        trainer: &'a OwnerName,
        (job, island): (JobId, Island),
        intervals: RangeInclusive<u64>,
    ) -> Result<Ran<'a>, Refusal> {
        let island = self.island(self.job(job)?, island)?;
        let grants = island.grants.values().filter(|grant| {
            // A grant's intervals follow each other, so its first tells which they are.
            let first = grant.commits.first().and_then(|id| Some(self.commits.get(id)?.claim.interval));
            let count = grant.commits.len() as u64;
            first.is_some_and(|first| first <= *intervals.end() && *intervals.start() < first + count)
        });
        Ok(Ran { trainer, others: grants.map(|grant| &grant.owner).collect() })
    }

    /// Why a provider of this owner may not audit what was run so.
    fn why_not(&self, ran: &Ran<'_>, owner: &OwnerName, provider: &ProviderName) -> Option<&'static str> {
        let Some(provider) = self.providers.get(provider) else {
            return Some("the log has no such provider");
        };
        if provider.owner != *owner {
            Some("it has another owner")
        } else if owner == ran.trainer {
            Some("its owner is the trainer's")
        } else if ran.others.contains(owner) {
            Some("its owner has run such an interval")
        } else if self.scope == Scope::Whole && provider.standing().recent_fault() {
            Some("it had a fault in its last 500 intervals")
        } else if !provider.keys.iter().any(|key| self.is_live(key)) {
            Some("it has no key that is not revoked")
        } else {
            None
        }
    }

    /// Whether all of a list may audit these intervals. That nobody is left out, and that speeds are what they are said to
    /// be, is the hub's word.
    pub(super) fn check_eligible(&self, list: &[Eligible], ran: &Ran<'_>) -> Result<(), Refusal> {
        for one in list {
            for provider in &one.providers {
                if let Some(why) = self.why_not(ran, &one.owner, provider) {
                    return Err(Refusal::Ineligible { provider: provider.to_string(), why });
                }
            }
        }
        Ok(())
    }

    /// Those of the candidates that may audit these intervals, in the order of the record.
    pub(super) fn eligible(
        &self,
        candidates: &[Eligible],
        ran: &Ran<'_>,
        tried: &BTreeSet<&OwnerName>,
    ) -> Vec<Eligible> {
        let mut owners: BTreeMap<&OwnerName, BTreeSet<&ProviderName>> = BTreeMap::new();
        for one in candidates.iter().filter(|one| !tried.contains(&one.owner)) {
            let may = one.providers.iter().filter(|name| self.why_not(ran, &one.owner, name).is_none());
            owners.entry(&one.owner).or_default().extend(may);
        }
        let mut room = MAX_LISTED;
        let list = owners.into_iter().map(|(owner, providers)| {
            let providers: Vec<_> = providers.into_iter().take(room).cloned().collect();
            room -= providers.len();
            Eligible { owner: owner.clone(), providers }
        });
        list.filter(|one| !one.providers.is_empty()).collect()
    }

    /// Owners who are not asked again in this job: whose answer was in an audit that came to nothing, and who were silent.
    /// A liar that nobody can convict, with too few others about, would else send the job back without end.
    pub(super) fn tried(&self, job: &JobState, field: &Field) -> BTreeSet<&OwnerName> {
        let mut tried = BTreeSet::new();
        for draw in job.draws.iter().filter_map(|id| self.draws.get(id)) {
            let nothing = draw.verdict.as_ref().is_some_and(|it| it.verdict == VerdictKind::Inconclusive);
            for (id, assign) in self.all_assigns(draw) {
                let answered = nothing && assign.counts() && assign.seal.is_some();
                if answered || self.was_silent(id, field) {
                    tried.extend(&assign.owner);
                }
            }
        }
        tried
    }

    fn was_silent(&self, assign: &Digest, field: &Field) -> bool {
        field.silent.contains(assign) || field.given_up.get(assign) == Some(&GivenUp::Silent)
    }
}
