//! After a restore of the database: the units that agents still hold (docs/spec/gateway.md section 5). The decisions are
//! `muster_core::recovery`'s.
//!
//! First the hub waits, a minute at most, until every agent that is there has offered what it has; nothing is placed
//! meanwhile, so a job whose unit runs is not placed twice. Agents that come later find their island taken, or not: they
//! are answered as long as the incarnation lasts.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, ResourceExt};
use muster_api::v1alpha1::{ComputeProvider, JobCheckpoint, Scheduling, TrainingJob, WorkUnit};
use muster_core::envelope::{self, CheckpointRef, Payload};
use muster_core::hub_keys::KeySet;
use muster_core::lifecycle::next_epoch;
use muster_core::provider::Pulse;
use muster_core::recovery::{self, Anew, Job, Verdict};
use muster_proof::dsse::Envelope;
use muster_proof::records::GrantEndReason;
use tokio::time::Instant;

use super::context::Context;
use super::error::Error;
use super::job::{audits, gather, place, unit};
use super::ledger::grants;
use super::ledger::records::Who;
use super::names;
use super::provider::{self, CONNECTED};
use crate::runtime::Shutdown;
use crate::runtime::client::within;
use crate::store::offers::{Answer, MAX_ENVELOPE, Offer};

/// How often offers are looked for while everything waits for them.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often afterwards, for agents that were away.
const LATE_EVERY: Duration = Duration::from_secs(10);
/// An offer that cannot be dealt with holds up the rest for so long.
const GIVE_UP: Duration = Duration::from_secs(120);

/// A unit that is offered, and what was signed.
struct Offered {
    offer: Offer,
    payload: Payload,
}

/// Returns once it is known, after a restore, what the agents hold, and those units are continued; `None` at shutdown.
pub async fn settle(ctx: &Context, shutdown: &Shutdown) -> Option<()> {
    if !ctx.state.epochs().recovering {
        return Some(());
    }
    let incarnation = ctx.state.epochs().incarnation;
    tracing::warn!(
        incarnation,
        "the database was restored: asking the agents what they hold before placing anything"
    );
    // Counted from the first look that succeeded: without the API server nobody can be waited for.
    let mut begun: Option<Instant> = None;
    let mut expected = BTreeSet::new();
    loop {
        match awaited(ctx, &mut expected).await {
            Ok(awaited) => {
                let waited = begun.get_or_insert_with(Instant::now).elapsed();
                if recovery::is_over(awaited.len(), waited) && conclude(ctx, &awaited, waited).await {
                    return Some(());
                }
            }
            Err(error) => tracing::warn!(%error, "cannot see yet which agents are there, trying again"),
        }
        tokio::select! {
            biased;
            () = shutdown.wait() => return None,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// False if it has to be tried again.
async fn conclude(ctx: &Context, awaited: &[String], waited: Duration) -> bool {
    let answered = answer_open(ctx).await;
    if let Err(error) = &answered {
        tracing::warn!(%error, "cannot continue all units that are offered yet");
        if waited < GIVE_UP {
            return false;
        }
    }
    if let Err(error) = ctx.state.settled() {
        tracing::error!(%error, "cannot save that the recovery is over, trying again");
        return false;
    }
    let silent = awaited.join(", ");
    tracing::info!(waited = ?waited, silent, "the agents have said what they hold; going on");
    true
}

/// Answers agents that come late, until shutdown.
pub async fn follow(ctx: &Context, shutdown: Shutdown) {
    let incarnation = ctx.state.epochs().incarnation;
    if let Err(error) = ctx.store.forget_offers(incarnation).await {
        tracing::warn!(%error, "cannot remove offers to earlier incarnations; the next start tries again");
    }
    loop {
        tokio::select! {
            biased;
            () = shutdown.wait() => return,
            () = tokio::time::sleep(LATE_EVERY) => {}
        }
        // Before the first restore nobody has anything to offer.
        if incarnation > 1
            && let Err(error) = answer_open(ctx).await
        {
            tracing::warn!(%error, "cannot answer all units that are offered, trying again");
        }
    }
}

/// The providers whose agents have not said all yet. Who was there once is `expected` to the end: while the gateway starts
/// anew nobody can renew his Lease.
async fn awaited(ctx: &Context, expected: &mut BTreeSet<String>) -> Result<Vec<String>, Error> {
    let incarnation = ctx.state.epochs().incarnation;
    let api: Api<DeserializeGuard<ComputeProvider>> = Api::all(ctx.client.clone());
    let all = within("list computeproviders", api.list(&ListParams::default())).await?;
    let mut awaited = Vec::new();
    for found in all.items.into_iter().filter_map(|found| found.0.ok()) {
        if found.spec.scheduling == Scheduling::Revoked {
            continue;
        }
        let name = found.name_any();
        let (pulse, _) = provider::pulse(ctx, &found).await?;
        let is_connected = is_connected(&found);
        if is_connected || pulse == Pulse::Fresh {
            expected.insert(name.clone());
        }
        if !expected.contains(&name) && pulse != Pulse::TooEarly {
            continue;
        }
        // What the backup says of the connection may be old, and a unit of a member that seems lost would be moved.
        if !is_connected || !ctx.store.has_offered_all(incarnation, &name).await? {
            awaited.push(name);
        }
    }
    Ok(awaited)
}

fn is_connected(provider: &ComputeProvider) -> bool {
    let conditions = provider.status.as_ref().map_or(&[][..], |status| &status.conditions);
    conditions.iter().any(|c| c.type_ == CONNECTED && c.status == "True")
}

/// Answers every offer that has no answer. What cannot be answered now holds up nothing else; the last error is given back.
async fn answer_open(ctx: &Context) -> Result<(), Error> {
    let incarnation = ctx.state.epochs().incarnation;
    let open = ctx.store.open_offers(incarnation).await?;
    if open.is_empty() {
        return Ok(());
    }
    let keys = ctx.state.keys()?;
    let mut islands: BTreeMap<(String, i64), Vec<Offered>> = BTreeMap::new();
    for offer in open {
        match read(ctx, keys.set(), &offer, incarnation).await? {
            Ok(payload) => {
                let island = (payload.job_uid.clone(), payload.island);
                islands.entry(island).or_default().push(Offered { offer, payload });
            }
            Err(why) => {
                tracing::warn!(provider = offer.provider, unit = offer.unit, why, "an offer is not usable");
                ctx.store.answer_offer(incarnation, &offer, &Answer::Stop).await?;
            }
        }
    }
    let mut failed = None;
    for ((job_uid, _), offers) in islands {
        if let Err(error) = answer_island(ctx, &job_uid, &offers).await {
            tracing::warn!(job_uid, %error, "offers of a job cannot be answered yet");
            failed = Some(error);
        }
    }
    failed.map_or(Ok(()), Err)
}

/// What was signed, or why the offer is void. The gateway has looked at it, too; the store is not its word.
async fn read(
    ctx: &Context,
    keys: &KeySet,
    offer: &Offer,
    incarnation: i64,
) -> Result<Result<Payload, String>, Error> {
    let Some(bytes) = ctx.store.read(&offer.envelope, MAX_ENVELOPE).await? else {
        return Ok(Err("its envelope is not in the store".to_owned()));
    };
    Ok(checked(&bytes, keys, offer, incarnation))
}

fn checked(bytes: &[u8], keys: &KeySet, offer: &Offer, incarnation: i64) -> Result<Payload, String> {
    let most = usize::try_from(MAX_ENVELOPE).unwrap_or(usize::MAX);
    let envelope = Envelope::parse(bytes, most).map_err(|error| error.to_string())?;
    let payload = envelope::open(&envelope, keys.keys()).map_err(|refusal| refusal.to_string())?;
    if payload.provider != offer.provider || payload.name != offer.unit {
        return Err(format!("it is unit {} of provider {}", payload.name, payload.provider));
    }
    if payload.is_audit() {
        return Err("an audit is not continued but asked for anew".to_owned());
    }
    if payload.incarnation >= incarnation {
        return Err(format!("it is of incarnation {}", payload.incarnation));
    }
    Ok(payload)
}

async fn answer_island(ctx: &Context, job_uid: &str, offers: &[Offered]) -> Result<(), Error> {
    let incarnation = ctx.state.epochs().incarnation;
    // One look and what follows from it: nobody else makes units of the job meanwhile.
    let _only_one = ctx.making.of(job_uid).await;
    let api: Api<DeserializeGuard<TrainingJob>> = Api::all(ctx.client.clone());
    let all = within("list trainingjobs", api.list(&ListParams::default())).await?;
    let found = all.items.into_iter().find(|job| job.uid().as_deref() == Some(job_uid));
    let job = match found {
        // Not understood is not gone: its unit goes on within its grace, and a person may mend the job.
        Some(DeserializeGuard(Err(invalid))) => {
            tracing::warn!(job_uid, %invalid, "TrainingJob does not parse; its units wait");
            return Ok(());
        }
        Some(DeserializeGuard(Ok(job))) => Some(job),
        None => None,
    };
    let units = gather::units_of(ctx, job_uid).await?;
    let status = job.as_ref().and_then(|job| job.status.clone()).unwrap_or_default();
    let book = job.as_ref().and_then(|job| audits::book(ctx, job, job_uid));
    let newest = gather::newest_checkpoint(&ctx.store, job_uid, &status, book.as_deref()).await?;
    let void_below = ctx.store.rollbacks(job_uid).await?.lowest_epoch();
    let newest_step = newest.as_ref().and_then(|newest| u64::try_from(newest.step).ok());
    let stopped_at = grants::stopped_at(ctx, job_uid, newest_step).await?;
    let facts = facts(job.as_ref(), &units, newest.as_ref(), stopped_at, incarnation);
    let payloads: Vec<&Payload> = offers.iter().map(|offered| &offered.payload).collect();
    for (offered, verdict) in offers.iter().zip(recovery::judge(&payloads, &facts)) {
        let Offered { offer, payload } = offered;
        let (provider, unit) = (&offer.provider, &offer.unit);
        let answer = match (verdict, &job) {
            // What it has computed since is not what the job goes on from.
            (Verdict::Continue, Some(_)) if payload.epoch < void_below => Answer::Stop,
            (Verdict::Continue, Some(job)) => {
                let used =
                    payloads.iter().map(|payload| payload.epoch).chain(units.iter().map(|u| u.spec.epoch));
                let new = continue_unit(ctx, job, payload, newest.as_ref(), used.max().unwrap_or(0)).await?;
                tracing::info!(provider, unit, as_unit = new, "the unit that its agent still holds goes on");
                Answer::As(new)
            }
            (Verdict::Continued(name), _) => Answer::As(name),
            (Verdict::Stop(why), _) => {
                tracing::info!(provider, unit, why, "an offered unit is not continued");
                Answer::Stop
            }
            (Verdict::Continue, None) => Answer::Stop,
        };
        ctx.store.answer_offer(incarnation, offer, &answer).await?;
    }
    Ok(())
}

fn facts(
    job: Option<&TrainingJob>,
    units: &[WorkUnit],
    newest: Option<&JobCheckpoint>,
    stopped_at: Option<u64>,
    incarnation: i64,
) -> Job {
    let Some(job) = job.filter(|job| job.metadata.deletion_timestamp.is_none()) else { return Job::Gone };
    let status = job.status.as_ref();
    let is_over = status.and_then(|status| status.phase).is_some_and(|phase| phase.is_finished());
    if is_over || stopped_at.is_some() || newest.is_some_and(|newest| newest.step >= job.spec.training.steps)
    {
        return Job::Over;
    }
    if job.spec.suspend {
        return Job::Suspended;
    }
    let of_now = units.iter().filter_map(|unit| Some((unit.spec.epoch, gather::payload(unit)?)));
    let of_now = of_now.filter(|(_, payload)| payload.incarnation == incarnation);
    let current =
        of_now.max_by_key(|(epoch, _)| *epoch).map(|(_, payload)| (payload.name, payload.continues));
    let digest = status.and_then(|status| status.training_digest.as_ref());
    Job::Trains { training_digest: digest.and_then(|digest| digest.parse().ok()), current }
}

/// Makes the unit that continues `old`; its name. `used` is the highest epoch of what is offered or known.
async fn continue_unit(
    ctx: &Context,
    job: &TrainingJob,
    old: &Payload,
    newest: Option<&JobCheckpoint>,
    used: i64,
) -> Result<String, Error> {
    let providers: Api<ComputeProvider> = Api::all(ctx.client.clone());
    let provider = within("get computeprovider", providers.get_opt(&old.provider)).await?;
    let least = provider.as_ref().and_then(|provider| provider.status.as_ref()?.min_epoch).unwrap_or(1);
    let islands = job.status.iter().flat_map(|status| &status.islands);
    let fence = ctx.store.epoch(&old.job_uid, old.island).await?;
    let used = islands.filter_map(|island| island.epoch).chain([used, fence]).max().unwrap_or(0);
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    let epoch = next_epoch(number(used), number(least.max(ctx.state.epochs().floor)));
    let epoch = i64::try_from(epoch).unwrap_or(i64::MAX);
    let start = match newest {
        Some(newest) => {
            let manifest = newest.manifest.parse();
            let manifest =
                manifest.map_err(|_| Error::Incomplete("TrainingJob status", "checkpoint.manifest"))?;
            Some(CheckpointRef { step: newest.step, manifest })
        }
        None => None,
    };
    let identity = ctx.signer.identity();
    let island = i32::try_from(old.island).unwrap_or(i32::MAX);
    let owner = provider.as_ref().map_or("", |provider| provider.spec.owner.as_str());
    let next = grants::Next {
        job_uid: &old.job_uid,
        island: old.island,
        epoch,
        who: Who { provider: &old.provider, owner },
        start: newest,
    };
    let logged = grants::grant(ctx, next, GrantEndReason::Released).await?;
    let payload = old.continued(Anew {
        name: names::unit(&old.job_uid, island, epoch),
        epoch,
        incarnation: identity.incarnation,
        not_after: unit::good_until(ctx.now()),
        start,
        grant: logged.grant,
        start_record: logged.start_record,
    });
    // The agent goes on counting attempts, so what was counted before the old unit is what was before this one.
    let restarts = i64::from(job.spec.failure_policy.max_restarts) - payload.max_restarts;
    let object = unit::object(&payload, u32::try_from(restarts).unwrap_or(0), &identity.key)?;
    Ok(place::make(ctx, object).await?.name_any())
}

#[cfg(test)]
mod tests;
