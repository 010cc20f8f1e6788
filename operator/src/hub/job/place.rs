//! A provider and a unit for the next epoch of a job.
use std::collections::{BTreeMap, HashMap};

use kube::api::{ListParams, PostParams};
use kube::core::DeserializeGuard;
use kube::{Api, ResourceExt};
use muster_api::v1alpha1::{
    self as api, ComputeProvider, ProviderReport, Scheduling, WorkUnit, WorkUnitPhase,
};
use muster_core::epochs::Seen;
use muster_core::lifecycle::conditions::{NO_AUDITORS, Unplaced};
use muster_core::lifecycle::{Audits, next_epoch};
use muster_core::placement::{self, Availability, Candidate, Device, Placement, Request, TrustTier};

use super::gather::{self, Gathered};
use super::unit::{Particulars, render};
use super::{Acted, LOG_UNAVAILABLE, Look, audits, key};
use crate::hub::apply;
use crate::hub::context::Context;
use crate::hub::error::Error;
use crate::hub::ledger::grants;
use crate::hub::ledger::records::{Who, why_over};
use crate::hub::names::{MANAGER, provider_namespace, provider_of};
use crate::hub::provider;
use crate::runtime::client::{ClientError, within};

/// Chooses a provider and makes the unit. Everything is read again, live, under one lock: two jobs must not get the same
/// worker, and one job must not get two units.
pub async fn place(look: &Look<'_>, seen: &Gathered, restarts: u32) -> Result<Acted, Error> {
    let ctx = look.ctx;
    if seen.facts.audits == Audits::Unknown {
        // A verdict may have undone what the job would start from. The log is read in a moment.
        ctx.audits.wake();
        return Ok(Acted::Awaits(audits::SOON));
    }
    let _only_one = ctx.placing.lock().await;
    let units = all_units(ctx).await?;
    let mine = |unit: &&WorkUnit| unit.spec.job_uid == look.uid && gather::trains(unit);
    if let Some(newer) = units.iter().filter(mine).find(|unit| unit.spec.epoch > seen.last_epoch) {
        // Made by an earlier look whose answer was lost. The watch brings it.
        return Ok(Acted::Placed(Box::new(newer.clone())));
    }
    let candidates = candidates(ctx, &providers(ctx).await?, &units, &look.uid);
    let (provider, min_epoch) = match placement::place(&request(look), &candidates) {
        Placement::On { provider, min_epoch } => (provider, min_epoch),
        Placement::NoProviders => {
            let message =
                "there is no ComputeProvider yet; the hub's admin makes one and its owner connects an agent";
            return Ok(unplaced("NoProviders", message.into()));
        }
        Placement::NoCapacity { message } => return Ok(unplaced("NoCapacity", message)),
        // Nobody wakes us when a key is logged; it takes seconds.
        Placement::NoneEligible { message }
            if candidates.iter().any(|it| it.availability == Availability::KeyNotLogged) =>
        {
            return Ok(unplaced(LOG_UNAVAILABLE, message));
        }
        Placement::NoneEligible { message } => return Ok(unplaced("NoneEligible", message)),
    };
    let owner = candidates.iter().find(|it| it.name == provider).map_or("", |it| it.owner.as_str());
    if let Err(message) = auditable(look, seen, &candidates, owner) {
        return Ok(unplaced(NO_AUDITORS, message));
    }
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    // An epoch that was fenced and never used stays unused: its grant may be in the log.
    let fence = if planted!("epoch-forgets-fence") { 0 } else { ctx.store.epoch(&look.uid, 0).await? };
    let epoch =
        next_epoch(number(seen.last_epoch.max(fence)), number(ctx.state.epochs().floor).max(min_epoch));
    let epoch = i64::try_from(epoch).unwrap_or(i64::MAX);
    let start = seen.checkpoint.as_ref();
    let who = Who { provider: &provider, owner };
    let next = grants::Next { job_uid: &look.uid, island: 0, epoch, who, start };
    let logged = match grants::grant(ctx, next, why_over(seen.facts.unit.as_ref())).await {
        Ok(logged) => logged,
        Err(error) => {
            tracing::warn!(job = key(look.job), provider, epoch, %error, "the unit's grant is not in the log");
            return Ok(unplaced(LOG_UNAVAILABLE, error.to_string()));
        }
    };
    let particulars = Particulars { provider: &provider, epoch, start, restarts, logged };
    let identity = ctx.signer.identity();
    let unit = render(look.job, &look.old(), &particulars, &ctx.image, &identity, ctx.now())?;
    let unit = make(ctx, unit).await?;
    tracing::info!(job = key(look.job), provider, unit = unit.name_any(), epoch, "placed");
    Ok(Acted::Placed(Box::new(unit)))
}

/// Nobody trains first what nobody can check. Once a job has begun, its audits say themselves what they lack.
fn auditable(
    look: &Look<'_>,
    seen: &Gathered,
    candidates: &[Candidate],
    trainer: &str,
) -> Result<(), String> {
    let has_begun = seen.last_epoch > 0;
    if has_begun || !audits::is_audited(look.job) || look.ctx.audits.has_hub_auditor() {
        return Ok(());
    }
    let allowed = &look.job.spec.assurance.auditors;
    placement::can_be_audited(&request(look), allowed, candidates, trainer)
}

fn unplaced(reason: &str, message: String) -> Acted {
    Acted::Unplaced(Unplaced { reason: reason.into(), message })
}

/// Makes a unit of a new epoch. Whoever calls holds [`Context::placing`].
///
/// # Errors
/// [`Error::Foreign`] if its name is taken, anything that API server, store or state directory say.
pub async fn make(ctx: &Context, unit: WorkUnit) -> Result<WorkUnit, Error> {
    let (job_uid, island) = (unit.spec.job_uid.clone(), i64::from(unit.spec.island));
    // The fence first: once the new unit may run, no gateway takes anything more from the one before it.
    ctx.store.raise_epoch(&job_uid, island, unit.spec.epoch).await?;
    create(ctx, unit).await
}

/// Makes a unit; one of its name that is the job's is it. Whoever calls holds [`Context::placing`].
///
/// # Errors
/// As [`make`].
pub async fn create(ctx: &Context, unit: WorkUnit) -> Result<WorkUnit, Error> {
    let job_uid = unit.spec.job_uid.clone();
    let unit = create_once(ctx, unit, &job_uid).await?;
    // A backup that is older than this unit must be noticed as such: its epoch is used from now on.
    if let Some(version) = unit.resource_version().and_then(|text| text.parse().ok()) {
        ctx.state.onward(version)?;
    }
    Ok(unit)
}

async fn create_once(ctx: &Context, unit: WorkUnit, job_uid: &str) -> Result<WorkUnit, Error> {
    let (name, namespace) = (unit.name_any(), unit.namespace().unwrap_or_default());
    let api: Api<WorkUnit> = Api::namespaced(ctx.client.clone(), &namespace);
    let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    let made = within(&format!("create workunit {name}"), api.create(&params, &unit)).await;
    match made {
        Ok(unit) => Ok(unit),
        // The name is deterministic, so it can only be ours, unless somebody plays tricks: then it stays theirs.
        Err(ClientError::Request { source, .. }) if apply::is_code(&source, &[409]) => {
            let found = within(&format!("get workunit {name}"), api.get(&name)).await?;
            let ours = found.spec.job_uid == job_uid && found.metadata.deletion_timestamp.is_none();
            if ours { Ok(found) } else { Err(Error::Foreign(format!("workunit {namespace}/{name}"))) }
        }
        Err(error) => Err(error.into()),
    }
}

fn request(look: &Look<'_>) -> Request {
    let spec = &look.job.spec;
    Request {
        workers: u32::try_from(spec.workers.count).unwrap_or(u32::MAX),
        device_class: spec.workers.device_class.clone(),
        arithmetic: spec.training.arithmetic.as_str().into(),
        image_digest: look.ctx.image.digest.clone(),
        allowed: spec.placement.providers.clone(),
        min_trust: trust(spec.placement.min_trust_tier),
        exclude_owners: spec.placement.exclude_owners.clone(),
        regions: spec.placement.regions.clone(),
        max_price: spec.placement.max_price,
        convicted: audits::book(look.ctx, look.job, &look.uid)
            .filter(|_| !planted!("convicted-again"))
            .map(|book| book.convicted.clone())
            .unwrap_or_default(),
    }
}

fn trust(tier: api::TrustTier) -> TrustTier {
    match tier {
        api::TrustTier::Untrusted => TrustTier::Untrusted,
        api::TrustTier::Standard => TrustTier::Standard,
        api::TrustTier::Trusted => TrustTier::Trusted,
    }
}

/// All units there are, in a database that did not go back: one that was restored a moment ago has forgotten units that
/// run, and their names would be given a second time.
///
/// # Errors
/// [`Error::WentBack`], [`Error::Api`].
pub async fn all_units(ctx: &Context) -> Result<Vec<WorkUnit>, Error> {
    let before = ctx.state.epochs();
    let api: Api<DeserializeGuard<WorkUnit>> = Api::all(ctx.client.clone());
    let list = within("list workunits", api.list(&ListParams::default())).await?;
    let version = list.metadata.resource_version.as_ref().and_then(|text| text.parse().ok());
    let version = version.ok_or(Error::Incomplete("list of workunits", "numeric resourceVersion"))?;
    if before.judge(version) == Seen::Restored {
        return Err(Error::WentBack);
    }
    Ok(list.items.into_iter().filter_map(|unit| unit.0.ok()).collect())
}

/// All providers and what they report.
pub struct Providers {
    /// As their admin has them.
    pub all: Vec<ComputeProvider>,
    /// By namespace.
    pub reports: HashMap<String, ProviderReport>,
}

/// Reads them.
///
/// # Errors
/// [`Error::Api`].
pub async fn providers(ctx: &Context) -> Result<Providers, Error> {
    let providers: Api<DeserializeGuard<ComputeProvider>> = Api::all(ctx.client.clone());
    let reports: Api<DeserializeGuard<ProviderReport>> = Api::all(ctx.client.clone());
    let everything = ListParams::default();
    let providers = within("list computeproviders", providers.list(&everything)).await?;
    let reports = within("list providerreports", reports.list(&everything)).await?;
    let reports: HashMap<String, ProviderReport> = reports
        .items
        .into_iter()
        .filter_map(|report| report.0.ok())
        .filter_map(|report| Some((report.namespace()?, report)))
        .collect();
    Ok(Providers { all: providers.items.into_iter().filter_map(|found| found.0.ok()).collect(), reports })
}

/// All providers, as placement sees them for a job.
pub fn candidates(ctx: &Context, providers: &Providers, units: &[WorkUnit], job_uid: &str) -> Vec<Candidate> {
    let candidate = |found: &ComputeProvider| {
        let report = providers.reports.get(&provider_namespace(&found.name_any()));
        let mut candidate = self::candidate(found, report, units, job_uid);
        // The log would refuse its grant. Its key comes with a heartbeat.
        if candidate.availability == Availability::Ready && !ctx.ledger.knows(&candidate.name) {
            candidate.availability = Availability::KeyNotLogged;
        }
        candidate
    };
    providers.all.iter().map(candidate).collect()
}

fn candidate(
    found: &ComputeProvider,
    report: Option<&ProviderReport>,
    units: &[WorkUnit],
    job_uid: &str,
) -> Candidate {
    let name = found.name_any();
    let status = found.status.clone().unwrap_or_default();
    let report = report.and_then(|report| report.status.clone()).unwrap_or_default();
    let accepts = report.accepts.clone().unwrap_or_default();
    let here: Vec<&WorkUnit> = units
        .iter()
        .filter(|unit| provider_of(&unit.namespace().unwrap_or_default()) == Some(&name))
        .collect();
    let living: Vec<&WorkUnit> = here.iter().copied().filter(|unit| !ended(unit)).collect();
    let quota = u32::try_from(found.spec.quota.units).unwrap_or(0);
    Candidate {
        availability: availability(found),
        trust: trust(found.spec.trust_tier),
        owner: found.spec.owner.clone(),
        region: found.spec.region.clone(),
        min_epoch: status.min_epoch.and_then(|epoch| u64::try_from(epoch).ok()).unwrap_or(1),
        units_left: Some(quota.saturating_sub(u32::try_from(living.len()).unwrap_or(u32::MAX))),
        devices: devices(found, &report, &living),
        arithmetic: accepts.arithmetic.iter().map(|name| name.as_str().to_owned()).collect(),
        images: accepts.images,
        failures: u32::try_from(
            here.iter()
                .filter(|unit| unit.spec.job_uid == job_uid && gather::trains(unit) && failed(unit))
                .count(),
        )
        .unwrap_or(u32::MAX),
        name,
    }
}

fn availability(found: &ComputeProvider) -> Availability {
    if found.metadata.deletion_timestamp.is_some() || found.spec.scheduling != Scheduling::Enabled {
        return Availability::Cordoned;
    }
    let conditions = found.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
    if ready { Availability::Ready } else { Availability::NotReady }
}

fn devices(
    found: &ComputeProvider,
    report: &api::ProviderReportStatus,
    living: &[&WorkUnit],
) -> BTreeMap<String, Device> {
    let quota = provider::worker_quota(found).unwrap_or(u32::MAX);
    let in_class = |class: &str, only_pending: Option<()>| -> u32 {
        let matching = living.iter().filter(|unit| {
            let same = gather::payload(unit).is_none_or(|payload| payload.device_class == class);
            same && (only_pending.is_none() || pending(unit))
        });
        matching.map(|unit| u32::try_from(unit.spec.workers).unwrap_or(0)).sum()
    };
    provider::devices(report)
        .into_iter()
        .map(|(class, lent, price)| {
            let device = Device {
                workers: lent.workers.min(quota),
                idle: lent.idle,
                assigned: in_class(&class, None),
                pending: in_class(&class, Some(())),
                price,
            };
            (class, device)
        })
        .collect()
}

fn phase_of(unit: &WorkUnit) -> Option<WorkUnitPhase> {
    unit.status.as_ref().and_then(|status| status.phase)
}

/// Whether nothing more is computed by a unit.
pub fn ended(unit: &WorkUnit) -> bool {
    phase_of(unit).is_some_and(WorkUnitPhase::is_finished)
}

/// Not running yet, so the report cannot have counted it.
fn pending(unit: &WorkUnit) -> bool {
    !matches!(phase_of(unit), Some(WorkUnitPhase::Running | WorkUnitPhase::Draining))
}

fn failed(unit: &WorkUnit) -> bool {
    let failure = unit.status.as_ref().is_some_and(|status| status.last_failure.is_some());
    match phase_of(unit) {
        Some(WorkUnitPhase::Refused | WorkUnitPhase::Failed) => true,
        Some(WorkUnitPhase::Released) => failure,
        _ => false,
    }
}
