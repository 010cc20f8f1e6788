//! Logs for users (docs/spec/gateway.md section 9): of a worker that runs, from its member; of an attempt that failed, from what
//! the store keeps of it.
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Json, Router};
use muster_api::names::PROVIDER_NAMESPACE_PREFIX;
use muster_api::v1alpha1::{WorkUnit, WorkUnitKind, WorkUnitPhase};
use serde::Deserialize;

use super::access::{Authorizer, Refusal, User};
use super::blobs::store_refusal;
use super::door::Door;
use super::streams::{Streams, Told, Wish};
use super::units::Work;
use super::users::Jobs;
use crate::store::Store;
use crate::wire::streams::{KeptLog, KeptLogs, StreamReason, StreamRefusal};

/// The virtual subresource whose `get` lets a user read logs.
const SUBRESOURCE: &str = "log";

struct Logs<A, J, W> {
    store: Arc<Store>,
    door: Door<A, J>,
    work: Arc<W>,
    streams: Arc<Streams>,
}

/// The routes. Whoever layers them puts a [`User`] into the extensions first.
pub fn router<A: Authorizer, J: Jobs, W: Work>(
    store: Arc<Store>,
    door: Door<A, J>,
    work: Arc<W>,
    streams: Arc<Streams>,
) -> Router {
    Router::new()
        .route("/v1/namespaces/{ns}/jobs/{job}/logs", get(read::<A, J, W>))
        .route("/v1/namespaces/{ns}/jobs/{job}/logs/kept", get(list::<A, J, W>))
        .with_state(Arc::new(Logs { store, door, work, streams }))
}

/// Of `GET .../logs`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    worker: u32,
    #[serde(default)]
    follow: bool,
    tail: Option<u32>,
    /// What is kept of this attempt, instead of what runs.
    attempt: Option<u64>,
    /// Of which unit, if not the newest that has it.
    unit: Option<String>,
}

async fn list<A: Authorizer, J: Jobs, W: Work>(
    State(logs): State<Arc<Logs<A, J, W>>>,
    Extension(user): Extension<User>,
    Path((namespace, job)): Path<(String, String)>,
) -> Result<Json<KeptLogs>, Refusal> {
    let uid = logs.door.job(&user, SUBRESOURCE, &namespace, &job).await?;
    let logs = logs.store.kept_logs(&uid).await.map_err(|error| store_refusal(&error))?;
    Ok(Json(KeptLogs { logs }))
}

async fn read<A: Authorizer, J: Jobs, W: Work>(
    State(logs): State<Arc<Logs<A, J, W>>>,
    Extension(user): Extension<User>,
    Path((namespace, job)): Path<(String, String)>,
    query: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, Refusal> {
    let uid = logs.door.job(&user, SUBRESOURCE, &namespace, &job).await?;
    let Query(asked) = query.map_err(|_| {
        Refusal::bad_request("the parameters here are worker, follow, tail, attempt and unit")
    })?;
    let job = format!("{namespace}/{job}");
    if asked.attempt.is_some() {
        return Ok(text(Body::from(logs.kept(&uid, &job, &asked).await?)));
    }
    if asked.unit.is_some() {
        return Err(Refusal::bad_request("unit goes with attempt: say which"));
    }
    logs.work.settled()?;
    let wish = wish(logs.work.of_job(&uid), &asked).ok_or_else(|| no_worker(&job, asked.worker))?;
    let provider = wish.provider.clone();
    match logs.streams.read(&user.name, wish).await? {
        Told::Log(body) => Ok(text(body)),
        Told::Refused(refusal) => Err(said(&provider, &refusal)),
    }
}

impl<A, J, W> Logs<A, J, W> {
    async fn kept(&self, uid: &str, job: &str, asked: &Asked) -> Result<Vec<u8>, Refusal> {
        let store = |error| store_refusal(&error);
        let all = self.store.kept_logs(uid).await.map_err(store)?;
        let is_it = |log: &&KeptLog| {
            Some(log.attempt) == asked.attempt
                && log.worker == asked.worker
                && asked.unit.as_ref().is_none_or(|unit| *unit == log.unit)
        };
        let found = match all.iter().rev().find(is_it) {
            Some(log) => self.store.kept_log(uid, log).await.map_err(store)?,
            None => None,
        };
        let mut bytes = found.ok_or_else(|| {
            let text = format!(
                "nothing is kept of worker {} in attempt {} of job {job}; GET .../logs/kept lists what is",
                asked.worker,
                asked.attempt.unwrap_or_default()
            );
            Refusal::new(StatusCode::NOT_FOUND, "LogNotFound", text)
        })?;
        if let Some(lines) = asked.tail {
            bytes.drain(..before_last(&bytes, lines));
        }
        Ok(bytes)
    }
}

/// Where the last so many lines begin.
fn before_last(bytes: &[u8], lines: u32) -> usize {
    if lines == 0 {
        return bytes.len();
    }
    let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let mut ends = text.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    ends.nth(lines as usize - 1).unwrap_or(0)
}

/// The unit and rank of a job's worker: workers are counted through the islands, of each island its newest unit. None if
/// that unit has no pods now.
fn wish(units: Vec<WorkUnit>, asked: &Asked) -> Option<Wish> {
    let mut newest: BTreeMap<i32, WorkUnit> = BTreeMap::new();
    for unit in units.into_iter().filter(|unit| unit.spec.kind == WorkUnitKind::Train) {
        let known = newest.get(&unit.spec.island);
        if known.is_none_or(|known| known.spec.epoch < unit.spec.epoch) {
            newest.insert(unit.spec.island, unit);
        }
    }
    let mut rank = asked.worker;
    for unit in newest.into_values() {
        let workers = u32::try_from(unit.spec.workers).unwrap_or(0);
        if rank >= workers {
            rank -= workers;
            continue;
        }
        let phase = unit.status.as_ref().and_then(|status| status.phase);
        let runs = [WorkUnitPhase::Starting, WorkUnitPhase::Running, WorkUnitPhase::Draining];
        let namespace = unit.metadata.namespace?;
        let provider = namespace.strip_prefix(PROVIDER_NAMESPACE_PREFIX)?.to_owned();
        return phase.is_some_and(|phase| runs.contains(&phase)).then_some(Wish {
            provider,
            unit: unit.metadata.name?,
            worker: rank,
            follow: asked.follow,
            tail_lines: asked.tail,
        });
    }
    None
}

fn no_worker(job: &str, worker: u32) -> Refusal {
    let text = format!(
        "worker {worker} of job {job} does not run now; `muster logs --previous` shows what is kept of the last failed \
         attempt"
    );
    Refusal::new(StatusCode::NOT_FOUND, "NoRunningWorker", text)
}

fn said(provider: &str, refusal: &StreamRefusal) -> Refusal {
    let (status, reason) = match refusal.reason {
        StreamReason::LogsRefused => (StatusCode::FORBIDDEN, "LogsRefused"),
        StreamReason::NoRunningWorker => (StatusCode::NOT_FOUND, "NoRunningWorker"),
        StreamReason::MemberAway => (StatusCode::BAD_GATEWAY, "MemberAway"),
        StreamReason::TooManyStreams => (StatusCode::TOO_MANY_REQUESTS, "TooManyRequests"),
    };
    Refusal::new(status, reason, format!("provider {provider}: {}", refusal.message))
}

/// As the pod wrote it: what a terminal would make of it is for the reader to think of.
fn text(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
