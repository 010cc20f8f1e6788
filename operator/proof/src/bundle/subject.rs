//! Which records are a job's, and which are about keys: what a bundle of the job shows, and what its tenant may read.

use std::collections::BTreeMap;

use crate::Digest;
use crate::records::{JobId, Record, job_id};

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Keys of the hub or of a provider: everybody who checks anything needs it.
    Keys,
    /// One job.
    Job(JobId),
    /// Something that is not in the log before it.
    Unknown,
}

/// Sorts records that come in the order of the log. Records of an audit name the one before, not the job.
#[derive(Debug, Clone, Default)]
pub struct Sorter {
    jobs: BTreeMap<Digest, JobId>,
}

impl Sorter {
    /// What the record is about, given those before it.
    pub fn sort(&mut self, id: Digest, record: &Record, payload: &[u8]) -> Subject {
        let by = |id: &Digest| self.jobs.get(id).copied();
        let job = match record {
            Record::HubKeys(_) | Record::ProviderKey(_) | Record::KeyRevocation(_) => return Subject::Keys,
            Record::Job(_) => Some(job_id(payload)),
            Record::Grant(it) => Some(it.job),
            Record::KeyBinding(it) => Some(it.job),
            Record::Commit(it) => Some(it.job),
            Record::Failure(it) => Some(it.job),
            Record::WindowClose(it) => Some(it.job),
            Record::Draw(it) => Some(it.job),
            Record::Verdict(it) => Some(it.job),
            Record::Rollback(it) => Some(it.job),
            Record::GrantEnd(it) => Some(it.job),
            Record::JobEnd(it) => Some(it.job),
            Record::AuditAssign(it) => by(&it.draw),
            Record::AuditSeal(it) => by(&it.audit),
            Record::AuditOpening(it) => by(&it.audit),
            Record::Opening(it) => by(&it.commit),
        };
        // Only what others name.
        let named = matches!(
            record,
            Record::Draw(_) | Record::Commit(_) | Record::Failure(_) | Record::AuditAssign(_)
        );
        match job {
            Some(job) => {
                if named {
                    self.jobs.insert(id, job);
                }
                Subject::Job(job)
            }
            None => Subject::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsse::Envelope;
    use crate::records::samples::{key, sample_payloads};

    /// A trainer opens the commit or the failure of an interval; either way the opening is his job's.
    #[test]
    fn what_an_opening_opens_is_of_a_job() {
        let record = |kind: &str| {
            let samples = sample_payloads();
            let (_, payload) = samples.iter().find(|(name, _)| *name == kind).unwrap();
            let kind = format!("application/vnd.muster.{kind}.v1+json");
            (Record::parse(&Envelope::sign(&kind, payload, &key(1)).unwrap()).unwrap(), payload.clone())
        };
        let (opening, payload) = record("opening");
        let Record::Opening(it) = &opening else { panic!() };
        for kind in ["commit", "failure"] {
            let (opened, its) = record(kind);
            let mut sorter = Sorter::default();
            assert_eq!(sorter.sort(Digest::of(b"x"), &opening, &payload), Subject::Unknown);
            let Subject::Job(job) = sorter.sort(it.commit, &opened, &its) else { panic!("{kind}") };
            assert_eq!(sorter.sort(Digest::of(b"x"), &opening, &payload), Subject::Job(job), "{kind}");
        }
    }
}
