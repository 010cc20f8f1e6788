//! What the audits need of the log beside the fold: no rule of the log asks for it. Pure.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use muster_proof::Digest;
use muster_proof::history::Accepted;
use muster_proof::records::fields::{JobId, ProviderName};
use muster_proof::records::{GrantEndReason, Record, Rollback, Tier, Verdict, VerdictKind, job_id};
use tokio::time::Instant;

/// See the module.
#[derive(Debug, Default)]
pub struct Notes {
    jobs: BTreeMap<JobId, JobNotes>,
    /// Of each provider that was convicted, the evidence: draws of one interval share a verdict, which counts once.
    faults: BTreeMap<ProviderName, BTreeSet<Vec<Digest>>>,
    /// Who has which island, by epoch.
    grants: BTreeMap<(JobId, u64, u64), ProviderName>,
    /// How often a provider's grant ended because nothing more came of it.
    lost: BTreeMap<ProviderName, u64>,
}

/// Of one job that has audits.
#[derive(Debug, Default, Clone)]
pub struct JobNotes {
    /// The newest rollback.
    pub rollback: Option<Rollback>,
    /// The checkpoints that were ever committed, by step.
    pub manifests: BTreeMap<u64, BTreeSet<Digest>>,
    /// The shortest time between two intervals of one grant that was seen live.
    pub pace: Option<Duration>,
    /// When the newest record of its grant or intervals was seen, and under which head.
    last: Option<(Instant, u64)>,
}

impl Notes {
    /// Takes a record that the fold has accepted, its payload, and the size of the head under which it was read, now.
    pub fn saw(&mut self, accepted: &Accepted, payload: &[u8], head: u64, now: Instant) {
        match &accepted.record {
            Record::Job(job) if job.tier != Tier::None => {
                self.jobs.insert(job_id(payload), JobNotes::default());
            }
            Record::Grant(it) => {
                let key = (it.job, it.island.get(), it.epoch.get());
                self.grants.insert(key, it.provider.clone());
                if let Some(notes) = self.jobs.get_mut(&it.job) {
                    notes.last = Some((now, head));
                }
            }
            Record::GrantEnd(it) => {
                let provider = self.grants.remove(&(it.job, it.island.get(), it.epoch.get()));
                if let (Some(provider), GrantEndReason::Lost) = (provider, it.reason) {
                    *self.lost.entry(provider).or_default() += 1;
                }
            }
            Record::Commit(it) => {
                let Some(notes) = self.jobs.get_mut(&it.job) else { return };
                notes.manifests.entry(it.last_step.get()).or_default().insert(it.manifest);
                // What one head brings may be days old: its records say nothing about time.
                if let Some((before, _)) = notes.last.filter(|(_, under)| *under != head) {
                    let took = now.saturating_duration_since(before);
                    notes.pace = Some(notes.pace.map_or(took, |pace| pace.min(took)));
                }
                notes.last = Some((now, head));
            }
            Record::Rollback(it) => {
                if let Some(notes) = self.jobs.get_mut(&it.job) {
                    notes.rollback = Some(it.clone());
                }
            }
            Record::Verdict(it) => self.convict(it),
            _ => {}
        }
    }

    fn convict(&mut self, it: &Verdict) {
        let convicts = matches!(it.verdict, VerdictKind::Fault | VerdictKind::AuditorFault);
        if let (true, Some(party), Some(evidence)) = (convicts, &it.party, &it.evidence) {
            self.faults.entry(party.clone()).or_default().insert(evidence.records.clone());
        }
    }

    /// Of a job; `None` for one that has no audits.
    #[must_use]
    pub fn job(&self, job: &JobId) -> Option<&JobNotes> {
        self.jobs.get(job)
    }

    /// How often a grant of a provider ended because nothing more came of it.
    #[must_use]
    pub fn lost(&self, provider: &ProviderName) -> u64 {
        self.lost.get(provider).copied().unwrap_or(0)
    }

    /// How often a provider was convicted.
    #[must_use]
    pub fn faults(&self, provider: &ProviderName) -> u64 {
        self.faults.get(provider).map_or(0, |found| found.len() as u64)
    }
}
