//! What the audits of a job have come to, out of the log. Pure.
use muster_core::audits::{JobAudits, LoggedFailure, PathEntry, Rollback};
use muster_proof::history::{AuditView, History, Open, Refusal};
use muster_proof::records::{Job, JobId, VerdictKind};

use crate::hub::ledger::notes::JobNotes;

/// A job of the log.
#[derive(Debug, Clone, Copy)]
pub struct Of<'a> {
    /// Its id.
    pub id: JobId,
    /// Its record.
    pub job: &'a Job,
    /// What was noted of it.
    pub notes: &'a JobNotes,
    /// Its audits.
    pub audits: &'a [AuditView],
    /// Entries under the newest head that counts.
    pub counted: u64,
}

/// See the module. `no_auditor` says why an audit waits for somebody, if it does.
///
/// # Errors
/// [`Refusal::Unknown`] for a job that the log does not have.
pub fn sum(history: &History, of: Of<'_>, no_auditor: Option<String>) -> Result<JobAudits, Refusal> {
    let Of { id, job, notes, audits, counted } = of;
    let open = history.open(id)?;
    let ended = |kind| {
        let with = |audit: &&AuditView| audit.verdict.as_ref().is_some_and(|verdict| verdict.kind == kind);
        count(audits.iter().filter(with).count())
    };
    let verdicts = || audits.iter().flat_map(|audit| audit.convictions.iter().chain(&audit.verdict));
    let convicted = verdicts().filter_map(|verdict| verdict.party.as_ref()).map(ToString::to_string);
    let rollback = notes.rollback.as_ref().map(|it| {
        let audit = audits.iter().find(|audit| audit.verdict.as_ref().is_some_and(|v| v.id == it.verdict));
        let verdict = audit.and_then(|audit| audit.verdict.as_ref());
        let first = job.steps_of(it.to_interval.get()).map_or(1, |(first, _)| first);
        Rollback {
            epoch: signed(it.epoch.get()),
            step: signed(first.saturating_sub(1)),
            verdict: it.verdict,
            verdict_index: verdict.map_or(0, |verdict| verdict.index),
            provider: verdict.and_then(|verdict| verdict.party.as_ref()).map(ToString::to_string),
            interval: signed(it.to_interval.get()),
        }
    });
    // What nobody has seen could still be taken back.
    let counted = verdicts().map(|verdict| verdict.index).all(|index| index < counted);
    let settled = open.is_empty() && counted;
    let failure = history.failure(id, 0).map(|it| LoggedFailure {
        step: signed(it.last),
        record: it.record,
        matched: audits.iter().any(|audit| {
            let verdict = audit.verdict.as_ref();
            audit.commit == it.record && verdict.is_some_and(|verdict| verdict.kind == VerdictKind::Match)
        }),
    });
    let mut pinned = history.pinned(id)?;
    if let Some(back) = rollback.as_ref().filter(|back| !settled && back.step > 0) {
        pinned.extend(u64::try_from(back.step));
    }
    let manifests = pinned.iter().filter_map(|step| notes.manifests.get(step)).flatten();
    Ok(JobAudits {
        seen_log: history.next_index(),
        settled,
        counted,
        unwitnessed: None,
        training_ended: !open.contains(&Open::Training),
        drawn: count(audits.len()),
        matched: ended(VerdictKind::Match),
        faults: ended(VerdictKind::Fault),
        open: count(audits.iter().filter(|audit| audit.verdict.is_none()).count()),
        no_auditor: no_auditor.filter(|_| !settled),
        convicted: convicted.collect(),
        rollback,
        failure,
        pinned_manifests: manifests.copied().collect(),
        pinned: pinned.into_iter().map(signed).collect(),
        path: history.path(id, 0).into_iter().map(entry).collect(),
    })
}

fn entry(it: muster_proof::history::PathInterval) -> PathEntry {
    PathEntry {
        first: signed(it.first),
        last: signed(it.last),
        epoch: signed(it.epoch),
        record: it.record,
        state_root: it.state_root,
        manifest: it.manifest,
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
