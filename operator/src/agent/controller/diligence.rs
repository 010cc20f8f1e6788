//! What the log says of an audit, before a replay begins. Whoever replays from another state than the committed one, or another
//! interval than the one it was drawn for, seals what nobody agrees with; so the agent does not take the hub's word for either.
//! Records are named by their digests: whoever brings them cannot change them.
use muster_core::envelope::{Audit, Payload, Refusal};
use muster_proof::Digest;
use muster_proof::records::{AuditAssign, Record, job_id};

use crate::log::client::{ClientError, LogClient};

/// Whether the log bears the audit out.
///
/// # Errors
/// The log cannot be asked, which says nothing.
pub(super) async fn check(
    log: &dyn LogClient,
    payload: &Payload,
    provider: &str,
) -> Result<Result<(), Refusal>, ClientError> {
    let Some(audit) = &payload.audit else { return Ok(Ok(())) };
    let assign = match find(log, &audit.assignment).await? {
        Some((Record::AuditAssign(assign), _)) => assign,
        other => return Ok(Err(not("assignment", &audit.assignment, other.map(|(record, _)| record)))),
    };
    let draw = match find(log, &assign.draw).await? {
        Some((Record::Draw(draw), _)) => draw,
        other => return Ok(Err(not("draw", &assign.draw, other.map(|(record, _)| record)))),
    };
    if let Err(refusal) = assigned(payload, audit, provider, &assign, draw.job.0) {
        return Ok(Err(refusal));
    }
    Ok(match find(log, &payload.start_record).await? {
        Some((record, bytes)) => starts(payload, audit, &record, &bytes),
        None => Err(not("startRecord", &payload.start_record, None)),
    })
}

async fn find(log: &dyn LogClient, id: &Digest) -> Result<Option<(Record, Vec<u8>)>, ClientError> {
    let Some(entry) = log.entry(id).await? else { return Ok(None) };
    let record = Record::parse(&entry.envelope).ok();
    Ok(record.map(|record| (record, entry.envelope.unverified_payload().to_vec())))
}

fn not(field: &str, id: &Digest, got: Option<Record>) -> Refusal {
    Refusal::NotAssigned(match got {
        None => format!("{field}: the log has no record {id}"),
        Some(record) => format!("{field}: record {id} is of kind {}", record.kind()),
    })
}

fn assigned(
    payload: &Payload,
    audit: &Audit,
    provider: &str,
    assign: &AuditAssign,
    job: Digest,
) -> Result<(), Refusal> {
    all(&[
        ("the assigned auditor", assign.auditor.as_str() == provider),
        ("the assigned interval", Ok(audit.interval) == i64::try_from(assign.interval.get())),
        ("the drawn job", job == payload.job),
    ])
}

/// The state before the interval: a commit of this job's, or the job itself.
fn starts(payload: &Payload, audit: &Audit, record: &Record, bytes: &[u8]) -> Result<(), Refusal> {
    let is = |number: u64, want: i64| i64::try_from(number) == Ok(want);
    match (record, &payload.start) {
        (Record::Commit(commit), Some(start)) => all(&[
            ("the start's job", commit.job.0 == payload.job),
            ("the start's island", is(commit.island.get(), payload.island)),
            ("the start's interval", is(commit.interval.get(), audit.interval - 1)),
            ("the start's step", is(commit.last_step.get(), start.step)),
            ("the start's manifest", commit.manifest == start.manifest),
        ]),
        (Record::Job(job), None) => all(&[
            ("the job's id", job_id(bytes).0 == payload.job),
            ("the job's spec", job.spec == payload.spec),
            ("the job's dataset", job.dataset == payload.dataset),
            ("the job's training digest", job.training_digest == payload.training_digest),
            ("the job's steps", is(job.steps.get(), payload.steps)),
            ("the job's interval length", is(job.interval_steps.get(), payload.interval_steps)),
        ]),
        _ => Err(not("startRecord", &payload.start_record, Some(record.clone()))),
    }
}

fn all(checks: &[(&str, bool)]) -> Result<(), Refusal> {
    match checks.iter().find(|(_, good)| !good) {
        Some((what, _)) => Err(Refusal::NotAssigned(format!("{what} in the log is not the unit's"))),
        None => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests;
