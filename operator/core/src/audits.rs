//! What the audits of one job have come to: told by the hub's fold of the log, read by the job's controller. Every sentence
//! of it follows from the log; losing it costs a look, never a decision.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use muster_proof::Digest;

/// The audits of one job, as of a position in the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobAudits {
    /// Leaves of the log that this is about: all below it were read.
    pub seen_log: u64,
    /// The job has ended in the log, no window, draw, audit or rollback of it is open, and its verdicts are `counted`.
    pub settled: bool,
    /// Enough owners have cosigned a head of the log that has all verdicts of the job so far.
    pub counted: bool,
    /// Which witnesses are waited for, once that has taken a while.
    pub unwitnessed: Option<String>,
    /// A job-end was logged and is not undone by a rollback since.
    pub training_ended: bool,
    /// Draws that an audit came of; a second auditor's draw is part of the first one's audit.
    pub drawn: u32,
    /// Those that ended with `Match`.
    pub matched: u32,
    /// Those that ended with `Fault` against who trained.
    pub faults: u32,
    /// Those without a verdict.
    pub open: u32,
    /// Why an audit waits for somebody who could do it; None while none does.
    pub no_auditor: Option<String>,
    /// Providers that a verdict of this job convicted, as trainers or as auditors.
    pub convicted: BTreeSet<String>,
    /// The newest.
    pub rollback: Option<Rollback>,
    /// Steps whose checkpoints open windows and audits start from; the start of a rollback is among them.
    pub pinned: BTreeSet<i64>,
    /// Manifests of all checkpoints that were ever committed at those steps: one that was rolled back is replayed from, too.
    pub pinned_manifests: BTreeSet<Digest>,
    /// The step that is not finite, if the job has ended in one that counts.
    pub failure: Option<LoggedFailure>,
    /// The intervals that count now, in order, without a gap from the first.
    pub path: Vec<PathEntry>,
}

/// What a fault undid: everything after a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollback {
    /// Only grants of this epoch or later count.
    pub epoch: i64,
    /// The state to go on from; 0 is genesis.
    pub step: i64,
    /// Record id of the verdict it follows from.
    pub verdict: Digest,
    /// Log index of that verdict.
    pub verdict_index: u64,
    /// Who was convicted by it; None if it was inconclusive.
    pub provider: Option<String>,
    /// The interval it was about.
    pub interval: i64,
}

/// A step that is not finite, says whoever trained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedFailure {
    /// Which.
    pub step: i64,
    /// Record id of the failure.
    pub record: Digest,
    /// Whether an audit has found the same.
    pub matched: bool,
}

/// One interval that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathEntry {
    /// Its first step.
    pub first: i64,
    /// Its last step.
    pub last: i64,
    /// Epoch of the grant it was trained under.
    pub epoch: i64,
    /// Record id of its commit.
    pub record: Digest,
    /// StateRoot after its last step.
    pub state_root: Digest,
    /// The checkpoint after its last step; None for a failed one.
    pub manifest: Option<Digest>,
}

/// The audits of all jobs, by the uid of the job.
#[derive(Debug, Clone, Default)]
pub struct AllAudits(BTreeMap<String, Arc<JobAudits>>);

impl AllAudits {
    /// What is known of a job; None: not looked at yet, which is no reason to believe that nothing is open.
    #[must_use]
    pub fn of(&self, job_uid: &str) -> Option<Arc<JobAudits>> {
        self.0.get(job_uid).cloned()
    }

    /// Notes what a job has come to; true if that is news to its controller.
    pub fn put(&mut self, job_uid: &str, audits: JobAudits) -> bool {
        let known = self.0.get(job_uid);
        let news =
            known.is_none_or(|known| **known != JobAudits { seen_log: known.seen_log, ..audits.clone() });
        self.0.insert(job_uid.to_owned(), Arc::new(audits));
        news
    }

    /// Forgets all jobs but these.
    pub fn keep(&mut self, jobs: &BTreeSet<String>) {
        self.0.retain(|uid, _| jobs.contains(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_log_alone_is_no_news() {
        let mut all = AllAudits::default();
        assert!(all.of("job").is_none(), "not looked at yet");
        assert!(all.put("job", JobAudits::default()));
        assert!(!all.put("job", JobAudits { seen_log: 7, ..JobAudits::default() }));
        assert_eq!(all.of("job").unwrap().seen_log, 7, "noted all the same");
        assert!(all.put("job", JobAudits { seen_log: 8, open: 1, ..JobAudits::default() }));
        all.keep(&BTreeSet::new());
        assert!(all.of("job").is_none());
    }
}
