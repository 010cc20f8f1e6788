//! The relay's HTTP: parse, find the worker, act, answer.
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use jiff::Timestamp;
use muster_core::attempt;
use muster_core::envelope::{OptimizerState, Payload, Recompute};
use muster_proof::Digest;
use muster_proof::key::PublicKey;
use muster_trainer::binding;
use muster_trainer::peers;
use muster_trainer::protocol::{
    Assignment, CheckpointNotice, Conflict, Desired, FailureNotice, Join, Joined, KeyBinding, MAX_BODY,
    MAX_NOTICE, OtherRound, ProgressAnswer, SelfAnswer, Start,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Relay;
use super::bindings::{self, BindingError};
use super::identity::{ReviewError, Worker};
use super::rounds::{self, Ask, Bound};
use super::terms::TermsError;
use crate::agent::state::UnitState;
use crate::agent::units::{Progress, Unit, is_live};
use crate::runtime::blobdir::PutError;

/// How long a join waits for the other ranks before it answers "ask again".
const JOIN_WAIT: Duration = Duration::from_secs(10);

/// A refusal is an answer too; boxed, for it is larger than what it stands in for.
#[derive(Debug)]
struct Refusal(Box<Response>);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        *self.0
    }
}

type Answer<T = Response> = Result<T, Refusal>;

pub(super) fn router(relay: Arc<Relay>) -> Router {
    Router::new()
        .route("/v1/self", get(whoami))
        .route("/v1/key", put(bind_key))
        .route("/v1/rounds/{round}", get(assignment))
        .route("/v1/rounds/{round}/join", post(join))
        .route("/v1/blobs/sha256/{hex}", get(get_blob).head(head_blob).put(put_blob))
        .route("/v1/terms", get(terms))
        .route("/v1/checkpoints", post(checkpoint).layer(DefaultBodyLimit::max(MAX_NOTICE)))
        .route("/v1/failures", post(failure).layer(DefaultBodyLimit::max(MAX_NOTICE)))
        .route("/v1/progress", post(progress))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(relay)
}

fn bearer(headers: &HeaderMap) -> Answer<&str> {
    headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .ok_or_else(|| said(StatusCode::UNAUTHORIZED, "no bearer token"))
}

/// The worker that asks, and its unit. Refuses a pod of an attempt that is over (410) and the second pod of a rank (403).
async fn worker(relay: &Relay, headers: &HeaderMap) -> Answer<(Worker, Arc<Unit>)> {
    let worker =
        relay.kept.review(&*relay.reviewer, bearer(headers)?).await.map_err(|error| match error {
            ReviewError::Refused(_) => said(StatusCode::UNAUTHORIZED, &error.to_string()),
            ReviewError::Unavailable(_) => said(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        })?;
    let unit = relay.units.serving(&worker.unit).await;
    let unit = unit.ok_or_else(|| said(StatusCode::GONE, "the unit is gone"))?;
    let state = unit.state().await;
    let workers = state.payload.as_ref().map_or(0, |payload| payload.workers);
    if !is_live(&state, worker.attempt) {
        return Err(over());
    }
    if !(0..workers).contains(&worker.rank) {
        return Err(said(StatusCode::FORBIDDEN, "no such rank"));
    }
    let admitted = unit
        .update(|state| {
            rounds::begin(state, 0);
            state.rounds.pods.entry(worker.rank).or_insert_with(|| worker.pod.clone()).clone()
        })
        .await
        .map_err(broken)?;
    if admitted != worker.pod {
        let text = format!("rank {} of attempt {} is pod {admitted}", worker.rank, worker.attempt);
        return Err(said(StatusCode::FORBIDDEN, &text));
    }
    Ok((worker, unit))
}

async fn whoami(State(relay): State<Arc<Relay>>, headers: HeaderMap) -> Answer {
    let (worker, _) = worker(&relay, &headers).await?;
    let (Ok(attempt), Ok(rank)) = (u64::try_from(worker.attempt), u32::try_from(worker.rank)) else {
        return Err(over());
    };
    Ok(Json(SelfAnswer { unit: worker.unit, attempt, rank }).into_response())
}

async fn bind_key(State(relay): State<Arc<Relay>>, headers: HeaderMap, body: Bytes) -> Answer {
    let (worker, unit) = worker(&relay, &headers).await?;
    let wished = parse::<KeyBinding>(&body)?;
    let bad = |error: &dyn std::fmt::Display| said(StatusCode::BAD_REQUEST, &error.to_string());
    let key = binding::check_binding(&wished, bearer(&headers)?).map_err(|error| bad(&error))?;
    // What is kept is our spelling of the key, for two spellings would be two keys.
    let pem = key.to_pem().map_err(|error| bad(&error))?;
    let bind = |state: &mut UnitState| -> Result<Option<Bound>, BindingError> {
        if !is_live(state, worker.attempt) {
            return Ok(None);
        }
        let bound = rounds::bind(state, worker.rank, &pem);
        // Only rank 0 commits, so only its key is the log's matter.
        if worker.rank == 0 && bound != Bound::Other {
            bindings::ensure(state, &worker, &key, &relay.identity)?;
        }
        Ok(Some(bound))
    };
    let bound = unit.update(bind).await.map_err(broken)?.map_err(|error| {
        tracing::error!(unit = unit.name(), %error, "cannot record the binding of a key");
        said(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())
    })?;
    match bound.ok_or_else(over)? {
        Bound::New => Ok(StatusCode::CREATED.into_response()),
        Bound::Same => Ok(StatusCode::OK.into_response()),
        Bound::Other => {
            let Worker { rank, attempt, .. } = worker;
            let text = format!("another key is bound to rank {rank} of attempt {attempt}");
            Err(said(StatusCode::CONFLICT, &text))
        }
    }
}

async fn assignment(State(relay): State<Arc<Relay>>, Path(round): Path<u32>, headers: HeaderMap) -> Answer {
    let (worker, unit) = worker(&relay, &headers).await?;
    let step = last_step(&unit, worker.attempt);
    let (asked, state) =
        unit.update(|state| (rounds::ask(state, round, step), state.clone())).await.map_err(broken)?;
    unit.round.send_modify(|count| *count += 1);
    current(&unit, asked)?;
    let Some(payload) = &state.payload else { return Err(over()) };
    Ok(Json(assign(payload, &state, &worker).ok_or_else(over)?).into_response())
}

fn assign(payload: &Payload, state: &UnitState, worker: &Worker) -> Option<Assignment> {
    let start = match rounds::start(&state.rounds) {
        Some(start) => Some(Start { step: u64::try_from(start.step).ok()?, manifest: start.manifest }),
        None => None,
    };
    Some(Assignment {
        unit: worker.unit.clone(),
        attempt: u32::try_from(worker.attempt).ok()?,
        rank: u32::try_from(worker.rank).ok()?,
        workers: u32::try_from(payload.workers).ok()?,
        spec: payload.spec,
        dataset: payload.dataset,
        interval_steps: u64::try_from(payload.interval_steps).ok()?,
        keep_last: u32::try_from(payload.keep_last).ok()?,
        recompute: payload.recompute.map(|Recompute::Layers| muster_trainer::protocol::Recompute::Layers),
        optimizer_state: payload
            .optimizer_state
            .map(|OptimizerState::Sharded| muster_trainer::protocol::OptimizerState::Sharded),
        start,
    })
}

async fn join(
    State(relay): State<Arc<Relay>>,
    Path(round): Path<u32>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let (worker, unit) = worker(&relay, &headers).await?;
    let peer = parse::<Join>(&body)?.peer();
    // A worker speaks for itself only: else one pod could send the others anywhere.
    if worker.address.is_some_and(|known| known != peer.address.ip()) {
        return Err(said(StatusCode::FORBIDDEN, "address: not the address of this pod"));
    }
    let step = last_step(&unit, worker.attempt);
    let deadline = tokio::time::Instant::now() + JOIN_WAIT;
    let mut changes = unit.round.subscribe();
    let asked =
        unit.update(|state| rounds::join(state, round, worker.rank, peer, step)).await.map_err(broken)?;
    unit.round.send_modify(|count| *count += 1);
    current(&unit, asked)?;
    loop {
        let state = unit.state().await;
        if !is_live(&state, worker.attempt) {
            return Err(over());
        }
        if state.rounds.number != round {
            current(&unit, Ask::Other(state.rounds.number))?;
        }
        if let Some(list) = rounds::list(&state, &worker.unit) {
            let peers = peers::sign(&list, &relay.signer).map_err(|error| {
                tracing::error!(unit = unit.name(), %error, "cannot sign the list of peers");
                said(StatusCode::INTERNAL_SERVER_ERROR, "cannot sign the list of peers")
            })?;
            return Ok(Json(Joined { peers }).into_response());
        }
        match tokio::time::timeout_at(deadline, changes.changed()).await {
            Ok(Ok(())) => {}
            _ => return Ok(StatusCode::ACCEPTED.into_response()),
        }
    }
}

async fn get_blob(State(relay): State<Arc<Relay>>, Path(hex): Path<String>, headers: HeaderMap) -> Answer {
    let (_, unit) = worker(&relay, &headers).await?;
    Ok(relay.blob_for(&unit, &digest(&hex)?, true).await)
}

async fn head_blob(State(relay): State<Arc<Relay>>, Path(hex): Path<String>, headers: HeaderMap) -> Answer {
    let (_, unit) = worker(&relay, &headers).await?;
    let digest = digest(&hex)?;
    // A pod asks before it puts: what is here need not be sent again, whatever it may read.
    let known = relay.blobs.size(&digest).await.map_err(broken)?;
    match known {
        Some(_) => Ok(relay.blobs.answer(&digest, false).await),
        None => Ok(relay.blob_for(&unit, &digest, false).await),
    }
}

async fn put_blob(State(relay): State<Arc<Relay>>, Path(hex): Path<String>, request: Request) -> Answer {
    worker(&relay, request.headers()).await?;
    let digest = digest(&hex)?;
    Ok(relay.take_blob(&digest, request.into_body()).await)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TermsQuery {
    step: Option<u64>,
    failed_step: Option<u64>,
}

async fn terms(
    State(relay): State<Arc<Relay>>,
    Query(query): Query<TermsQuery>,
    headers: HeaderMap,
) -> Answer {
    let (worker, unit) = worker(&relay, &headers).await?;
    let state = unit.state().await;
    committer(&worker, &state)?;
    let (step, terms) = match (query.step, query.failed_step) {
        (Some(step), None) => (step, relay.terms(&unit, &state, step).await),
        (None, Some(step)) => (step, relay.terms_of_failed(&state, step)),
        _ => return Err(said(StatusCode::BAD_REQUEST, "say either step or failedStep")),
    };
    match terms {
        Ok(terms) => Ok(Json(terms).into_response()),
        Err(TermsError::NotNext(step)) => {
            Err(refuse((StatusCode::CONFLICT, Json(Conflict::NotNext { step }))))
        }
        Err(error @ (TermsError::NotABoundary(_) | TermsError::Committed(_))) => {
            Err(said(StatusCode::BAD_REQUEST, &error.to_string()))
        }
        Err(TermsError::Over) => Err(over()),
        Err(error) => {
            tracing::error!(unit = unit.name(), step, %error, "no terms");
            Err(said(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))
        }
    }
}

/// The key whose signature a commit of this worker needs.
fn committer(worker: &Worker, state: &UnitState) -> Answer<PublicKey> {
    if worker.rank != 0 {
        return Err(said(StatusCode::FORBIDDEN, "checkpoints are rank 0's"));
    }
    rounds::bound(&state.rounds, worker.attempt, worker.rank)
        .ok_or_else(|| said(StatusCode::FORBIDDEN, "no key is bound to rank 0; PUT /v1/key first"))
}

async fn checkpoint(State(relay): State<Arc<Relay>>, headers: HeaderMap, body: Bytes) -> Answer {
    let (worker, unit) = worker(&relay, &headers).await?;
    let notice = parse::<CheckpointNotice>(&body)?;
    let key = committer(&worker, &unit.state().await)?;
    let step = notice.step;
    if let Err(error) = relay.commit(&unit, &worker, &key, notice).await {
        tracing::warn!(unit = unit.name(), step, %error, "checkpoint refused");
        return Err(refuse(error));
    }
    let durable = i64::try_from(step).is_ok_and(|step| *unit.durable.borrow() >= step);
    Ok(if durable { StatusCode::OK } else { StatusCode::ACCEPTED }.into_response())
}

async fn failure(State(relay): State<Arc<Relay>>, headers: HeaderMap, body: Bytes) -> Answer {
    let (worker, unit) = worker(&relay, &headers).await?;
    let notice = parse::<FailureNotice>(&body)?;
    let key = committer(&worker, &unit.state().await)?;
    let step = notice.failed_step;
    if let Err(error) = relay.fail(&unit, &worker, &key, notice).await {
        tracing::warn!(unit = unit.name(), step, %error, "failure refused");
        return Err(refuse(error));
    }
    let durable = unit.state().await.failure.is_some_and(|failed| failed.durable);
    Ok(if durable { StatusCode::OK } else { StatusCode::ACCEPTED }.into_response())
}

async fn progress(State(relay): State<Arc<Relay>>, headers: HeaderMap, body: Bytes) -> Answer {
    let (worker, unit) = worker(&relay, &headers).await?;
    let report = parse::<muster_trainer::protocol::Progress>(&body)?;
    let state = unit.state().await;
    let bound = state.payload.as_ref().map_or(0, Payload::last_step);
    let step = i64::try_from(report.step).ok().filter(|step| (0..=bound).contains(step));
    let step = step.ok_or_else(|| said(StatusCode::BAD_REQUEST, "step: beyond the job's last step"))?;
    let is_number = |text: &String| text.len() <= 24 && text.bytes().all(|b| b.is_ascii_graphic());
    if !is_number(&report.loss) {
        return Err(said(StatusCode::BAD_REQUEST, "loss: not a number's text"));
    }
    if !report.eval_loss.iter().all(is_number) {
        return Err(said(StatusCode::BAD_REQUEST, "evalLoss: not a number's text"));
    }
    let tokens_per_second = i64::try_from(report.tokens_per_second).unwrap_or(0).min(1 << 50);
    if worker.rank == 0 {
        let (attempt, time) = (worker.attempt, Timestamp::now());
        let (loss, eval_loss) = (report.loss, report.eval_loss);
        unit.report(Progress { attempt, step, loss, eval_loss, tokens_per_second, time });
    }
    let desired = match state.desired {
        Some(attempt::Desired::Stop) => Desired::Stop,
        Some(attempt::Desired::Drain) => Desired::Drain,
        Some(attempt::Desired::Run) | None => Desired::Run,
    };
    Ok(Json(ProgressAnswer { desired }).into_response())
}

fn current(unit: &Unit, asked: Ask) -> Answer<()> {
    match asked {
        Ask::Current => Ok(()),
        Ask::Other(round) => Err(refuse((StatusCode::CONFLICT, Json(OtherRound { round })))),
        Ask::Over => {
            unit.wake.notify_one();
            Err(over())
        }
        Ask::Taken(rank) => {
            Err(said(StatusCode::FORBIDDEN, &format!("publicKey: it is the key of rank {rank}")))
        }
    }
}

fn last_step(unit: &Unit, attempt: i64) -> i64 {
    unit.progress().filter(|progress| progress.attempt == attempt).map_or(0, |progress| progress.step)
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Answer<T> {
    serde_json::from_slice(body).map_err(|error| said(StatusCode::BAD_REQUEST, &error.to_string()))
}

fn digest(hex: &str) -> Answer<Digest> {
    Digest::from_hex(hex).map_err(|error| said(StatusCode::BAD_REQUEST, &error.to_string()))
}

fn over() -> Refusal {
    said(StatusCode::GONE, "the attempt is over; exit")
}

fn said(status: StatusCode, text: &str) -> Refusal {
    refuse((status, format!("{text}\n")))
}

fn refuse(answer: impl IntoResponse) -> Refusal {
    Refusal(Box::new(answer.into_response()))
}

fn broken(error: std::io::Error) -> Refusal {
    tracing::error!(%error, "relay cannot use its state directory");
    refuse(PutError::from(error))
}
