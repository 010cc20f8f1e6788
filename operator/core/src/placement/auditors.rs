//! Whether anybody could audit a job, asked before its first unit is made: one that nobody can check would train for nothing.
//! Who is asked in the end is drawn (docs/spec/records.md section 4), of those that are there then.
use std::collections::{BTreeMap, BTreeSet};

use super::filters::{Filter, arithmetic, convicted, device_class, image, ready, schedulable};
use super::{Candidate, Rejection, Request, convicted_owners, not_of};

/// What an auditor needs whatever the job allows its trainer. Room comes and goes, and an audit can wait for it.
const FILTERS: &[Filter] = &[convicted, schedulable, ready, device_class, arithmetic, image];

/// Who could audit a job, as far as it matters to whoever may train it: at most two owners.
pub(super) enum Auditors<'a> {
    /// Nobody of them needs to.
    Needless,
    /// These; with a second one, everybody's training can be audited.
    Owners(Option<&'a str>, Option<&'a str>),
}

impl<'a> Auditors<'a> {
    /// Of the candidates.
    pub fn of(request: &Request, candidates: &'a [Candidate]) -> Self {
        let Some(allowed) = &request.audited_by else { return Self::Needless };
        let convicted = convicted_owners(request, candidates);
        let able = |candidate: &&Candidate| could_audit(request, allowed, &convicted, candidate).is_ok();
        let mut owners = candidates.iter().filter(able).map(|candidate| candidate.owner.as_str());
        let first = owners.next();
        Self::Owners(first, owners.find(|owner| Some(*owner) != first))
    }

    /// Whether somebody else could audit what this one trains.
    pub fn check(&self, trainer: &Candidate) -> Result<(), Rejection> {
        let is_other = |owner: &Option<&str>| owner.is_some_and(|owner| owner != trainer.owner);
        match self {
            Self::Owners(first, second) if ![first, second].into_iter().any(is_other) => {
                Err(Rejection::Unaudited)
            }
            _ => Ok(()),
        }
    }
}

fn could_audit(
    request: &Request,
    allowed: &[String],
    convicted: &BTreeSet<&str>,
    candidate: &Candidate,
) -> Result<(), String> {
    if !allowed.is_empty() && !allowed.contains(&candidate.name) {
        return Err("not in assurance.auditors".to_owned());
    }
    let checked = FILTERS.iter().try_for_each(|filter| filter(request, candidate));
    checked.and_then(|()| not_of(convicted, candidate)).map_err(|why: Rejection| why.phrase(1))
}

/// Whether one of the candidates could audit what `trainer`, an owner, has trained. `allowed` are the providers that the job
/// lets audit, empty for all.
///
/// # Errors
/// "0 eligible auditors of 3 providers: ...", for people.
pub fn can_be_audited(
    request: &Request,
    allowed: &[String],
    candidates: &[Candidate],
    trainer: &str,
) -> Result<(), String> {
    let owners = convicted_owners(request, candidates);
    let check = |candidate: &Candidate| {
        if candidate.owner == trainer {
            return Err(format!("of {trainer}, who trains"));
        }
        could_audit(request, allowed, &owners, candidate)
    };
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for candidate in candidates {
        match check(candidate) {
            Ok(()) => return Ok(()),
            Err(why) => *reasons.entry(why).or_default() += 1,
        }
    }
    let mut counted: Vec<_> = reasons.into_iter().collect();
    counted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let parts: Vec<_> = counted.into_iter().map(|(why, count)| format!("{count} {why}")).collect();
    Err(format!(
        "0 eligible auditors of {} providers: {}; connect a provider of another owner, start the hub's own auditor \
         (`muster auditor`), or create the job with assurance.tier None",
        candidates.len(),
        parts.join(", ")
    ))
}
