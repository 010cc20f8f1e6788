//! A job's records for its tenant (docs/spec/gateway.md section 12): which there are, each as an envelope, and the spec and the
//! dataset's manifest that the job's own record names; of a checkpoint, its commit and what is signed of its files. What a proof is made of, apart from what anyone may fetch.
mod signature;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Json, Router};
use muster_proof::Digest;
use muster_proof::bundle::subject::{Sorter, Subject};
use muster_proof::dsse::Envelope;
use muster_proof::records::{JobId, Record};

use super::access::{Authorizer, Refusal, User};
use super::blobs::{digest, no_blob, store_refusal};
use super::door::Door;
use super::users::Jobs;
use crate::log::Log;
use crate::store::Store;
use crate::wire::log::{JobRecords, LogEntry, LoggedRecord};

/// The virtual subresource whose `get` lets a user read records: they say what checkpoints are.
const SUBRESOURCE: &str = "checkpoints";

struct Records<A, J> {
    store: Arc<Store>,
    door: Door<A, J>,
    log: Arc<Log>,
    index: Mutex<Index>,
}

/// The routes. Whoever layers them puts a [`User`] into the extensions first.
pub fn router<A: Authorizer, J: Jobs>(store: Arc<Store>, door: Door<A, J>, log: Arc<Log>) -> Router {
    Router::new()
        .route("/v1/namespaces/{ns}/jobs/{job}/records", get(list::<A, J>))
        .route("/v1/namespaces/{ns}/jobs/{job}/records/{hex}", get(read::<A, J>))
        .route("/v1/namespaces/{ns}/jobs/{job}/inputs/sha256/{hex}", get(input::<A, J>))
        .route("/v1/namespaces/{ns}/jobs/{job}/checkpoints/{step}/signature", get(signature::read::<A, J>))
        .with_state(Arc::new(Records { store, door, log, index: Mutex::default() }))
}

/// What the log has of each job, as far as it was read.
#[derive(Default)]
struct Index {
    next: u64,
    sorter: Sorter,
    /// About keys.
    keys: Vec<LoggedRecord>,
    /// By the uid of the TrainingJob.
    jobs: BTreeMap<String, JobId>,
    by_job: BTreeMap<JobId, OfJob>,
}

#[derive(Default, Clone)]
struct OfJob {
    records: Vec<LoggedRecord>,
    /// Spec and dataset.
    inputs: Vec<Digest>,
}

impl Index {
    fn take(&mut self, index: u64, envelope: &Envelope) {
        self.next = index + 1;
        // Older logs may have what this version does not know.
        let Ok(record) = Record::parse(envelope) else { return };
        let record_id = envelope.record_id();
        let logged = LoggedRecord { index, record_id };
        match self.sorter.sort(record_id, &record, envelope.unverified_payload()) {
            Subject::Keys => self.keys.push(logged),
            Subject::Job(job) => {
                let of_job = self.by_job.entry(job).or_default();
                of_job.records.push(logged);
                if let Record::Job(it) = record {
                    of_job.inputs = vec![it.spec, it.dataset];
                    self.jobs.insert(it.job_uid.as_str().to_owned(), job);
                }
            }
            Subject::Unknown => {}
        }
    }
}

impl<A: Authorizer, J: Jobs> Records<A, J> {
    /// The job of this name, for somebody who may know of it, with what the log has of it now.
    async fn job(
        self: &Arc<Self>,
        user: &User,
        namespace: &str,
        job: &str,
    ) -> Result<(JobId, OfJob, Vec<LoggedRecord>), Refusal> {
        let uid = self.door.job(user, SUBRESOURCE, namespace, job).await?;
        let own = self.clone();
        let found = tokio::task::spawn_blocking(move || own.find(&uid)).await;
        let found = found.map_err(|error| unreadable(&error))?.map_err(|error| unreadable(&error))?;
        found.ok_or_else(|| {
            let text = format!(
                "the log has no record of job {namespace}/{job} yet; it comes when the job is resolved"
            );
            Refusal::new(StatusCode::NOT_FOUND, "NotLogged", text)
        })
    }

    /// Reads what is new in the log first. Blocks.
    fn find(&self, uid: &str) -> std::io::Result<Option<(JobId, OfJob, Vec<LoggedRecord>)>> {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let records = self.log.records(index.next)?;
            if records.is_empty() {
                break;
            }
            for (at, envelope) in &records {
                index.take(*at, envelope);
            }
        }
        let job = index.jobs.get(uid).copied();
        Ok(job.map(|job| (job, index.by_job.get(&job).cloned().unwrap_or_default(), index.keys.clone())))
    }
}

async fn list<A: Authorizer, J: Jobs>(
    State(records): State<Arc<Records<A, J>>>,
    Extension(user): Extension<User>,
    Path((namespace, job)): Path<(String, String)>,
) -> Result<Json<JobRecords>, Refusal> {
    let (job, found, keys) = records.job(&user, &namespace, &job).await?;
    let mut all = keys;
    all.extend(found.records);
    all.sort_by_key(|record| record.index);
    let &[spec, dataset] = found.inputs.as_slice() else {
        return Err(Refusal::unavailable("the job's record cannot be read"));
    };
    Ok(Json(JobRecords { log: records.log.key().to_string(), job, spec, dataset, records: all }))
}

async fn read<A: Authorizer, J: Jobs>(
    State(records): State<Arc<Records<A, J>>>,
    Extension(user): Extension<User>,
    Path((namespace, job, hex)): Path<(String, String, String)>,
) -> Result<Json<LogEntry>, Refusal> {
    let record = digest(&hex)?;
    let (_, found, keys) = records.job(&user, &namespace, &job).await?;
    let missing = || {
        let text = format!("job {namespace}/{job} has no record {record}");
        Refusal::new(StatusCode::NOT_FOUND, "RecordNotFound", text)
    };
    if !found.records.iter().chain(&keys).any(|logged| logged.record_id == record) {
        return Err(missing());
    }
    let own = records.clone();
    let entry = tokio::task::spawn_blocking(move || own.log.entry(&record)).await;
    let entry = entry.map_err(|error| unreadable(&error))?.map_err(|error| unreadable(&error))?;
    let (index, envelope) = entry.ok_or_else(missing)?;
    Ok(Json(LogEntry { index, envelope }))
}

async fn input<A: Authorizer, J: Jobs>(
    State(records): State<Arc<Records<A, J>>>,
    Extension(user): Extension<User>,
    Path((namespace, job, hex)): Path<(String, String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let wanted = digest(&hex)?;
    let (_, found, _) = records.job(&user, &namespace, &job).await?;
    let missing = || no_blob(&wanted, &format!("job {namespace}/{job}"));
    if !found.inputs.contains(&wanted) {
        return Err(missing());
    }
    let answer = records.store.answer(&wanted, &method, &headers).await;
    answer.map_err(|error| store_refusal(&error))?.ok_or_else(missing)
}

fn unreadable(error: &dyn std::fmt::Display) -> Refusal {
    tracing::error!(%error, "the log cannot be read");
    Refusal::unavailable("the log cannot be read now")
}

#[cfg(test)]
mod tests;
