//! Whether anybody could audit a job, asked before its first unit is made: one that nobody can check would train for nothing.
//! Who is asked in the end is drawn (docs/spec/records.md section 4), of those that are there then.
use std::collections::BTreeMap;

use super::filters::{Filter, arithmetic, convicted, device_class, image, ready, schedulable};
use super::{Candidate, Rejection, Request, convicted_owners, not_of};

/// What an auditor needs whatever the job allows its trainer. Room comes and goes, and an audit can wait for it.
const FILTERS: &[Filter] = &[convicted, schedulable, ready, device_class, arithmetic, image];

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
        if !allowed.is_empty() && !allowed.contains(&candidate.name) {
            return Err("not in assurance.auditors".to_owned());
        }
        let checked = FILTERS.iter().try_for_each(|filter| filter(request, candidate));
        checked.and_then(|()| not_of(&owners, candidate)).map_err(|why: Rejection| why.phrase(1))
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
