//! WorkUnits of auditors: made when one is asked, stopped when nobody needs the answer any more.
use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use muster_api::v1alpha1::{ComputeProvider, Desired, TrainingJob, WorkUnit};
use muster_proof::Digest;
use muster_proof::history::{AssignView, AuditView, HUB_AUDITOR};

use super::{Site, unit};
use crate::hub::context::Context;
use crate::hub::error::Error;
use crate::hub::job::{ask, place};
use crate::hub::site;

/// Makes and stops units as the audits want it. By draw, the name of the unit that replays for it.
///
/// # Errors
/// The API server's, and the log's if its origin is not known yet.
pub async fn settle(
    ctx: &Context,
    job: &TrainingJob,
    audits: &[AuditView],
    by_assignment: &BTreeMap<Digest, &WorkUnit>,
    all: &[WorkUnit],
    site: &Site,
) -> Result<BTreeMap<Digest, String>, Error> {
    let mut replaying = BTreeMap::new();
    let mut wanted = BTreeSet::new();
    let deleted = job.metadata.deletion_timestamp.is_some();
    for (audit, assign) in audits.iter().flat_map(answers) {
        let unit = match by_assignment.get(&assign.id) {
            Some(unit) => Some(unit.name_any()),
            // Whoever has sealed is done, and a job on its way out gets nothing new.
            None if assign.sealed || deleted => None,
            None => make(ctx, job, audit, assign, site).await?,
        };
        if let Some(unit) = unit {
            wanted.insert(unit.clone());
            replaying.insert(audit.draw, unit);
        }
    }
    for unit in all.iter().filter(|unit| !wanted.contains(&unit.name_any()) && !site::ended(unit)) {
        ask(ctx, unit, Desired::Stop).await?;
    }
    Ok(replaying)
}

/// Assignments to providers whose answer is wanted.
fn answers(audit: &AuditView) -> impl Iterator<Item = (&AuditView, &AssignView)> {
    let open = audit.verdict.is_none();
    let wanted = move |assign: &&AssignView| {
        open && !assign.replaced && !assign.convicted && assign.auditor.as_str() != HUB_AUDITOR
    };
    audit.assigns.iter().filter(wanted).map(move |assign| (audit, assign))
}

/// The name of the unit; `None` for a provider that is gone: it is given up, or its time runs out.
async fn make(
    ctx: &Context,
    job: &TrainingJob,
    audit: &AuditView,
    assign: &AssignView,
    site: &Site,
) -> Result<Option<String>, Error> {
    let found = site.here.provider(assign.auditor.as_str());
    let Some(provider) = found.filter(|it| it.metadata.deletion_timestamp.is_none()) else {
        return Ok(None);
    };
    let identity = ctx.signer.identity();
    let log = ctx.ledger.origin().await?;
    let terms = unit::Terms {
        epoch: epoch(ctx, provider),
        workers: workers(ctx, job, provider, site),
        log: log.as_str(),
        image: &ctx.image,
        identity: &identity,
        now: ctx.now(),
    };
    let unit = unit::render(job, audit, assign, terms)?;
    let unit = place::create(ctx, unit).await?;
    let name = unit.name_any();
    tracing::info!(unit = name, auditor = %assign.auditor, interval = audit.interval, "an auditor is asked");
    Ok(Some(name))
}

/// No unit of this provider is below what it and the hub hold to be void.
fn epoch(ctx: &Context, provider: &ComputeProvider) -> i64 {
    let least = provider.status.as_ref().and_then(|status| status.min_epoch).unwrap_or(1);
    least.max(ctx.state.epochs().floor).max(1)
}

/// As many as the job trains with, if the provider has them; one is always enough.
fn workers(ctx: &Context, job: &TrainingJob, provider: &ComputeProvider, site: &Site) -> u32 {
    let count = u32::try_from(job.spec.workers.count).unwrap_or(1);
    let found = site.here.candidates(ctx).into_iter().find(|it| it.name == provider.name_any());
    let free = found.map_or(0, |it| it.free(&job.spec.workers.device_class));
    if free >= count { count } else { 1 }
}
