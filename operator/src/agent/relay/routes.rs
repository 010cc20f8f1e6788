//! The relay's HTTP: parse, find the worker, act, answer.
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use jiff::Timestamp;
use muster_core::attempt;
use muster_core::envelope::{OptimizerState, Payload, Recompute};
use muster_proof::Digest;
use muster_trainer::binding;
use muster_trainer::peers;
use muster_trainer::protocol::{
    Assignment, CheckpointNotice, Conflict, Desired, FailureNotice, Join, Joined, KeyBinding, OtherRound,
    ProgressAnswer, SelfAnswer, Start,
};
use serde::Deserialize;

use super::Relay;
use super::asked::{Answer, Asked, Notice, Who, bearer, broken, committer, over, refuse, said};
use super::bindings::{self, BindingError};
use super::identity::Worker;
use super::rounds::{self, Ask, Bound};
use super::terms::TermsError;
use crate::agent::state::UnitState;
use crate::agent::units::{Progress, Unit, is_live};

/// How long a join waits for the other ranks before it answers "ask again".
const JOIN_WAIT: Duration = Duration::from_secs(10);

pub(super) fn router(relay: Arc<Relay>) -> Router {
    Router::new()
        .route("/v1/self", get(whoami))
        .route("/v1/key", put(bind_key))
        .route("/v1/rounds/{round}", get(assignment))
        .route("/v1/rounds/{round}/join", post(join))
        .route("/v1/blobs/sha256/{hex}", get(get_blob).head(head_blob).put(put_blob))
        .route("/v1/terms", get(terms))
        .route("/v1/checkpoints", post(checkpoint))
        .route("/v1/failures", post(failure))
        .route("/v1/progress", post(progress))
        .with_state(relay)
}

async fn whoami(Who { worker, .. }: Who) -> Answer {
    let (Ok(attempt), Ok(rank)) = (u64::try_from(worker.attempt), u32::try_from(worker.rank)) else {
        return Err(over());
    };
    Ok(Json(SelfAnswer { unit: worker.unit, attempt, rank }).into_response())
}

async fn bind_key(State(relay): State<Arc<Relay>>, headers: HeaderMap, asked: Asked<KeyBinding>) -> Answer {
    let Asked { who: Who { worker, unit }, said: wished } = asked;
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

async fn assignment(Path(round): Path<u32>, Who { worker, unit }: Who) -> Answer {
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

async fn join(State(relay): State<Arc<Relay>>, Path(round): Path<u32>, asked: Asked<Join>) -> Answer {
    let (Who { worker, unit }, peer) = (asked.who, asked.said.peer());
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

async fn get_blob(State(relay): State<Arc<Relay>>, Path(hex): Path<String>, Who { unit, .. }: Who) -> Answer {
    Ok(relay.blob_for(&unit, &digest(&hex)?, true).await)
}

async fn head_blob(
    State(relay): State<Arc<Relay>>,
    Path(hex): Path<String>,
    Who { unit, .. }: Who,
) -> Answer {
    let digest = digest(&hex)?;
    // A pod asks before it puts: what is here need not be sent again, whatever it may read.
    let known = relay.blobs.size(&digest).await.map_err(broken)?;
    match known {
        Some(_) => Ok(relay.blobs.answer(&digest, false).await),
        None => Ok(relay.blob_for(&unit, &digest, false).await),
    }
}

async fn put_blob(
    State(relay): State<Arc<Relay>>,
    Path(hex): Path<String>,
    who: Who,
    request: Request,
) -> Answer {
    let digest = digest(&hex)?;
    let (parts, body) = request.into_parts();
    relay.take_blob(&who, digest, &parts.headers, body).await
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
    Who { worker, unit }: Who,
) -> Answer {
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

async fn checkpoint(State(relay): State<Arc<Relay>>, asked: Notice<CheckpointNotice>) -> Answer {
    // Its place is held to the end.
    let Notice { who: Who { worker, unit }, key, said: notice, .. } = asked;
    let step = notice.step;
    if let Err(error) = relay.commit(&unit, &worker, &key, notice).await {
        tracing::warn!(unit = unit.name(), step, %error, "checkpoint refused");
        return Err(refuse(error));
    }
    let durable = i64::try_from(step).is_ok_and(|step| *unit.durable.borrow() >= step);
    Ok(if durable { StatusCode::OK } else { StatusCode::ACCEPTED }.into_response())
}

async fn failure(State(relay): State<Arc<Relay>>, asked: Notice<FailureNotice>) -> Answer {
    // Its place is held to the end.
    let Notice { who: Who { worker, unit }, key, said: notice, .. } = asked;
    let step = notice.failed_step;
    if let Err(error) = relay.fail(&unit, &worker, &key, notice).await {
        tracing::warn!(unit = unit.name(), step, %error, "failure refused");
        return Err(refuse(error));
    }
    let durable = unit.state().await.failure.is_some_and(|failed| failed.durable);
    Ok(if durable { StatusCode::OK } else { StatusCode::ACCEPTED }.into_response())
}

async fn progress(asked: Asked<muster_trainer::protocol::Progress>) -> Answer {
    let Asked { who: Who { worker, unit }, said: report } = asked;
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

fn digest(hex: &str) -> Answer<Digest> {
    Digest::from_hex(hex).map_err(|error| said(StatusCode::BAD_REQUEST, &error.to_string()))
}
