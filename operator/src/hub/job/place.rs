//! A provider and a unit for the next epoch of a job.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::api::PostParams;
use kube::{Api, ResourceExt};
use muster_api::v1alpha1::{TrainingJobSpec, WorkUnit, WorkUnitPhase};
use muster_core::lifecycle::conditions::{NO_AUDITORS, Unplaced};
use muster_core::lifecycle::{Audits, next_epoch};
use muster_core::placement::{self, Availability, Candidate, Request};
use muster_core::queue::{Answer, Ask, Size};

use super::gather::{self, Gathered};
use super::unit::{Particulars, render};
use super::{Acted, LOG_UNAVAILABLE, Look, audits, key};
use crate::hub::apply;
use crate::hub::context::Context;
use crate::hub::error::Error;
use crate::hub::ledger::grants;
use crate::hub::ledger::records::{Who, why_over};
use crate::hub::names::{MANAGER, provider_of};
use crate::hub::queue::Turn;
use crate::hub::site;
use crate::runtime::client::{ClientError, is_refusal, within};
use crate::runtime::offload::offload;

/// Waits for the job's turn, and makes the unit where the queue says.
///
/// `moves`: from a silent member, where it stays if nobody else has room.
///
/// # Errors
/// What the API server, the store or the log say.
pub async fn place(look: &Look<'_>, seen: &Gathered, restarts: u32, moves: bool) -> Result<Acted, Error> {
    let ctx = look.ctx;
    if seen.facts.audits == Audits::Unknown {
        // A verdict may have undone what the job would start from. The log is read in a moment.
        ctx.audits.wake();
        return Ok(Acted::Awaits(audits::SOON));
    }
    let Turn { answer, candidates } = ctx.queue.turn(ctx, look.job, Ask { moves, ..ask(look, seen) }).await?;
    if moves && is_back(seen, &candidates) {
        ctx.queue.withdraw(&look.uid);
        return Ok(Acted::Stays);
    }
    let (provider, min_epoch, workers) = match answer {
        Answer::On { provider, min_epoch, workers } => (provider, min_epoch, workers),
        Answer::NoProviders => {
            let message =
                "there is no ComputeProvider yet; the hub's admin makes one and its owner connects an agent";
            return Ok(unplaced("NoProviders", message.into()));
        }
        Answer::NoCapacity { message } => return Ok(unplaced("NoCapacity", message)),
        // Nobody wakes us when a key is logged; it takes seconds.
        Answer::NoneEligible { message }
            if candidates.iter().any(|it| it.availability == Availability::KeyNotLogged) =>
        {
            return Ok(unplaced(LOG_UNAVAILABLE, message));
        }
        Answer::NoneEligible { message } => {
            return Ok(match nobody_audits(look, seen, &candidates) {
                Some(why) => unplaced(NO_AUDITORS, why),
                None => unplaced("NoneEligible", message),
            });
        }
    };
    let owner = candidates.iter().find(|it| it.name == provider).map_or("", |it| it.owner.as_str());
    // One job must not get two units.
    let _only_one = ctx.making.of(&look.uid).await;
    let units = gather::units_of(ctx, &look.uid).await?;
    if let Some(newer) = units.into_iter().find(|unit| unit.spec.epoch > seen.last_epoch) {
        // Made by an earlier look whose answer was lost. The watch brings it.
        ctx.queue.made(&look.uid, &newer);
        return Ok(Acted::Placed(Box::new(newer)));
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
    let particulars = Particulars { provider: &provider, workers, epoch, start, restarts, logged };
    let identity = ctx.signer.identity();
    let unit = render(look.job, &look.old(), &particulars, &ctx.image, &identity, ctx.now())?;
    let unit = make(ctx, unit).await?;
    ctx.queue.made(&look.uid, &unit);
    tracing::info!(job = key(look.job), provider, unit = unit.name_any(), epoch, workers, "placed");
    Ok(Acted::Placed(Box::new(unit)))
}

/// Whether the member that the job was to leave is heard of again: the news of that is on its way to the job, and its unit is as good as
/// any other one would be.
fn is_back(seen: &Gathered, candidates: &[Candidate]) -> bool {
    let own = seen.facts.unit.as_ref().map(|unit| unit.provider.as_str());
    let found = candidates.iter().find(|it| Some(it.name.as_str()) == own);
    found.is_some_and(|it| it.availability == Availability::Ready)
}

/// What the job wants, for the queue.
fn ask(look: &Look<'_>, seen: &Gathered) -> Ask {
    let meta = &look.job.metadata;
    let unplaced = look.old().conditions.into_iter().find(|c| c.type_ == "Placed" && c.status == "False");
    let waited = unplaced.map(|since| look.ctx.now().duration_since(since.last_transition_time.0));
    Ask {
        job: look.uid.clone(),
        tenant: meta.namespace.clone().unwrap_or_default(),
        priority: look.job.spec.priority,
        made: meta.creation_timestamp.as_ref().map_or(0, |made| made.0.as_second()),
        waited: waited.and_then(|waited| Duration::try_from(waited).ok()).unwrap_or_default(),
        // The queue knows.
        owed: false,
        moves: false,
        size: size(&look.job.spec),
        request: Request {
            failures: failures(seen),
            checkpoints: checkpoints(look, seen),
            audited_by: audited_by(look, seen),
            ..request(look)
        },
    }
}

/// How many workers a job can do with.
pub fn size(spec: &TrainingJobSpec) -> Size {
    let number = |number: i32| u32::try_from(number).unwrap_or(1).max(1);
    let workers = &spec.workers;
    let count = number(workers.count);
    Size {
        min: workers.min.map_or(count, number).min(count),
        count,
        max: workers.max.map_or(count, number).max(count),
        shards: u32::try_from(spec.training.shards).unwrap_or(1),
    }
}

fn units(seen: &Gathered) -> impl Iterator<Item = &WorkUnit> {
    seen.current.iter().chain(&seen.older)
}

/// By provider, how many of the job's units did not do what they were asked to.
pub(super) fn failures(seen: &Gathered) -> BTreeMap<String, u32> {
    let mut failures = BTreeMap::new();
    for unit in units(seen).filter(|unit| failed(unit)) {
        if let Some(provider) = provider_of(&unit.namespace().unwrap_or_default()) {
            *failures.entry(provider.to_owned()).or_default() += 1;
        }
    }
    failures
}

/// Who has checkpoints of the job: whoever had it last, and whoever had it a while ago.
fn checkpoints(look: &Look<'_>, seen: &Gathered) -> BTreeSet<String> {
    let last = look.old().islands.into_iter().filter_map(|island| island.provider);
    let earlier = units(seen).filter(|unit| unit.status.as_ref().is_some_and(|it| it.checkpoint.is_some()));
    let earlier = earlier.filter_map(|unit| provider_of(&unit.namespace()?).map(str::to_owned));
    last.chain(earlier).collect()
}

/// Nobody trains first what nobody can check. Once a job has begun, its audits say themselves what they lack.
fn audited_by(look: &Look<'_>, seen: &Gathered) -> Option<Vec<String>> {
    let has_begun = seen.last_epoch > 0;
    if has_begun || !audits::is_audited(look.job) || look.ctx.audits.has_hub_auditor() {
        return None;
    }
    Some(look.job.spec.assurance.auditors.clone())
}

/// Why nobody can have the job, if it is that nobody could audit it.
fn nobody_audits(look: &Look<'_>, seen: &Gathered, candidates: &[Candidate]) -> Option<String> {
    let allowed = audited_by(look, seen)?;
    let least = Request { workers: size(&look.job.spec).min, ..request(look) };
    let trainer = *placement::fits(&least, candidates).first()?;
    placement::can_be_audited(&least, &allowed, candidates, &trainer.owner).err()
}

fn unplaced(reason: &str, message: String) -> Acted {
    Acted::Unplaced(Unplaced { reason: reason.into(), message })
}

/// Makes a unit of a new epoch. Whoever calls holds the job's [`Context::making`].
///
/// # Errors
/// [`Error::Foreign`] if its name is taken, anything that API server, store or state directory say.
pub async fn make(ctx: &Context, unit: WorkUnit) -> Result<WorkUnit, Error> {
    let (job_uid, island) = (unit.spec.job_uid.clone(), i64::from(unit.spec.island));
    // The fence first: once the new unit may run, no gateway takes anything more from the one before it.
    ctx.store.raise_epoch(&job_uid, island, unit.spec.epoch).await?;
    create(ctx, unit).await
}

/// Makes a unit; one of its name that is the job's is it.
///
/// # Errors
/// As [`make`].
pub async fn create(ctx: &Context, unit: WorkUnit) -> Result<WorkUnit, Error> {
    let job_uid = unit.spec.job_uid.clone();
    let unit = create_once(ctx, unit, &job_uid).await?;
    // A backup that is older than this unit must be noticed as such: its epoch is used from now on.
    if let Some(version) = unit.resource_version().and_then(|text| text.parse().ok()) {
        let state = ctx.state.clone();
        offload(move || state.onward(version)).await??;
    }
    Ok(unit)
}

async fn create_once(ctx: &Context, unit: WorkUnit, job_uid: &str) -> Result<WorkUnit, Error> {
    let (name, namespace) = (unit.name_any(), unit.namespace().unwrap_or_default());
    let api: Api<WorkUnit> = Api::namespaced(ctx.client.clone(), &namespace);
    let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    let made = within(&format!("create workunit {name}"), api.create(&params, &unit)).await;
    match made {
        Ok(unit) => {
            ctx.mirrors.units.wrote(&unit.metadata);
            Ok(unit)
        }
        // The name is deterministic, so it can only be ours, unless somebody plays tricks: then it stays theirs.
        Err(ClientError::Request { source, .. }) if apply::is_code(&source, &[409]) => {
            let found = within(&format!("get workunit {name}"), api.get(&name)).await?;
            let ours = found.spec.job_uid == job_uid && found.metadata.deletion_timestamp.is_none();
            ctx.mirrors.units.wrote(&found.metadata);
            if ours { Ok(found) } else { Err(Error::Foreign(format!("workunit {namespace}/{name}"))) }
        }
        Err(error) => {
            if !matches!(&error, ClientError::Request { source, .. } if is_refusal(source)) {
                ctx.mirrors.units.lost();
            }
            Err(error.into())
        }
    }
}

fn request(look: &Look<'_>) -> Request {
    Request {
        convicted: audits::book(look.ctx, look.job, &look.uid)
            .filter(|_| !planted!("convicted-again"))
            .map(|book| book.convicted.clone())
            .unwrap_or_default(),
        ..wanted(look.ctx, &look.job.spec)
    }
}

/// What the tenant wants of a provider, and what the next unit would run.
pub fn wanted(ctx: &Context, spec: &TrainingJobSpec) -> Request {
    let workers = u32::try_from(spec.workers.count).unwrap_or(u32::MAX);
    let arithmetic = spec.training.arithmetic.as_str();
    Request {
        allowed: spec.placement.providers.clone(),
        min_trust: site::trust(spec.placement.min_trust_tier),
        exclude_owners: spec.placement.exclude_owners.clone(),
        regions: spec.placement.regions.clone(),
        max_price: spec.placement.max_price,
        ..Request::of(workers, &spec.workers.device_class, arithmetic, &ctx.image.digest)
    }
}

/// Whether a unit failed, was refused, or goes on although it was stopped.
fn failed(unit: &WorkUnit) -> bool {
    let status = unit.status.as_ref();
    let failure = status.is_some_and(|status| status.last_failure.is_some());
    match status.and_then(|status| status.phase) {
        Some(WorkUnitPhase::Refused | WorkUnitPhase::Failed) => true,
        Some(WorkUnitPhase::Released) => failure,
        _ => unit.spec.desired == muster_api::v1alpha1::Desired::Stop,
    }
}
