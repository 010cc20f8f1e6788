//! The record of a job, a grant before each of its units, and their ends. What was logged is noted in the store, so that the
//! end of a grant is known to be missing though the hub died between two steps.
use std::collections::BTreeMap;

use muster_api::v1alpha1::{JobCheckpoint, Resolved, TrainingJob};
use muster_proof::Digest;
use muster_proof::dsse::{self, Envelope};
use muster_proof::history::PathInterval;
use muster_proof::records::fields::{Epoch, Island, JobId, Step};
use muster_proof::records::{GrantEnd, GrantEndReason, Job, JobEnd, Outcome, Payload, Record, job_id};

use super::LedgerError;
use super::follow::FollowError;
use super::records::{self, StartState, Who, number};
use crate::hub::context::Context;
use crate::hub::job::unit::Logged;
use crate::hub::state::Beacon;
use crate::runtime::offload::offload;
use crate::store::{Entry, Granted, Noted, Recorded, Whole};

/// What the log has of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The job's id.
    pub id: JobId,
    /// Id of its record.
    pub record: Digest,
    /// What the record says.
    pub job: Job,
}

impl Names {
    fn of(payload: &[u8]) -> Result<Self, LedgerError> {
        let record = dsse::record_id(Job::PAYLOAD_TYPE, payload);
        Ok(Self { id: job_id(payload), record, job: Job::from_payload(payload)? })
    }
}

/// Logs the record of a job, made once and kept in the state directory; a job that was logged before keeps its id.
///
/// # Errors
/// [`LedgerError`]; `DigestMismatch` as the reason if the job was logged with another training digest.
pub async fn job(
    ctx: &Context,
    job: &TrainingJob,
    resolved: &Resolved,
    training_digest: &str,
) -> Result<Names, LedgerError> {
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let kept = match ctx.state.beacon(uid)? {
        Some(kept) => kept,
        None => {
            let origin = ctx.ledger.origin().await?;
            let seed = random()?;
            let record = records::job(job, resolved, training_digest, &origin, &seed)?;
            let (state, job) = (ctx.state.clone(), uid.to_owned());
            let beacon = Beacon { seed, record: record.to_payload()? };
            offload(move || state.keep_beacon(&job, beacon)).await.map_err(std::io::Error::other)??
        }
    };
    let logged = Job::from_payload(&kept.record)?;
    if logged.training_digest.to_string() != training_digest {
        let message = format!(
            "the job was logged with training digest {}, and would now have {training_digest}: its dataset's name stands \
             for other data; push the old data again, or create a new TrainingJob",
            logged.training_digest
        );
        return Err(LedgerError::Refused { what: "the job", reason: "DigestMismatch".into(), message });
    }
    let envelope = sign(ctx, Job::PAYLOAD_TYPE, &kept.record)?;
    let entry = ctx.ledger.submit("the job", &envelope).await?;
    tracing::debug!(job = uid, index = entry.index, "the log has the job");
    Names::of(&kept.record)
}

/// What the log has of a job that was accepted.
///
/// # Errors
/// [`LedgerError::Incomplete`] if the state directory does not know it.
pub fn names(ctx: &Context, job_uid: &str) -> Result<Names, LedgerError> {
    let kept = ctx.state.beacon(job_uid)?.ok_or_else(|| {
        LedgerError::Incomplete(format!(
            "the hub's state directory has no beacons/{job_uid}; restore it from a newer backup"
        ))
    })?;
    Names::of(&kept.record)
}

/// A unit that is about to be made.
#[derive(Debug, Clone, Copy)]
pub struct Next<'a> {
    /// `metadata.uid` of its job.
    pub job_uid: &'a str,
    /// Its island.
    pub island: i64,
    /// Its epoch.
    pub epoch: i64,
    /// Who gets it.
    pub who: Who<'a>,
    /// From where; `None` is genesis.
    pub start: Option<&'a JobCheckpoint>,
}

/// Logs the grant of a unit, after the end of the one before it, for this reason. When this returns, nothing is taken any
/// more under an older epoch.
///
/// # Errors
/// [`LedgerError`]; then the epoch may be used up.
pub async fn grant(ctx: &Context, next: Next<'_>, before: GrantEndReason) -> Result<Logged, LedgerError> {
    let granted = try_grant(ctx, next, before).await;
    if let Err(LedgerError::Refused { .. }) = &granted {
        // A gateway may have died between the log and the store: then the newest state is not the one that we know.
        repair(ctx, next.job_uid).await?;
    }
    granted
}

async fn try_grant(ctx: &Context, next: Next<'_>, before: GrantEndReason) -> Result<Logged, LedgerError> {
    let Next { job_uid, island, epoch, who, start } = next;
    let names = names(ctx, job_uid)?;
    let origin = ctx.ledger.origin().await?;
    let from = start_state(ctx, job_uid, &names, start).await?;
    let grant = records::grant(names.id, job_uid, (island, epoch), who, &from)?;
    end_grant(ctx, job_uid, island, i64::MAX, before).await?;
    // The fence first: once it is logged, no gateway takes anything more from the unit before.
    ctx.store.raise_epoch(job_uid, island, epoch).await?;
    ctx.store.note_grant(job_uid, island, Granted::Live(epoch)).await?;
    let entry = ctx.ledger.submit("the grant", &grant.sign(&ctx.ledger.key())?).await?;
    tracing::info!(unit = grant.unit.as_str(), provider = who.provider, index = entry.index, "granted");
    Ok(Logged { job: names.id.0, log: origin.to_string(), grant: entry.record, start_record: from.record })
}

/// The state of a checkpoint, or state 0, as the log names it.
async fn start_state(
    ctx: &Context,
    job_uid: &str,
    names: &Names,
    checkpoint: Option<&JobCheckpoint>,
) -> Result<StartState, LedgerError> {
    match checkpoint {
        None => Ok(StartState { step: 0, state_root: names.job.genesis, record: names.record }),
        Some(checkpoint) => {
            StartState::checkpoint(checkpoint, commit_of(ctx, job_uid, checkpoint).await?.record)
        }
    }
}

/// Where the log has the commit of a checkpoint.
///
/// # Errors
/// [`LedgerError::Incomplete`] for one that was not logged.
async fn commit_of(ctx: &Context, job_uid: &str, checkpoint: &JobCheckpoint) -> Result<Entry, LedgerError> {
    let step = u64::try_from(checkpoint.step).unwrap_or(0);
    match ctx.store.noted_commit(job_uid, step).await? {
        Some(Noted::Logged(entry)) => Ok(entry),
        _ => Err(LedgerError::Incomplete(format!("the checkpoint of step {step} is not in the log"))),
    }
}

/// Logs the end of the newest grant of an island, if it has none; of an epoch up to `newest`, for a newer one is not known
/// to be over.
///
/// # Errors
/// [`LedgerError`].
pub async fn end_grant(
    ctx: &Context,
    job_uid: &str,
    island: i64,
    newest: i64,
    reason: GrantEndReason,
) -> Result<(), LedgerError> {
    if planted!("no-grant-end") {
        return Ok(());
    }
    let noted = ctx.store.noted_grant(job_uid, island).await?;
    let Some(Granted::Live(epoch)) =
        noted.filter(|noted| matches!(noted, Granted::Live(epoch) if *epoch <= newest))
    else {
        return Ok(());
    };
    let end = GrantEnd {
        job: names(ctx, job_uid)?.id,
        island: number("island", island, Island::new)?,
        epoch: number("epoch", epoch, Epoch::new)?,
        reason,
    };
    match ctx.ledger.submit("the grant's end", &end.sign(&ctx.ledger.key())?).await {
        Ok(entry) => {
            tracing::info!(job_uid, island, epoch, ?reason, index = entry.index, "the grant has ended")
        }
        // It was never logged, or ended before.
        Err(error) if matches!(error.refusal(), Some("Unknown" | "GrantEnded")) => {
            tracing::debug!(job_uid, island, epoch, %error, "no grant to end");
        }
        Err(error) => return Err(error),
    }
    Ok(ctx.store.note_grant(job_uid, island, Granted::Ended(epoch)).await?)
}

/// How far the log is read before it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// To its newest head.
    On,
    /// Not at all: what was read so far is enough.
    AsItIs,
}

/// The failure that a job has ended with in the log, if it counts.
///
/// # Errors
/// The log cannot be read on. One that cannot be believed says nothing.
pub async fn failure(
    ctx: &Context,
    job_uid: &str,
    reading: Reading,
) -> Result<Option<PathInterval>, LedgerError> {
    // Of a job that another hub's state directory knows nothing can be said here; who acts on it says so.
    let Ok(names) = names(ctx, job_uid) else { return Ok(None) };
    if reading == Reading::On
        && let Err(FollowError::Ledger(error)) = ctx.follower.advance(&ctx.ledger).await
    {
        return Err(error);
    }
    Ok(ctx.follower.with(|history| history.failure(names.id, 0)).flatten())
}

/// The step after which the stop rule has ended a job whose newest checkpoint is of step `newest`, if the log has that and it
/// counts. The log is read on if it may.
///
/// # Errors
/// The log cannot be read on. One that cannot be believed says nothing.
pub async fn stopped_at(
    ctx: &Context,
    job_uid: &str,
    newest: Option<u64>,
) -> Result<Option<u64>, LedgerError> {
    let Ok(names) = names(ctx, job_uid) else { return Ok(None) };
    let Some(newest) = newest.filter(|step| names.job.may_end_at(*step)) else { return Ok(None) };
    let known = || ctx.follower.with(|history| history.newest(names.id, 0)).flatten();
    if known().is_none_or(|known| known.last < newest)
        && let Err(FollowError::Ledger(error)) = ctx.follower.advance(&ctx.ledger).await
    {
        return Err(error);
    }
    Ok(known().filter(|known| known.completes && known.last == newest).map(|known| known.last))
}

/// Logs the end of a job that trains no more.
///
/// # Errors
/// [`LedgerError`].
pub async fn end_job(
    ctx: &Context,
    job_uid: &str,
    newest: Option<&JobCheckpoint>,
    outcome: Outcome,
) -> Result<(), LedgerError> {
    if ctx.store.noted_end(job_uid).await? {
        return Ok(());
    }
    let names = names(ctx, job_uid)?;
    // Who gives up a job whose last step is committed gives up nothing.
    let newest_step = newest.and_then(|newest| u64::try_from(newest.step).ok());
    let is_complete = newest_step.is_some_and(|step| step >= names.job.steps.get())
        || stopped_at(ctx, job_uid, newest_step).await?.is_some();
    // A step that is not finite is further than any checkpoint, and the end whoever gave the job up.
    let failure = if is_complete { None } else { failure(ctx, job_uid, Reading::On).await? };
    let (outcome, grant) = match outcome {
        _ if is_complete => (Outcome::Completed, GrantEndReason::Completed),
        _ if failure.is_some() => (Outcome::Failed, GrantEndReason::Failed),
        Outcome::Completed => (outcome, GrantEndReason::Completed),
        Outcome::Failed => (outcome, GrantEndReason::Released),
        Outcome::Cancelled => (outcome, GrantEndReason::Cancelled),
    };
    end_grant(ctx, job_uid, 0, i64::MAX, grant).await?;
    let from = match (failure, start_state(ctx, job_uid, &names, newest).await) {
        (Some(failure), _) => StartState {
            step: i64::try_from(failure.last).unwrap_or(i64::MAX),
            state_root: failure.state_root,
            record: failure.record,
        },
        // A gateway may have died between the log and the store.
        (None, Err(LedgerError::Incomplete(_))) => {
            repair(ctx, job_uid).await?;
            start_state(ctx, job_uid, &names, newest).await?
        }
        (None, from) => from?,
    };
    let last_step = number("lastStep", from.step, Step::new)?;
    let end = JobEnd { job: names.id, last_step, state_root: from.state_root, record: from.record, outcome };
    if planted!("end-noted-first") {
        ctx.store.note_end(job_uid).await?;
    }
    match ctx.ledger.submit("the job's end", &end.sign(&ctx.ledger.key())?).await {
        Ok(entry) => tracing::info!(job_uid, ?outcome, index = entry.index, "the log has the job's end"),
        Err(error) if error.refusal() == Some("JobEnded") => {}
        Err(error) => {
            if error.refusal().is_some() {
                repair(ctx, job_uid).await?;
            }
            return Err(error);
        }
    }
    Ok(ctx.store.note_end(job_uid).await?)
}

/// Makes checkpoints the job's whose commit is in the log and whose gateway died before it could say so.
///
/// # Errors
/// [`LedgerError`].
pub async fn repair(ctx: &Context, job_uid: &str) -> Result<(), LedgerError> {
    let begun: BTreeMap<u64, Digest> = ctx.store.begun_commits(job_uid).await?;
    let undone = ctx.store.rollbacks(job_uid).await?;
    for (step, record) in begun {
        let Some((index, envelope)) = ctx.ledger.entry(&record).await? else { continue };
        let Ok(Record::Commit(commit)) = Record::parse(&envelope) else { continue };
        if undone.void(i64::try_from(commit.epoch.get()).unwrap_or(i64::MAX), step) {
            continue;
        }
        if !matches!(ctx.store.whole_checkpoint(&commit.manifest).await?, Whole::Yes(_)) {
            tracing::error!(job_uid, step, manifest = %commit.manifest, "a checkpoint that was logged is not whole");
            continue;
        }
        ctx.store.note_commit(job_uid, step, &Noted::Logged(Entry { record, index })).await?;
        match ctx.store.record_checkpoint(job_uid, step, &commit.manifest).await? {
            Recorded::Taken(there) => {
                tracing::error!(job_uid, step, %there, "another checkpoint is the job's")
            }
            _ => tracing::warn!(job_uid, step, index, "a checkpoint that was logged is the job's now"),
        }
    }
    Ok(())
}

fn sign(ctx: &Context, payload_type: &str, payload: &[u8]) -> Result<Envelope, LedgerError> {
    Ok(Envelope::sign(payload_type, payload, &ctx.ledger.key())
        .map_err(muster_proof::records::Error::from)?)
}

fn random() -> Result<Digest, LedgerError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| LedgerError::Incomplete(format!("no randomness: {error}")))?;
    Ok(Digest::from_bytes(seed))
}
