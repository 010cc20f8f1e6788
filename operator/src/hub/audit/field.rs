//! Who can be asked to replay a job's intervals now, and who has given up. Pure.
use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use muster_api::v1alpha1::{Replays, Scheduling, TrainingJobSpec, WorkUnit, WorkUnitPhase};
use muster_core::placement::{self, Candidate, Request};
use muster_proof::Digest;
use muster_proof::history::GivenUp;
use muster_proof::records::Eligible;
use muster_proof::records::fields::{OwnerName, ProviderName};

use crate::hub::job::gather::payload;
use crate::hub::names::provider_of;
use crate::hub::site::Site;

/// Who can be asked, and in words why the others cannot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidates {
    /// As the log wants them, in order.
    pub eligible: Vec<Eligible>,
    /// Empty if all can.
    pub others: String,
}

/// What a provider needs to replay an interval with one worker. Where a job may train does not say who may check it.
fn request(spec: &TrainingJobSpec, image_digest: &str) -> Request {
    Request::of(1, &spec.workers.device_class, spec.training.arithmetic.as_str(), image_digest)
}

/// Of all providers those that can replay for this job now.
pub fn candidates(
    spec: &TrainingJobSpec,
    image_digest: &str,
    site: &Site,
    mut all: Vec<Candidate>,
) -> Candidates {
    let listed = &spec.assurance.auditors;
    let known = all.len();
    all.retain(|one| listed.is_empty() || listed.contains(&one.name));
    let allowed = all.len();
    all.retain(|one| replays(site, &one.name));
    let (eligible, why) = placement::eligible(&request(spec, image_digest), &all);
    let mut owners: BTreeMap<OwnerName, BTreeSet<ProviderName>> = BTreeMap::new();
    for one in eligible {
        if let (Ok(owner), Ok(name)) = (one.owner.parse(), one.name.parse()) {
            owners.entry(owner).or_default().insert(name);
        }
    }
    let eligible = owners.into_iter();
    let eligible = eligible.map(|(owner, names)| Eligible { owner, providers: names.into_iter().collect() });
    let count = |count: usize, what: &str| (count > 0).then(|| format!("{count} {what}"));
    let others = [
        count(known - allowed, "not in assurance.auditors"),
        count(allowed - all.len(), "replay nothing"),
        (!why.is_empty()).then_some(why),
    ];
    let others: Vec<String> = others.into_iter().flatten().collect();
    Candidates { eligible: eligible.collect(), others: others.join(", ") }
}

fn replays(site: &Site, name: &str) -> bool {
    let accepts = site.report(name).and_then(|report| report.status.as_ref()?.accepts.as_ref());
    accepts.is_none_or(|accepts| accepts.audits == Replays::Any)
}

/// The unit of each assignment, of those that this incarnation of the hub has made.
pub fn by_assignment(units: &[WorkUnit], incarnation: i64) -> BTreeMap<Digest, &WorkUnit> {
    let of = |unit| {
        let payload = payload(unit)?;
        let audit = payload.audit.filter(|_| payload.incarnation == incarnation)?;
        Some((audit.assignment, unit))
    };
    units.iter().filter_map(of).collect()
}

/// Assignments whose unit ended without a seal, or whose provider is out: no seal will come.
pub fn given_up(units: &BTreeMap<Digest, &WorkUnit>, site: &Site) -> BTreeMap<Digest, GivenUp> {
    let end = |unit: &WorkUnit| {
        let namespace = unit.namespace().unwrap_or_default();
        let name = provider_of(&namespace).unwrap_or_default();
        let provider = site.provider(name);
        if provider.is_none_or(|provider| provider.spec.scheduling == Scheduling::Revoked) {
            return Some(GivenUp::Silent);
        }
        let phase = unit.status.as_ref().and_then(|status| status.phase);
        let over =
            matches!(phase, Some(WorkUnitPhase::Refused | WorkUnitPhase::Failed | WorkUnitPhase::Released));
        (over || unit.metadata.deletion_timestamp.is_some()).then_some(GivenUp::Declined)
    };
    units.iter().filter_map(|(assignment, unit)| Some((*assignment, end(unit)?))).collect()
}
