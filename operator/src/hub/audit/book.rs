//! What the audits of each job have come to, for whoever decides about the job.
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use muster_core::audits::{AllAudits, JobAudits};
use tokio::sync::Notify;

/// See the module.
#[derive(Debug, Default)]
pub struct AuditBook {
    all: RwLock<AllAudits>,
    wake: Notify,
    hub_auditor: AtomicBool,
}

impl AuditBook {
    /// What is known of a job; `None` if its audits were not looked at yet by this process.
    #[must_use]
    pub fn of(&self, job_uid: &str) -> Option<Arc<JobAudits>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).of(job_uid)
    }

    /// Has the audits looked at now, and not only in a while: something was logged or a unit has changed.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Returns when somebody has called [`AuditBook::wake`].
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Whether the hub's own auditor is up.
    #[must_use]
    pub fn has_hub_auditor(&self) -> bool {
        self.hub_auditor.load(Ordering::Relaxed)
    }

    /// Notes whether it is.
    pub fn set_hub_auditor(&self, is_up: bool) {
        if self.hub_auditor.swap(is_up, Ordering::Relaxed) != is_up {
            tracing::info!(is_up, "the hub's own auditor");
        }
    }

    /// Notes what a job has come to; true if that is news.
    pub fn put(&self, job_uid: &str, audits: JobAudits) -> bool {
        self.all.write().unwrap_or_else(PoisonError::into_inner).put(job_uid, audits)
    }

    /// Forgets all jobs but these.
    pub fn keep(&self, jobs: &BTreeSet<String>) {
        self.all.write().unwrap_or_else(PoisonError::into_inner).keep(jobs);
    }
}
