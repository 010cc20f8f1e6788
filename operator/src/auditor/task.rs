//! What the hub's auditor is asked, out of the fold over the log.
use muster_proof::Digest;
use muster_proof::history::History;
use muster_proof::records::JobId;
use muster_proof::records::fields::ProviderName;

/// An interval that waits for this auditor's seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Record id of the assignment.
    pub assignment: Digest,
    /// The job.
    pub job: JobId,
    /// The interval, for people.
    pub interval: u64,
    /// Its last step.
    pub last: u64,
    /// The resolved spec.
    pub spec: Digest,
    /// The dataset's manifest.
    pub dataset: Digest,
    /// The state that the interval starts from, `None` for genesis.
    pub start: Option<Start>,
}

/// A committed state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// After this step.
    pub step: u64,
    /// Its StateRoot, as committed.
    pub state_root: Digest,
    /// Its checkpoint's manifest.
    pub manifest: Digest,
}

/// All that waits for the hub's own auditor, in the order of the draws.
pub fn tasks(history: &History, me: &ProviderName) -> Vec<Task> {
    let replays = history.due(me).replays;
    replays.into_iter().filter_map(|assignment| task(history, assignment)).collect()
}

fn task(history: &History, assignment: Digest) -> Option<Task> {
    let audit = history.audit_of(&assignment)?;
    let job = history.job_record(audit.job)?;
    let (step, state_root) = (audit.start.step, audit.start.state_root);
    Some(Task {
        assignment,
        job: audit.job,
        interval: audit.interval,
        last: audit.last_step,
        spec: job.spec,
        dataset: job.dataset,
        start: audit.start.manifest.map(|manifest| Start { step, state_root, manifest }),
    })
}
