//! What the audits of a job mean for a look at it: which checkpoints count, what a verdict has undone, how far they are.
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use muster_api::v1alpha1::{AssuranceTier, Audits as AuditsStatus, JobCheckpoint, TrainingJob};
use muster_core::audits::{JobAudits, Rollback};
use muster_core::lifecycle::audits::Store as InStore;
use muster_core::lifecycle::conditions::{FAULT_FOUND, RECOVERING};
use muster_core::lifecycle::{self, Audits, FailedStep, Failure, Unit};
use muster_proof::Digest;
use muster_trainer::protocol::ExitCode;

use super::{Look, key};
use crate::hub::context::Context;
use crate::hub::error::Error;
use crate::hub::ledger::grants::{self, Reading};
use crate::store::Entry;

/// The log is about to be read, or just was.
pub const SOON: Duration = Duration::from_secs(2);
/// Nothing in particular is expected of the log.
const NOW_AND_THEN: Duration = Duration::from_secs(30);
/// A deleted job whose audits are not done by then goes without them.
const GIVE_UP: SignedDuration = SignedDuration::from_secs(120);

/// Whether anything of the job is audited.
#[must_use]
pub fn is_audited(job: &TrainingJob) -> bool {
    job.spec.assurance.tier != AssuranceTier::None
}

/// What is known of the job's audits; `None` if it has none, or if the log has not been read.
#[must_use]
pub fn book(ctx: &Context, job: &TrainingJob, uid: &str) -> Option<Arc<JobAudits>> {
    if is_audited(job) { ctx.audits.of(uid) } else { None }
}

/// How far they are.
#[must_use]
pub fn standing(job: &TrainingJob, book: Option<&JobAudits>) -> Audits {
    if is_audited(job) && !planted!("windows-ignored") { Audits::of(book) } else { Audits::None }
}

/// For the job's status.
#[must_use]
pub fn counts(audits: &Audits) -> Option<AuditsStatus> {
    let tally = audits.tally()?;
    Some(AuditsStatus {
        text: Some(format!("{}/{}", tally.matched, tally.drawn)),
        drawn: Some(tally.drawn.into()),
        matched: Some(tally.matched.into()),
        faults: Some(tally.faults.into()),
        open: Some(tally.open.into()),
    })
}

/// Whether the commit of a checkpoint counts, as far as the log was read. Of one that the store does not know as logged, its
/// manifest must do.
#[must_use]
pub fn is_on_path(book: &JobAudits, step: u64, manifest: &Digest, logged: Option<&Entry>) -> bool {
    if logged.is_some_and(|entry| entry.index >= book.seen_log) {
        return true;
    }
    let on_path = book.path.iter().find(|entry| u64::try_from(entry.last) == Ok(step));
    match (on_path, logged) {
        (Some(on_path), Some(logged)) => on_path.record == logged.record,
        (Some(on_path), None) => on_path.manifest.as_ref() == Some(manifest),
        (None, Some(_)) => false,
        (None, None) => book.rollback.is_none(),
    }
}

/// The same for what a status says.
#[must_use]
pub fn still_counts(book: &JobAudits, checkpoint: &JobCheckpoint) -> bool {
    match checkpoint.log_index.map(|index| u64::try_from(index).unwrap_or(0)) {
        None => return book.rollback.is_none(),
        Some(index) if index >= book.seen_log => return true,
        Some(_) => {}
    }
    let mut at = book.path.iter().filter(|entry| entry.last == checkpoint.step);
    at.any(|entry| entry.state_root.to_string() == checkpoint.state_root)
}

/// The newest rollback as the decision sees it: until a unit of its epoch was made, and the store has it.
///
/// # Errors
/// The store's.
pub async fn pending(
    ctx: &Context,
    uid: &str,
    book: Option<&JobAudits>,
    last_epoch: i64,
) -> Result<Option<lifecycle::Rollback>, Error> {
    let Some(rollback) = book.and_then(|book| book.rollback.as_ref()) else { return Ok(None) };
    let is_done = ctx.store.rollbacks(uid).await?.is_done(rollback.epoch);
    if is_done && last_epoch >= rollback.epoch {
        return Ok(None);
    }
    Ok(Some(lifecycle::Rollback {
        epoch: u64::try_from(rollback.epoch).unwrap_or(0),
        store: if is_done { InStore::Settled } else { InStore::Behind },
        why: why(rollback),
    }))
}

/// The step that is not finite, if the log has one that counts. A unit that has ended so has logged it before, so the log is
/// read on to there: what it says must not be taken for a lost worker.
///
/// # Errors
/// The log cannot be read now, and a unit of an audited job has ended so.
pub async fn failed(
    ctx: &Context,
    job: &TrainingJob,
    uid: &str,
    book: Option<&JobAudits>,
    unit: Option<&Unit>,
) -> Result<Option<FailedStep>, Error> {
    if let Some(known) = book.and_then(|book| book.failure.as_ref()) {
        let step = u64::try_from(known.step).unwrap_or(0);
        return Ok(Some(FailedStep { step, matched: known.matched }));
    }
    let said = unit.filter(|unit| unit.phase.ended()).and_then(|unit| unit.failure.as_ref());
    let is_said =
        said.is_some_and(|failure| failure.exit_code == Some(i32::from(ExitCode::NonFinite.code())));
    let logged = match grants::failure(ctx, uid, if is_said { Reading::On } else { Reading::AsItIs }).await {
        // Without audits the provider is believed anyway.
        Err(_) if !is_audited(job) => None,
        logged => logged?,
    };
    Ok(logged.map(|logged| FailedStep { step: logged.last, matched: false }))
}

/// In words, for conditions and events.
fn why(rollback: &Rollback) -> Failure {
    let Rollback { interval, verdict_index, .. } = rollback;
    let (reason, message) = match &rollback.provider {
        Some(provider) => (
            FAULT_FOUND,
            format!(
                "provider {provider} was convicted: its interval {interval} is wrong, says the verdict at log index \
                 {verdict_index}"
            ),
        ),
        None => (
            RECOVERING,
            format!(
                "nobody could tell who is right about interval {interval}, says the verdict at log index {verdict_index}"
            ),
        ),
    };
    Failure { rank: None, exit_code: None, reason: reason.to_owned(), message }
}

/// Makes the store forget what a verdict has undone, if it has not. Nothing may be placed before this.
///
/// # Errors
/// The store's; then it is to be done again.
pub async fn roll_back(look: &Look<'_>) -> Result<(), Error> {
    let book = book(look.ctx, look.job, &look.uid);
    let Some(rollback) = book.as_ref().and_then(|book| book.rollback.as_ref()) else { return Ok(()) };
    if planted!("no-rollback") || look.ctx.store.rollbacks(&look.uid).await?.is_done(rollback.epoch) {
        return Ok(());
    }
    let step = u64::try_from(rollback.step).unwrap_or(0);
    look.ctx.store.roll_back(&look.uid, 0, rollback.epoch, step).await?;
    tracing::warn!(
        job = key(look.job),
        step,
        epoch = rollback.epoch,
        provider = rollback.provider,
        verdict = rollback.verdict_index,
        "rolled back"
    );
    Ok(())
}

/// After how long to look again, as far as audits go. Their objects wake the job's controller, but not all that follows from them
/// is an object.
#[must_use]
pub fn look_again(audits: &Audits) -> Option<Duration> {
    match audits {
        Audits::None | Audits::Settled(_) => None,
        Audits::Unknown => Some(SOON),
        // What follows from a fault is logged after it.
        Audits::Open(tally) if tally.faults > 0 => Some(SOON),
        Audits::Open(_) => Some(NOW_AND_THEN),
    }
}

/// After how long to look again whether the audits of a deleted job are done; `None` if they are, or never will be.
#[must_use]
pub fn awaited(look: &Look<'_>) -> Option<Duration> {
    let status = look.job.status.as_ref();
    if !is_audited(look.job) || status.is_none_or(|status| status.job_id.is_none()) {
        return None;
    }
    let since = look.job.metadata.deletion_timestamp.as_ref()?;
    if look.ctx.now().duration_since(since.0) > GIVE_UP {
        return None;
    }
    let book = look.ctx.audits.of(&look.uid);
    book.is_none_or(|book| !book.settled && book.no_auditor.is_none()).then_some(SOON)
}

#[cfg(test)]
mod tests;
